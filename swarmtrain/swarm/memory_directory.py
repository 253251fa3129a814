"""The directory of the virtual world: one hub shared by all peers, on the running loop's time.

Same rules as the DHT: expiry, newest wins, a bad entry never replaces a good one, and each reader reports what had to
be dropped. Checks that give all readers the same answer are made once, when an entry is stored, so that a world of
thousands keeps one list of records and not one for each of them. It draws nothing at random, so a run's directory
traffic repeats exactly.
"""

import asyncio
import heapq
from bisect import bisect_left
from dataclasses import dataclass, field

from swarmtrain.core.errors import DirectoryError, WireError
from swarmtrain.core.events import Record
from swarmtrain.core.types import PeerId
from swarmtrain.swarm.directory import Author, Entry, Reader, check_entry
from swarmtrain.swarm.identity import Identity
from swarmtrain.swarm.records import PeerRecord, open_record


@dataclass(frozen=True, slots=True)
class View:
    """What reading the directory brings: the newest record of every peer that is there, ascending by peer id; entries
    that readers drop and report; and how many bytes all of them are."""

    records: tuple[PeerRecord, ...]
    dropped: tuple[Entry, ...]
    sealed_bytes: int


@dataclass(slots=True)
class _Shelf:
    """The entries of one run. `hidden` are those of peers that have left, `dropped` those that no reader takes."""

    run: str
    peers: list[PeerId] = field(default_factory=list)
    records: list[PeerRecord] = field(default_factory=list)
    hidden: dict[PeerId, PeerRecord] = field(default_factory=dict)
    dropped: dict[tuple[str, bool], Entry] = field(default_factory=dict)
    sealed_bytes: dict[PeerId, int] = field(default_factory=dict)
    total_bytes: int = 0
    ends: list[tuple[float, PeerId]] = field(default_factory=list)
    view: View | None = None

    def put(self, entry: Entry, now: float) -> None:
        """Keep `entry` unless it has expired or an equally new one is there; those of no use are kept apart."""
        if entry.expires <= now:
            return
        is_sound = False
        try:
            check_entry(entry)
            is_sound = True
            self._take(open_record(entry.sealed, now, self.run), len(entry.sealed))
        except WireError:
            held = self.dropped.get((entry.peer, is_sound))
            if held is None or held.expires < entry.expires:
                self.dropped[entry.peer, is_sound] = entry
                self.view = None

    def look(self, now: float) -> View:
        while self.ends and self.ends[0][0] <= now:
            self._end(*heapq.heappop(self.ends))
        for place, entry in list(self.dropped.items()):
            if entry.expires <= now:
                del self.dropped[place]
                self.view = None
        if self.view is None:
            dropped = tuple(self.dropped.values())
            dropped_bytes = sum(len(entry.sealed) for entry in dropped)
            self.view = View(tuple(self.records), dropped, self.total_bytes + dropped_bytes)
        return self.view

    def _take(self, record: PeerRecord, sealed_bytes: int) -> None:
        place, is_listed = self._place(record.peer)
        held = self.records[place] if is_listed else self.hidden.get(record.peer)
        if held is not None and held.expires >= record.expires:
            return
        self._remove(record.peer)
        if record.state == "left":
            self.hidden[record.peer] = record
        else:
            self.peers.insert(place, record.peer)
            self.records.insert(place, record)
        self.sealed_bytes[record.peer] = sealed_bytes
        self.total_bytes += sealed_bytes
        heapq.heappush(self.ends, (record.expires, record.peer))

    def _end(self, expires: float, peer: PeerId) -> None:
        """A record's life is over, unless the peer has a newer one."""
        place, is_listed = self._place(peer)
        held = self.records[place] if is_listed else self.hidden.get(peer)
        if held is not None and held.expires == expires:
            self._remove(peer)

    def _remove(self, peer: PeerId) -> None:
        place, is_listed = self._place(peer)
        if is_listed:
            del self.peers[place], self.records[place]
        self.hidden.pop(peer, None)
        self.total_bytes -= self.sealed_bytes.pop(peer, 0)
        self.view = None

    def _place(self, peer: PeerId) -> tuple[int, bool]:
        """Where `peer` is among those listed, or would be; whether it is."""
        place = bisect_left(self.peers, peer)
        return place, place < len(self.peers) and self.peers[place] == peer


class MemoryDirectoryHub:
    """Holds the entries of all runs; every look-up and every store takes `latency_seconds`."""

    def __init__(self, latency_seconds: float = 0.0) -> None:
        self.latency_seconds = latency_seconds
        self._shelves: dict[str, _Shelf] = {}

    def directory(self, run: str, identity: Identity, record: Record) -> "MemoryDirectory":
        """One peer's access to the hub."""
        return MemoryDirectory(self, run, identity, record)

    def put(self, run: str, entry: Entry, now: float) -> None:
        """Store `entry` as a storing node does; a bad one replaces no good one."""
        self._shelf(run).put(entry, now)

    def look(self, run: str, now: float) -> View:
        """What lives at `now`; the same object as long as nothing changes."""
        return self._shelf(run).look(now)

    def _shelf(self, run: str) -> _Shelf:
        return self._shelves.setdefault(run, _Shelf(run))


class MemoryDirectory:
    """A `Directory` on a hub in the same process."""

    def __init__(
        self, hub: MemoryDirectoryHub, run: str, identity: Identity, record: Record
    ) -> None:
        self._hub = hub
        self._run = run
        self._author = Author(run, identity)
        self._reader = Reader(run, record)
        self._is_closed = False

    @property
    def bootstrap(self) -> tuple[str, ...]:
        return ()

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def publish(self, record: PeerRecord, life_seconds: float) -> None:
        await self._put(self._author.entry(record, self.now(), life_seconds))

    async def records(self) -> tuple[PeerRecord, ...]:
        await self._travel()
        view = self._hub.look(self._run, self.now())
        self._reader.newest(view.dropped, self.now())
        return view.records

    async def withdraw(self) -> None:
        entry = self._author.farewell(self.now())
        if entry is not None:
            await self._put(entry)

    async def close(self) -> None:
        self._is_closed = True

    async def _put(self, entry: Entry) -> None:
        await self._travel()
        self._hub.put(self._run, entry, self.now())

    async def _travel(self) -> None:
        if self._is_closed:
            raise DirectoryError(
                "the directory is closed", "this peer has left it", "open it again to go on"
            )
        await asyncio.sleep(self._hub.latency_seconds)
