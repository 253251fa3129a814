"""A peer's open links by peer: dials when needed, keeps one per pair, tells who could not be reached."""

import asyncio
import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

from swarmtrain.core.carried import CarriedRow, LinksCarried
from swarmtrain.core.errors import LinkClosed, LinkError
from swarmtrain.core.events import Event, Traffic
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import PeerId, Roster
from swarmtrain.swarm.records import LINK_PEER_DIGITS, MOST_LINKS, LinkRow, PeerRecord
from swarmtrain.transport.link import Handler, Hello, Link, LinkStats, Transport

MOST_REMEMBERED = 10_000
"""Of so many peers whose links ended it is remembered what they carried: anybody can greet by ever new names (I8)."""


class Links:
    """Links to other peers. `unreachable(peer, reason)` is called when a dial or an open link failed."""

    unreachable: Callable[[PeerId, str], None]
    was_dialled: bool
    """Whether another peer of the run ever dialled this one: then it can be reached directly. Else nobody knows."""

    def __init__(self, transport: Transport, handler: Handler, connect_seconds: float) -> None:
        self._transport, self._handler = transport, handler
        self._connect_seconds = connect_seconds
        self._greeted: dict[PeerId, str] = {}
        self._roster, self._records = Roster.of(0, ()), tuple[tuple[PeerRecord, ...], ...]()
        self._is_roster_newer = False
        self._open: dict[PeerId, dict[Link, None]] = {}
        self._dialling: dict[PeerId, asyncio.Task[Link]] = {}
        self._waiting: dict[PeerId, list[tuple[str, bytes]]] = {}
        self._past = LinkStats()
        self._past_of: dict[PeerId, LinkStats] = {}
        self.was_dialled = False
        self._tasks = Tasks(failed=lambda error: None)
        self.unreachable = lambda peer, reason: None

    def learn(self, peer: PeerId, address: str) -> None:
        """Where a peer can be dialled, as its greeting said."""
        if address:
            self._greeted[peer] = address

    def learn_roster(self, roster: Roster) -> None:
        """Where its members can be dialled. Kept as it is: copies would grow with the square of the peers."""
        self._roster, self._is_roster_newer = roster, True
        self._forget_greeted(self._in_roster)

    def learn_records(self, *records: tuple[PeerRecord, ...]) -> None:
        """Where the directory says that peers can be dialled; each tuple ascends by peer id."""
        self._records, self._is_roster_newer = records, False
        self._forget_greeted(self._in_records)

    def address(self, peer: PeerId) -> str:
        """Where `peer` can be dialled, by what was said last; empty where nobody said."""
        said = self._greeted.get(peer, "")
        if said:
            return said
        first, second = self._in_records, self._in_roster
        if self._is_roster_newer:
            first, second = second, first
        return first(peer) or second(peer)

    def _forget_greeted(self, said: Callable[[PeerId], str]) -> None:
        self._greeted = {peer: at for peer, at in self._greeted.items() if not said(peer)}

    def _in_roster(self, peer: PeerId) -> str:
        member = self._roster.member(peer)
        return member.address if member is not None else ""

    def _in_records(self, peer: PeerId) -> str:
        for records in self._records:
            place = bisect_left(records, peer, key=lambda record: record.peer)
            if place < len(records) and records[place].peer == peer:
                return records[place].address
        return ""

    def totals(self) -> LinkStats:
        """Bytes and calls over all links there ever were."""
        totals = replace(self._past)
        for link in self.open_links:
            _add(totals, link.stats)
        return totals

    def told(self, me: PeerId) -> tuple[Event, ...]:
        """What a peer says of its links as it ends."""
        stats = self.totals()
        traffic = Traffic(me, stats.bytes_sent, stats.bytes_received, stats.calls)
        return traffic, LinksCarried(me, self.carried())

    def carried(self) -> tuple[CarriedRow, ...]:
        """Bytes sent and received by peer, ascending, over all links there ever were; strangers' names aside."""
        peers = sorted({*self._past_of, *self._open})
        found = []
        for peer in filter(_PEER_ID.fullmatch, peers):
            totals = replace(self._past_of.get(peer, LinkStats()))
            for link in self._open.get(peer, ()):
                _add(totals, link.stats)
            found.append((peer, totals.bytes_sent, totals.bytes_received))
        return tuple(found)

    @property
    def open_links(self) -> tuple[Link, ...]:
        return tuple(link for links in self._open.values() for link in links)

    def rows(self) -> tuple[LinkRow, ...]:
        """Of the peers with most traffic, what was measured on the way to them (swarm.records).

        Names in greetings are not proven: one that is no peer id would spoil this peer's own record (I5).
        """
        known = [(peer, self.figures(peer)) for peer in self._open if _PEER_ID.fullmatch(peer)]
        measured = [
            (peer, stats) for peer, stats in known if stats is not None and stats.round_trip_seconds
        ]
        measured.sort(key=lambda entry: (-entry[1].bytes_sent, entry[0]))
        return tuple(
            (
                peer[:LINK_PEER_DIGITS],
                float(f"{stats.round_trip_seconds / 2:.3g}"),
                float(f"{stats.bytes_per_second:.3g}"),
                stats.messages,
            )
            for peer, stats in measured[:MOST_LINKS]
        )

    def figures(self, peer: PeerId) -> LinkStats | None:
        """What was measured on the way to `peer`; of two links, where both dialled at once, on the surer one."""
        links = self._open.get(peer)
        return max((link.stats for link in links), key=lambda s: s.messages) if links else None

    def is_open(self, link: Link) -> bool:
        return link in self._open.get(link.remote.peer, {})

    def opened(self, link: Link) -> None:
        self.was_dialled |= link.remote.role == "peer" and bool(link.observed_host)
        self.learn(link.remote.peer, link.remote.address)
        self._open.setdefault(link.remote.peer, {})[link] = None

    def closed(self, link: Link, reason: str) -> None:
        """Forget the link; the last one to a peer makes that peer unreachable until it is dialled again.

        Who reports dials the coordinator again; were it confirmed too, it would have two links to this peer.
        """
        _add(self._past, link.stats)
        peer = link.remote.peer
        if peer in self._past_of or len(self._past_of) < MOST_REMEMBERED:
            _add(self._past_of.setdefault(peer, LinkStats()), link.stats)
        links = self._open.get(link.remote.peer, {})
        links.pop(link, None)
        if links or self._open.pop(link.remote.peer, None) is None:
            return
        if link.remote.role != "coordinator":
            self.unreachable(link.remote.peer, reason)

    async def to(self, peer: PeerId) -> Link:
        """An open link to `peer`, dialled if there is none. Raises LinkError, Refused or Incompatible."""
        links = self._open.get(peer)
        if links:
            return next(iter(links))
        dialling = self._dialling.get(peer)
        if dialling is None:
            dialling = self._tasks.spawn(self._dial(peer), f"dial {peer}")
            self._dialling[peer] = dialling
            dialling.add_done_callback(lambda _: self._dialling.pop(peer, None))
        return await asyncio.shield(dialling)

    def tell(self, peer: PeerId, method: str, meta: bytes) -> None:
        """One-way control, in order per peer; dials first when there is no link yet."""
        links = self._open.get(peer)
        if links and peer not in self._waiting:
            next(iter(links)).tell(method, meta)
            return
        waiting = self._waiting.setdefault(peer, [])
        waiting.append((method, meta))
        if len(waiting) == 1:
            self._tasks.spawn(self._tell_after_dial(peer), f"tell {peer}")

    async def part(self, reason: str) -> None:
        """Hang up on all other peers, not on the coordinator."""
        peers = [link for link in self.open_links if link.remote.role == "peer"]
        await asyncio.gather(*(link.close(reason) for link in peers))

    async def close(self) -> None:
        await self._tasks.cancel_all()

    async def _dial(self, peer: PeerId) -> Link:
        address = self.address(peer)
        if not address:
            raise LinkClosed(
                f"peer {peer} has no known address", "", "it must dial us, or publish one"
            )
        hello: Hello = self._handler.hello()
        return await self._transport.dial(
            address, hello, self._handler, self._connect_seconds, expected=peer
        )

    async def _tell_after_dial(self, peer: PeerId) -> None:
        try:
            link = await self.to(peer)
        except LinkError as error:
            self._waiting.pop(peer, None)
            self.unreachable(peer, error.what)
            return
        for method, meta in self._waiting.pop(peer, []):
            link.tell(method, meta)


_PEER_ID = re.compile("[0-9a-f]{32}")


def _add(totals: LinkStats, stats: LinkStats) -> None:
    totals.bytes_sent += stats.bytes_sent
    totals.bytes_received += stats.bytes_received
    totals.calls += stats.calls
