"""Peers serve tasks in the order in which the planner expects them to: both lanes beside the execution model."""

import asyncio
import random
import threading
from dataclasses import dataclass

import pytest

from swarmtrain.compute.lane import Kind, Lane, Task, ThreadLane, VirtualLane
from swarmtrain.core.clock import run_virtual
from swarmtrain.plan.paths import execution

PLANNED = {
    Kind.FORWARD: execution.FORWARD,
    Kind.LOSS: execution.LOSS,
    Kind.BACKWARD: execution.BACKWARD,
}
TASK_SECONDS = 1.0
FIRST_SECONDS = 4.0
"""Of a task that occupies the peer while others come."""


@dataclass(frozen=True)
class Arriving:
    """The task of a key at the peer, and when it comes."""

    kind: Kind
    remaining: float
    seconds: float


def cases() -> list[tuple[Arriving, ...]]:
    """By key; few different values, so that much is equal: kinds, then round trips, then arrivals too."""
    found = []
    for seed in range(60):
        chance = random.Random(seed)
        kinds = chance.choice([[Kind.FORWARD], [Kind.BACKWARD, Kind.LOSS], list(PLANNED)])
        trips, latest = chance.choice([1, 2, 5]), chance.choice([1, 3, 12])
        found.append(
            tuple(
                Arriving(
                    chance.choice(kinds),
                    float(chance.randint(1, trips)),
                    0.75 * chance.randint(1, latest),
                )
                for _ in range(chance.randint(2, 12))
            )
        )
    return found


def by_the_planner(tasks: tuple[Arriving, ...]) -> list[int]:
    """Each key comes from a peer of its own; one more microbatch occupies the peer first."""
    busy = (-100.0, 0, FIRST_SECONDS, execution.FORWARD, 0.0)
    chains: list[execution.Chain] = [
        (
            (-100.0, 1 + key, task.seconds, execution.FORWARD, 0.0),
            (-task.remaining, 0, TASK_SECONDS, PLANNED[task.kind], 0.0),
        )
        for key, task in enumerate(tasks)
    ]
    count = len(tasks)
    found = execution.run([*chains, (busy,)], [0.0] * (count + 1), [count + 1] * (count + 1), 0.0)
    starts = [found.starts[key][-1] for key in range(count)]
    return sorted(range(count), key=starts.__getitem__)


async def by_the_lane(lane: Lane, tasks: tuple[Arriving, ...]) -> list[int]:
    """In virtual time, where tasks come when they are due; last keys first where they come at once."""
    seen: list[int] = []
    loop = asyncio.get_running_loop()
    arrived = [loop.create_future() for _ in tasks]

    def submit(key: int) -> None:
        task = tasks[key]
        work = lane.submit(Task(task.kind, 1, task.remaining, key), lambda: seen.append(key))
        work.add_done_callback(lambda _: arrived[key].set_result(None))

    lane.submit(Task(Kind.FORWARD, 0, 100.0, len(tasks)), lambda: None)
    for key in reversed(range(len(tasks))):
        loop.call_at(tasks[key].seconds, submit, key)
    await asyncio.gather(*arrived)
    await lane.close()
    return seen


@pytest.mark.parametrize("tasks", cases())
def test_a_lane_in_virtual_time_serves_tasks_as_the_planner_expects(tasks: tuple[Arriving, ...]):
    async def main() -> list[int]:
        lane = VirtualLane(lambda task: TASK_SECONDS if task.stage else FIRST_SECONDS)
        return await by_the_lane(lane, tasks)

    assert run_virtual(main()) == by_the_planner(tasks)


@pytest.mark.parametrize("tasks", cases())
def test_a_lane_with_a_thread_serves_tasks_as_the_planner_expects(tasks: tuple[Arriving, ...]):
    """Tasks come one after the other while the lane is occupied; here nothing comes at once."""
    early = tuple(task for task in tasks if task.seconds < FIRST_SECONDS)

    async def main() -> list[int]:
        lane, gate, seen = ThreadLane(), threading.Event(), list[int]()
        lane.submit(Task(Kind.STATE, 0), lambda: gate.wait(10))
        work = [
            lane.submit(
                Task(early[key].kind, 1, early[key].remaining, key),
                lambda key=key: seen.append(key),
            )
            for key in sorted(range(len(early)), key=lambda key: early[key].seconds)
        ]
        gate.set()
        await asyncio.gather(*work)
        await lane.close()
        return seen

    assert asyncio.run(main()) == by_the_planner(early)
