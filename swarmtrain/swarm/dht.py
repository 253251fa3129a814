"""The directory of the real world: hivemind's DHT inside our own event loop.

One `p2pd` child process per directory carries the traffic. hivemind is imported when a directory opens, not
before: the import takes a second, loads torch and sets torch's file-system sharing strategy. What hivemind 1.1.12
would leave behind, or wait for without end, is dealt with here by a few of its private names; the version is pinned.
"""

import asyncio
import ipaddress
import logging
import shutil
import sys
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from swarmtrain.core.errors import ConfigError, DirectoryError, WireError
from swarmtrain.core.events import Noted, Record
from swarmtrain.swarm.directory import Author, Entry, Reader, check_entry
from swarmtrain.swarm.identity import Identity
from swarmtrain.swarm.records import MAX_LIFE_SECONDS, PeerRecord

T = TypeVar("T")

# Ctrl-C goes to the whole process group and p2pd obeys it, so a draining peer could not say farewell: p2pd gets a
# session of its own. It still ends with its parent, because it exits when the connection to it closes.
_OWN_SESSION = "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])"
_TERMINATE_SECONDS = 3.0
_RPC_SECONDS = 3.0
# Once one bootstrap address answered, the others get this long.
_STRAGGLER_SECONDS = 1.0
# hivemind refuses nodes whose clocks are 3 seconds apart when they join; a storing node is more lenient.
_LIFE_SLACK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class DhtOptions:
    """How to take part. `bootstrap`: multiaddrs of members to join through (none starts a new DHT).

    `host` is the IP address to listen on, `port` 0 any free one. Opening takes at most `start_seconds`, every call
    at most `call_seconds`.
    """

    bootstrap: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 0
    start_seconds: float = 20.0
    call_seconds: float = 10.0


class DhtDirectory:
    """A `Directory` on hivemind's DHT; `open` makes one."""

    def __init__(self, run: str, identity: Identity, record: Record, call_seconds: float) -> None:
        self._key = _key(run)
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
        _import_quietly()
        directory = DhtDirectory(run, identity, record, options.call_seconds)
        directory._node = await _start(options, _validator(directory._reader))
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
            self._node.is_alive = False
            # The protocol's own shutdown asks p2pd to remove its handlers and waits for ever when p2pd is dead.
            await _stop_daemon(self._node.p2p)

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
        """hivemind answers from its own store when its daemon is dead; better to say so."""
        if self._is_closed:
            why = "this peer has left it"
        elif self._node.p2p._child.returncode is not None:
            why = f"its daemon p2pd ended with code {self._node.p2p._child.returncode}"
        else:
            return
        raise DirectoryError("the directory is closed", why, "open it again to go on")


def _key(run: str) -> str:
    return f"{run}/peers"


def _import_quietly() -> None:
    """Import hivemind and undo what it does to logging: its own handler, and a renamed WARNING level."""
    from hivemind.utils.logging import use_hivemind_log_handler

    use_hivemind_log_handler("nowhere")
    logging.addLevelName(logging.WARNING, "WARNING")
    # Unreachable members are everyday; what matters to a run is raised or recorded here.
    logging.getLogger("hivemind").setLevel(logging.CRITICAL)


async def _start(options: DhtOptions, validator: Any) -> Any:
    """A joined DHTNode with its own p2pd; nothing is left behind when that fails."""
    from hivemind.dht.node import DHTNode
    from hivemind.dht.protocol import ValidationError
    from hivemind.p2p import P2PDaemonError

    _check_bootstrap(options.bootstrap)
    peers = list(options.bootstrap)
    folder = tempfile.mkdtemp(prefix="swarmtrain-")
    daemon_class = _daemon_class(folder)
    try:
        async with asyncio.timeout(options.start_seconds):
            daemon = await daemon_class.create(peers or None, **_daemon_arguments(options))
            # No caches: they would serve stale records and keep a task that never ends.
            return await DHTNode.create(
                p2p=daemon, initial_peers=peers, record_validator=validator,
                wait_timeout=_RPC_SECONDS, bootstrap_timeout=_STRAGGLER_SECONDS,
                cache_locally=False, cache_nearest=0, cache_on_store=False,
                cache_refresh_before_expiry=0, reuse_get_requests=False,
            )  # fmt: skip
    except BaseException as error:
        for daemon in daemon_class.started:
            await _stop_daemon(daemon)
        if isinstance(error, TimeoutError):
            raise _unreachable(options, f"no answer in {options.start_seconds:g} s") from None
        if isinstance(error, (P2PDaemonError, ValidationError, RuntimeError, OSError)):
            raise _unreachable(options, str(error)) from error
        raise
    finally:
        # The connection to p2pd stands and its socket needs no name any more: not even SIGKILL leaves one.
        shutil.rmtree(folder)


