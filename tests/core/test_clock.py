"""The virtual clock: exact, ordered, never waiting in real time, and honest about a world that cannot move."""

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.clock import Deadlock, VirtualLoop, run_virtual


def _now_seconds() -> float:
    return asyncio.get_running_loop().time()


def test_starts_at_zero_and_returns_the_result() -> None:
    async def main() -> float:
        return _now_seconds()

    assert run_virtual(main()) == 0.0


def test_sleeping_takes_virtual_time_only() -> None:
    async def main() -> float:
        await asyncio.sleep(1_000_000)
        return _now_seconds()

    started = time.perf_counter()
    assert run_virtual(main()) == 1_000_000
    assert time.perf_counter() - started < 5


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=20))
def test_wakes_in_order_of_time_and_exactly_then(delays: list[float]) -> None:
    woken: list[tuple[float, float]] = []

    async def sleeper(delay: float) -> None:
        await asyncio.sleep(delay)
        woken.append((_now_seconds(), delay))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for delay in delays:
                group.create_task(sleeper(delay))

    run_virtual(main())
    assert [delay for _, delay in woken] == sorted(delays)
    assert all(at == pytest.approx(delay, abs=1e-8) for at, delay in woken)


def test_timers_of_one_moment_fire_in_the_same_order_every_time() -> None:
    order: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for index in range(100):
            loop.call_at(5.0, order.append, index)
        await asyncio.sleep(6)

    run_virtual(main())
    # The loop keeps timers in a heap, which is not stable: that runs agree is all that is promised.
    first = list(order)
    order.clear()
    run_virtual(main())
    assert order == first
    assert sorted(order) == list(range(100))


@pytest.mark.parametrize("limit_seconds", [0.001, 3.0, 86_400.0])
def test_timeouts_are_exact(limit_seconds: float) -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(limit_seconds):
                await asyncio.Event().wait()
        return _now_seconds()

    assert run_virtual(main()) == limit_seconds


def test_work_that_ends_in_time_is_not_timed_out() -> None:
    async def main() -> tuple[str, float]:
        answer = await asyncio.wait_for(asyncio.sleep(3, "done"), timeout=3.0001)
        return answer, _now_seconds()

    assert run_virtual(main()) == ("done", 3.0)


def test_a_timer_due_at_once_fires() -> None:
    # With a clock resolution of 0 this spins for ever.
    async def main() -> float:
        loop = asyncio.get_running_loop()
        fired = loop.create_future()
        loop.call_at(loop.time(), fired.set_result, None)
        await fired
        return _now_seconds()

    assert run_virtual(main()) == 0.0


def test_many_cancelled_timers_are_passed_over() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        for _ in range(500):
            loop.call_later(1, int).cancel()
        await asyncio.sleep(7)
        return _now_seconds()

    assert run_virtual(main()) == 7.0


def test_a_world_that_cannot_move_raises() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run_virtual(main())


def test_a_cancelled_timer_neither_hides_a_deadlock_nor_moves_the_clock() -> None:
    ended_at: list[float] = []

    async def main() -> None:
        asyncio.get_running_loop().call_later(10, int).cancel()
        try:
            await asyncio.Event().wait()
        finally:
            ended_at.append(_now_seconds())

    with pytest.raises(Deadlock):
        run_virtual(main())
    assert ended_at == [0.0]


def test_threads_are_refused() -> None:
    async def main() -> None:
        await asyncio.to_thread(int)

    with pytest.raises(RuntimeError, match="threads are invisible"):
        run_virtual(main())


def test_a_failing_task_group_cancels_at_the_failing_moment() -> None:
    cancelled_at: list[float] = []

    async def bystander() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            cancelled_at.append(_now_seconds())

    async def failing() -> None:
        await asyncio.sleep(2)
        raise ValueError("broken")

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(bystander())
            group.create_task(failing())

    with pytest.raises(ExceptionGroup):
        run_virtual(main())
    assert cancelled_at == [2.0]


def test_loops_do_not_share_their_clock() -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as first:
        first.run(asyncio.sleep(5))
        with asyncio.Runner(loop_factory=VirtualLoop) as second:
            assert second.get_loop().time() == 0.0
        assert first.get_loop().time() == 5.0
