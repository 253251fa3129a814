"""Lines to neighbours become known without any work on them, politely, and a peer that hangs holds nobody up."""

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import LinkSilent, Refused
from swarmtrain.core.events import BadMessage, Event, LinksMeasured, Noted
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, VirtualRun, simulate
from swarmtrain.peer import probing as probing_module
from swarmtrain.peer.links import Links
from swarmtrain.peer.probing import (
    LEAST_PROBE_BYTES,
    MOST_PROBE_BYTES,
    PROBE_BYTES_PER_MINUTE,
    REST_SECONDS,
    STALE_SECONDS,
    Probing,
    neighbours,
    probe_bytes,
)
from swarmtrain.peer.rosters import Rosters
from swarmtrain.peer.service import Calls, Service
from swarmtrain.plan.costs import SURE_CALLS
from swarmtrain.swarm.records import LINK_PEER_DIGITS
from swarmtrain.transport.frames import Kind
from swarmtrain.transport.link import Hello, Link, LinkLimits, Message
from swarmtrain.transport.memory import MemoryNetwork
from swarmtrain.transport.requests import ProbeRequest
from tests.experiments.runs import corpus, events_of, known_reference, sha_of, small_config
from tests.transport.worlds import hello

STAGES = ((0,), (1,), (2,), (1, 2), (0,))
LATENCY_SECONDS = 0.02


def config_of(*more: str) -> RunConfig:
    return small_config("planner.use=true", *more)


def id_of(place: int) -> PeerId:
    return PeerId(f"{place:02x}" * 16)


def roster_of(stages: tuple[tuple[int, ...], ...] = STAGES) -> Roster:
    return Roster.of(1, [Member(id_of(n), hosted, f"p{n}:1") for n, hosted in enumerate(stages)])


