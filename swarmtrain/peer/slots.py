"""In-flight limits per route position (rule R12, invariant I8).

One slot is reserved for each position a peer serves, plus a shared pool. Waits only go to higher positions, so
no skip, swap or hosting can deadlock. Calls beyond slots and queue are answered BUSY, which is back-pressure.
Position 0 is the peer's own work, bounded before it starts: it waits, and takes nobody's place in the queue.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Busy(Exception):
    """No slot is free and the queue is full."""


class Slots:
    """Counts slots per position; waiters are served in order of arrival."""

    def __init__(self, shared: int, queue: int) -> None:
        self._shared_free, self._queue = shared, queue
        self._reserved_used: dict[int, bool] = {}
        self._waiting: dict[int, deque[asyncio.Future[bool]]] = {}

    @property
    def waiting(self) -> int:
        """Calls that wait for a slot."""
        return sum(len(line) for position, line in self._waiting.items() if position)

    @asynccontextmanager
    async def hold(self, position: int) -> AsyncIterator[None]:
        """Hold a slot of `position`. Raises Busy when the queue is full."""
        reserved = await self._acquire(position)
        try:
            yield
        finally:
            self._release(position, reserved)

    async def _acquire(self, position: int) -> bool:
        """True for the position's reserved slot, False for one of the shared pool."""
        if not self._reserved_used.get(position, False):
            self._reserved_used[position] = True
            return True
        if self._shared_free > 0:
            self._shared_free -= 1
            return False
        if position and self.waiting >= self._queue:
            raise Busy
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        line = self._waiting.setdefault(position, deque())
        line.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(position, turn.result())
            elif turn in line:
                line.remove(turn)
            raise

    def _release(self, position: int, reserved: bool) -> None:
        """Hand the slot on: a reserved one to its own position, a shared one to the highest that waits."""
        lines = [position] if reserved else sorted(self._waiting, reverse=True)
        for candidate in lines:
            line = self._waiting.get(candidate)
            while line:
                turn = line.popleft()
                if not turn.done():
                    turn.set_result(reserved)
                    return
        if reserved:
            self._reserved_used[position] = False
        else:
            self._shared_free += 1
