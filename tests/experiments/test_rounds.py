"""Outer rounds between islands of real peers in virtual time: the plain loop's bits, and what faults may do to them."""

import asyncio
import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from swarmtrain.core.events import (
    Noted,
    PeerJoined,
    RoundChosen,
    RoundMerged,
    RoundSent,
    StepCommitted,
)
from swarmtrain.experiments.virtual import Stage, VirtualPeer, VirtualRun
from swarmtrain.outer.director import Place
from swarmtrain.outer.stage import StageRounds
from swarmtrain.peer.rounds import OuterRounds
from tests.experiments.island_worlds import (
    choices,
    config_of,
    is_agreed,
    islands_of,
    last_digests,
    outer_digests,
    plain_islands,
    run_islands,
)

EXACT = ("outer.codec=none", "outer.optimizer=average", "outer.learning_rate=1.0")


def finishes(run: VirtualRun, peers: int) -> bool:
    done = [outcome.finished for outcome in run.outcomes.values()]
    return not run.stalled and not run.errors and done.count(True) == peers


@pytest.mark.parametrize(
    ("count", "replicas", "overrides"),
    [
        (1, 1, EXACT),
        (2, 1, EXACT),
        (2, 2, EXACT),
        (3, 1, ("outer.codec=int4", "outer.fragments=2", "outer.delay_steps=2")),
        (
            2,
            1,
            (
                "outer.codec=ternary",
                "outer.staggered=true",
                "outer.inner_steps=9",
                "outer.delay_steps=5",
            ),
        ),
        (2, 1, ("outer.codec=top64", "outer.merge_factor=0.5", "outer.delay_steps=3")),
        (2, 2, ("outer.codec=rank8", "paths.skip=0.5")),
        (2, 2, ("outer.codec=auto", "outer.distortion=0.3")),
    ],
)
def test_islands_of_peers_equal_the_plain_loop(
    count: int, replicas: int, overrides: tuple[str, ...]
) -> None:
    config = config_of(*overrides)
    run = run_islands(config, islands_of(count, replicas))
    assert finishes(run, 3 * replicas * count)
    loop = plain_islands(config, count)
    assert last_digests(run) == {island.parameters_sha256() for island in loop.active.values()}
    merged = {
        (stage, fragment): {
            island.members[stage, fragment].tag.base.hex() for island in loop.active.values()
        }
        for stage, fragment in loop.active[0].members
    }
    found = outer_digests(run)
    for place, expected in merged.items():
        newest = max(key for key in found if key[:2] == place)
        assert found[newest] == expected
    assert is_agreed(run)


def test_rounds_choose_in_what_the_next_ones_send_and_say_why() -> None:
    config = config_of("outer.codec=auto", "outer.distortion=0.2", "outer.fragments=2")
    run = run_islands(config, islands_of(2))
    chosen: dict[tuple[int, int, int], set[str]] = defaultdict(set)
    sent: dict[tuple[int, int, int], set[int]] = defaultdict(set)
    for _, _, event in run.events:
        if isinstance(event, RoundChosen):
            chosen[event.stage, event.fragment, event.round].add(event.codec)
        if isinstance(event, RoundSent):
            sent[event.stage, event.fragment, event.round].add(event.bytes)
    assert all(len(codecs) == 1 for codecs in chosen.values())
    assert {codec for codecs in chosen.values() for codec in codecs} >= {"int4", "ternary"}
    first = {place: min(sent[place]) for place in sent if place[2] == 0}  # in int4, as ever
    for (stage, fragment, number), codecs in chosen.items():
        following = sent.get((stage, fragment, number + 1))
        if following is not None and codecs == {"ternary"}:
            assert max(following) < 0.7 * first[stage, fragment, 0]
    whys = [e.detail for _, _, e in run.events if isinstance(e, Noted) and "sent in" in e.what]
    assert len(whys) == len(chosen) and all("codecs within 0.2: " in why for why in whys)


def test_one_island_with_plain_averages_trains_as_without_rounds() -> None:
    with_rounds = run_islands(config_of(*EXACT, "outer.inner_steps=1"), islands_of(1))
    without = run_islands(config_of("outer.inner_steps=0"), islands_of(1))
    assert last_digests(with_rounds) == last_digests(without)
    assert len(outer_digests(with_rounds)) == 3 * 23


