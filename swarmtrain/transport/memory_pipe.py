"""Pipes inside one process, with modelled latency and bandwidth in the running loop's time.

A line joins two names in one direction; all pipes between them share it, so bytes queue behind each other.
Frames are passed on by reference and arrive in order. A cut line holds what is under way, like TCP does
until it gives up; nothing is lost inside a pipe.
"""

import asyncio
import contextvars
import heapq
from collections.abc import Callable
from typing import Protocol

from swarmtrain.core.errors import LinkClosed

LINE_BUFFER_BYTES = 256 << 10
"""What a sender may hand over before the line has carried it, like a socket's buffer."""

_WIRE = contextvars.Context()
"""The wire belongs to no machine: what is under way arrives also when its sender stands still."""


class Tap(Protocol):
    """Sees what travels in one direction between two names, and may change it: where faults come in."""

    def sent(self, frame: bytes) -> list[tuple[float, bytes]]:
        """What to carry instead of `frame`: frames, each with seconds by which it falls behind the others."""
        ...

    def received(self, frame: bytes) -> None:
        """The receiver takes `frame` off the line now."""
        ...


class Way(Protocol):
    """What frames in one direction between two names wait for, when it is more than one line's rate."""

    def carry(
        self, frame: bytes, now_seconds: float, flow_bytes_per_second: float
    ) -> tuple[float, bool]:
        """When the last byte leaves, and whether later frames of the other kind may arrive before it."""
        ...


class Line:
    """One direction between two names; both figures are asked for each frame, so they may change."""

    def __init__(
        self, latency_seconds: Callable[[], float], bytes_per_second: Callable[[], float]
    ) -> None:
        self.latency_seconds, self.bytes_per_second = latency_seconds, bytes_per_second
        self.cut = False
        self.tap: Tap | None = None
        self.way: Way | None = None
        self.flows: dict[Flow, None] = {}
        self._free_at_seconds = 0.0

    def carry(self, frame: bytes, now_seconds: float) -> tuple[float, bool]:
        """Put a frame behind what waits already; when its last byte leaves, and whether it may be overtaken."""
        if self.way is not None:
            return self.way.carry(frame, now_seconds, self.bytes_per_second())
        begin = max(self._free_at_seconds, now_seconds)
        self._free_at_seconds = begin + len(frame) / self.bytes_per_second()
        return self._free_at_seconds, False

    def hold(self) -> None:
        """Cut: nothing arrives until `release`."""
        self.cut = True
        for flow in self.flows:
            flow.arm()

    def release(self) -> None:
        self.cut = False
        for flow in self.flows:
            flow.arm()

    def stop_sender(self, reason: str) -> None:
        """The machine at the sending end died: what has not left it is lost, then the flows end."""
        self._free_at_seconds = asyncio.get_running_loop().time()
        for flow in self.flows:
            flow.lose_unsent()
            flow.hang_up(reason)

    def stop_receiver(self, reason: str) -> None:
        """The machine at the receiving end died."""
        for flow in list(self.flows):
            flow.abandon(reason)


