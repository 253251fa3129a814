"""First routes where slots lock up: ascending ones, or released some time apart, but not one after the other."""

import random

import pytest

from swarmtrain.plan.paths.construct import MOST_TRIED_VISITS, Builder, first_routes
from swarmtrain.plan.paths.execution import Executor
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.routes import Plan, PlannedRoute, violations
from tests.plan.paths.networks import peer


def instance_of(
    chance: random.Random, hosted: list[tuple[int, ...]], microbatches: int
) -> Instance:
    """Peers of two slots each; every stage is visited."""
    count = range(len(hosted))
    return Instance(
        peers=tuple(peer(f"p{index}", own, 2) for index, own in enumerate(hosted)),
        send_seconds=tuple(
            tuple(0.0 if a == b else chance.uniform(0.05, 1.0) for b in count) for a in count
        ),
        stages=max(map(max, hosted)) + 1,
        microbatches=microbatches,
        visits=max(map(max, hosted)) + 1,
        max_swaps=2,
        task_gap_seconds=0.125,
        quotas="free",
    )


def makespan_and_trips(instance: Instance, routes: list[PlannedRoute]) -> tuple[float, float]:
    """(seconds of the step, seconds that its microbatches take one after the other)."""
    executor = Executor(instance)
    chains = [executor.chain(route.peers) for route in routes]
    found = executor.run(chains, [route.release_seconds for route in routes])
    trips = sum(executor.round_trip_seconds(route.peers) for route in routes)
    assert not list(violations(Plan(instance, tuple(routes), found.makespan_seconds, 0.0, 1)))
    return found.makespan_seconds, trips


def test_where_swapped_routes_lock_up_ascending_ones_are_released_at_once():
    instance = instance_of(random.Random(5), [(stage,) for stage in range(5)] * 2, 24)
    routes = first_routes(instance)
    assert all(list(route.stages) == sorted(route.stages) for route in routes)
    assert not any(route.release_seconds for route in routes)
    makespan_seconds, trips_seconds = makespan_and_trips(instance, routes)
    assert makespan_seconds < trips_seconds / 2


@pytest.mark.parametrize("seed", range(5))
def test_where_ascending_routes_lock_up_too_releases_are_no_round_trip_apart(seed: int):
    chance = random.Random(seed)
    hosted = [(stage, (stage + chance.randint(1, 3)) % 4) for stage in range(4)] * 2
    instance = instance_of(chance, [tuple(sorted(own)) for own in hosted], 12)
    routes = first_routes(instance)
    assert any(route.release_seconds for route in routes)
    makespan_seconds, trips_seconds = makespan_and_trips(instance, routes)
    assert makespan_seconds < 0.6 * trips_seconds


def test_of_large_instances_ascending_orders_only_are_looked_at(monkeypatch: pytest.MonkeyPatch):
    """All orders of 2,000 routes along 9 of 12 stages took 19 seconds, and were worse."""
    walked: list[tuple[int, ...]] = []
    walk = Builder._walk
    monkeypatch.setattr(
        Builder,
        "_walk",
        lambda self, edge, order: walked.append(order) or walk(self, edge, order),
    )
    large = MOST_TRIED_VISITS // 5 + 1
    first_routes(instance_of(random.Random(5), [(stage,) for stage in range(5)] * 2, large))
    assert len(walked) == large and set(walked) == {(1, 2, 3, 4)}
