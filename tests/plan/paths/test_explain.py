"""The worst path adds up, and names slots and peers that were waited for."""

import random

import pytest

from swarmtrain.plan.paths.explain import worst_path
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.planner import plan
from swarmtrain.plan.paths.routes import Plan, PlannedRoute
from swarmtrain.plan.paths.search import by_evaluations
from tests.plan.paths.networks import random_instance
from tests.plan.paths.test_execution import pair


def as_plan(instance: Instance, routes: list[PlannedRoute]) -> Plan:
    found = Plan(instance, tuple(routes), 0.0, 1.0)
    makespan = found.execution().makespan_seconds
    return Plan(instance, tuple(routes), makespan, 1.0)


@pytest.mark.parametrize("seed", range(30))
def test_the_worst_path_adds_up_to_the_makespan(seed: int):
    found = plan(random_instance(seed), by_evaluations(100), random.Random(seed))
    worst = worst_path(found)
    total = worst.release_seconds + worst.work_seconds + worst.send_seconds + worst.wait_seconds
    assert total == pytest.approx(found.makespan_seconds)
    assert worst.stops[-1].end_seconds == found.makespan_seconds
    for stop in worst.stops:
        waited = stop.slot_seconds + stop.busy_seconds
        assert waited == pytest.approx(stop.start_seconds - stop.arrival_seconds)


def test_waiting_for_a_slot_is_told_from_waiting_for_the_peer():
    worst = worst_path(as_plan(pair(2, slots=1), [PlannedRoute((0, 1), (0, 1))] * 2))
    first = worst.stops[0]
    assert worst.microbatch == 1
    # The slot is free at 9.5, the peer after its gap at 9.75.
    assert (first.slot_seconds, first.busy_seconds, first.behind) == (9.5, 0.25, (0, 0, 0))
    worst = worst_path(as_plan(pair(2), [PlannedRoute((0, 1), (0, 1))] * 2))
    assert (worst.stops[1].slot_seconds, worst.stops[1].busy_seconds) == (0.0, 0.5)
    assert [stop.task for stop in worst.stops] == ["forward"] * 2 + ["loss"] + ["backward"] * 2
    assert [stop.stage for stop in worst.stops] == [0, 1, 0, 1, 0]
