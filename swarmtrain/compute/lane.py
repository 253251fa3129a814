"""The compute lane: one task at a time per peer, in its own thread or inline on virtual time.

Order (design.md section 4): state changes of the protocol first and in order of arrival; then, as in the planner's
execution model (plan.paths.execution), backward and loss before forward, then the longest remaining round trip, then
arrival, then the lower key.
"""

import asyncio
import heapq
import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, TypeVar

from swarmtrain.compute.meter import Meter, Part

T = TypeVar("T")


class Kind(IntEnum):
    """What a task is, in the order the lane prefers; hops and reduces are observed, never queued."""

    STATE = 0
    BACKWARD = 1
    LOSS = 2
    FORWARD = 3
    HOP = 4
    REDUCE = 5


PARTS: Mapping[Kind, Part] = {
    Kind.FORWARD: "forward",
    Kind.BACKWARD: "backward",
    Kind.LOSS: "loss",
}
"""The tasks of microbatches, as the meter calls them."""


@dataclass(frozen=True, slots=True)
class Task:
    """How the lane ranks and charges a task. `remaining` is what is left of the round trip: seconds by the step's
    plan, or without one the visits still ahead on the way down or back. `key` is the microbatch it belongs to,
    `name` says more in a trace, `to` is who answered a hop. `values` are those of a stage that it updates, or codes or
    merges in outer rounds, each counted as often as it passes over it."""

    kind: Kind
    stage: int
    remaining: float = 0
    key: int = 0
    name: str = ""
    to: str = ""
    values: int = 0

    def rank(self, arrival_seconds: float) -> "Rank":
        if self.kind is Kind.STATE:
            return (0, 0, 0, 0)
        urgent = 1 if self.kind in (Kind.BACKWARD, Kind.LOSS) else 2
        return (urgent, -self.remaining, arrival_seconds, self.key)


Rank = tuple[int, float, float, int]
"""Of two tasks that wait the one of the lower rank goes first; where ranks are equal, the one that came first."""


@dataclass(frozen=True, slots=True)
class Span:
    """When a task ran, in loop seconds: for traces and for measured costs."""

    task: Task
    start_seconds: float
    end_seconds: float


Observer = Callable[[Span], None]


class _Queued(NamedTuple):
    """A task that waits since then; the heap compares rank and number only, since no two numbers are equal."""

    rank: Rank
    number: int
    task: Task
    work: Callable[[], Any]
    future: asyncio.Future[Any]
    since_seconds: float


