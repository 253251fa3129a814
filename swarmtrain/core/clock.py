"""Virtual time: an asyncio event loop whose clock jumps to the next timer when nothing is ready (I6).

Everything else in swarmtrain asks the running loop for the time, so the same peer code runs on this loop and
on a real one. Threads are invisible to a virtual clock, so executors are refused here: compute runs inline and
is charged as a modelled sleep.
"""

import asyncio
import contextvars
import heapq
import math
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


MOST_CANCELLED = 100
"""Cancelled timers that may wait in the heap for their time."""


class Deadlock(RuntimeError):
    """No task is ready and no timer is pending: the virtual world can never move again."""


class _SilentSelector(selectors.BaseSelector):
    """Never reports I/O: the virtual world has none."""

    def __init__(self) -> None:
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        descriptor = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = selectors.SelectorKey(fileobj, descriptor, events, data)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return []

    def get_map(self) -> Any:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs callbacks in virtual time, starting at 0 seconds. Raises Deadlock instead of waiting for ever."""

    _timer_cancelled_count: int

    def __init__(self) -> None:
        super().__init__(_SilentSelector())
        self._set_time(0.0)

    def time(self) -> float:
        return self._now_seconds

    def _set_time(self, now_seconds: float) -> None:
        """A timer is due when it lies before now + resolution. With 0 one due exactly now would never be; with
        more than the last bit one could fire early, find its time not come, and be set again for ever."""
        self._now_seconds = now_seconds
        self._clock_resolution = math.ulp(now_seconds)

    def _run_once(self) -> None:
        """One turn: what is ready runs, and time goes on when nothing is.

        It does what the loop of asyncio does, without a selector to ask and with nothing to wait for: a third of
        the cost, and the simulator does little else.
        """
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            self._advance()
        self._take_due()
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _take_due(self) -> None:
        """Move due timers to what is ready, in the order in which they became due."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        due_seconds = self._now_seconds + self._clock_resolution
        while timers and timers[0]._when < due_seconds:  # type: ignore[attr-defined]
            timer = heapq.heappop(timers)
            timer._scheduled = False  # type: ignore[attr-defined]
            if timer._cancelled:
                self._timer_cancelled_count -= 1
            else:
                self._ready.append(timer)  # type: ignore[attr-defined]

    def _advance(self) -> None:
        """Move the clock to the next live timer."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        self._drop_cancelled(timers)
        if not timers:
            raise Deadlock("no task is ready and no timer is pending")
        self._set_time(max(self._now_seconds, timers[0].when()))

    def _drop_cancelled(self, timers: list[asyncio.TimerHandle]) -> None:
        """Those at the head, and all of them once they are the greater part."""
        if self._timer_cancelled_count > max(MOST_CANCELLED, len(timers) // 2):
            for timer in timers:
                timer._scheduled = not timer._cancelled  # type: ignore[attr-defined]
            timers[:] = [timer for timer in timers if not timer._cancelled]
            heapq.heapify(timers)
            self._timer_cancelled_count = 0
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False  # type: ignore[attr-defined]
            self._timer_cancelled_count -= 1

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def run_in_executor(self, *_: Any, **__: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("threads are invisible to virtual time; run compute inline instead")


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on a fresh virtual clock; no real time is waited."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
