"""Lines of this machine made as slow as those between regions: rate, latency, jitter, loss and cuts below a real
connection's frames.

For experiments alone. Each pipe is a line of its own: frames leave one behind the other at the rate, and arrive a
latency later, as on the lines of `memory_pipe`. What arrives is not touched: the other side shapes what it sends, so
a line may be slow or cut in one direction only. Nothing is lost inside a connection: a lost packet is one that comes
late, and what was sent after it waits behind it.
"""

import asyncio
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from swarmtrain.core.errors import LinkClosed
from swarmtrain.core.types import PeerId
from swarmtrain.transport.memory_pipe import LINE_BUFFER_BYTES
from swarmtrain.transport.pipe import Pipe


@dataclass(frozen=True, slots=True)
class Shape:
    """What a line is like in each direction that is sent in; latency is one way.

    A frame takes up to `jitter_seconds` longer, evenly drawn. A share `loss` of them is sent again a timeout later.
    While the line `is_cut` nothing arrives, and what is under way waits.
    """

    bytes_per_second: float
    latency_seconds: float
    jitter_seconds: float = 0.0
    loss: float = 0.0
    is_cut: bool = False

    def delay_seconds(self, chance: random.Random) -> float:
        """From a frame's leaving to its arriving."""
        seconds = self.latency_seconds
        if self.jitter_seconds:
            seconds += chance.uniform(0.0, self.jitter_seconds)
        if self.loss and chance.random() < self.loss:
            seconds += max(LEAST_TIMEOUT_SECONDS, 2 * self.latency_seconds)
        return seconds


LEAST_TIMEOUT_SECONDS = 0.2
"""TCP's usual least time until it sends again what was not acknowledged (RFC 6298 allows 1 s, systems take this)."""


class Lines:
    """How this process's lines to each peer are shaped; those to others are not.

    May change while lines are in use (`change`). `chance` draws jitter and losses.
    """

    def __init__(
        self,
        towards: Mapping[PeerId, Shape],
        chance: random.Random | None = None,
    ) -> None:
        self._towards = dict(towards)
        self.chance = chance or random.Random(0)
        self._changed: dict[asyncio.Event, None] = {}

    def towards(self, peer: PeerId | None) -> Shape | None:
        """`peer` is None while nobody knows who is there: until the other side said it, or the dialler did."""
        return None if peer is None else self._towards.get(peer)

    def change(self, towards: Mapping[PeerId, Shape]) -> None:
        """From now on. What is under way arrives when it was going to, unless its line is cut."""
        self._towards = dict(towards)
        for waiting in self._changed:
            waiting.set()

    async def until_open(self, peer: PeerId | None) -> None:
        """Wait while the line to `peer` is cut."""
        while (shape := self.towards(peer)) is not None and shape.is_cut:
            changed = asyncio.Event()
            self._changed[changed] = None
            try:
                await changed.wait()
            finally:
                del self._changed[changed]


UNSHAPED = Shape(1e12, 0.0)
"""Of a line that nothing is said of, in a process whose others are shaped."""


class ShapedPipe:
    """A pipe whose frames leave late. Frames on their way are lost with the connection, like those in a real line.

    `peer` is who is at the other end, once that is known: to a dialler that expects somebody from the start, to a
    listener when it was greeted.
    """

    def __init__(self, pipe: Pipe, lines: Lines) -> None:
        self._pipe, self._lines = pipe, lines
        self.peer: PeerId | None = None
        self._arrives_seconds = 0.0
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
        shape, now = self._lines.towards(self.peer) or UNSHAPED, self._loop.time()
        rate = shape.bytes_per_second
        self._free_at_seconds = max(self._free_at_seconds, now) + len(frame) / rate
        delay_seconds = shape.delay_seconds(self._lines.chance)
        # A frame that was late keeps those behind it waiting: a connection delivers in order.
        self._arrives_seconds = max(self._arrives_seconds, self._free_at_seconds + delay_seconds)
        self._under_way.append((self._arrives_seconds, frame))
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
            await self._lines.until_open(self.peer)
            try:
                await self._pipe.send(frame)
            except LinkClosed as error:
                self._broken = error
                return
            self._under_way.popleft()