class Peer:
    """One peer's links and service, without any work: `took` are the probes that came, (when, from, bytes)."""

    def __init__(self, fleet: "Fleet", place: int) -> None:
        self.id = id_of(place)
        self.events: list[Event] = []
        self.took: list[tuple[float, PeerId, int]] = []
        self.hangs = False
        calls: Any = [self._hello, *[lambda *_: None] * 4]
        self._service = Service(Calls(*calls), self.events.append)
        self.transport = fleet.network.transport(f"p{place}")
        self.links = Links(self.transport, self, 1.0)
        self._service.links = self.links
        self._service.rosters = Rosters(calls[1], self.events.append, 1.0, calls[1])
        self.member = SimpleNamespace(roster=fleet.roster, step=0)
        self.failures: list[BaseException] = []
        for member in fleet.roster.members:
            self.links.learn(member.peer, member.address)
        self._config = fleet.config
        self._probe(config_of("planner.use=false"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def _hello(self) -> Hello:
        return hello(self.id)

    async def call(self, link: Link, method: str, request: Message) -> Message:
        if method == "work":
            await asyncio.sleep(3600)
        if method == "probe":
            now = asyncio.get_running_loop().time()
            self.took.append((now, link.remote.peer, len(request.body)))
        if self.hangs:
            await asyncio.sleep(1e9)
        return await self._service.call(link, method, request)

    def begin(self) -> None:
        self._probe(self._config)

    def _probe(self, config: RunConfig) -> None:
        parts: Any = SimpleNamespace(
            me=self.id, config=config, member=self.member, links=self.links,
            record=self.events.append,
        )  # fmt: skip
        self.probing = Probing(parts, random.Random(f"{self.id}"), self.failures.append)

    @property
    def notes(self) -> list[Noted]:
        return [event for event in self.events if isinstance(event, Noted)]


class Fleet:
    """Peers of one roster in a modelled network."""

    def __init__(self, config: RunConfig, network: MemoryNetwork, roster: Roster) -> None:
        self.config, self.network, self.roster = config, network, roster
        self.peers = [Peer(self, place) for place in range(len(roster.members))]

    async def listen(self) -> None:
        for peer in self.peers:
            await peer.transport.listen(":1", peer)

    async def close(self) -> None:
        for peer in self.peers:
            await peer.probing.close()
            await peer.links.close()
            await peer.transport.close()
            assert not peer.failures


def in_fleet(
    test: Callable[[Fleet], Coroutine[Any, Any, None]],
    *more: str,
    stages: tuple[tuple[int, ...], ...] = STAGES,
    bytes_per_second: Any = 12.5e6,
    latency_seconds: Any = LATENCY_SECONDS,
) -> None:
    async def main() -> None:
        network = MemoryNetwork(latency_seconds, bytes_per_second, LinkLimits())
        fleet = Fleet(config_of(*more), network, roster_of(stages))
        await fleet.listen()
        await test(fleet)
        await fleet.close()

    run_virtual(main())


# ---- what is measured ----------------------------------------------------------------------------------------------


def line_latency_seconds(sender: str, receiver: str) -> float:
    return 0.002 * (1 + int(sender[1:]) + int(receiver[1:])) ** 2


def line_bytes_per_second(sender: str, receiver: str) -> float:
    """Not the same both ways."""
    return 1e6 * (1 + 3 * int(sender[1:])) * (1 + int(receiver[1:]))


def test_all_lines_to_neighbours_become_known_without_any_work():
    async def test(fleet: Fleet) -> None:
        for peer in fleet.peers:
            peer.begin()
        await asyncio.sleep(60)
        for place, peer in enumerate(fleet.peers):
            near = neighbours(fleet.config, fleet.roster, peer.id)
            rows = {to: rest for to, *rest in peer.links.rows()}
            assert near and set(rows) == {other[:LINK_PEER_DIGITS] for other in near}
            for other in range(len(fleet.peers)):
                if id_of(other) in near:
                    here, there = f"p{place}", f"p{other}"
                    latency_seconds = line_latency_seconds(here, there)
                    rate = line_bytes_per_second(here, there)
                    seconds, measured_rate, messages = rows[id_of(other)[:LINK_PEER_DIGITS]]
                    assert seconds == pytest.approx(latency_seconds, rel=0.1), (here, there)
                    assert measured_rate == pytest.approx(rate, rel=0.1), (here, there)
                    assert messages == SURE_CALLS, "a sure figure is not measured again"

    stages = ((0,), (1,), (2,), (1, 2))
    in_fleet(
        test,
        stages=stages,
        latency_seconds=line_latency_seconds,
        bytes_per_second=line_bytes_per_second,
    )


def test_a_figure_that_grew_old_is_measured_again():
    async def test(fleet: Fleet) -> None:
        fleet.peers[0].begin()
        await asyncio.sleep(STALE_SECONDS / 2)
        assert len(fleet.peers[1].took) == SURE_CALLS
        await asyncio.sleep(STALE_SECONDS)
        assert len(fleet.peers[1].took) == SURE_CALLS + 1

    in_fleet(test)


@pytest.mark.parametrize(
    ("more", "stages", "near"),
    [
        ((), (0,), (1, 2, 3)),
        ((), (1,), (0, 2, 3, 4)),
        ((), (1, 2), (0, 1, 2, 3, 4)),
        (("model.stages=3",), (1,), (0, 2, 3, 4)),
        (("model.stages=3",), (0,), (1, 3)),
        (("model.stages=3",), (3,), (0, 2, 3, 4)),
        (("model.stages=3", "paths.skip=0.34"), (3,), (0, 1, 2, 3, 4)),
        (("model.stages=3", "paths.swaps=1"), (0,), (1, 2, 3)),
        (("model.stages=3", "train.swap_ends=true"), (0,), (1, 2, 3)),
    ],
)
def test_neighbours_are_those_a_microbatch_could_come_from_or_go_to(
    more: tuple[str, ...], stages: tuple[int, ...], near: tuple[int, ...]
):
    roster = roster_of((*STAGES, stages))
    assert neighbours(config_of(*more), roster, id_of(5)) == tuple(map(id_of, near))


def test_who_is_in_no_roster_has_no_neighbours():
    assert neighbours(config_of(), roster_of(), id_of(9)) == ()


def test_a_probe_is_as_large_as_a_microbatch_within_bounds():
    assert probe_bytes(config_of("train.microbatch_size=1")) == LEAST_PROBE_BYTES
    assert probe_bytes(config_of("train.microbatch_size=1024")) == MOST_PROBE_BYTES
    config = config_of("train.microbatch_size=16")
    assert probe_bytes(config) == 4 * 16 * 32 * config.model.width
    assert probe_bytes(config_of("train.microbatch_size=16", "wire.codec=bf16")) == (
        2 * 16 * 32 * config.model.width
    )


# ---- politeness ----------------------------------------------------------------------------------------------------


def probes(fleet: Fleet) -> list[tuple[float, PeerId, int]]:
    return sorted(entry for peer in fleet.peers for entry in peer.took)


def test_probes_keep_to_their_bytes_in_any_minute():
    """Forty neighbours, ten heartbeats a second, and bodies of 256 KiB: without the bound it would be 2 MB/s."""

    async def test(fleet: Fleet) -> None:
        fleet.peers[0].begin()
        await asyncio.sleep(180)
        sent = probes(fleet)
        for begin, _, _ in sent:
            minute = sum(size for at, _, size in sent if begin <= at < begin + 59.5)
            assert minute <= PROBE_BYTES_PER_MINUTE
        assert sum(size for _, _, size in sent) == 3 * PROBE_BYTES_PER_MINUTE

    in_fleet(
        test,
        "train.microbatch_size=1024",
        "links.heartbeat_seconds=0.1",
        stages=((0,), *((1,),) * 20, *((2,),) * 20),
        bytes_per_second=125e6,
    )


def test_a_newcomer_that_all_others_probe_sends_most_of_them_away():
    """Those that were sent away rest, and come back until all are sure."""

    async def test(fleet: Fleet) -> None:
        newcomer, *others = fleet.peers
        for peer in others:
            peer.begin()
        await asyncio.sleep(59)
        sizes = [size for _, _, size in newcomer.took]
        assert PROBE_BYTES_PER_MINUTE < sum(sizes) <= PROBE_BYTES_PER_MINUTE + 20 * max(sizes)
        assert len(others[0].notes) == 1 and "too many peers" in others[0].notes[0].detail
        await asyncio.sleep(900)
        figures = [peer.links.figures(newcomer.id) for peer in others]
        assert all(known is not None and known.messages >= SURE_CALLS for known in figures)

    in_fleet(
        test,
        "train.microbatch_size=1024",
        stages=((0,), *((1,),) * 20),
        bytes_per_second=125e6,
    )


def test_at_most_one_probe_begins_in_a_heartbeat():
    async def test(fleet: Fleet) -> None:
        fleet.peers[0].begin()
        await asyncio.sleep(60)
        times = [at for at, _, _ in probes(fleet)]
        assert len(times) > 20
        assert min(b - a for a, b in itertools.pairwise(times)) >= 1.0

    in_fleet(test)


def test_no_probe_begins_while_this_peer_sends_a_body():
    """20 MB on a line of 1 MB/s. Probes would go to others, and out of the same machine all the same."""

    async def test(fleet: Fleet) -> None:
        loop, first = asyncio.get_running_loop(), fleet.peers[0]
        first.begin()
        await asyncio.sleep(8)
        link = await first.links.to(id_of(4))
        begin_seconds = loop.time()
        with pytest.raises(Refused):
            await link.call("nothing", Message(b"", bytes(20_000_000)), silence_seconds=4.0)
        end_seconds = loop.time()
        assert end_seconds > begin_seconds + 15
        await asyncio.sleep(5)
        times = [at for at, _, _ in probes(fleet)]
        # One that began just before may still arrive.
        assert times[0] < begin_seconds < end_seconds < times[-1]
        assert not any(begin_seconds + 0.5 < at < end_seconds for at in times)

    in_fleet(test, bytes_per_second=1e6)


def test_more_links_than_can_be_published_are_not_opened(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probing_module, "MOST_LINKS", 2)

    async def test(fleet: Fleet) -> None:
        fleet.peers[0].begin()
        await asyncio.sleep(60)
        assert len(fleet.peers[0].links.open_links) == 2
        assert len(probes(fleet)) == 2 * SURE_CALLS

    in_fleet(test)


@pytest.mark.parametrize("why", ["no planner", "no roster", "over"])
def test_who_has_no_use_for_figures_does_not_probe(why: str):
    async def test(fleet: Fleet) -> None:
        first = fleet.peers[0]
        if why == "no roster":
            first.member.roster = None
        if why == "over":
            first.member.step = fleet.config.run.steps
        first.begin()
        await asyncio.sleep(60)
        assert not first.links.open_links

    in_fleet(test, *(("planner.use=false",) if why == "no planner" else ()))


# ---- those who do not answer ---------------------------------------------------------------------------------------


def test_a_peer_that_never_answers_a_probe_holds_nobody_up():
    """Its progress notes are signs of life, so that only the limit ends the wait."""

    async def test(fleet: Fleet) -> None:
        first, hanging = fleet.peers[0], fleet.peers[1]
        hanging.hangs = True
        first.begin()
        await asyncio.sleep(REST_SECONDS - 10)
        assert len(fleet.peers[2].took) == len(fleet.peers[3].took) == SURE_CALLS
        assert len(hanging.took) == 1 and len(first.notes) == 1
        assert hanging.id in first.notes[0].detail and "probe" in first.notes[0].detail
        hanging.hangs = False
        await asyncio.sleep(2 * REST_SECONDS)
        assert len(hanging.took) == SURE_CALLS

    in_fleet(test)


@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_peer_out_of_reach_holds_nobody_up(how: str):
    async def test(fleet: Fleet) -> None:
        first = fleet.peers[0]
        if how == "cut":
            fleet.network.cut("p0", "p1")
        else:
            await fleet.peers[1].transport.close()
        first.begin()
        await asyncio.sleep(REST_SECONDS - 10)
        assert len(fleet.peers[2].took) == len(fleet.peers[3].took) == SURE_CALLS
        assert len(first.notes) == 1 and not fleet.peers[1].took

    in_fleet(test)


def test_answered_probes_are_no_sign_of_life_of_other_calls():
    """The notes of a call get lost: it is silent, however many probes the same link carries meanwhile."""

    class NoNotes:
        def sent(self, frame: bytes) -> list[tuple[float, bytes]]:
            return [] if frame[0] == Kind.NOTE else [(0.0, frame)]

        def received(self, frame: bytes) -> None: ...

    async def test(fleet: Fleet) -> None:
        fleet.network.line("p1", "p0").tap = NoNotes()
        link = await fleet.peers[0].links.to(id_of(1))
        working = asyncio.ensure_future(link.call("work", Message(b""), silence_seconds=4.0))
        body = bytes(LEAST_PROBE_BYTES)
        for _ in range(10):
            request = Message(ProbeRequest(len(body)).encode(), body)
            await link.call("probe", request, silence_seconds=4.0)
            await asyncio.sleep(0.5)
        assert working.done()
        with pytest.raises(LinkSilent):
            working.result()

    in_fleet(test)


# ---- the answering side --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meta", "size", "words", "is_malformed"),
    [
        (ProbeRequest(MOST_PROBE_BYTES + 1).encode(), MOST_PROBE_BYTES + 1, "too large", False),
        (ProbeRequest(10).encode(), 10, "too small", False),
        (b"", 0, "too small", False),
        (ProbeRequest(LEAST_PROBE_BYTES).encode(), 10, "should have 16384", True),
        (b"", LEAST_PROBE_BYTES, "should have 0", True),
        (b"\xff\xff\xff", 0, "malformed ProbeRequest", True),
        (ProbeRequest(-5).encode(), 0, "-5 is not within", True),
    ],
)
def test_a_probe_of_a_wrong_size_or_form_is_refused(
    meta: bytes, size: int, words: str, is_malformed: bool
):
    async def test(fleet: Fleet) -> None:
        link = await fleet.peers[0].links.to(id_of(1))
        with pytest.raises(Refused, match=words) as caught:
            await link.call("probe", Message(meta, bytes(size)), silence_seconds=4.0)
        assert caught.value.why
        bad = [event for event in fleet.peers[1].events if isinstance(event, BadMessage)]
        assert len(bad) == is_malformed

    in_fleet(test)


def test_the_largest_probe_is_answered_with_nothing():
    async def test(fleet: Fleet) -> None:
        link = await fleet.peers[0].links.to(id_of(1))
        request = Message(ProbeRequest(MOST_PROBE_BYTES).encode(), bytes(MOST_PROBE_BYTES))
        answer = await link.call("probe", request, silence_seconds=4.0)
        assert answer.meta == b"" and len(answer.body) == 0

    in_fleet(test)


# ---- in a run ------------------------------------------------------------------------------------------------------

NAMES = {"edge-a": 0, "edge-b": 0, "one-a": 1, "one-b": 1, "two-a": 2, "two-b": 2}


def planned_run() -> VirtualRun:
    torch.set_num_threads(1)
    config = config_of("paths.skip=0.5", "swarm.announce_seconds=3")
    fleet = tuple(VirtualPeer(name, (stage,)) for name, stage in NAMES.items())
    scenario = Scenario(
        fleet, forward_seconds=0.5, backward_seconds=1.0, latency_seconds=0.02, bytes_per_second=5e6
    )
    run = simulate(config, scenario, corpus())
    assert len(run.commits) == config.run.steps, run.errors
    return run


def test_a_run_with_probes_is_the_same_twice_and_changes_no_number():
    run, again = planned_run(), planned_run()
    assert run.journal.lines == again.journal.lines
    assert (run.bytes_sent, run.seconds) == (again.bytes_sent, again.seconds)
    assert sha_of(run) == known_reference(small_config("paths.skip=0.5")).parameters_sha256


def test_a_run_publishes_the_lines_between_all_stages():
    """With microbatches that leave stages out, a peer may come after any of another stage."""
    run = planned_run()
    told = {e.peer: e.links for e in events_of(run, LinksMeasured) if isinstance(e, LinksMeasured)}
    assert len(told) == len(NAMES)
    for links in told.values():
        assert len(links) >= 4
        for _, seconds, rate, messages in links:
            assert seconds == pytest.approx(0.02, rel=0.25)
            assert rate == pytest.approx(5e6, rel=0.25) and messages > 0
