"""The in-memory transport: many machines in one process, for the virtual world and for tests.

Machines have names and an address is "name:port"; the host part of a listening address is ignored. The same
mux runs above; only pipes differ. Nothing here iterates a set, so a virtual loop gives the same order each time.
"""

import asyncio
import contextvars
import itertools
from collections.abc import Callable
from functools import partial

from swarmtrain.core.errors import LinkClosed, LinkError
from swarmtrain.core.types import PeerId
from swarmtrain.transport.caps import NO_CAPS, Caps
from swarmtrain.transport.endpoint import Endpoint
from swarmtrain.transport.link import Handler, Hello, Link, LinkLimits
from swarmtrain.transport.memory_pipe import Line, MemoryPipe, Tap, Way, pipe_pair

Figure = float | Callable[[str, str], float]
"""A constant, or a function of (from name, to name)."""

FIRST_RETRY_SECONDS = 1.0
"""When a connection request that met a cut line is sent again; each time after twice the pause."""


class MemoryNetwork:
    """Lines between named machines, and the faults that can be put on them.

    Set before machines are made: `tap(from name, to name)` watches and changes frames, `wrap(name, handler)`
    stands between a machine's links and its handler, `way(from name, to name)` is what frames wait for, `caps[name]` is
    what a machine lets its links carry.
    """

    tap: Callable[[str, str], Tap] | None = None
    wrap: Callable[[str, Handler], Handler] | None = None
    way: Callable[[str, str], Way] | None = None

    def __init__(
        self, latency_seconds: Figure, bytes_per_second: Figure, limits: LinkLimits
    ) -> None:
        self._latency_seconds, self._bytes_per_second = latency_seconds, bytes_per_second
        self._limits = limits
        self._lines: dict[tuple[str, str], Line] = {}
        self._transports: dict[str, MemoryTransport] = {}
        self.listeners: dict[str, tuple[MemoryTransport, Handler]] = {}
        self.ports = itertools.count(1)
        self.caps: dict[str, Caps] = {}

    def transport(self, name: str) -> "MemoryTransport":
        """The machine `name`, new or started again after `kill`."""
        if ":" in name or name in self._transports:
            raise ValueError(f"the name {name!r} is taken or has a colon")
        self._transports[name] = MemoryTransport(name, self, self._limits)
        return self._transports[name]

    def line(self, sender: str, receiver: str) -> Line:
        key = (sender, receiver)
        if key not in self._lines:
            latency = partial(_figure, self._latency_seconds, sender, receiver)
            bandwidth = partial(_figure, self._bytes_per_second, sender, receiver)
            self._lines[key] = Line(latency, bandwidth)
            if self.tap is not None:
                self._lines[key].tap = self.tap(sender, receiver)
            if self.way is not None:
                self._lines[key].way = self.way(sender, receiver)
        return self._lines[key]

    def cut(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Let nothing arrive from `a` at `b`, nor back unless `one_way`, until `heal`."""
        self.line(a, b).hold()
        if not one_way:
            self.line(b, a).hold()

    def heal(self, a: str, b: str) -> None:
        """Let both directions through again; what was held arrives now, in order."""
        self.line(a, b).release()
        self.line(b, a).release()

    def kill(self, name: str) -> None:
        """The machine dies: its links break, what had not left it is lost, others hear after the latency.

        Its tasks are the caller's to cancel.
        """
        self.remove(self._transports[name])
        for (sender, receiver), line in list(self._lines.items()):
            if sender == name:
                line.stop_sender("the other side died")
            elif receiver == name:
                line.stop_receiver("this machine was killed")

    @property
    def names(self) -> tuple[str, ...]:
        """The machines that are there, in the order they came."""
        return tuple(self._transports)

    def remove(self, transport: "MemoryTransport") -> None:
        """Forget a machine that was closed or killed; its addresses are free again."""
        if self._transports.get(transport.name) is not transport:
            return
        del self._transports[transport.name]
        for address, (owner, _) in list(self.listeners.items()):
            if owner is transport:
                del self.listeners[address]

    def alive(self, transport: "MemoryTransport") -> bool:
        return self._transports.get(transport.name) is transport


class MemoryTransport:
    """One machine's links in a MemoryNetwork."""

    def __init__(self, name: str, network: MemoryNetwork, limits: LinkLimits) -> None:
        self.name = name
        self._network = network
        self._endpoint = Endpoint(limits, caps=network.caps.get(name, NO_CAPS))
        # What runs for links that others dial belongs to this machine all the same.
        self._context = contextvars.copy_context()

    async def listen(self, address: str, handler: Handler) -> str:
        port = int(address.rpartition(":")[2]) or next(self._network.ports)
        own_address = f"{self.name}:{port}"
        if own_address in self._network.listeners:
            raise LinkError(
                f"cannot listen on {own_address}",
                f"port {port} is in use",
                "choose another port, or 0 for any free one",
            )
        self._network.listeners[own_address] = (self, self._wrapped(handler))
        return own_address

    async def dial(
        self,
        address: str,
        hello: Hello,
        handler: Handler,
        timeout_seconds: float,
        *,
        expected: PeerId | None = None,
    ) -> Link:
        try:
            async with asyncio.timeout(timeout_seconds):
                pipe = await self._connect(address)
                return await self._endpoint.greet(pipe, hello, self._wrapped(handler), expected)
        except TimeoutError:
            raise _unreachable(address, f"no answer within {timeout_seconds:g} s") from None
        except LinkClosed as error:
            raise _unreachable(address, error.why) from None

    async def close(self) -> None:
        await self._endpoint.close()
        self._network.remove(self)

    async def _connect(self, address: str) -> MemoryPipe:
        """A round trip, as TCP takes; while a line is cut it asks again, ever more rarely, as TCP does (RFC 6298)."""
        name = address.rpartition(":")[0]
        there, back = self._network.line(self.name, name), self._network.line(name, self.name)
        await asyncio.sleep(there.latency_seconds() + back.latency_seconds())
        pause_seconds = FIRST_RETRY_SECONDS
        while there.cut or back.cut or not self._network.alive(self):
            await asyncio.sleep(pause_seconds)
            pause_seconds *= 2
        if address not in self._network.listeners:
            raise _unreachable(address, "connection refused")
        listener, handler = self._network.listeners[address]
        near, far = pipe_pair(there, back)
        accepting = listener._endpoint.accept(far, handler)
        listener._context.copy().run(listener._endpoint.tasks.spawn, accepting, f"accept {name}")
        return near

    def _wrapped(self, handler: Handler) -> Handler:
        wrap = self._network.wrap
        return handler if wrap is None else wrap(self.name, handler)


def _figure(figure: Figure, sender: str, receiver: str) -> float:
    return figure(sender, receiver) if callable(figure) else figure


def _unreachable(address: str, why: str) -> LinkError:
    return LinkError(
        f"cannot reach {address}",
        why,
        "check the address, that swarmtrain runs there, and that no firewall is in between",
    )
