"""Two worlds to run transport tests in, gRPC on loopback and the in-memory twin, and a handler to watch."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import grpc.aio

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.errors import LinkClosed
from swarmtrain.core.types import PeerId
from swarmtrain.transport.frames import Frame, Kind, pack, unpack
from swarmtrain.transport.grpc_pipe import DiallerPipe
from swarmtrain.transport.grpc_transport import GrpcTransport
from swarmtrain.transport.link import PROTOCOL, Hello, Link, LinkLimits, Message, Transport
from swarmtrain.transport.memory import MemoryNetwork
from swarmtrain.transport.messages import encode
from swarmtrain.transport.pipe import Pipe

MIB = 1 << 20
PATIENCE_SECONDS = 20.0


def hello(name: str, **changes: Any) -> Hello:
    fields: dict[str, Any] = {
        "protocol": PROTOCOL, "version": "0.1", "run": b"run", "peer": PeerId(name),
        "corpus": "corpus", "kernel_class": "cpu", "address": "", "role": "peer",
    }  # fmt: skip
    return Hello(**{**fields, **changes})


class Watcher:
    """A handler whose answers a test chooses and whose links and tells it can wait for."""

    def __init__(
        self,
        name: str,
        answer: Callable[[str, Message], Awaitable[Message]] | None = None,
        check: Callable[[Hello], None] = lambda hello: None,
    ) -> None:
        self.name, self.answer, self.check = name, answer, check
        self.links: list[Link] = []
        self.closed_reasons: list[str] = []
        self.tells: list[tuple[str, bytes]] = []
        self._changed = asyncio.Condition()

    def hello(self) -> Hello:
        return hello(self.name)

    async def call(self, link: Link, method: str, request: Message) -> Message:
        return request if self.answer is None else await self.answer(method, request)

    def tell(self, link: Link, method: str, meta: bytes) -> None:
        self.tells.append((method, meta))
        self._notify()

    def opened(self, link: Link) -> None:
        self.links.append(link)
        self._notify()

    def closed(self, link: Link, reason: str) -> None:
        self.closed_reasons.append(reason)
        self._notify()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something that this handler sees makes `true` true."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
            await self._changed.wait_for(true)

    def _notify(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())


class World:
    """One way to make links; transports opened here are closed at its end."""

    def __init__(self, kind: str, limits: LinkLimits) -> None:
        self.kind, self.limits = kind, limits
        self.network = MemoryNetwork(0.001, 1e9, limits)
        self._names = (f"host{index}" for index in itertools.count())
        self._open: list[Transport] = []
        self._raw: list[Pipe] = []

    def transport(self) -> Transport:
        if self.kind == "grpc":
            made: Transport = GrpcTransport(self.limits)
        else:
            made = self.network.transport(next(self._names))
        self._open.append(made)
        return made

    async def pair(self, near: Watcher, far: Watcher) -> tuple[Link, Link]:
        """A fresh link between two fresh transports: the dialler's and the listener's side."""
        address = await self.transport().listen("127.0.0.1:0", far)
        return await self.dial(address, near, far)

    async def dial(self, address: str, near: Watcher, far: Watcher) -> tuple[Link, Link]:
        before = len(far.links)
        link = await self.transport().dial(address, near.hello(), near, 5.0)
        await far.until(lambda: len(far.links) > before)
        return link, far.links[-1]

    async def raw_pipe(self, address: str) -> Pipe:
        """A pipe to a listener with no link above it, to misbehave on."""
        if self.kind == "grpc":
            pipe: Pipe = DiallerPipe(grpc.aio.insecure_channel(address))
        else:
            pipe = await self.network.transport(next(self._names))._connect(address)
        self._raw.append(pipe)
        return pipe

    async def raw_peer(self, far: Watcher) -> tuple[Pipe, Link]:
        """A greeted pipe without a link above it, and the listener's link to it."""
        address = await self.transport().listen("127.0.0.1:0", far)
        return await self.raw_greeted(address, far)

    async def raw_greeted(self, address: str, far: Watcher) -> tuple[Pipe, Link]:
        before = len(far.links)
        pipe = await self.raw_pipe(address)
        await pipe.send(pack(Frame(Kind.HELLO, meta=encode(hello("raw")))))
        assert unpack(await pipe.receive(), self.limits).kind is Kind.WELCOME
        await far.until(lambda: len(far.links) > before)
        return pipe, far.links[-1]

    async def close(self) -> None:
        for pipe in self._raw:
            with contextlib.suppress(TimeoutError):
                # An orderly end waits for what nobody reads here.
                await asyncio.wait_for(pipe.close(""), 0.2)
        for transport in self._open:
            await transport.close()


def run_in(kind: str, test: Callable[[World], Coroutine[Any, Any, None]], **limits: Any) -> None:
    """Run `test` in a world of its own: real time for gRPC, virtual time for memory."""

    async def main() -> None:
        world = World(kind, LinkLimits(**limits))
        async with asyncio.timeout(60):
            try:
                await test(world)
            finally:
                await world.close()

    if kind == "grpc":
        asyncio.run(main())
    else:
        run_virtual(main())


async def until_end(pipe: Pipe) -> list[bytes]:
    """Everything that arrives on a raw pipe until the other side hangs up."""
    frames: list[bytes] = []
    with contextlib.suppress(LinkClosed):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                frames.append(await pipe.receive())
    return frames


@contextlib.asynccontextmanager
async def drained(pipe: Pipe) -> AsyncIterator[list[bytes]]:
    """Reads everything that arrives on a raw pipe meanwhile, without answering any of it."""
    frames: list[bytes] = []

    async def drain() -> None:
        with contextlib.suppress(LinkClosed):
            while True:
                frames.append(await pipe.receive())

    task = asyncio.get_running_loop().create_task(drain())
    yield frames
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
