"""The directory of the virtual world: one hub shared by all peers, on the running loop's time.

Same rules as the DHT: expiry, newest wins, a bad entry never replaces a good one, every reader verifies for
itself. It draws nothing at random, so a run's directory traffic repeats exactly.
"""

import asyncio

from swarmtrain.core.errors import DirectoryError, WireError
from swarmtrain.core.events import Record
from swarmtrain.swarm.directory import Author, Entry, Reader, check_entry
from swarmtrain.swarm.identity import Identity
from swarmtrain.swarm.records import PeerRecord


class MemoryDirectoryHub:
    """Holds the entries of all runs; every look-up and every store takes `latency_seconds`."""

    def __init__(self, latency_seconds: float = 0.0) -> None:
        self.latency_seconds = latency_seconds
        self._runs: dict[str, dict[tuple[str, bool], Entry]] = {}

    def directory(self, run: str, identity: Identity, record: Record) -> "MemoryDirectory":
        """One peer's access to the hub."""
        return MemoryDirectory(self, run, identity, record)

    def put(self, run: str, entry: Entry, now: float) -> None:
        """Keep `entry` unless it has expired or an equally new one is there; bad ones are kept apart."""
        entries = self._runs.setdefault(run, {})
        place = (entry.peer, _is_sound(entry))
        held = entries.get(place)
        if entry.expires > now and (held is None or held.expires < entry.expires):
            entries[place] = entry

    def entries(self, run: str, now: float) -> tuple[Entry, ...]:
        """The entries of `run` that live at `now`, the bad ones too, so that readers report them."""
        held = self._runs.get(run, {})
        self._runs[run] = {place: entry for place, entry in held.items() if entry.expires > now}
        return tuple(self._runs[run].values())


def _is_sound(entry: Entry) -> bool:
    try:
        check_entry(entry)
    except WireError:
        return False
    return True


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
        return self._reader.newest(self._hub.entries(self._run, self.now()), self.now())

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
