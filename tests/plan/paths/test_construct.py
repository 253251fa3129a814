"""First routes: the best of several tries, also where slots are few or lock up."""

import math
import random
from dataclasses import replace

import pytest

from swarmtrain.core.errors import ConfigError
from swarmtrain.plan.paths.builder import CROWDINGS, Builder
from swarmtrain.plan.paths.construct import MOST_TRIED_VISITS, SPREAD, first_routes
from swarmtrain.plan.paths.execution import Executor
from swarmtrain.plan.paths.instance import Instance, Share
from swarmtrain.plan.paths.planner import plan
from swarmtrain.plan.paths.routes import Plan, PlannedRoute, violations
from tests.plan.paths.networks import peer, random_instance


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


def test_tries_are_compared_as_they_would_run_with_late_edges_late():
    compared = 0
    for seed in range(0, 180, 3):  # those that have opening_seconds
        instance = replace(random_instance(seed), max_swaps=0)

        def energy(routes: list[PlannedRoute], instance: Instance = instance) -> float:
            ends = Plan(instance, tuple(routes), 0.0, 0.0).execution().ends
            return max(ends) + SPREAD * sum(ends) / len(ends)

        each = [first_routes(instance, (crowding,)) for crowding in CROWDINGS]
        if any(route.release_seconds for routes in each for route in routes):
            continue  # what locks up is another case
        compared += len(set(map(energy, each))) > 1
        assert energy(first_routes(instance)) == min(map(energy, each))
    assert compared > 10


# ---- peers with fewer slots than stages -----------------------------------------------------------------------------

Hosted = list[tuple[tuple[int, ...] | None, int]]
"""Stages and slots of each peer."""


def crowded(hosted: Hosted, visits: int, quotas: Share) -> Instance:
    size = range(len(hosted))
    return Instance(
        peers=tuple(peer(f"p{index}", *own) for index, own in enumerate(hosted)),
        send_seconds=tuple(tuple(0.25 * abs(a - b) for b in size) for a in size),
        stages=1 + max(stage for stages, _ in hosted for stage in stages or ()),
        microbatches=4,
        visits=visits,
        max_swaps=0,
        quotas=quotas,
    )


@pytest.mark.parametrize(
    ("hosted", "visits", "quotas"),
    [
        # Only as an edge does the second peer leave both middle stages to the first, which holds one visit.
        ([((0, 1, 2), 1), (None, 2)], 2, "free"),
        # With the first peer at stage 1 or 3, the second one could not lead a microbatch that visits stage 2.
        ([(None, 1), ((0, 2), 1), ((1,), 1), ((3,), 2)], 2, "equal"),
        ([((1, 2), 1), ((1, 3, 4), 1), (None, 2), ((0, 4), 1)], 3, "equal"),
    ],
)
def test_peers_get_the_places_that_slots_of_others_need(hosted: Hosted, visits: int, quotas: Share):
    found = plan(crowded(hosted, visits, quotas), lambda _: 1.0, random.Random(1))
    assert not list(violations(found)) and math.isfinite(found.makespan_seconds)


@pytest.mark.parametrize(
    ("hosted", "visits", "quotas"),
    [
        # Only the last peer can lead: the first one has the only slot for stage 1.
        ([((0, 1), 1), ((2,), 1), ((0, 2), 1)], 3, "free"),
        # The nearest host of stage 1 is the only one of stage 3.
        ([((0,), 2), ((1, 3), 1), ((2,), 2), ((1,), 2)], 4, "equal"),
        # The two edges can each lead half of the sets of stages.
        ([((0, 1), 1), ((0, 2), 1)], 2, "equal"),
    ],
)
def test_routes_go_past_peers_whose_slots_they_hold(hosted: Hosted, visits: int, quotas: Share):
    instance = crowded(hosted, visits, quotas)
    routes = tuple(first_routes(instance))
    makespan_seconds = Plan(instance, routes, 0.0, 0.0).execution().makespan_seconds
    assert not list(violations(Plan(instance, routes, makespan_seconds, 1.0)))
    assert math.isfinite(makespan_seconds)


def test_what_no_placement_makes_possible_is_refused():
    with pytest.raises(ConfigError, match="memory slots"):
        plan(crowded([((0, 1, 2, 3), 1), (None, 1)], 4, "free"), lambda _: 1.0, random.Random(1))
