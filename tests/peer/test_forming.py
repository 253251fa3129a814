"""Peers without an island measure lines, form islands and give up those that cannot start: in whole virtual worlds, and
what others may say to one that is forming."""

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import Refused, WireError
from swarmtrain.core.events import (
    BadMessage,
    Event,
    FaultInjected,
    IslandChosen,
    IslandDissolved,
    Noted,
    PeerJoined,
    RoundChosen,
    RoundMerged,
    RunStopped,
    StageLost,
    StepCommitted,
    SumChanged,
    TermStarted,
    Waiting,
)
from swarmtrain.core.messages import Ask
from swarmtrain.core.types import PeerId
from swarmtrain.core.version import VERSION
from swarmtrain.experiments.checker import check
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.machines import MachineLoop
from swarmtrain.experiments.profiles import NetworkProfile
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualPeer, VirtualRun, play
from swarmtrain.peer.forming import PATIENT_LIVES, Forming, resident_of, sends_of
from swarmtrain.peer.island import GIVEN_UP
from swarmtrain.peer.links import Links
from swarmtrain.peer.published import boundary_bytes
from swarmtrain.peer.rosters import Rosters
from swarmtrain.peer.service import Calls, Service
from swarmtrain.peer.session import Session
from swarmtrain.plan.formation import Formation
from swarmtrain.swarm.identity import Identity
from swarmtrain.swarm.memory_directory import MemoryDirectoryHub
from swarmtrain.swarm.records import LINK_PEER_DIGITS, PeerRecord
from swarmtrain.transport.link import Hello, Link, LinkLimits, Message
from swarmtrain.transport.memory import MemoryNetwork
from swarmtrain.transport.requests import ProbeReply, ProbeRequest
from swarmtrain.transport.step_messages import encode_step
from tests.experiments.island_worlds import config_of, is_agreed
from tests.experiments.runs import corpus
from tests.transport.worlds import hello

REGIONS = ("a", "b", "c")
LIFE_SECONDS = 3
NETWORK = NetworkProfile(
    description="a fast network in each of three regions, slow lines between them",
    source="made up",
    regions=REGIONS,
    one_way_latency_seconds=tuple(
        tuple(0.001 if x == y else 0.2 for y in REGIONS) for x in REGIONS
    ),
    bytes_per_second=tuple(tuple(100e6 if x == y else 1e6 for y in REGIONS) for x in REGIONS),
)


def fleet(region: str, count: int) -> tuple[VirtualPeer, ...]:
    return tuple(
        VirtualPeer(f"{region}{n}", (n,), region=region, island=None) for n in range(count)
    )


def run_world(
    config: RunConfig,
    peers: tuple[VirtualPeer, ...],
    act: "Callable[[Stage], asyncio.Future[None]] | None" = None,
    patience_seconds: float = 20,
) -> VirtualRun:
    torch.set_num_threads(1)
    scenario = Scenario(
        peers, network=NETWORK, stall_seconds=100, patience_seconds=patience_seconds
    )

    async def main() -> VirtualRun:
        return await play(config, scenario, corpus(), act)

    with asyncio.Runner(loop_factory=MachineLoop) as runner:
        return runner.run(main())


def told(run: VirtualRun, kind: type[Event]) -> dict[str, list[tuple[float, Any]]]:
    """Events of `kind` by the name of the peer, with their times."""
    names = {p: e.name for _, p, e in run.events if isinstance(e, PeerJoined)}
    found: dict[str, list[tuple[float, Any]]] = defaultdict(list)
    for at, peer, event in run.events:
        if isinstance(event, kind):
            found[names.get(peer, peer)].append((at, event))
    return found


def test_two_far_clusters_form_two_islands_that_meet_in_rounds() -> None:
    config = config_of(f"swarm.announce_seconds={LIFE_SECONDS}", "swarm.min_peers=3", steps=16)
    peers = tuple(replace(p, stages=None) for p in (*fleet("a", 3), *fleet("b", 3)))
    run = run_world(config, peers)
    assert not run.stalled and not run.errors
    assert [outcome.finished for outcome in run.outcomes.values()] == [True] * 6
    islands = {
        name: [e.island for _, e in found] for name, found in told(run, IslandChosen).items()
    }
    assert sorted(islands) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    (of_a,), (of_b,) = (
        {tuple(islands[name]) for name in islands if name[0] == region} for region in "ab"
    )
    assert {of_a, of_b} == {(0,), (1,)}
    joined = {name: [e.island for _, e in found] for name, found in told(run, PeerJoined).items()}
    assert joined == islands
    merged = [e for _, _, e in run.events if isinstance(e, RoundMerged)]
    assert {event.stage for event in merged} == {0, 1, 2} and is_agreed(run)


