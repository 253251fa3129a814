"""How a peer finds its island when nobody said (`--island auto`): measure lines, publish them, choose, say so, settle.

The decision is `plan.formation`, a pure function of the records, so peers that see the same directory choose alike. The
peer is no member of anything meanwhile: it opens links of its own, with the role `forming`, on which nothing but probes
is answered, and closes each as soon as it is measured. An echoed probe lets both ends rate their way; what is published
is the slower.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import DirectoryError, LinkError, Refused, WireError
from swarmtrain.core.events import LinksMeasured, Noted, Record, Waiting
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import PeerId
from swarmtrain.peer.placing import MOST_SILENT_LOOKS, candidate_of, without_load
from swarmtrain.peer.probing import LEAST_PROBE_BYTES, STALE_SECONDS
from swarmtrain.peer.published import boundary_bytes, by_digits
from swarmtrain.plan.formation import (
    NOTHING_AVOIDED,
    Avoided,
    Formation,
    Resident,
    Terms,
    choose_island,
    near_seconds,
    unmeasured,
)
from swarmtrain.swarm.directory import Directory
from swarmtrain.swarm.records import LINK_PEER_DIGITS, MOST_LINKS, LinkRow, PeerRecord
from swarmtrain.transport.link import Handler, Hello, Link, Message, Transport
from swarmtrain.transport.requests import ProbeReply, ProbeRequest

LOOK_SECONDS = 0.5
"""How often a peer that is forming looks into the directory; up to half more or less, by chance: peers that looked at
the same times would each give way to what the others have given up by then."""

SURE_LOOKS = 3
"""A choice is settled when so many looks in a row gave it while the directory already showed it: others had as long to
say the same number from farther away."""

PATIENT_LIVES = 2
"""A peer waits for a near island for as long as so many records live, one after the other; so long an island that
cannot start is kept, too, since a peer that died is in the directory for one of them."""

MOST_PROBE_BYTES = 64 << 10
"""An echoed probe is at most so large: a peer lets 4 MiB of probes in a minute, and many come at once."""

MOST_PROBES = 8
SURE_MESSAGES = 2
"""A line is measured when either end rated so many probes; it gets at most `MOST_PROBES`, two in a heartbeat."""

MOST_AT_ONCE = 4
"""Lines that are measured at the same time."""

REST_SECONDS = 10.0
"""A peer that could not be measured is left alone for so long, and up to twice as long."""


class _Measurer:
    """Handles a link that this peer opened to measure it: nothing is answered there."""

    def __init__(self, hello: Callable[[], Hello], check: Callable[[Hello], None]) -> None:
        self.hello, self.check = hello, check

    async def call(self, link: Link, method: str, request: Message) -> Message:
        raise Refused("this link only measures its line", f"method {method}")

    def tell(self, link: Link, method: str, meta: bytes) -> None:
        """Whoever is there takes this peer for what it soon will be; nothing is lost with what it says."""

    def opened(self, link: Link) -> None:
        """Nothing to do."""

    def closed(self, link: Link, reason: str) -> None:
        """Whoever measures gets an error."""


@dataclass(slots=True)
class Forming:
    """One peer's search. `own_record` is what it says of itself, `handler` that of its own links: who it is, and who
    may be spoken with. `avoided` are islands that it gave up; of those that were full it asks again after a while."""

    config: RunConfig
    transport: Transport
    directory: Directory
    handler: Handler
    own_record: Callable[[], PeerRecord]
    record: Record
    avoided: Avoided = NOTHING_AVOIDED
    chance: random.Random = field(init=False)
    _said: int | None = None
    _is_patient: bool = True
    _rows: dict[PeerId, tuple[LinkRow, float]] = field(default_factory=dict)
    _resting_until: dict[PeerId, float] = field(default_factory=dict)
    _measuring: dict[PeerId, asyncio.Task[None]] = field(default_factory=dict)
    _known: dict[tuple[PeerId, PeerId], tuple[float, float]] = field(default_factory=dict)
    _published: tuple[PeerRecord | None, float] = (None, 0.0)
    _told: tuple[str, tuple[LinkRow, ...]] = ("", ())

    def __post_init__(self) -> None:
        # It spreads what many peers do at once.
        self.chance = random.Random(f"forming {self.config.run.seed} {self.handler.hello().peer}")

    async def run(self) -> Formation:
        """The island to settle in. Raises DirectoryError when the directory stays silent."""
        loop, silent_looks, sure_looks = asyncio.get_running_loop(), 0, 0
        patience_seconds = PATIENT_LIVES * self.config.swarm.announce_seconds
        patient_until = loop.time() + patience_seconds
        # Later than far islands come into question: else they never would beside a near one that stays full.
        full_until = patient_until + patience_seconds
        tasks = Tasks(lambda error: self.record(Noted("internal error", repr(error))))
        try:
            while True:
                if loop.time() >= full_until:
                    self.avoided = replace(self.avoided, full=frozenset())
                try:
                    choice = await self._look(tasks, loop.time() < patient_until)
                    silent_looks = 0
                except DirectoryError:
                    silent_looks += 1
                    if silent_looks >= MOST_SILENT_LOOKS:
                        raise
                else:
                    is_same = choice.island is not None and choice.island == self._said
                    sure_looks = sure_looks + 1 if is_same and choice.is_ready else 0
                    if sure_looks == SURE_LOOKS:
                        return choice
                    if choice.island != self._said:
                        self._said = choice.island
                        # At once: others go by what this peer says, and it by what they said meanwhile.
                        with contextlib.suppress(DirectoryError):
                            await self._publish()
                await asyncio.sleep(LOOK_SECONDS * self.chance.uniform(0.5, 1.5))
        finally:
            await tasks.cancel_all()

    async def _look(self, tasks: Tasks, is_patient: bool) -> Formation:
        """Publish, read, measure what is missing, and choose."""
        own = await self._publish()
        # The own record counts as it is: what the directory still shows of an earlier life of this peer does not.
        others = [entry for entry in await self.directory.records() if entry.peer != own.peer]
        entries = [own, *others]
        residents = [resident_of(entry) for entry in entries]
        limit_seconds = near_seconds(resident.candidate for resident in residents)
        swarm = self.config.swarm
        terms = Terms(self.config.model.stages, swarm.min_peers, limit_seconds)
        sends = self._sends(entries)
        addresses = {entry.peer: entry.address for entry in others}
        for peer in unmeasured(own.peer, residents, sends, terms):
            self._measure(tasks, peer, addresses[peer])
        # While lines are measured, the next may lead to a near island.
        is_patient = is_patient or bool(self._measuring)
        self._is_patient = self._is_patient and is_patient
        choice = choose_island(own.peer, residents, sends, terms, is_patient, self.avoided)
        self._tell(own, choice)
        return choice

    async def _publish(self) -> PeerRecord:
        """The record as others see it. Nothing computes here yet, and lines are measured again from time to time."""
        loop_seconds = asyncio.get_running_loop().time()
        for peer, (_, measured_seconds) in list(self._rows.items()):
            if loop_seconds > measured_seconds + STALE_SECONDS:
                del self._rows[peer]
        rows = tuple(self._rows[peer][0] for peer in sorted(self._rows))
        own = without_load(replace(self.own_record(), state="forming", island=self._said))
        own = replace(own, links=rows, patient=self._is_patient)
        (before, at), now = self._published, self.directory.now()
        life_seconds = self.config.swarm.announce_seconds
        if own != before or now > at + life_seconds / 3:
            await self.directory.publish(own, life_seconds)
            self._published = own, now
        return own

    def _tell(self, own: PeerRecord, choice: Formation) -> None:
        """What is waited for, and what was measured, as events when they change."""
        number = f"would help island {choice.island}: " if choice.island is not None else ""
        told, links = self._told
        reason = f"forming an island: {number}{choice.reason}"
        if reason != told:
            self.record(Waiting(reason))
        if own.links != links:
            self.record(LinksMeasured(own.peer, own.links))
        self._told = reason, own.links

    def _sends(self, entries: list[PeerRecord]) -> dict[tuple[PeerId, PeerId], float]:
        """Lines as published; those of a peer that settled count on, though it publishes only what it works with."""
        now = asyncio.get_running_loop().time()
        for line, seconds in sends_of(self.config, entries).items():
            self._known[line] = seconds, now
        self._known = {
            line: known for line, known in self._known.items() if now <= known[1] + STALE_SECONDS
        }
        return {line: seconds for line, (seconds, _) in self._known.items()}

    # ---- lines --------------------------------------------------------------------------------------------------

    def _measure(self, tasks: Tasks, peer: PeerId, address: str) -> None:
        """Begin to measure the line to `peer`, unless enough is under way or it did not answer a while ago."""
        now = asyncio.get_running_loop().time()
        is_resting = now < self._resting_until.get(peer, now)
        if peer in self._measuring or peer in self._rows or is_resting:
            return
        if len(self._measuring) < MOST_AT_ONCE and len(self._rows) < MOST_LINKS:
            self._measuring[peer] = tasks.spawn(self._measured(peer, address), f"measure {peer}")

    async def _measured(self, peer: PeerId, address: str) -> None:
        try:
            row = await self._row(peer, address)
            self._rows[peer] = row, asyncio.get_running_loop().time()
        except (LinkError, WireError) as error:
            rest_seconds = REST_SECONDS * self.chance.uniform(1.0, 2.0)
            self._resting_until[peer] = asyncio.get_running_loop().time() + rest_seconds
            self.record(Noted("a link was not measured", f"{peer}: {error.what}"))
        finally:
            del self._measuring[peer]

    async def _row(self, peer: PeerId, address: str) -> LinkRow:
        """Latency by pings, and the slower of both ways by probes. Raises LinkError or WireError."""
        links, hello = self.config.links, replace(self.handler.hello(), role="forming")
        handler = _Measurer(lambda: hello, self.handler.check)
        link = await self.transport.dial(
            address, hello, handler, links.connect_seconds, expected=peer
        )
        try:
            if link.remote.peer != peer:
                raise LinkError("another peer is where it was", f"{link.remote.peer} is", "")
            # Chance gives what no line can compress.
            probe_bytes = max(min(boundary_bytes(self.config), MOST_PROBE_BYTES), LEAST_PROBE_BYTES)
            body = self.chance.randbytes(probe_bytes)
            # Nothing is rated before the second ping came back.
            await asyncio.sleep(2 * links.heartbeat_seconds)
            for _ in range(MOST_PROBES):
                await asyncio.sleep(links.heartbeat_seconds / 2)
                answer = await link.call(
                    "probe",
                    Message(ProbeRequest(len(body), is_echoed=True).encode(), body),
                    silence_seconds=links.silence_seconds,
                    deadline_seconds=links.silence_seconds,
                )
                back, stats = ProbeReply.decode(answer.meta), link.stats
                if (
                    min(back.messages, stats.messages) >= SURE_MESSAGES
                    and back.bytes_per_second > 0
                ):
                    rate = min(back.bytes_per_second, stats.bytes_per_second)
                    one_way_seconds = float(f"{stats.round_trip_seconds / 2:.3g}")
                    digits = peer[:LINK_PEER_DIGITS]
                    return digits, one_way_seconds, float(f"{rate:.3g}"), stats.messages
            raise LinkError("the line was not rated", f"{MOST_PROBES} probes told nothing", "")
        finally:
            await link.close("measured")


def resident_of(entry: PeerRecord) -> Resident:
    """A record in the terms of formation: those that host stages keep them, as those whose owner chose do."""
    is_placed = entry.state in ("learning", "serving")
    pinned = entry.stages if entry.pinned or is_placed else None
    is_settled = entry.state != "forming"
    return Resident(candidate_of(entry, pinned), entry.island, is_settled, entry.patient)


def sends_of(config: RunConfig, entries: list[PeerRecord]) -> dict[tuple[PeerId, PeerId], float]:
    """Seconds of one boundary tensor over every line whose rate somebody published."""
    sent_bytes, peers = boundary_bytes(config), by_digits(entry.peer for entry in entries)
    return {
        (entry.peer, peers[digits]): one_way_seconds + sent_bytes / rate
        for entry in entries
        for digits, one_way_seconds, rate, _ in entry.links
        if digits in peers and rate
    }
