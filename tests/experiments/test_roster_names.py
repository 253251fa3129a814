"""Whole virtual runs whose messages name every roster, as those of thousands of peers do: same curve, same verdicts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmtrain.core.config import load_config
from swarmtrain.core.events import Noted, PeerJoined, TermStarted
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.scenario import read_scenario
from swarmtrain.experiments.sweep import GOOD, run_seed
from swarmtrain.experiments.virtual import Stage, VirtualPeer, VirtualRun, peers
from swarmtrain.peer.placing import Placing
from swarmtrain.transport.step_messages import read_step
from tests.experiments.runs import (
    MIXED,
    events_of,
    known_reference,
    losses_of,
    sha_of,
    small_config,
    virtual,
)
from tests.experiments.test_faults import faulty, is_clean
from tests.peer.test_membership import expect_same_curve, run_with

SCENARIOS = Path(__file__).parents[2] / "deploy" / "scenarios"


@pytest.fixture(autouse=True)
def every_roster_is_named(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("swarmtrain.transport.step_messages.WHOLE_MEMBERS", 0)
    yield
    read_step.cache_clear()


def asked(run: VirtualRun) -> list[tuple[str, str]]:
    """Who asked for a roster, and which."""
    return [
        (peer, event.detail)
        for _, peer, event in run.events
        if isinstance(event, Noted) and event.what == "asked for a roster"
    ]


def test_a_calm_run_asks_for_nothing_and_is_the_same_run() -> None:
    config = small_config()
    run, yardstick = virtual(config, MIXED), known_reference(config)
    assert sha_of(run) == yardstick.parameters_sha256
    assert losses_of(run) == yardstick.losses
    assert asked(run) == [], "the first roster follows from the directory"


def test_two_runs_of_one_seed_write_equal_journals() -> None:
    first, second = (virtual(small_config(), peers(5)) for _ in range(2))
    assert first.journal.lines == second.journal.lines


def test_who_sees_another_directory_asks_for_the_first_roster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Placing, "expected_roster", None)
    run = virtual(small_config(), MIXED)
    assert sha_of(run) == known_reference(small_config()).parameters_sha256
    assert [what for what, _ in map(_version, asked(run))] == ["version 1"] * (len(MIXED) - 1)
    assert len({peer for peer, _ in asked(run)}) == len(MIXED) - 1, "each but who stands, once"


def _version(entry: tuple[str, str]) -> tuple[str, str]:
    what, _, sender = entry[1].partition(", of ")
    return what, sender


def test_who_slept_through_a_change_asks_for_the_roster_that_it_missed() -> None:
    """What it hears when it wakes is told as a difference to a roster that was decided meanwhile."""
    run = faulty(Fault("freeze", ("one-c",), 0.6, duration_seconds=12.0))
    is_clean(run)
    sleeper = next(e for e in events_of(run, PeerJoined) if e.name == "one-c")
    assert {peer for peer, _ in asked(run)} == {sleeper.peer}, "it was put right by a question"


@pytest.mark.parametrize("kind", ["drop", "reorder", "duplicate", "late"])
def test_lost_and_late_messages_that_name_rosters_change_no_bit(kind: str) -> None:
    """The next message names the roster again, as a difference to one that every member has."""
    faults = [Fault(kind, (name,), 0.1, amount=4) for name in ("edge-a", "edge-b")]
    run = faulty(*faults, Fault("kill", ("two-a",), 0.6))
    is_clean(run)
    assert asked(run) == []


@pytest.mark.parametrize("point", ["opening", "freezing", "assigning", "deciding", "releasing"])
def test_who_takes_over_finds_the_roster_of_the_last_decision(point: str) -> None:
    """A conductor dies at each of its sending points, in the step after another peer was lost."""
    kills = [Fault("kill", (name,), at_point=point, nth=11) for name in ("edge-a", "edge-b")]
    run = faulty(Fault("kill", ("two-a",), 0.3), *kills)
    is_clean(run)
    assert len({event.peer for event in events_of(run, TermStarted)}) >= 2


def test_newcomers_ask_once_each_and_are_in() -> None:
    async def join(stage: Stage) -> None:
        for number in range(3):
            stage.add(VirtualPeer(f"new-{number}"))

    run = run_with(join)
    expect_same_curve(run)
    assert all(run.outcomes[f"new-{number}"].finished for number in range(3))
    newcomers = {e.peer for e in events_of(run, PeerJoined) if e.name.startswith("new-")}
    assert {peer for peer, _ in asked(run)} == newcomers
    assert len(asked(run)) <= 2 * len(newcomers)


def test_seeds_of_faults_end_as_well_as_with_whole_rosters() -> None:
    expect_good(range(12))


@pytest.mark.slow
def test_so_do_many_more() -> None:
    expect_good(range(12, 1000))


def expect_good(seeds: range) -> None:
    file = read_scenario(SCENARIOS / "sweep.toml")
    for seed in seeds:
        config = load_config([file.run], [*file.overrides, f"run.seed={seed}"])
        _, verdict = run_seed(config, file.scenario, load_corpus(config.data, None))
        assert verdict.outcome in GOOD, (seed, verdict.reason, verdict.violations)