class Flow:
    """One pipe's frames in one direction."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._loop = asyncio.get_running_loop()
        self._under_way: list[tuple[float, int, float, bytes | None]] = []
        self._put_count = 0
        self._latest_seconds = [0.0, 0.0]
        """Of what is not overtaken, and of what is."""
        self._arrived: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._hung_up: str | None = None
        self._ended: str | None = None
        line.flows[self] = None

    async def send(self, frame: bytes) -> None:
        if self._hung_up is not None:
            raise LinkClosed("the connection ended", self._hung_up)
        line, now = self._line, self._loop.time()
        left_seconds, may_be_overtaken = line.carry(frame, now)
        for late_seconds, carried in line.tap.sent(frame) if line.tap else [(0.0, frame)]:
            if late_seconds:
                self._put_late(late_seconds, carried)
            else:
                self._put(left_seconds, carried, may_be_overtaken)
        if may_be_overtaken:
            return  # what follows does not wait behind it
        backlog_seconds = left_seconds - now - LINE_BUFFER_BYTES / line.bytes_per_second()
        if backlog_seconds > 0:
            await asyncio.sleep(backlog_seconds)

    def hang_up(self, reason: str) -> None:
        """The sending side ends: the receiver hears of it behind everything sent before."""
        if self._hung_up is None:
            self._hung_up = reason
            # The end overtakes nothing.
            self._latest_seconds[False] = max(self._latest_seconds)
            self._put(self._loop.time(), None)

    async def receive(self) -> bytes:
        while not self._arrived:
            if self._ended is not None:
                raise LinkClosed("the connection ended", self._ended)
            self._waiting = self._loop.create_future()
            await self._waiting
        frame = self._arrived.pop(0)
        if self._line.tap is not None:
            self._line.tap.received(frame)
        return frame

    def abandon(self, reason: str) -> None:
        """The receiving side ends: what is under way goes nowhere."""
        self._end(reason)
        self._under_way.clear()
        self.arm()

    def lose_unsent(self) -> None:
        now = self._loop.time()
        self._under_way = [entry for entry in self._under_way if entry[2] <= now]
        heapq.heapify(self._under_way)
        last = max((entry[0] for entry in self._under_way), default=0.0)
        self._latest_seconds = [last, last]
        self.arm()

    def arm(self) -> None:
        """Set the timer for the next arrival, if the line lets anything through."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._under_way and not self._line.cut:
            due_seconds = self._under_way[0][0]
            self._timer = self._loop.call_at(due_seconds, self._arrive, context=_WIRE)

    def _put(
        self, left_seconds: float, frame: bytes | None, may_be_overtaken: bool = False
    ) -> None:
        if self._ended is not None:
            return
        # A frame that would arrive earlier waits for those of its kind before it.
        arrival_seconds = left_seconds + self._line.latency_seconds()
        arrival_seconds = max(arrival_seconds, self._latest_seconds[may_be_overtaken])
        self._latest_seconds[may_be_overtaken] = arrival_seconds
        self._put_count += 1
        heapq.heappush(self._under_way, (arrival_seconds, self._put_count, left_seconds, frame))
        if self._timer is None or self._under_way[0][1] == self._put_count:
            self.arm()

    def _put_late(self, late_seconds: float, frame: bytes) -> None:
        """Let what is sent meanwhile overtake `frame`; it is lost if the flow ends before."""

        def put() -> None:
            if self._hung_up is None:
                self._put(self._loop.time(), frame)

        self._loop.call_later(late_seconds, put, context=_WIRE)

    def _arrive(self) -> None:
        now = self._loop.time()
        while self._under_way and self._under_way[0][0] <= now:
            frame = heapq.heappop(self._under_way)[3]
            if frame is None:
                self._end(self._hung_up or "")
            else:
                self._arrived.append(frame)
        self._notify()
        self.arm()

    def _end(self, reason: str) -> None:
        if self._ended is None:
            self._ended = reason
            self._line.flows.pop(self, None)
            self._notify()

    def _notify(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class MemoryPipe:
    """One side of two flows."""

    observed_host = ""

    def __init__(self, outward: Flow, inward: Flow) -> None:
        self._outward, self._inward = outward, inward

    async def send(self, frame: bytes) -> None:
        await self._outward.send(frame)

    async def receive(self) -> bytes:
        return await self._inward.receive()

    async def close(self, reason: str) -> None:
        self._outward.hang_up(reason)
        self._inward.abandon(reason)


def pipe_pair(there: Line, back: Line) -> tuple[MemoryPipe, MemoryPipe]:
    """The dialler's and the listener's side of a new pipe."""
    outward, inward = Flow(there), Flow(back)
    return MemoryPipe(outward, inward), MemoryPipe(inward, outward)