class Lane(Protocol):
    """Runs tasks one at a time. With `is_modelled` their seconds do not depend on what they do.

    `meter` counts the tasks of microbatches; it is read on the loop.
    """

    meter: Meter

    @property
    def is_modelled(self) -> bool: ...

    def submit(self, task: Task, work: Callable[[], T]) -> asyncio.Future[T]:
        """Queue `work` at once; its outcome is the future's. Cancelling it does not stop a task that runs."""
        ...

    def beside(self, task: Task, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run `work`, which must touch nothing that tasks touch, without keeping the lane from its tasks."""
        ...

    def deliver(self, callback: Callable[[], None]) -> None:
        """Called by work on the lane: run `callback` on the loop now, while the work goes on."""
        ...

    def note(self, task: Task, start_seconds: float) -> None:
        """Let the observer see a wait beside the lane that ends now."""
        ...

    async def close(self) -> None:
        """Refuse new tasks, end the running one, and leave no thread behind."""
        ...


class ThreadLane:
    """Runs tasks in one thread of its own."""

    is_modelled = False

    def __init__(
        self,
        observe: Observer | None = None,
        least_seconds: Callable[[Task], float] | None = None,
    ) -> None:
        """With `least_seconds`, for experiments, a task takes at least so long, as on a slower machine."""
        self._loop = asyncio.get_running_loop()
        self._observe, self._least_seconds = observe, least_seconds
        self._worked_seconds: dict[tuple[Kind, int], float] = {}
        self.meter = Meter(self._loop.time())
        self._queue: list[_Queued] = []
        self._numbers = itertools.count()
        self._ready = threading.Condition()
        self._closing = False
        self._beside = ThreadPoolExecutor(1, "beside-lane")
        self._thread = threading.Thread(target=self._work, name="compute-lane", daemon=True)
        self._thread.start()

    def submit(self, task: Task, work: Callable[[], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()
        with self._ready:
            if self._closing:
                future.cancel()
                return future
            now = self._loop.time()
            queued = _Queued(task.rank(now), next(self._numbers), task, work, future, now)
            heapq.heappush(self._queue, queued)
            self._ready.notify()
        return future

    def beside(self, task: Task, work: Callable[[], T]) -> asyncio.Future[T]:
        if self._closing:
            future: asyncio.Future[T] = self._loop.create_future()
            future.cancel()
            return future
        start_seconds = self._loop.time()
        future = self._loop.run_in_executor(self._beside, work)
        future.add_done_callback(lambda _: self.note(task, start_seconds))
        return future

    def deliver(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def note(self, task: Task, start_seconds: float) -> None:
        if self._observe is not None:
            self._observe(Span(task, start_seconds, self._loop.time()))

    async def close(self) -> None:
        with self._ready:
            self._closing = True
            waiting, self._queue = self._queue, []
            self._ready.notify()
        for queued in waiting:
            queued.future.cancel()
        # From a thread of its own, as this loop must go on until the work beside is done.
        ending = threading.Thread(target=self._beside.shutdown, kwargs={"cancel_futures": True})
        ending.start()
        while self._thread.is_alive() or ending.is_alive():
            (self._thread if self._thread.is_alive() else ending).join(timeout=0.001)
            await asyncio.sleep(0)

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._queue and not self._closing:
                    self._ready.wait()
                if self._closing:
                    return
                queued = heapq.heappop(self._queue)
            if not queued.future.cancelled():
                self._run_one(queued)

    def _run_one(self, queued: _Queued) -> None:
        start = self._loop.time()
        least_seconds = self._least_seconds(queued.task) if self._least_seconds is not None else 0.0
        if least_seconds:
            self._hold_back(queued.task, least_seconds)
        begin = self._loop.time()
        result: Any = None
        error: BaseException | None = None
        try:
            result = queued.work()
        except BaseException as problem:  # every outcome belongs to the waiter, none to this thread
            error = problem
        if least_seconds:
            self._worked_seconds[queued.task.kind, queued.task.stage] = self._loop.time() - begin
            self._hold_until(start + least_seconds)
        span = Span(queued.task, start, self._loop.time())
        self._loop.call_soon_threadsafe(self._deliver, span, queued, result, error)

    def _hold_back(self, task: Task, least_seconds: float) -> None:
        """Before the work, as results may leave the lane while it goes on: all but what it took the last time."""
        worked_seconds = self._worked_seconds.get((task.kind, task.stage), 0.0)
        self._hold_until(self._loop.time() + least_seconds - worked_seconds)

    def _hold_until(self, end_seconds: float) -> None:
        with self._ready:
            self._ready.wait_for(lambda: self._closing, max(0.0, end_seconds - self._loop.time()))

    def _deliver(
        self, span: Span, queued: _Queued, result: Any, error: BaseException | None
    ) -> None:
        _settle(queued.future, result, error)
        _count(self.meter, span, queued)
        if self._observe is not None:
            self._observe(span)


class VirtualLane:
    """Runs tasks inline on a virtual clock and charges each its modelled seconds, also what runs beside the others."""

    is_modelled = True

    def __init__(
        self, cost_seconds: Callable[[Task], float], observe: Observer | None = None
    ) -> None:
        self._cost_seconds, self._observe = cost_seconds, observe
        self.meter = Meter(asyncio.get_running_loop().time())
        self._queue: list[_Queued] = []
        self._numbers = itertools.count()
        self._wake = asyncio.Event()
        self._running: asyncio.Future[Any] | None = None
        self._beside: set[asyncio.Future[Any]] = set()
        self._beside_free_at_seconds = 0.0
        self._closing = False
        self._worker = asyncio.create_task(self._work(), name="compute-lane")

    def submit(self, task: Task, work: Callable[[], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._closing:
            future.cancel()
            return future
        now = asyncio.get_running_loop().time()
        queued = _Queued(task.rank(now), next(self._numbers), task, work, future, now)
        heapq.heappush(self._queue, queued)
        self._wake.set()
        return future

    def beside(self, task: Task, work: Callable[[], T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if self._closing:
            future.cancel()
            return future
        start_seconds = max(loop.time(), self._beside_free_at_seconds)
        self._beside_free_at_seconds = start_seconds + self._cost_seconds(task)
        self._beside.add(future)

        def run() -> None:
            self._beside.discard(future)
            if not future.cancelled():
                _settle(future, *_outcome(work))
                self.note(task, start_seconds)

        if self._beside_free_at_seconds > loop.time():
            loop.call_at(self._beside_free_at_seconds, run)
        else:
            run()
        return future

    def deliver(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(callback)

    def note(self, task: Task, start_seconds: float) -> None:
        if self._observe is not None:
            self._observe(Span(task, start_seconds, asyncio.get_running_loop().time()))

    async def close(self) -> None:
        self._closing = True
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        if self._running is not None:
            self._running.cancel()
        for future in (*(queued.future for queued in self._queue), *self._beside):
            future.cancel()
        self._queue.clear()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            queued = heapq.heappop(self._queue)
            if queued.future.cancelled():
                continue
            start, self._running = loop.time(), queued.future
            await asyncio.sleep(self._cost_seconds(queued.task))
            outcome = _outcome(queued.work)
            span = Span(queued.task, start, loop.time())
            _settle(queued.future, *outcome)
            _count(self.meter, span, queued)
            if self._observe is not None:
                self._observe(span)


def _count(meter: Meter, span: Span, queued: _Queued) -> None:
    """Changes of state are left out: their number does not depend on how many microbatches come here."""
    part = PARTS.get(span.task.kind)
    if part is not None:
        busy_seconds = span.end_seconds - span.start_seconds
        waited_seconds = span.start_seconds - queued.since_seconds
        meter.add(busy_seconds, waited_seconds, part, span.end_seconds)


def _outcome(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return work(), None
    except Exception as problem:
        return None, problem


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
