"""The directory of the real world: hivemind's DHT inside our own event loop.

One `p2pd` child process per directory carries the traffic. hivemind is imported when a directory opens, not
before: the import takes a second, loads torch and sets torch's file-system sharing strategy.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from swarmtrain.core.errors import DirectoryError, WireError
from swarmtrain.core.events import Noted, Record
from swarmtrain.swarm.daemon import DhtOptions, daemon_exit_code, start_node, stop_node
from swarmtrain.swarm.directory import Author, Entry, Reader, check_entry
from swarmtrain.swarm.identity import Identity
from swarmtrain.swarm.records import MAX_LIFE_SECONDS, PeerRecord

T = TypeVar("T")

# hivemind refuses nodes whose clocks are 3 seconds apart when they join; a storing node is more lenient.
_LIFE_SLACK_SECONDS = 60.0


class DhtDirectory:
    """A `Directory` on hivemind's DHT; `open` makes one."""

    def __init__(self, run: str, identity: Identity, record: Record, call_seconds: float) -> None:
        self._key = key_of(run)
        self._author = Author(run, identity)
        self._reader = Reader(run, record)
        self._record = record
        self._call_seconds = call_seconds
        self._node: Any = None
        self._bootstrap: tuple[str, ...] = ()
        self._is_closed = False

    @staticmethod
    async def open(
        run: str, identity: Identity, record: Record, options: DhtOptions
    ) -> "DhtDirectory":
        """Join the DHT at `options.bootstrap`, or start one; DirectoryError within `start_seconds` if that fails."""
        directory = DhtDirectory(run, identity, record, options.call_seconds)
        directory._node = await start_node(options, _validator(directory._reader))
        directory._bootstrap = tuple(map(str, await directory._node.get_visible_maddrs()))
        return directory

    @property
    def bootstrap(self) -> tuple[str, ...]:
        return self._bootstrap

    def now(self) -> float:
        from hivemind.utils import get_dht_time

        return float(get_dht_time())

    async def publish(self, record: PeerRecord, life_seconds: float) -> None:
        await self._store(self._author.entry(record, self.now(), life_seconds))

    async def records(self) -> tuple[PeerRecord, ...]:
        self._check_usable()
        found = await self._within_deadline(self._node.get(self._key, latest=True))
        stored = found.value if found is not None else {}
        entries = [Entry(peer, item.value, item.expiration_time) for peer, item in stored.items()]
        return self._reader.newest(entries, self.now())

    async def withdraw(self) -> None:
        entry = self._author.farewell(self.now())
        if entry is not None:
            await self._store(entry)

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            await stop_node(self._node)

    async def _store(self, entry: Entry) -> None:
        self._check_usable()
        call = self._node.store(self._key, entry.sealed, entry.expires, subkey=entry.peer)
        if not await self._within_deadline(call):
            detail = (
                "no storing node confirmed this peer's record; it is sent again at the next renewal"
            )
            self._record(Noted("directory_store_unconfirmed", detail))

    async def _within_deadline(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            answer = await asyncio.wait_for(call, self._call_seconds)
        except TimeoutError:
            raise DirectoryError(
                f"the directory did not answer within {self._call_seconds:g} seconds",
                "the members this peer knows are gone, or the network is down",
                "training goes on; if it stays so, check the network and join again",
            ) from None
        self._check_usable()
        return answer

    def _check_usable(self) -> None:
        if self._is_closed:
            why = "this peer has left it"
        elif (code := daemon_exit_code(self._node)) is not None:
            why = f"its daemon p2pd ended with code {code}"
        else:
            return
        raise DirectoryError("the directory is closed", why, "open it again to go on")


def key_of(run: str) -> str:
    return f"{run}/peers"


def _validator(reader: Reader) -> Any:
    """Makes every storing and every asking node refuse entries that are not signed by the peer they are under.

    Nothing here may depend on the exact time: one refused entry makes hivemind drop the whole answer it came in.
    """
    from hivemind.dht.routing import DHTID
    from hivemind.dht.validation import DHTRecord, RecordValidatorBase
    from hivemind.utils import MSGPackSerializer, get_dht_time

    class SignedByOwner(RecordValidatorBase):
        def validate(self, record: DHTRecord) -> bool:
            peer = record.subkey[-32:].decode("ascii", "replace")
            # msgpack's prefix of short bytes is 2 long, of longer ones 3; anything else fails the comparison.
            sealed = record.value[2 if record.value[:1] == b"\xc4" else 3 :]
            try:
                if MSGPackSerializer.dumps(sealed) != record.value:
                    raise WireError("a peer record was refused", "it is no byte string")
                opened = check_entry(Entry(peer, sealed, record.expiration_time))
                if MSGPackSerializer.dumps(opened.peer) != record.subkey:
                    raise WireError("a peer record was refused", "it is not under its peer's id")
                if DHTID.generate(source=key_of(opened.run)).to_bytes() != record.key:
                    raise WireError("a peer record was refused", "it is not under its run's key")
                if opened.expires > get_dht_time() + MAX_LIFE_SECONDS + _LIFE_SLACK_SECONDS:
                    raise WireError("a peer record was refused", "it claims to live too long")
            except WireError as error:
                reader.report(peer, sealed, error.why)
                return False
            return True

    return SignedByOwner()