@pytest.fixture(scope="module")
def broken_run() -> VirtualRun:
    """`b2`, the only one near `b0` and `b1` with stage 2, dies when its island is chosen; `c0` and `c1` come late."""
    overrides = (f"swarm.announce_seconds={LIFE_SECONDS}", "outer.inner_steps=0")
    late = fleet("c", 2)

    def script(stage: Stage) -> "asyncio.Future[None]":
        async def act() -> None:
            for _ in range(10_000):
                await asyncio.sleep(0.01)
                events = ((peer, event) for _, peer, event in stage.run.events)
                if any(isinstance(e, IslandChosen) and p == stage.names["b2"] for p, e in events):
                    break
            stage.nemesis.kill("b2")
            for peer in late:
                stage.add(peer)

        return asyncio.ensure_future(act())

    peers = (*fleet("a", 3), *fleet("b", 3))
    return run_world(config_of(*overrides, steps=36), peers, script)


def test_an_island_that_lost_a_stage_before_it_began_is_given_up(broken_run: VirtualRun) -> None:
    first = told(broken_run, IslandChosen)
    ((lost_at, of_b2),) = first["b2"]
    gone = told(broken_run, IslandDissolved)
    assert sorted(gone) == ["b0", "b1"]
    both = sorted((entry for (entry,) in gone.values()), key=lambda entry: entry[0])
    assert all(event.island == of_b2.island for _, event in both)
    assert all(at > lost_at + PATIENT_LIVES * LIFE_SECONDS for at, _ in both)
    # They look, and so give up, at times of their own: whoever is last lacks the first one as well.
    assert "no peer has room for stages 2;" in both[0][1].reason
    assert re.search("no peer has room for stages ([01], )?2;", both[1][1].reason)
    # The others never noticed.
    assert not {"a0", "a1", "a2"} & gone.keys()
    assert {name for name in told(broken_run, TermStarted)} <= {"a0", "a1", "a2"}
    assert not broken_run.errors and not broken_run.stalled


def test_what_cannot_found_an_island_waits_and_then_helps_a_far_one(broken_run: VirtualRun) -> None:
    begin = told(broken_run, IslandChosen)["b2"][0][0]
    (island,) = {
        e.island for name in ("a0", "a1", "a2") for _, e in told(broken_run, IslandChosen)[name]
    }
    for name in ("b0", "b1", "c0", "c1"):
        reasons = [event.reason for _, event in told(broken_run, Waiting)[name]]
        assert any("the 1 near it that are in none need room for stage 2" in r for r in reasons)
        at, last = told(broken_run, IslandChosen)[name][-1]
        assert last.island == island and "far" in last.reason
        assert at > begin + PATIENT_LIVES * LIFE_SECONDS
    for region in "bc":
        joined = {
            e.island for n in (0, 1) for _, e in told(broken_run, PeerJoined)[f"{region}{n}"][-1:]
        }
        assert joined == {island}


def test_a_far_helper_trains_where_its_stage_was_lost() -> None:
    """`b2` is near to nobody and waits; meanwhile the only replica of its stage dies in the island that is far away."""
    overrides = ("outer.inner_steps=0", "recovery.snapshot_steps=1", "train.microbatches=8")
    life = f"swarm.announce_seconds={LIFE_SECONDS}"
    config = config_of(life, *overrides, "swarm.min_peers=3", steps=10)

    def script(stage: Stage) -> "asyncio.Future[None]":
        async def act() -> None:
            for _ in range(10_000):
                await asyncio.sleep(0.01)
                if any(e.kind == "step_committed" and e.step == 1 for *_, e in stage.run.events):
                    break
            stage.nemesis.kill("a2")

        return asyncio.ensure_future(act())

    run = run_world(config, (*fleet("a", 3), fleet("b", 3)[2]), script)
    assert not run.stalled and not run.errors
    assert [run.outcomes[name].finished for name in ("a0", "a1", "b2")] == [True] * 3
    ((chosen_at, chosen),) = told(run, IslandChosen)["b2"]
    assert chosen.island == 0 and "though far" in chosen.reason
    assert chosen_at > PATIENT_LIVES * LIFE_SECONDS
    assert any("no island is within" in e.reason for _, e in told(run, Waiting)["b2"])
    worked = [event for _, event in told(run, SumChanged)["b2"] if event.change == "add"]
    assert len({event.step for event in worked}) > 3 and {e.position for e in worked} == {2}


