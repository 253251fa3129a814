"""Both compute lanes keep one contract: one task at a time, in the lane's order; outcomes reach the waiter."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from swarmtrain.compute.lane import Kind, Lane, Observer, Span, Task, ThreadLane, VirtualLane
from swarmtrain.core.clock import run_virtual

FORWARD_SECONDS = 0.25
Test = Callable[[Callable[[Observer | None], Lane]], Coroutine[Any, Any, None]]


def _thread(test: Test) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await test(ThreadLane)

    asyncio.run(main())


def _virtual(test: Test) -> None:
    def cost_seconds(task: Task) -> float:
        return 0.0 if task.kind is Kind.STATE else FORWARD_SECONDS

    run_virtual(test(lambda observe: VirtualLane(cost_seconds, observe)))


@pytest.fixture(params=[_thread, _virtual], ids=["thread", "virtual"])
def run(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    return request.param  # type: ignore[no-any-return]


class Order:
    """A lane that is held by one task until `go`, so that what comes meanwhile queues; `seen` is the order of work."""

    def __init__(self, lane: Lane) -> None:
        self.lane, self.seen = lane, list[str]()
        self._gate = threading.Event()
        # In virtual time nothing runs before the first await, so only a thread needs to be held.
        if isinstance(lane, ThreadLane):
            lane.submit(Task(Kind.STATE, 0), lambda: self._gate.wait(10))

    def submit(self, name: str, task: Task) -> "asyncio.Future[None]":
        return self.lane.submit(task, lambda: self.seen.append(name))

    async def go(self, *waiting: "asyncio.Future[None]") -> list[str]:
        self._gate.set()
        await asyncio.gather(*waiting)
        return self.seen


def test_state_first_in_order_of_arrival_then_backward_and_loss_then_forward(run):
    async def test(make) -> None:
        order = Order(make(None))
        kinds = [
            Kind.FORWARD,
            Kind.STATE,
            Kind.LOSS,
            Kind.BACKWARD,
            Kind.STATE,
            Kind.FORWARD,
            Kind.STATE,
        ]
        waiting = [
            order.submit(f"{kind.name.lower()}{index}", Task(kind, stage=index % 3))
            for index, kind in enumerate(kinds)
        ]
        seen = await order.go(*waiting)
        assert seen == ["state1", "state4", "state6", "loss2", "backward3", "forward0", "forward5"]
        await order.lane.close()

    run(test)


def test_among_equals_the_longest_remaining_round_trip_goes_first_then_arrival(run):
    async def test(make) -> None:
        order = Order(make(None))
        names = {"a": 1, "b": 3, "c": 2, "d": 3, "e": 1}
        waiting = [order.submit(name, Task(Kind.FORWARD, 1, far)) for name, far in names.items()]
        waiting += [
            order.submit(name * 2, Task(Kind.BACKWARD, 1, far)) for name, far in names.items()
        ]
        seen = await order.go(*waiting)
        assert seen == ["bb", "dd", "cc", "aa", "ee", "b", "d", "c", "a", "e"]
        await order.lane.close()

    run(test)


def test_state_keeps_its_order_whatever_its_stage_or_remaining_trip(run):
    """Sums, snapshots and applies rely on it: a snapshot holds exactly what was added before."""

    async def test(make) -> None:
        order = Order(make(None))
        waiting = [
            order.submit(str(index), Task(Kind.STATE, 5 - index, remaining=index * 7 % 5))
            for index in range(6)
        ]
        assert await order.go(*waiting) == [str(index) for index in range(6)]
        await order.lane.close()

    run(test)


def test_an_outcome_or_an_error_reaches_the_waiter_and_the_lane_goes_on(run):
    async def test(make) -> None:
        lane = make(None)

        def fail() -> None:
            raise ZeroDivisionError("on the lane")

        with pytest.raises(ZeroDivisionError, match="on the lane"):
            await lane.submit(Task(Kind.FORWARD, 1), fail)
        assert await lane.submit(Task(Kind.FORWARD, 1), lambda: 42) == 42
        await lane.close()

    run(test)


def test_a_cancelled_task_that_waits_does_not_run(run):
    async def test(make) -> None:
        order = Order(make(None))
        doomed = order.submit("doomed", Task(Kind.FORWARD, 1, 9))
        kept = order.submit("kept", Task(Kind.FORWARD, 1))
        doomed.cancel()
        assert await order.go(kept) == ["kept"]
        await order.lane.close()

    run(test)


def test_one_task_at_a_time_and_each_is_observed(run):
    async def test(make) -> None:
        spans: list[Span] = []
        lane = make(spans.append)
        inside = 0

        def work() -> None:
            nonlocal inside
            inside += 1
            assert inside == 1
            inside -= 1

        tasks = [Task(Kind.FORWARD, stage) for stage in range(20)]
        await asyncio.gather(*(lane.submit(task, work) for task in tasks))
        await lane.close()
        assert [span.task for span in spans] == tasks
        assert all(a.end_seconds <= b.start_seconds for a, b in itertools.pairwise(spans))
        assert all(span.start_seconds <= span.end_seconds for span in spans)

    run(test)


def test_close_cancels_what_waits_and_leaves_neither_thread_nor_task(run):
    async def test(make) -> None:
        threads, tasks = threading.active_count(), len(asyncio.all_tasks())
        lane = make(None)
        assert await lane.submit(Task(Kind.STATE, 0), lambda: "done") == "done"
        order = Order(lane)
        order.submit("first", Task(Kind.BACKWARD, 1))
        await asyncio.sleep(0)
        waiting = order.submit("late", Task(Kind.FORWARD, 1))
        closing = asyncio.ensure_future(lane.close())
        await asyncio.sleep(0)
        order._gate.set()
        await closing
        assert waiting.cancelled() and "late" not in order.seen
        assert threading.active_count() == threads
        assert len(asyncio.all_tasks()) == tasks

    run(test)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(_thread, id="thread"),
        pytest.param(
            _virtual,
            id="virtual",
        ),
    ],
)
def test_nobody_waits_for_ever_for_the_task_that_runs_at_close(run):
    async def test(make) -> None:
        order = Order(make(None))
        running = order.submit("running", Task(Kind.BACKWARD, 1))
        await asyncio.sleep(0)
        order._gate.set()
        await order.lane.close()
        assert running.done()

    run(test)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(_thread, id="thread"),
        pytest.param(
            _virtual,
            id="virtual",
        ),
    ],
)
def test_a_closed_lane_refuses_new_tasks(run):
    async def test(make) -> None:
        lane = make(None)
        await lane.close()
        assert lane.submit(Task(Kind.STATE, 0), lambda: None).cancelled()

    run(test)


def test_virtual_time_charges_what_the_model_says():
    async def test() -> None:
        lane = VirtualLane(lambda task: 0.0 if task.kind is Kind.STATE else FORWARD_SECONDS)
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(*(lane.submit(Task(Kind.FORWARD, 1), lambda: None) for _ in range(4)))
        assert loop.time() - start == 4 * FORWARD_SECONDS
        await lane.submit(Task(Kind.STATE, 1), lambda: None)
        assert loop.time() - start == 4 * FORWARD_SECONDS
        await lane.close()

    run_virtual(test())


def test_virtual_time_charges_work_beside_the_lane_one_after_the_other():
    async def test() -> None:
        spans = list[Span]()
        lane = VirtualLane(lambda task: float(task.values), spans.append)
        loop, ended = asyncio.get_running_loop(), dict[str, float]()

        def end(name: str) -> None:
            ended[name] = loop.time()

        both = [
            lane.beside(Task(Kind.STATE, 1, name="merge", values=seconds), lambda n=name: end(n))  # type: ignore[misc]
            for name, seconds in (("first", 3), ("second", 2))
        ]
        on_lane = lane.submit(Task(Kind.STATE, 1, name="apply", values=4), lambda: end("lane"))
        await asyncio.gather(*both, on_lane)
        assert ended == {"first": 3.0, "lane": 4.0, "second": 5.0}
        merges = [span for span in spans if span.task.name == "merge"]
        assert [(s.start_seconds, s.end_seconds) for s in merges] == [(0.0, 3.0), (3.0, 5.0)]
        dropped = lane.beside(Task(Kind.STATE, 1, values=1), lambda: end("dropped"))
        await lane.close()
        await asyncio.sleep(2.0)
        assert dropped.cancelled() and "dropped" not in ended

    run_virtual(test())


def test_a_lane_of_a_slower_machine_takes_at_least_its_seconds_and_not_much_more() -> None:
    """However long the work itself takes: the second task knows from the first what to leave for it."""

    async def main() -> list[float]:
        spans: list[Span] = []
        lane = ThreadLane(spans.append, lambda task: 0.1 if task.kind is Kind.FORWARD else 0.0)
        for work_seconds in (0.06, 0.06, 0.0, 0.0):
            await lane.submit(Task(Kind.FORWARD, 1), lambda s=work_seconds: time.sleep(s))  # type: ignore[misc]
        await lane.submit(Task(Kind.STATE, 1), lambda: None)
        await lane.close()
        return [span.end_seconds - span.start_seconds for span in spans]

    *forwards, state = asyncio.run(main())
    assert all(0.099 <= seconds < 0.5 for seconds in forwards), forwards
    assert state < 0.09


def test_work_beside_the_lane_keeps_no_task_waiting_and_its_outcome_or_error_arrives(run):
    async def test(make) -> None:
        spans = list[Span]()
        lane = make(spans.append)
        may_end = threading.Event()

        def work() -> str:
            # In virtual time it runs at once: only a thread is there to be waited for.
            assert isinstance(lane, VirtualLane) or may_end.wait(10)
            return "summed"

        def failing() -> None:
            raise ValueError("spoilt")

        summed = lane.beside(Task(Kind.STATE, 1, name="merge"), work)
        assert await lane.submit(Task(Kind.FORWARD, 1), lambda: "computed") == "computed"
        assert summed.done() == isinstance(lane, VirtualLane)
        may_end.set()
        assert await summed == "summed"
        assert [span.task.name for span in spans if span.task.kind is Kind.STATE] == ["merge"]
        with pytest.raises(ValueError, match="spoilt"):
            await lane.beside(Task(Kind.STATE, 1), failing)
        await lane.close()

    run(test)


def test_a_closed_lane_ends_the_work_beside_it_and_takes_no_more(run):
    async def test(make) -> None:
        lane, ended = make(None), list[str]()
        running = lane.beside(
            Task(Kind.STATE, 1), lambda: (time.sleep(0.05), ended.append("first"))
        )
        waiting = lane.beside(Task(Kind.STATE, 1), lambda: ended.append("second"))
        await lane.close()
        await asyncio.gather(running, waiting, return_exceptions=True)
        assert ended == ["first"] if isinstance(lane, ThreadLane) else ["first", "second"]
        assert not [thread for thread in threading.enumerate() if "lane" in thread.name]
        assert lane.beside(Task(Kind.STATE, 1), lambda: None).cancelled()

    run(test)
