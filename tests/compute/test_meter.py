"""What a lane measures of itself: shares, waits and seconds a pass, of the last half minute."""

import asyncio

import pytest

from swarmtrain.compute.lane import Kind, Task, VirtualLane
from swarmtrain.compute.meter import MEMORY_SECONDS, LaneLoad, Meter
from swarmtrain.core.clock import run_virtual

SECONDS = {Kind.FORWARD: 1.0, Kind.BACKWARD: 2.0, Kind.STATE: 5.0}


def test_an_unused_lane_has_no_load():
    assert Meter(3.0).load(3.0) == LaneLoad(0.0, 0.0, None)
    assert Meter(3.0).load(9.0) == LaneLoad(0.0, 0.0, None)


def test_half_the_time_busy_and_two_waiting():
    meter = Meter(0.0)
    for number in range(1, 101):
        meter.add(0.5, 2.0, "forward" if number % 2 else "backward", float(number))
    load = meter.load(100.0)
    assert load.busy_share == pytest.approx(0.5, rel=0.03)
    assert load.waiting_tasks == pytest.approx(2.0, rel=0.03)
    assert load.pass_seconds == pytest.approx(1.0, rel=0.03)


def test_it_forgets():
    meter = Meter(0.0)
    for number in range(1, 31):
        meter.add(1.0, 1.0, "backward", float(number))
    assert meter.load(30.0 + 10 * MEMORY_SECONDS).busy_share < 0.001
    assert meter.load(30.0 + 10 * MEMORY_SECONDS).pass_seconds is None


def test_the_lane_counts_microbatches_and_leaves_changes_of_state_out():
    async def main() -> None:
        lane = VirtualLane(lambda task: SECONDS[task.kind])
        kinds = [Kind.FORWARD, Kind.BACKWARD] * 4 + [Kind.STATE]
        await asyncio.gather(*(lane.submit(Task(kind, 1), lambda: None) for kind in kinds))
        load = lane.meter.load(asyncio.get_running_loop().time())
        assert load.pass_seconds == pytest.approx(3.0, rel=0.2)
        assert (load.forward_seconds, load.backward_seconds) == pytest.approx((1.0, 2.0))
        assert load.loss_seconds == 0
        # 12 of 17 seconds were spent on microbatches, and 8 tasks waited, ever fewer.
        assert load.busy_share == pytest.approx(12 / 17, rel=0.2)
        assert 3.0 < load.waiting_tasks < 8.0
        await lane.close()

    run_virtual(main())
