"""A node of hivemind's DHT with its `p2pd` child process: started within a deadline, ended without a trace.

What hivemind 1.1.12 would leave behind, or wait for without end, is dealt with here by a few of its private names;
the version is pinned.
"""

import asyncio
import ipaddress
import logging
import shutil
import socket
import sys
import tempfile
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from swarmtrain.core.errors import ConfigError, DirectoryError

RPC_SECONDS = 3.0
TERMINATE_SECONDS = 3.0
# Once one bootstrap address answered, the others get this long.
_STRAGGLER_SECONDS = 1.0
# Ctrl-C goes to the whole process group and p2pd obeys it, so a draining peer could not say farewell: p2pd gets a
# session of its own. It still ends with its parent, because it exits when the connection to it closes.
_OWN_SESSION = "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])"


@dataclass(frozen=True, slots=True)
class DhtOptions:
    """How to take part. `bootstrap`: multiaddrs of members to join through (none starts a new DHT).

    `host` is the IP address to listen on, `port` 0 any free one; others are told `announce_host`, a name or an address,
    in place of it when the port is given. Opening takes at most `start_seconds`, every call
    at most `call_seconds`.
    """

    bootstrap: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 0
    announce_host: str = ""
    start_seconds: float = 20.0
    call_seconds: float = 10.0


async def start_node(options: DhtOptions, validator: Any) -> Any:
    """A joined DHTNode with its own p2pd; nothing is left behind when that fails."""
    _quiet_hivemind()
    from hivemind.dht.node import DHTNode
    from hivemind.dht.protocol import ValidationError
    from hivemind.p2p import P2PDaemonError

    _check_bootstrap(options.bootstrap)
    arguments = _daemon_arguments(options)
    peers = list(options.bootstrap)
    folder = tempfile.mkdtemp(prefix="swarmtrain-")
    daemon_class = _daemon_class(folder)
    try:
        async with asyncio.timeout(options.start_seconds):
            daemon = await daemon_class.create(peers or None, **arguments)
            # No caches: they would serve stale records and keep a task that never ends.
            return await DHTNode.create(
                p2p=daemon, initial_peers=peers, record_validator=validator,
                wait_timeout=RPC_SECONDS, bootstrap_timeout=_STRAGGLER_SECONDS,
                cache_locally=False, cache_nearest=0, cache_on_store=False,
                cache_refresh_before_expiry=0, reuse_get_requests=False,
            )  # fmt: skip
    except BaseException as error:
        for daemon in daemon_class.started:
            await _stop(daemon)
        if isinstance(error, TimeoutError):
            raise _unreachable(options, f"no answer in {options.start_seconds:g} s") from None
        if isinstance(error, (P2PDaemonError, ValidationError, RuntimeError, OSError)):
            raise _unreachable(options, str(error)) from error
        raise
    finally:
        # The connection to p2pd stands and its socket needs no name any more: not even SIGKILL leaves one.
        shutil.rmtree(folder)


async def stop_node(node: Any) -> None:
    """Leave the DHT; what is under way fails at once."""
    node.is_alive = False
    # The protocol's own shutdown asks p2pd to remove its handlers and waits for ever when p2pd is dead.
    await _stop(node.p2p)


def daemon_exit_code(node: Any) -> int | None:
    """With what p2pd ended, None while it runs: hivemind answers from its own store when p2pd is dead."""
    code: int | None = node.p2p._child.returncode
    return code


def _quiet_hivemind() -> None:
    """Import hivemind and undo what it does to logging: its own handler, and a renamed WARNING level."""
    from hivemind.utils.logging import use_hivemind_log_handler

    use_hivemind_log_handler("nowhere")
    logging.addLevelName(logging.WARNING, "WARNING")
    # Unreachable members are everyday; what matters to a run is raised or recorded here.
    logging.getLogger("hivemind").setLevel(logging.CRITICAL)


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
    if options.port:
        _check_port_is_free(options)
    # On loopback nothing may go out: no port mapping on the router, no reachability probes.
    is_public = not host.is_loopback
    announced = (
        {"announce_maddrs": [_multiaddress(options.announce_host, options.port)]}
        if options.port and options.announce_host
        else {}
    )
    return {
        **announced,
        "host_maddrs": [f"/ip{host.version}/{host}/tcp/{options.port}"],
        "nat_port_map": is_public,
        "auto_nat": is_public,
        "use_relay": is_public,
        "startup_timeout": options.start_seconds,
    }


def _multiaddress(host: str, port: int) -> str:
    try:
        kind = f"ip{ipaddress.ip_address(host.strip('[]')).version}"
    except ValueError:
        kind = "dns"
    return f"/{kind}/{host.strip('[]')}/tcp/{port}"


def _check_port_is_free(options: DhtOptions) -> None:
    """p2pd shares a port with whoever else listens there with SO_REUSEPORT, and half the connections go astray."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except OSError as error:
            raise _unreachable(replace(options, bootstrap=()), str(error)) from error


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


async def _stop(daemon: Any) -> None:
    """End p2pd, by force if it must be, and the tasks that talk to it."""
    from hivemind.p2p import P2PDaemonError

    try:
        await asyncio.wait_for(daemon.shutdown(), TERMINATE_SECONDS)
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