def test_peers_that_hold_a_model_only_with_far_ones_train_after_a_long_wait() -> None:
    life = f"swarm.announce_seconds={LIFE_SECONDS}"
    config = config_of(life, "outer.inner_steps=0", "swarm.min_peers=3", steps=4)
    run = run_world(config, tuple(fleet(region, 3)[n] for n, region in enumerate("abc")))
    assert not run.stalled and not run.errors
    assert [outcome.finished for outcome in run.outcomes.values()] == [True] * 3
    for found in told(run, IslandChosen).values():
        ((at, event),) = found
        assert event.island == 0 and "though far from each other" in event.reason
        assert at > PATIENT_LIVES * LIFE_SECONDS
    # Whoever looks last finds that the others have said so.
    reasons = [e.reason for found in told(run, Waiting).values() for _, e in found]
    assert any("a new island after a long wait: 3 peers" in reason for reason in reasons)
    assert len(told(run, IslandChosen)) == 3 and not told(run, IslandDissolved)


async def until_noted(stage: Stage, kind: type[Event]) -> None:
    for _ in range(10_000):
        await asyncio.sleep(0.05)
        if any(isinstance(event, kind) for *_, event in stage.run.events):
            return


def full_world(
    monkeypatch: pytest.MonkeyPatch, peers: tuple[VirtualPeer, ...], steps: int, leaving: str = ""
) -> VirtualRun:
    """No island may have more than four members. `late`, near region a, comes when steps are committed; when it was
    turned away, the one `leaving` goes."""
    monkeypatch.setattr("swarmtrain.steps.membership.MOST_MEMBERS", 4)

    def script(stage: Stage) -> "asyncio.Future[None]":
        async def act() -> None:
            await until_noted(stage, StepCommitted)
            stage.add(VirtualPeer("late", (1,), region="a", island=None))
            await until_noted(stage, IslandDissolved)
            if leaving:
                stage.drain(leaving, "makes room")

        return asyncio.ensure_future(act())

    overrides = ("outer.inner_steps=0", "swarm.min_peers=3")
    life = f"swarm.announce_seconds={LIFE_SECONDS}"
    # An island with a far helper ends long after the others.
    run = run_world(config_of(life, *overrides, steps=steps), peers, script, patience_seconds=60)
    assert not run.stalled and not run.errors
    return run


HOSTS = (*fleet("a", 3), VirtualPeer("a3", (1,), region="a", island=None))


def test_a_newcomer_to_a_full_island_looks_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    run = full_world(monkeypatch, (*HOSTS, *fleet("b", 3)), steps=60)
    (near,) = {e.island for name in ("a0", "a3") for _, e in told(run, IslandChosen)[name]}
    (far,) = {e.island for _, e in told(run, IslandChosen)["b0"]}
    (_, first), (at, second) = told(run, IslandChosen)["late"]
    assert (first.island, second.island) == (near, far) and "though far" in second.reason
    ((gone_at, gone),) = told(run, IslandDissolved)["late"]
    assert gone.island == near and "the most there can be" in gone.reason
    assert at > gone_at + PATIENT_LIVES * LIFE_SECONDS
    waits = [event.reason for _, event in told(run, Waiting)["late"]]
    assert any(f"no island with a place left (not {near})" in reason for reason in waits)
    worked = {event.step for _, event in told(run, SumChanged)["late"] if event.change == "add"}
    assert worked and run.outcomes["late"].finished


