"""Bytes by link and region: from both ends, also where one of them was killed before it could tell."""

from collections import Counter
from dataclasses import replace

from swarmtrain.core.carried import LinksCarried
from swarmtrain.core.units import per_token
from swarmtrain.experiments.evidence import Evidence
from swarmtrain.experiments.link_bytes import by_regions, sent_bytes, told_in
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, simulate
from swarmtrain.monitor.journal import journal_line
from tests.experiments.runs import corpus, small_config


def test_a_killed_peer_is_known_by_what_the_others_got_of_it() -> None:
    told = [("a", [("b", 10, 20), ("dead", 5, 700)]), ("b", [("a", 20, 9)])]
    assert sent_bytes(told) == {
        ("a", "b"): 10,
        ("a", "dead"): 5,
        ("b", "a"): 20,
        ("dead", "a"): 700,
    }


def test_a_peer_that_ran_twice_tells_twice() -> None:
    told = [("a", [("b", 10, 1)]), ("a", [("b", 30, 2)]), ("b", [("a", 3, 40)])]
    assert sent_bytes(told) == {("a", "b"): 40, ("b", "a"): 3}


def test_regions_add_up_and_names_without_one_are_left_out() -> None:
    pairs = {("a", "b"): 5, ("b", "a"): 7, ("a", "c"): 1, ("a", "coordinator"): 99}
    regions = {"a": "Iowa", "b": "Japan", "c": "Iowa"}
    assert by_regions(pairs, regions) == {"Iowa > Japan": 5, "Iowa > Iowa": 1, "Japan > Iowa": 7}


def test_bytes_a_token_are_those_of_the_arithmetic() -> None:
    """Forward and back over every boundary of a route, float32 and nothing else worth speaking of."""
    machines = tuple(
        VirtualPeer(name, (stage,)) for name, stage in zip("abc", (0, 1, 2), strict=True)
    )
    config = small_config("wire.codec=none", "wire.zstd_level=0", "model.width=256", steps=3)
    run = simulate(config, Scenario(peers=machines), corpus())
    tokens = sum(commit.tokens for commit in run.commits)
    assert tokens == 3 * config.train.microbatches * config.train.tokens_per_microbatch
    boundaries = config.model.stages + 1
    expected = 2 * boundaries * 4 * config.model.width
    found = per_token(run.bytes_sent, tokens)
    assert found is not None and expected < found < 1.05 * expected
    assert per_token(run.bytes_sent, 0) is None


def test_what_peers_tell_is_all_that_their_links_carried() -> None:
    machines = tuple(
        VirtualPeer(name, (stage,)) for name, stage in zip("abc", (0, 1, 2), strict=True)
    )
    config = small_config()
    run = simulate(config, Scenario(peers=machines), corpus())
    told = [event for _, _, event in run.events if isinstance(event, LinksCarried)]
    assert len(told) == 3
    evidence = Evidence()
    assert not evidence.read(journal_line(event, 1.0, event.peer) for event in told)
    pairs = sent_bytes(told_in(evidence.of("links_carried")))
    assert len(pairs) == 6 and all(pairs.values())
    totals = Counter[str]()
    for _, _, event in run.events:
        if event.kind == "traffic":
            totals[event.peer] += event.bytes_sent  # type: ignore[attr-defined]
    for peer, sent in totals.items():
        mine = sum(carried for (sender, _), carried in pairs.items() if sender == peer)
        assert sent <= mine <= sent + 200, "what the others got of it later, as they ended"
    assert replace(told[0], links=()) != told[0]
