"""In-flight limits: one slot reserved a position, a shared pool, a bounded queue, nothing lost (R12, I8)."""

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.clock import run_virtual
from swarmtrain.peer.slots import Busy, Slots


class Holder:
    """Takes slots and gives them back when told; `order` says who got one."""

    def __init__(self, slots: Slots) -> None:
        self.slots, self.order = slots, list[str]()
        self._release: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def take(self, name: str, position: int) -> bool:
        """Whether `name` holds a slot once everything ready has run."""
        self._release[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._hold(name, position))
        await asyncio.sleep(0.001)
        return name in self.order

    async def give(self, name: str) -> None:
        self._release[name].set()
        await asyncio.sleep(0.001)

    async def drop(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)

    async def refused(self, name: str) -> bool:
        return isinstance(self._tasks[name].exception(), Busy)

    async def _hold(self, name: str, position: int) -> None:
        async with self.slots.hold(position):
            self.order.append(name)
            await self._release[name].wait()


def run(test: Coroutine[Any, Any, None]) -> None:
    run_virtual(test)


def test_every_position_has_a_slot_of_its_own_then_the_pool_then_the_queue_then_busy():
    async def test() -> None:
        holder = Holder(Slots(shared=1, queue=1))
        assert await holder.take("own-1", 1)
        assert await holder.take("pool", 1)
        assert not await holder.take("waits", 1)
        await holder.take("busy", 1)
        assert await holder.refused("busy")
        assert await holder.take("own-2", 2), "another position's slot stays its own"
        assert holder.slots.waiting == 1

    run(test())


def test_a_reserved_slot_goes_to_its_own_position_and_a_shared_one_to_the_highest():
    async def test() -> None:
        holder = Holder(Slots(shared=1, queue=9))
        for name, position in (("own-1", 1), ("own-3", 3), ("pool", 1)):
            assert await holder.take(name, position)
        for name, position in (("first-1", 1), ("late-1", 1), ("first-3", 3)):
            assert not await holder.take(name, position)
        await holder.give("own-1")
        assert holder.order[-1] == "first-1", "in order of arrival within a position"
        await holder.give("pool")
        assert holder.order[-1] == "first-3", "waits only go to higher positions"
        await holder.give("own-3")
        assert "late-1" not in holder.order

    run(test())


def test_own_work_at_position_0_waits_however_short_the_queue():
    """It is bounded before it starts (`limits.in_flight`); BUSY would have nobody to go to."""

    async def test() -> None:
        holder = Holder(Slots(shared=0, queue=1))
        assert await holder.take("lead", 0)
        for index in range(5):
            assert not await holder.take(f"lead-{index}", 0)
        assert holder.slots.waiting == 0, "and it takes nobody's place in the queue"
        assert await holder.take("call", 1)
        assert not await holder.take("queued", 1)
        await holder.give("lead")
        assert holder.order[-1] == "lead-0"

    run(test())


@pytest.mark.parametrize("when", ["waiting", "handed over"])
def test_who_gives_up_waiting_loses_no_slot(when: str):
    async def test() -> None:
        holder = Holder(Slots(shared=0, queue=2))
        await holder.take("holds", 1)
        await holder.take("gives up", 1)
        if when == "handed over":
            holder._release["holds"].set()
            await asyncio.sleep(0)
        await holder.drop("gives up")
        await holder.give("holds")
        assert await holder.take("next", 1)
        assert holder.slots.waiting == 0

    run(test())


@given(
    seed=st.integers(0, 2**32 - 1),
    shared=st.integers(0, 3),
    queue=st.integers(0, 4),
    calls=st.integers(1, 40),
)
@settings(max_examples=40, deadline=None)
def test_under_any_traffic_bounds_hold_and_every_slot_comes_back(
    seed: int, shared: int, queue: int, calls: int
):
    async def test() -> None:
        chance, slots, held = random.Random(seed), Slots(shared, queue), Counter[int]()

        async def call(position: int, start: float, length: float, patience: float) -> None:
            await asyncio.sleep(start)
            try:
                async with asyncio.timeout(patience), slots.hold(position):
                    held[position] += 1
                    try:
                        extra = sum(max(0, count - 1) for count in held.values())
                        assert extra <= shared and slots.waiting <= queue
                        await asyncio.sleep(length)
                    finally:
                        held[position] -= 1
            except (Busy, TimeoutError):
                pass

        await asyncio.gather(
            *(
                call(chance.randrange(1, 4), chance.random(), chance.random(), 2 * chance.random())
                for _ in range(calls)
            )
        )
        assert slots.waiting == 0 and slots._shared_free == shared
        assert not any(slots._reserved_used.values())

    run(test())