def test_where_there_is_no_other_island_a_newcomer_waits_for_a_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = full_world(monkeypatch, HOSTS, steps=100, leaving="a3")
    assert len(told(run, IslandDissolved)["late"]) == 1
    assert [event.island for _, event in told(run, IslandChosen)["late"]] == [0, 0]
    worked = {event.step for _, event in told(run, SumChanged)["late"] if event.change == "add"}
    assert worked and run.outcomes["late"].finished


# ---- an island that began -------------------------------------------------------------------------------------------

LOST = "stage 2 was lost with every snapshot; neighbour averages are not allowed"
QUICK = ("links.heartbeat_seconds=0.4", "links.silence_seconds=1")
"""So that what a loss takes is short beside the run."""


def losing_world(
    peers: tuple[VirtualPeer, ...],
    *overrides: str,
    steps: int = 60,
    newcomer: VirtualPeer | None = None,
) -> VirtualRun:
    """`b2`, the only one of its island with stage 2, dies behind a step that its island committed; there are no
    snapshots. Nothing is amiss in the journals. A `newcomer` comes when that island is given up."""

    def script(stage: Stage) -> "asyncio.Future[None]":
        async def act() -> None:
            for _ in range(10_000):
                await asyncio.sleep(0.05)
                runtime = stage.sessions["b2"].runtime
                if runtime is not None and runtime.member.step >= 6:
                    break
            stage.nemesis.strike(Fault("kill", ("b2",)))
            if newcomer is not None:
                await until_noted(stage, IslandDissolved)
                stage.add(newcomer)

        return asyncio.ensure_future(act())

    life = f"swarm.announce_seconds={LIFE_SECONDS}"
    always = (life, "swarm.min_peers=3", "recovery.snapshot_steps=0", *QUICK)
    run = run_world(config_of(*always, *overrides, steps=steps), peers, script, 60)
    assert sum(isinstance(event, FaultInjected) for *_, event in run.events) == 1
    assert any(isinstance(event, StageLost) for *_, event in run.events)
    assert not check(run.journal.lines)
    return run


def islands_of(run: VirtualRun, kind: type[Event] = PeerJoined) -> dict[str, list[int]]:
    return {name: [e.island for _, e in found] for name, found in told(run, kind).items()}


def helped(run: VirtualRun, name: str) -> set[int]:
    """The steps that `name` worked in since it joined an island for the last time."""
    joined = told(run, PeerJoined)[name][-1][0]
    found = told(run, SumChanged)[name]
    return {e.step for at, e in found if at > joined and e.change == "add"}


@pytest.mark.parametrize("inner_steps", [0, 5])
def test_the_peers_of_an_island_that_lost_a_stage_for_good_help_another(inner_steps: int) -> None:
    overrides = (f"outer.inner_steps={inner_steps}", "outer.delay_steps=2")
    run = losing_world((*fleet("a", 3), *fleet("b", 3)), *overrides)
    assert not run.stalled and not run.errors
    ends = {name: outcome.finished for name, outcome in run.outcomes.items()}
    assert ends == dict.fromkeys(("a0", "a1", "a2", "b0", "b1"), True)
    joined = islands_of(run)
    ((theirs,),) = {tuple(joined[name]) for name in ("a0", "a1", "a2")}
    (own,) = joined["b2"]
    assert joined["b0"] == joined["b1"] == [own, theirs]
    gone = told(run, IslandDissolved)
    assert sorted(gone) == ["b0", "b1"]
    assert {(e.island, e.reason) for found in gone.values() for _, e in found} == {(own, LOST)}
    # As newcomers: what they were told of their old island's steps is of no use there.
    assert helped(run, "b0") and helped(run, "b1")


def test_with_a_newcomer_they_found_an_island_of_another_number() -> None:
    """Near ones suffice again: they begin anew, and catch up with the rounds of the first island."""
    newcomer = VirtualPeer("b3", (2,), region="b", island=None)
    peers = (*in_island(fleet("a", 3), 0), *fleet("b", 3))
    rounds = ("outer.inner_steps=5", "outer.delay_steps=2")
    run = losing_world(peers, *rounds, newcomer=newcomer)
    assert not run.stalled and not run.errors
    assert [outcome.finished for outcome in run.outcomes.values()] == [True] * 6
    joined = islands_of(run)
    assert joined["b0"] == joined["b1"] == [1, 2] and joined["b3"] == [2]
    before, after = (e.term for _, e in told(run, TermStarted)["b0"])
    assert after >> 16 > before >> 16
    later = [e.members for _, _, e in run.events if isinstance(e, RoundChosen)][-3:]
    assert later == [(0, 2)] * 3 and is_agreed(run)