def _check_bootstrap(addresses: tuple[str, ...]) -> None:
    from hivemind.p2p import PeerID
    from hivemind.utils.multiaddr import Multiaddr

    for address in addresses:
        try:
            PeerID.from_base58(Multiaddr(address)["p2p"])
        except (ValueError, LookupError) as error:
            raise DirectoryError(
                f"{address!r} is no address of a directory",
                str(error),
                "copy the whole address: it looks like /ip4/203.0.113.7/tcp/31337/p2p/12D3Koo...",
            ) from error


def _unreachable(options: DhtOptions, why: str) -> DirectoryError:
    if not options.bootstrap:
        return DirectoryError(
            f"the directory cannot start on {options.host} port {options.port or '(any)'}",
            why,
            "free that port or choose another, and choose an address this machine has",
        )
    return DirectoryError(
        f"the directory cannot be joined through {', '.join(options.bootstrap)}",
        why,
        "check that a member still runs there, that this machine's clock is right and that no "
        "firewall is between; any other member's address will do as well",
    )


def _daemon_arguments(options: DhtOptions) -> dict[str, Any]:
    try:
        host = ipaddress.ip_address(options.host)
    except ValueError as error:
        raise ConfigError(
            f"the directory cannot listen on {options.host!r}",
            str(error),
            "give an IP address: 127.0.0.1 for this machine alone, 0.0.0.0 for all networks",
        ) from error
    # On loopback nothing may go out: no port mapping on the router, no reachability probes.
    is_public = not host.is_loopback
    return {
        "host_maddrs": [f"/ip{host.version}/{host}/tcp/{options.port}"],
        "nat_port_map": is_public,
        "auto_nat": is_public,
        "use_relay": is_public,
        "startup_timeout": options.start_seconds,
    }


def _daemon_class(folder: str) -> Any:
    from hivemind.p2p import P2P

    class Daemon(P2P):
        """p2pd with its sockets in `folder` and a session of its own."""

        _UNIX_SOCKET_PREFIX = f"/unix{folder}/"
        # A cancelled `create` returns nothing to stop, yet p2pd runs.
        started: ClassVar[list[Any]] = []

        def __init__(self) -> None:
            super().__init__()
            self.started.append(self)

        @staticmethod
        def _make_process_args(*args: Any, **kwargs: Any) -> list[str]:
            command: list[str] = P2P._make_process_args(*args, **kwargs)
            return [sys.executable, "-I", "-S", "-c", _OWN_SESSION, *command]

    return Daemon


async def _stop_daemon(daemon: Any) -> None:
    """End p2pd, by force if it must be, and the tasks that talk to it."""
    from hivemind.p2p import P2PDaemonError

    try:
        await asyncio.wait_for(daemon.shutdown(), _TERMINATE_SECONDS)
    except TimeoutError:
        daemon._child.kill()
        await daemon._child.wait()
    tasks = [daemon._reader_task]
    if daemon._client is not None:
        control = daemon._client.control
        tasks += [control._read_task, control._write_task]
        # Calls under way would wait for an answer that nobody can give.
        for call in tuple(control._pending_calls.values()):
            if not call.done():
                call.set_exception(P2PDaemonError("the directory closed"))
    await asyncio.gather(*filter(None, tasks), return_exceptions=True)


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
                if DHTID.generate(source=_key(opened.run)).to_bytes() != record.key:
                    raise WireError("a peer record was refused", "it is not under its run's key")
                if opened.expires > get_dht_time() + MAX_LIFE_SECONDS + _LIFE_SLACK_SECONDS:
                    raise WireError("a peer record was refused", "it claims to live too long")
            except WireError as error:
                reader.report(peer, sealed, error.why)
                return False
            return True

    return SignedByOwner()
