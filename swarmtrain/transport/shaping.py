"""Lines of this machine made as slow as those of a region: a rate and a latency below a real connection's frames.

For experiments alone. Each pipe is a line of its own: frames leave one behind the other at the rate, and arrive a
latency later, as on the lines of `memory_pipe`. What arrives is not touched: the other side shapes what it sends.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from swarmtrain.core.errors import ConfigError, LinkClosed
from swarmtrain.core.units import parse_bytes_per_second, parse_seconds
from swarmtrain.transport.memory_pipe import LINE_BUFFER_BYTES
from swarmtrain.transport.pipe import Pipe


@dataclass(frozen=True, slots=True)
class Shape:
    """What a line is like in each direction that is sent in; latency is one way."""

    bytes_per_second: float
    latency_seconds: float


def parse_shape(text: str) -> Shape:
    """`20Mbit:50ms`. Raises ConfigError."""
    rate, separator, latency = text.partition(":")
    if not separator:
        raise ConfigError(
            f"{text!r} is not a line's shape", "", "write RATE:LATENCY, as 20Mbit:50ms"
        )
    shape = Shape(parse_bytes_per_second(rate), parse_seconds(latency))
    if shape.bytes_per_second <= 0:
        raise ConfigError(f"{text!r} carries nothing", "", "give the line a rate above zero")
    return shape


class ShapedPipe:
    """A pipe whose frames leave late. Frames on their way are lost with the connection, like those in a real line."""

    def __init__(self, pipe: Pipe, shape: Shape) -> None:
        self._pipe, self._shape = pipe, shape
        self._loop = asyncio.get_running_loop()
        self._free_at_seconds = 0.0
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._changed = asyncio.Event()
        self._broken: LinkClosed | None = None
        self._is_closing = False
        self._carrier = asyncio.ensure_future(self._carry())

    @property
    def observed_host(self) -> str:
        return self._pipe.observed_host

    async def send(self, frame: bytes) -> None:
        if self._broken is not None:
            raise self._broken
        now, rate = self._loop.time(), self._shape.bytes_per_second
        self._free_at_seconds = max(self._free_at_seconds, now) + len(frame) / rate
        self._under_way.append((self._free_at_seconds + self._shape.latency_seconds, frame))
        self._changed.set()
        backlog_seconds = self._free_at_seconds - now - LINE_BUFFER_BYTES / rate
        if backlog_seconds > 0:
            await asyncio.sleep(backlog_seconds)

    async def receive(self) -> bytes:
        return await self._pipe.receive()

    async def close(self, reason: str) -> None:
        """Let what was sent arrive first; whoever calls bounds that."""
        self._is_closing = True
        self._changed.set()
        try:
            await asyncio.wait((self._carrier,))
        finally:
            self._carrier.cancel()
        await self._pipe.close(reason)

    async def _carry(self) -> None:
        while True:
            while not self._under_way:
                if self._is_closing:
                    return
                self._changed.clear()
                await self._changed.wait()
            at_seconds, frame = self._under_way[0]
            await asyncio.sleep(max(0.0, at_seconds - self._loop.time()))
            try:
                await self._pipe.send(frame)
            except LinkClosed as error:
                self._broken = error
                return
            self._under_way.popleft()