def test_rounds_go_on_without_an_island_that_was_dissolved() -> None:
    """Its peers live, but none of them is waited for as one of it. Two of them are in another that votes by then."""
    rounds = ("outer.inner_steps=5", "outer.delay_steps=2", "outer.founders=3")
    others = (*in_island(fleet("a", 3), 0), *in_island(fleet("c", 3), 2))
    run = losing_world((*others, *fleet("b", 3)), *rounds, steps=60)
    assert not run.stalled and not run.errors
    assert [outcome.finished for outcome in run.outcomes.values()] == [True] * 8
    joined, ((gone_at, gone),) = islands_of(run), told(run, IslandDissolved)["b0"]
    assert gone.island == 1
    assert {joined["b0"][-1], joined["b1"][-1]} <= {0, 2}
    chosen = [e for at, _, e in run.events if isinstance(e, RoundChosen) and at > gone_at + 10]
    assert chosen and {e.members for e in chosen} == {(0, 2)}
    assert any(1 in e.members for _, _, e in run.events if isinstance(e, RoundChosen))
    assert is_agreed(run)


@pytest.mark.parametrize("case", ["alone", "pinned"])
def test_without_another_island_or_where_the_owner_chose_it_stops_as_ever(case: str) -> None:
    ours = fleet("b", 3) if case == "alone" else in_island(fleet("b", 3), 1)
    others = () if case == "alone" else in_island(fleet("a", 3), 0)
    run = losing_world((*ours, *others), "outer.inner_steps=5", steps=30)
    assert not run.stalled and not run.errors and not told(run, IslandDissolved)
    for name in ("b0", "b1"):
        outcome = run.outcomes[name]
        assert (outcome.finished, outcome.reason) == (False, LOST)
        assert [e.reason for _, e in told(run, RunStopped)[name]] == [LOST]
    assert all(run.outcomes[peer.name].finished for peer in others)


def in_island(peers: tuple[VirtualPeer, ...], island: int) -> tuple[VirtualPeer, ...]:
    return tuple(replace(peer, island=island) for peer in peers)


@pytest.mark.parametrize(
    ("island", "is_draining", "others_train", "reason", "does"),
    [
        (None, False, True, GIVEN_UP + LOST, True),
        (None, True, True, GIVEN_UP + LOST, False),
        (None, False, False, GIVEN_UP + LOST, False),
        (1, False, True, GIVEN_UP + LOST, False),
        (None, False, True, "the run's owner asked for it", False),
    ],
)
def test_only_who_is_free_to_go_looks_for_another_island(
    island: int | None, is_draining: bool, others_train: bool, reason: str, does: bool
) -> None:
    """Not who is to leave, nor where the run is to stop."""
    session: Any = SimpleNamespace(
        options=SimpleNamespace(island=island),
        placing=SimpleNamespace(given_up="", others_train=others_train),
        _is_draining=is_draining,
    )
    assert Session._may_dissolve(session, reason) is does


def test_three_far_clusters_that_come_at_once_form_three_islands() -> None:
    """All of them look at the same times: one cluster's peers took each other's last numbers, again and again."""
    life = f"swarm.announce_seconds={LIFE_SECONDS}"
    config = config_of(life, "outer.inner_steps=0", "swarm.min_peers=3", *QUICK, steps=2)
    run = run_world(config, (*fleet("a", 3), *fleet("b", 3), *fleet("c", 3)))
    assert not run.stalled and not run.errors and not run.left_behind
    joined = islands_of(run)
    found = [
        {*joined[f"{region}0"], *joined[f"{region}1"], *joined[f"{region}2"]} for region in "abc"
    ]
    assert len({island for (island,) in found}) == 3


# ---- one peer that is forming, among others -------------------------------------------------------------------------

CONFIG = config_of(f"swarm.announce_seconds={LIFE_SECONDS}", "swarm.min_peers=2")