@pytest.mark.parametrize(("count", "replicas"), [(2, 1), (3, 1), (2, 3)])
def test_bytes_of_rounds_are_those_of_the_arithmetic(count: int, replicas: int) -> None:
    """Without faults each replica gets each other island's contribution once, from there or from a sibling, and what
    is received was served."""
    config = config_of("outer.codec=int4", steps=22)
    run = run_islands(config, islands_of(count, replicas))
    island_of = {p: e.island for _, p, e in run.events if isinstance(e, PeerJoined)}
    sent = Counter[tuple[int, int]]()
    for _, peer, event in run.events:
        if isinstance(event, RoundSent) and event.round < 4:
            sent[island_of[peer], event.stage] += event.bytes
    last = {
        (p, e.stage): e for _, p, e in run.events if isinstance(e, RoundMerged) and e.round == 4
    }
    assert len(last) == 3 * count * replicas
    for (peer, stage), event in last.items():
        others = sum(sent[other, stage] for other in range(count) if other != island_of[peer])
        assert event.received_bytes == others // replicas
        # Five steps of every island, all of whose microbatches visit every stage.
        each = config.train.tokens_per_microbatch * config.train.microbatches
        assert event.tokens == 5 * count * each
    received = sum(event.received_bytes for event in last.values())
    assert received == sum(event.served_bytes for event in last.values()) > 0