class Peer:
    """A peer without a session: its record says what `about` does, its service answers as one's does."""

    def __init__(self, place: "Place", name: str, **about: Any) -> None:
        self.identity = Identity.from_seed(name.encode().ljust(32))
        self.id = self.identity.peer_id
        self.events: list[Event] = []
        self.transport = place.network.transport(name)
        self.directory = place.hub.directory(CONFIG.hash, self.identity, self.events.append)
        calls: Any = [lambda: replace(hello(self.id), address=f"{name}:1"), *[lambda *_: None] * 4]
        self.service = Service(Calls(*calls), self.events.append)
        self.service.rosters = Rosters(calls[1], self.events.append, 1.0, calls[1])
        self.service.links = Links(self.transport, self.service, 1.0)
        self.about = about
        self.hook: Callable[[Message], Message] | None = None
        self.name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.service, name)

    async def call(self, link: Link, method: str, request: Message) -> Message:
        if self.about.get("hangs"):
            await asyncio.sleep(1e9)
        answer = await self.service.call(link, method, request)
        return self.hook(answer) if self.hook is not None else answer

    def record(self) -> PeerRecord:
        return PeerRecord(
            run=CONFIG.hash,
            peer=self.id,
            name=self.name,
            address=f"{self.name}:1",
            stages=self.about.get("stages", ()),
            state=self.about.get("state", "forming"),
            pinned=bool(self.about.get("stages")),
            capacity_stages=3,
            seconds_per_stage=0.15,
            edge_capable=True,
            version=VERSION,
            sequence=0,
            expires=0.0,
            island=self.about.get("island"),
        )

    def forming(self, config: RunConfig = CONFIG, late_seconds: float = 0.0) -> Forming:
        directory: Any = Late(self.directory, self.id, late_seconds)
        wires = (self.transport, directory, self.service)
        return Forming(config, *wires, self.record, self.events.append)


def latency_seconds(sender: str, receiver: str) -> float:
    """Whose name begins with "far" is far from all others."""
    return 0.3 if "far" in (sender[:3], receiver[:3]) else 0.005


class Late:
    """A directory in which what others say is seen some time after they said it."""

    def __init__(self, inner: Any, me: PeerId, late_seconds: float) -> None:
        self._inner, self._me, self._late_seconds = inner, me, late_seconds
        self._past: list[tuple[float, tuple[PeerRecord, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def records(self) -> tuple[PeerRecord, ...]:
        found, now = await self._inner.records(), asyncio.get_running_loop().time()
        self._past.append((now, found))
        old = [records for at, records in self._past if at <= now - self._late_seconds]
        return tuple(r for r in (old[-1] if old else ()) if r.peer != self._me)


class Place:
    def __init__(self) -> None:
        limits = LinkLimits(heartbeat_seconds=1.0)
        self.network = MemoryNetwork(latency_seconds, 1e7, limits)
        self.hub = MemoryDirectoryHub(0.01)
        self.peers: list[Peer] = []

    async def peer(self, name: str, **about: Any) -> Peer:
        found = Peer(self, name, **about)
        await found.transport.listen(":1", found)  # type: ignore[arg-type]
        if about.get("state", "forming") != "forming":
            await found.directory.publish(found.record(), 3000.0)
        self.peers.append(found)
        return found

    async def close(self) -> None:
        for peer in self.peers:
            await peer.transport.close()


def in_place(test: Callable[[Place], Any]) -> None:
    async def main() -> None:
        place = Place()
        try:
            await test(place)
        finally:
            await place.close()

    run_virtual(main())


def test_lines_are_measured_both_ways_and_their_links_closed() -> None:
    async def test(place: Place) -> None:
        there = await place.peer("there", state="serving", stages=(0, 1, 2), island=4)
        await place.peer("too", state="serving", stages=(0, 1, 2), island=4)
        me = await place.peer("me")
        choice = await me.forming().run()
        assert choice == Formation(4, choice.reason, is_ready=True)
        assert choice.reason == "3 peers near each other hold a whole model, 5.05 ms away"
        (mine,) = [r for r in await me.directory.records() if r.peer == me.id]
        assert mine.state == "forming" and mine.island == 4
        rows = {to: (seconds, rate) for to, seconds, rate, _ in mine.links}
        assert rows[there.id[:LINK_PEER_DIGITS]][0] == pytest.approx(0.005, rel=0.1)
        assert rows[there.id[:LINK_PEER_DIGITS]][1] == pytest.approx(1e7, rel=0.2)
        await asyncio.sleep(1.0)
        assert not place.network.line("me", "there").cut
        # Whoever was measured took it for no link of its own, so it never looks for the peer behind it.
        assert not there.service.links.open_links and not there.service.links.totals().calls
        assert not [event for event in there.events if event.kind == "link_closed"]

    in_place(test)


def test_the_slower_way_counts() -> None:
    async def test(place: Place) -> None:
        there = await place.peer("there", state="serving", stages=(0, 1, 2), island=0)
        there.hook = lambda answer: Message(ProbeReply(1000.0, 9).encode(), answer.body)
        me = await place.peer("me")
        search = asyncio.ensure_future(me.forming().run())
        await asyncio.sleep(PATIENT_LIVES * LIFE_SECONDS - 0.5)
        (row,) = next(r for r in await there.directory.records() if r.peer == me.id).links
        assert row[2] == 1000.0 and not search.done()
        choice = await search
        assert choice.island == 0 and "far" in choice.reason

    in_place(test)


@pytest.mark.parametrize("lie", [0.0, -5.0, 5e-324])
def test_a_lying_answer_costs_a_measurement_and_no_more(lie: float) -> None:
    async def test(place: Place) -> None:
        liar = await place.peer("liar", state="serving", stages=(0, 1, 2), island=0)
        liar.hook = lambda answer: Message(ProbeReply(lie, 9).encode(), answer.body)
        await place.peer("second", state="serving", stages=(0, 1, 2), island=1)
        await place.peer("third", state="serving", stages=(0, 1, 2), island=1)
        me = await place.peer("me")
        assert (await me.forming().run()).island == 1

    in_place(test)


def test_the_line_to_another_peer_at_that_address_is_not_taken_for_its() -> None:
    async def test(place: Place) -> None:
        near = await place.peer("near")
        gone = Peer(place, "gone", state="serving", stages=(0, 1, 2), island=0)
        moved = replace(gone.record(), address="near:1")
        await gone.directory.publish(moved, 3000.0)
        place.peers.append(gone)
        await place.peer("good", state="serving", stages=(0, 1, 2), island=1)
        await place.peer("fine", state="serving", stages=(0, 1, 2), island=1)
        me = await place.peer("me")
        assert (await me.forming().run()).island == 1 and near.id != gone.id
        (own,) = [r for r in await me.directory.records() if r.peer == me.id]
        assert gone.id[:LINK_PEER_DIGITS] not in [to for to, *_ in own.links]

    in_place(test)


def test_one_that_hangs_or_is_gone_holds_nobody_up() -> None:
    async def test(place: Place) -> None:
        await place.peer("hangs", state="serving", stages=(0, 1, 2), island=0, hangs=True)
        gone = await place.peer("gone", state="serving", stages=(0, 1, 2), island=0)
        place.network.kill("gone")
        place.peers.remove(gone)
        await place.peer("good", state="serving", stages=(0, 1, 2), island=1)
        await place.peer("fine", state="serving", stages=(0, 1, 2), island=1)
        me = await place.peer("me")
        choice = await me.forming().run()
        assert choice.island == 1 and "far" not in choice.reason
        notes = [e.detail for e in me.events if isinstance(e, Noted)]
        assert any(gone.id in detail for detail in notes)

    in_place(test)


def test_two_that_choose_one_number_at_once_notice_before_they_settle() -> None:
    """Each holds a whole model and sees what the other said only after two looks."""
    alone = CONFIG.model_copy(
        update={"swarm": CONFIG.swarm.model_copy(update={"min_peers": 1, "announce_seconds": 30.0})}
    )

    async def test(place: Place) -> None:
        one, other = await place.peer("far-one"), await place.peer("other")
        searches = [peer.forming(alone, late_seconds=1.0).run() for peer in (one, other)]
        choices = await asyncio.gather(*searches)
        assert {choice.island for choice in choices} == {0, 1}

    in_place(test)


def test_lines_that_are_still_being_measured_are_waited_for() -> None:
    """The far islands come first, and to measure them takes longer than a peer waits for a near one."""

    async def test(place: Place) -> None:
        whole: dict[str, Any] = {"state": "serving", "stages": (0, 1, 2)}
        for island in range(4):
            for name in ("a", "b"):
                await place.peer(f"far-{island}{name}", island=island, **whole)
        await place.peer("near-a", island=4, **whole)
        await place.peer("near-b", island=4, **whole)
        me = await place.peer("me")
        assert (await me.forming().run()).island == 4

    in_place(test)


def test_who_is_forming_may_probe_and_nothing_else() -> None:
    async def test(place: Place) -> None:
        there = await place.peer("there")
        me = await place.peer("me")
        mine: Hello = replace(hello(me.id), role="forming")
        link = await me.transport.dial("there:1", mine, me, 1.0)
        for method in (
            "process",
            "piece",
            "state",
            "layout",
            "learn",
            "round_piece",
            "outer_state",
        ):
            with pytest.raises(Refused, match="may only measure"):
                await link.call(method, Message(b""), silence_seconds=4.0)
        body = bytes(1 << 16)
        request = Message(ProbeRequest(len(body), is_echoed=True).encode(), body)
        answer = await link.call("probe", request, silence_seconds=4.0)
        assert len(answer.body) == len(body) and ProbeReply.decode(answer.meta).messages >= 0
        with pytest.raises(Refused, match="too many"):
            for _ in range(40):  # twice 64 KiB each, of 4 MiB a minute
                await link.call("probe", request, silence_seconds=4.0)
        link.tell("step", encode_step(Ask(3), None))
        await asyncio.sleep(1.0)
        with pytest.raises(Exception, match=r"closed|may not tell"):
            await link.call("probe", request, silence_seconds=4.0)
        why = "step: a forming process may not tell anything (method step)"
        assert there.events == [BadMessage(me.id, why)]

    in_place(test)


def test_other_islands_and_unformed_peers_answer_probes() -> None:
    """A line must be known before it is known whether two peers belong together."""
    link: Any = SimpleNamespace(
        remote=replace(hello("f" * 32), island=7),
        stats=SimpleNamespace(bytes_per_second=5.0, messages=2),
    )
    calls: Any = [lambda: hello("e" * 32), *[lambda *_: None] * 4]
    service = Service(Calls(*calls), lambda event: None)
    body = bytes(1 << 16)
    request = Message(ProbeRequest(len(body), is_echoed=True).encode(), body)
    answer = asyncio.run(service.call(link, "probe", request))
    assert ProbeReply.decode(answer.meta) == ProbeReply(5.0, 2) and answer.body == body
    with pytest.raises(Refused, match="another island"):
        asyncio.run(service.call(link, "process", Message(b"")))


# ---- records in the terms of formation ------------------------------------------------------------------------------


def test_records_become_residents_and_lines() -> None:
    ids = [PeerId(f"{n:032x}") for n in (16**20, 2 * 16**20)]
    base = Peer.record(SimpleNamespace(id=ids[0], name="n", about={}))  # type: ignore[arg-type]
    serving = replace(base, state="serving", stages=(1,), island=3)
    assert resident_of(serving).candidate.pinned == (1,) and resident_of(serving).is_settled
    joining = replace(serving, state="joining")
    assert resident_of(joining).candidate.pinned is None and resident_of(joining).is_settled
    said = replace(base, stages=(2,), pinned=True, island=3)
    assert resident_of(said).candidate.pinned == (2,) and not resident_of(said).is_settled
    digits = ids[1][:LINK_PEER_DIGITS]
    rows = ((digits, 0.01, 1e6, 3), ("f" * LINK_PEER_DIGITS, 0.01, 1e6, 3))
    entries = [
        replace(base, links=rows),
        replace(base, peer=ids[1], links=((ids[0][:12], 1.0, 0.0, 0),)),
    ]
    assert sends_of(CONFIG, entries) == {(ids[0], ids[1]): 0.01 + boundary_bytes(CONFIG) / 1e6}
    with pytest.raises(WireError):
        ProbeReply.decode(b"\xff\xff")