@pytest.mark.parametrize("idle", [(0,), (0, 1)])
def test_a_round_goes_on_without_islands_that_have_nothing_to_weigh(
    idle: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a stage saw no token. Of two islands the lower one must be heard of, or nothing is decided."""
    send = StageRounds.send

    def silent(self: StageRounds, number: int, parameters: Any, rate: float) -> Any:
        made = send(self, number, parameters, rate)
        is_idle = self.island in idle and self.members[number].state.round == 1
        return None if is_idle else made

    monkeypatch.setattr(StageRounds, "send", silent)
    run = run_islands(config_of("outer.delay_steps=2"), islands_of(2))
    assert finishes(run, 6) and is_agreed(run)
    counted = {key[2]: islands for key, found in choices(run).items() for islands, _ in found}
    assert counted[1] == tuple(sorted({0, 1} - set(idle)))
    assert counted[0] == counted[2] == counted[4] == (0, 1)
    slowest = max(e.seconds for _, _, e in run.events if isinstance(e, StepCommitted) and e.step)
    assert slowest < 3


def acting(
    seconds: float, act: Callable[[Stage], None]
) -> "Callable[[Stage], asyncio.Future[None]]":
    def script(stage: Stage) -> "asyncio.Future[None]":
        async def later() -> None:
            await asyncio.sleep(seconds)
            act(stage)

        return asyncio.ensure_future(later())

    return script


def of_island(peers: tuple[VirtualPeer, ...], island: int) -> list[VirtualPeer]:
    return [peer for peer in peers if peer.island == island]


@pytest.mark.parametrize("lost", [0, 2])
@pytest.mark.parametrize("seconds", [9.0, 9.7, 12.3])
def test_a_lost_island_costs_the_others_nothing_but_its_part(lost: int, seconds: float) -> None:
    """Killed before, while, and after a round is decided."""
    peers, config = islands_of(3), config_of("outer.delay_steps=2", steps=30)

    def kill(stage: Stage) -> None:
        for peer in of_island(peers, lost):
            stage.nemesis.kill(peer.name)

    run = run_islands(config, peers, acting(seconds, kill))
    assert finishes(run, 6) and is_agreed(run)
    last = {islands for key, found in choices(run).items() for islands, _ in found if key[2] == 4}
    assert last == {tuple(sorted({0, 1, 2} - {lost}))}
    slowest = max(e.seconds for _, _, e in run.events if isinstance(e, StepCommitted) and e.step)
    assert slowest < config.outer.grace_seconds + 1


def test_who_is_short_of_a_quorum_trains_on_and_waits_once_a_round() -> None:
    """Of two islands the lower one is lost: nobody can tell that from a cut line, so no round is decided any more."""
    peers, config = islands_of(2), config_of(steps=20)

    def kill(stage: Stage) -> None:
        for peer in of_island(peers, 0):
            stage.nemesis.kill(peer.name)

    run = run_islands(config, peers, acting(7.0, kill))
    assert finishes(run, 3) and is_agreed(run)
    slow = [
        e for _, _, e in run.events if isinstance(e, StepCommitted) and e.seconds > 3 and e.step
    ]
    assert len(slow) == 1


QUICK = ("links.heartbeat_seconds=0.4", "links.silence_seconds=1")


def missed(run: VirtualRun) -> list[tuple[str, str]]:
    """Who said that rounds wait for islands, and why."""
    said = [(p, e) for _, p, e in run.events if isinstance(e, Noted)]
    return [(peer, e.detail) for peer, e in said if e.what == "rounds wait for islands"]


@pytest.mark.parametrize("founders", [3, 1])
def test_without_the_first_island_rounds_begin_where_most_founders_live(founders: int) -> None:
    """It is lost before anything was decided. Where it founds alone, the others train on, and say so once."""
    peers = islands_of(3)
    config = config_of(f"outer.founders={founders}", *QUICK, steps=25)

    def kill(stage: Stage) -> None:
        for peer in of_island(peers, 0):
            stage.nemesis.kill(peer.name)

    run = run_islands(config, peers, acting(2.0, kill))
    assert finishes(run, 6) and is_agreed(run)
    counted = [islands for found in choices(run).values() for islands, _ in found]
    said = missed(run)
    if founders == 3:
        assert len(counted) == 3 * 5 and set(counted) == {(1, 2)} and not said
    else:
        assert not counted and len(said) == len({peer for peer, _ in said}) == 6
        assert all("island 0 cannot be reached" in why and "--island" in why for _, why in said)


def test_a_chair_that_dies_while_newcomers_are_gone_for_good_holds_no_round_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of island 0 has what the first round came to, and nobody else: then the others die, and its chairs."""
    gather, at_work = OuterRounds._gather, dict[str, OuterRounds]()
    died: list[bool] = []

    def slow(self: OuterRounds, place: Place, *rest: Any) -> None:
        if self.island == 0:
            at_work[self._parts.me] = self
        if self.island == 0 or self.states.key(place).round:
            gather(self, place, *rest)

    peers = (*islands_of(1, 2), *[peer for peer in islands_of(3) if peer.island])
    monkeypatch.setattr(OuterRounds, "_gather", slow)

    def script(stage: Stage) -> "asyncio.Future[None]":
        async def kill() -> None:
            have_it = False
            while not have_it:
                await asyncio.sleep(0.05)
                have_it = [bool(r.states.results) for r in at_work.values()] == 6 * [True]
            for peer in peers[6:]:
                stage.nemesis.kill(peer.name)
            await asyncio.sleep(0.3)
            died.append(all(g.choice is None for r in at_work.values() for g in r._groups.values()))
            for peer in peers[:6:2]:
                stage.nemesis.kill(peer.name)

        return asyncio.ensure_future(kill())

    run = run_islands(config_of(*QUICK, "outer.delay_steps=3", steps=40), peers, script)
    assert finishes(run, 3) and is_agreed(run)
    assert died == [True], "no round had been decided when they died"
    decided = {(stage, number) for stage, _, number in choices(run)}
    assert decided == set(itertools.product(range(3), range(8))), "every round, in the end"


def test_a_first_island_begun_anew_has_the_rounds_of_those_that_waited_for_it() -> None:
    peers = islands_of(2)
    config = config_of(*QUICK, "outer.delay_steps=2", steps=45)
    anew = tuple(VirtualPeer(f"new-{stage}", (stage,), island=0) for stage in range(3))

    def kill(stage: Stage) -> None:
        for peer in of_island(peers, 0):
            stage.nemesis.kill(peer.name)

        async def begin() -> None:
            await asyncio.sleep(30.0)
            there = (*of_island(peers, 1), *anew)
            stage.scenario = replace(stage.scenario, peers=there)
            for peer in anew:
                stage.add(peer)

        begins.append(asyncio.ensure_future(begin()))

    begins: list[asyncio.Future[None]] = []
    run = run_islands(config, peers, acting(2.0, kill))
    assert finishes(run, 6) and is_agreed(run) and missed(run)
    counted = {islands for found in choices(run).values() for islands, _ in found}
    assert (0, 1) in counted
    last = max(key[2] for key in choices(run))
    assert last == 8, "every round of the run was decided in the end"


def test_an_island_that_joins_late_starts_from_the_groups_parameters() -> None:
    peers, config = islands_of(2), config_of("outer.delay_steps=2", steps=40)
    late = of_island(peers, 1)

    def join(stage: Stage) -> None:
        for peer in late:
            stage.add(peer)

    run = run_islands(config, of_island(peers, 0), acting(12.0, join), late)
    assert finishes(run, 6) and is_agreed(run)
    caught_up = [e for _, _, e in run.events if isinstance(e, RoundMerged) and e.how == "catch_up"]
    assert {event.stage for event in caught_up} == {0, 1, 2}
    counted = {e.islands for _, _, e in run.events if isinstance(e, RoundChosen) and e.round > 5}
    assert counted == {(0, 1)}


def test_a_slow_island_sends_less_and_stands_where_the_others_do() -> None:
    overrides = ("outer.inner_steps=20", "outer.delay_steps=4", "outer.grace_seconds=8")
    config = config_of(*overrides, steps=100)
    run = run_islands(config, islands_of(2, slowness=5.0))
    assert finishes(run, 6) and is_agreed(run)
    steps = [e.step for _, _, e in run.events if isinstance(e, StepCommitted)]
    assert steps.count(99) == 2 and 110 < len(steps) < 140
    counted = [found for key, found in choices(run).items() if key[0] == 0]
    both = sum(islands == (0, 1) for found in counted for islands, _ in found)
    assert both >= len(counted) - 1
    slowest = max(e.seconds for _, _, e in run.events if isinstance(e, StepCommitted) and e.step)
    assert slowest < config.outer.grace_seconds


def test_a_slow_island_is_counted_in_every_round_also_where_results_have_a_whole_round() -> None:
    """It makes two or three steps while the others make eight, and does not wait for the delay's eight to merge."""
    overrides = ("outer.inner_steps=8", "outer.delay_steps=8", "outer.grace_seconds=8")
    config = config_of(*overrides, "outer.founders=3", steps=32)
    run = run_islands(config, islands_of(3, slowness=4.0))
    assert finishes(run, 9) and is_agreed(run)
    assert {islands for found in choices(run).values() for islands, _ in found} == {(0, 1, 2)}


@pytest.mark.parametrize(("grace_seconds", "slowness"), [(0, 7.0), (20, 3.0)])
def test_no_step_waits_for_stragglers_where_they_get_what_the_delay_leaves(
    grace_seconds: int, slowness: float
) -> None:
    """The third island is too slow for some rounds, which go without it. With a grace, steps of the others wait."""
    overrides = ("outer.inner_steps=8", "outer.delay_steps=4", "outer.founders=3", *QUICK)
    config = config_of(*overrides, f"outer.grace_seconds={grace_seconds}", steps=40)
    run = run_islands(config, islands_of(3, slowness=slowness))
    assert finishes(run, 9) and is_agreed(run)
    island_of = {p: e.island for _, p, e in run.events if isinstance(e, PeerJoined)}
    seconds = [
        event.seconds
        for _, peer, event in run.events
        # The first step counts from the beginning, and the last round has one step to come in.
        if isinstance(event, StepCommitted) and island_of[peer] < 2 and 0 < event.step < 38
    ]
    waited = max(seconds) - statistics.median(seconds)
    assert (waited < 0.01) if grace_seconds == 0 else (waited > 1)
    counted = [islands for found in choices(run).values() for islands, _ in found]
    assert (0, 1, 2) in counted and (0, 1) in counted
    whys = [e.what for _, _, e in run.events if isinstance(e, Noted)]
    assert ("how long a round waits for stragglers" in whys) == (grace_seconds == 0)


@pytest.mark.parametrize("stage", [0, 1])
def test_a_lost_replica_is_replaced_in_its_group(stage: int) -> None:
    """The stage's other replica answers for the island; a newcomer takes its state, that of rounds included."""
    peers, config = islands_of(2, replicas=2), config_of("outer.delay_steps=2", steps=30)
    gone = next(peer for peer in peers if peer.name == f"1-{stage}-0")
    newcomer = VirtualPeer("newcomer", (stage,), island=1)

    def swap(world: Stage) -> None:
        world.nemesis.kill(gone.name)
        world.add(newcomer)

    run = run_islands(config, peers, acting(9.0, swap), (newcomer,))
    assert finishes(run, 12) and is_agreed(run)
    mine = [e for _, p, e in run.events if isinstance(e, RoundMerged) and p == newcomer_id(run)]
    assert {event.how for event in mine} == {"merge"}


def newcomer_id(run: VirtualRun) -> str:
    return next(p for _, p, e in run.events if e.kind == "peer_joined" and e.name == "newcomer")


def test_a_stage_that_an_island_lost_comes_back_and_catches_up() -> None:
    """Its snapshots are older than the group by then."""
    peers = islands_of(2, replicas=2)
    overrides = ("outer.delay_steps=2", "recovery.snapshot_steps=4")
    config = config_of(*overrides, steps=40)
    both = [peer for peer in of_island(peers, 1) if peer.stages == (1,)]

    def kill(stage: Stage) -> None:
        for peer in both:
            stage.nemesis.kill(peer.name)
        stage.add(VirtualPeer("newcomer", (1,), island=1))

    run = run_islands(config, peers, acting(12.3, kill), (VirtualPeer("newcomer", (1,), island=1),))
    assert finishes(run, 11) and is_agreed(run)
    assert any(e.kind == "restored" for _, _, e in run.events)
    last = {islands for key, found in choices(run).items() for islands, _ in found if key[2] == 7}
    assert last == {(0, 1)}


def counted_without_what_was_lost() -> tuple[VirtualRun, dict[int, tuple[int, ...]]]:
    """A stage of the first island dies whole when it has sent, and comes back from a snapshot of then: whose
    contributions count in each of its rounds."""
    peers = islands_of(2, replicas=2, slowness=2.0)
    config = config_of("outer.delay_steps=4", "recovery.snapshot_steps=1", steps=20)
    newcomer = VirtualPeer("newcomer", (1,), island=0)

    def kill(stage: Stage) -> None:
        for peer in of_island(peers, 0):
            if peer.stages == (1,):
                stage.nemesis.kill(peer.name)
        stage.add(newcomer)

    run = run_islands(config, peers, acting(6.0, kill), (newcomer,))
    assert is_agreed(run)
    found = {k[2]: islands for k, one in choices(run).items() if k[0] == 1 for islands, _ in one}
    return run, found


def test_what_died_with_all_who_held_it_goes_with_the_next_contribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, counted = counted_without_what_was_lost()
    assert finishes(run, 11)
    said = {e.what for _, _, e in run.events if isinstance(e, Noted)}
    assert "a contribution is lost" in said
    assert counted[0] == (1,) and counted[1] == (0, 1)
    monkeypatch.setattr(OuterRounds, "_own_up", lambda self, place, group: None)
    _, counted = counted_without_what_was_lost()
    assert 0 not in counted, "who alone votes said nothing"


@pytest.mark.parametrize("is_conductor_lost", [False, True])
def test_rounds_by_time_come_in_time_and_slow_islands_make_fewer_steps(
    is_conductor_lost: bool,
) -> None:
    """The last island takes five times as long for a step. A new conductor keeps to the deadline of the one before."""
    peers = islands_of(2, replicas=2, slowness=5.0)
    overrides = ("outer.every_seconds=9", "outer.delay_steps=2", "outer.grace_seconds=8")
    config = config_of("outer.inner_steps=20", *overrides, steps=80)
    killed: list[str] = []

    def kill(stage: Stage) -> None:
        edges = {stage.names[p.name]: p.name for p in of_island(peers, 0) if p.stages == (0,)}
        committing = [p for _, p, e in stage.run.events if isinstance(e, StepCommitted)]
        killed.append(next(edges[peer] for peer in reversed(committing) if peer in edges))
        stage.nemesis.kill(killed[0])

    script = acting(13.0, kill) if is_conductor_lost else None
    run = run_islands(config, peers, script)
    assert finishes(run, 12 - len(killed)) and is_agreed(run)
    island_of = {p: e.island for _, p, e in run.events if isinstance(e, PeerJoined)}
    for island in (0, 1):
        first_at: dict[int, float] = {}
        for at, peer, event in run.events:
            if isinstance(event, RoundSent) and not event.stage and island_of[peer] == island:
                first_at.setdefault(event.round, at)
        sent = sorted(first_at.values())
        gaps = [later - before for before, later in itertools.pairwise(sent)]
        assert len(sent) >= 4 and max(gaps) < 9 + 6.5, gaps
    counted = [islands for k, one in choices(run).items() if k[0] == 0 for islands, _ in one]
    assert counted.count((0, 1)) >= len(counted) - 1
    made = Counter(island_of[p] for _, p, e in run.events if isinstance(e, StepCommitted))
    assert 2 * made[1] < made[0] < 80


def test_islands_meet_before_their_first_round_however_rare_signs_of_life_are() -> None:
    """What a peer says every heartbeat it says at once to whom it meets."""
    rare = ("links.heartbeat_seconds=20", "links.silence_seconds=60", "outer.grace_seconds=30")
    run = run_islands(config_of(*rare, steps=7), islands_of(2))
    assert finishes(run, 6) and is_agreed(run)
    counted = {islands for key, one in choices(run).items() if key[2] == 0 for islands, _ in one}
    assert counted == {(0, 1)}
