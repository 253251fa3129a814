"""The bound against exhaustive optima, and against plans by hand."""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from swarmtrain.plan.paths.bounds import better_bound_seconds, lower_bound_seconds
from swarmtrain.plan.paths.execution import Executor
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.planner import plan
from swarmtrain.plan.paths.routes import Plan, PlannedRoute, violations
from swarmtrain.plan.paths.search import by_evaluations
from swarmtrain.plan.paths.sequences import MOST_OF_A_SET, orders, stage_sets
from swarmtrain.plan.paths.stage_peers import StagePeers
from swarmtrain.plan.paths.walks import cheapest_walks
from tests.plan.paths.networks import clusters, eighths, pairs, peer, random_instance, unplaced

MOST_PLANS = 1500


def all_routes(instance: Instance) -> list[PlannedRoute]:
    found = []
    for stages in stage_sets(
        instance.stages - 1, instance.middle_visits, instance.protected_stages, instance.max_jump
    ):
        for order in orders(stages, instance.max_swaps, instance.max_jump):
            hosts = [instance.hosts[stage] for stage in (0, *order)]
            found += [PlannedRoute((0, *order), peers) for peers in product(*hosts)]
    return found


def optimum_seconds(instance: Instance) -> float:
    """The best makespan of all legal plans that release everything at once; infinite where none ever ends."""
    executor, best = Executor(instance), math.inf
    known = {route: executor.chain(route.peers) for route in all_routes(instance)}
    for routes in product(known, repeat=instance.microbatches):
        begins = [instance.begin_seconds(route.peers[0], 0.0) for route in routes]
        execution = executor.run([known[route] for route in routes], begins)
        is_better = execution.makespan_seconds < best
        if is_better and not any(violations(Plan(instance, routes, 1.0, 1.0))):
            best = execution.makespan_seconds
    return best


def small_instances(seeds: range) -> list[tuple[int, Instance]]:
    found = []
    for seed in seeds:
        instance = random_instance(seed)
        if len(all_routes(instance)) ** instance.microbatches <= MOST_PLANS:
            found.append((seed, instance))
    return found


def closest_bound(instance: Instance) -> float:
    """With the closer look, up to twice the quick bound."""
    quick = lower_bound_seconds(instance)
    return better_bound_seconds(instance, quick, 2 * quick)


def test_the_bound_is_never_above_an_exhaustive_optimum():
    tight = 0
    for seed, instance in small_instances(range(1000, 1150)):
        optimum, bound = optimum_seconds(instance), lower_bound_seconds(instance)
        assert bound <= optimum, seed
        if all(len(own.stages or ()) == 1 for own in instance.peers):
            sizes = tuple(map(len, instance.hosts))
            for free in (unplaced(instance), replace(unplaced(instance), stage_sizes=sizes)):
                assert closest_bound(free) <= optimum, seed
        tight += bound > 0.9 * optimum
    assert tight > 20


def placements(instance: Instance) -> Iterator[Instance]:
    """Every way to give each peer one stage, none left without."""
    for stages in product(range(instance.stages), repeat=len(instance.peers)):
        if len(set(stages)) == instance.stages:
            yield instance.placed((stage,) for stage in stages)


def test_the_bound_of_free_places_is_never_above_the_best_of_all_placements():
    checked = tight = 0
    for seed in range(2000, 2400):
        instance = unplaced(random_instance(seed))
        if len(instance.peers) > 4 or instance.microbatches > 3:
            continue
        options = list(placements(instance))
        if sum(len(all_routes(one)) ** one.microbatches for one in options) > 20 * MOST_PLANS:
            continue
        best, bound = (
            min(map(optimum_seconds, options), default=math.inf),
            closest_bound(instance),
        )
        assert bound <= best, seed
        checked, tight = checked + 1, tight + (bound > 0.8 * best)
    assert checked > 20 and tight > 5


def test_bounds_are_never_above_what_turns_of_slots_come_to():
    """One route only and many microbatches, far more than slots: what is executed is the only plan there is."""
    tight = 0
    for seed in range(300):
        chance = random.Random(seed)
        instance = lone_route(chance)
        route = PlannedRoute(tuple(range(instance.stages)), tuple(range(instance.stages)))
        executed = Plan(instance, (route,) * instance.microbatches, 1.0, 1.0)
        makespan, bound = executed.execution().makespan_seconds, lower_bound_seconds(instance)
        assert bound <= makespan, seed
        tight += bound > 0.95 * makespan
    assert tight > 100


def lone_route(chance: random.Random) -> Instance:
    stages = chance.randint(2, 4)
    slots, far = chance.randint(1, 3), chance.choice((0.5, 4.0))
    return Instance(
        peers=tuple(
            peer(f"p{i}", (i,), slots, forward=eighths(chance, 2), backward=eighths(chance, 3))
            for i in range(stages)
        ),
        send_seconds=tuple(
            tuple(0.0 if a == b else eighths(chance, far) for b in range(stages))
            for a in range(stages)
        ),
        stages=stages,
        microbatches=chance.randint(1, 12),
        visits=stages,
        task_gap_seconds=chance.choice((0.0, 0.125)),
    )


def equal_peers(count: int, stages: int, microbatches: int, slots: int) -> Instance:
    """On equal links, nobody placed; every microbatch visits all stages."""
    return Instance(
        peers=tuple(peer(f"p{i}", None, slots) for i in range(count)),
        send_seconds=tuple(tuple(0.5 * (a != b) for b in range(count)) for a in range(count)),
        stages=stages,
        microbatches=microbatches,
        visits=stages,
        quotas="free",
    )


def test_whole_peers_make_the_bound_of_free_places_longer():
    """Five middle stages of ten visits each and eleven equal peers: fractions of peers would be done sooner."""
    instance = equal_peers(11, stages=6, microbatches=10, slots=9)
    quick, bound = lower_bound_seconds(instance), closest_bound(instance)
    pairs = instance.placed((index // 2,) for index in range(11))
    assert 1.03 * quick < bound <= lower_bound_seconds(pairs) + 1e-9


def test_given_sizes_bind_the_closer_look():
    """Equal peers on equal links: sizes leave nothing to choose, so the bound of given places is no smaller."""
    even, lopsided = (3, 2, 2, 2), (3, 1, 2, 3)
    free = equal_peers(9, stages=4, microbatches=12, slots=3)
    found = []
    for sizes in (even, lopsided):
        sized = replace(free, stage_sizes=sizes)
        placed = sized.placed((stage,) for stage, size in enumerate(sizes) for _ in range(size))
        found.append(closest_bound(sized))
        assert found[-1] <= lower_bound_seconds(placed) + 1e-9
    assert found[1] > 1.2 * found[0]


def test_loads_of_one_peer_are_those_that_fit():
    """One slot: one visit after the other, and the earlier on the route the longer."""
    instance = replace(pairs(1), microbatches=6, quotas="free")
    walks = cheapest_walks(instance)
    last_place_first = min(walks.answers[2]) + 3.0 + min(walks.finishes[0])
    loads = StagePeers(instance, walks).largest_loads(last_place_first)

    def fits(*visits: int) -> bool:
        return any(all(n <= m for n, m in zip(visits, load, strict=True)) for load in loads)

    assert fits(1, 0, 1) and not fits(2, 0, 0) and not fits(1, 1, 0)
    assert all(fits(*load) for load in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))


def chain(microbatches: int, slots: int) -> Instance:
    return Instance(
        peers=(peer("edge", (0,), slots), peer("middle", (1,), slots)),
        send_seconds=((0.0, 4.0), (4.0, 0.0)),
        stages=2,
        microbatches=microbatches,
        visits=2,
        task_gap_seconds=0.125,
    )


@pytest.mark.parametrize(
    ("microbatches", "slots", "seconds"),
    [
        (1, 1, 22.5),  # the critical path: 16 of sends, 6.5 of tasks
        (3, 1, 3 * 22.5 + 2 * 0.125),  # residence: one after the other
        (2, 2, 22.5 + 2.125),  # whole visits: the second ends a backward after the first
        (40, 40, 40 * 3.875 - 0.125),  # node load at the edge
    ],
)
def test_each_reason_by_hand(microbatches: int, slots: int, seconds: float):
    assert lower_bound_seconds(chain(microbatches, slots)) == pytest.approx(seconds, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_a_lone_round_trip_in_free_places_is_proven_best(seed: int):
    """What is found for one microbatch takes no longer than the bound; and no plan for several takes less."""
    instance = clusters(random.Random(seed))
    for microbatches in (1, 2, 6):
        few = replace(instance, microbatches=microbatches)
        found = plan(few, by_evaluations(1000), random.Random(seed))
        assert closest_bound(few) <= found.makespan_seconds
        assert microbatches > 1 or found.gap < 1 + 1e-9


def test_the_closer_look_asks_for_stage_peers_only_where_it_has_to(monkeypatch):
    """Between two makespans for which stages need equally many peers they need as many."""
    asked: dict[float, int | None] = {}
    fewest = StagePeers.fewest

    def noted(self: StagePeers, limit_seconds: float) -> int | None:
        for longer in (limit for limit in asked if limit > limit_seconds):
            for shorter in (limit for limit in asked if limit < limit_seconds):
                assert asked[shorter] != asked[longer]
        asked[limit_seconds] = fewest(self, limit_seconds)
        return asked[limit_seconds]

    monkeypatch.setattr(StagePeers, "fewest", noted)
    closest_bound(equal_peers(11, stages=4, microbatches=12, slots=2))
    assert asked


def test_slots_beside_the_edges_bind_where_many_visits_hold_them_long():
    """One slot each and six microbatches: 18 middle visits hold slots of at most five peers."""
    instance = replace(pairs(1), microbatches=6, quotas="free")
    stays = [min(stay) for stay in cheapest_walks(instance).stays]
    assert stays == sorted(stays, reverse=True) and stays[2] < stays[0] / 2
    assert lower_bound_seconds(instance) > 6 * sum(stays) / 5


def test_where_orders_of_a_set_are_left_out_nobody_takes_them_for_all():
    """A bound over some of the orders would bound nothing."""
    peers = tuple(peer(f"p{stage}", (stage,)) for stage in range(31))
    sends = tuple(tuple(0.125 for _ in peers) for _ in peers)
    instance = Instance(peers, sends, 31, microbatches=2, visits=31, max_swaps=2)
    assert len(orders(tuple(range(1, 31)), 2, instance.max_jump)) == MOST_OF_A_SET
    assert StagePeers(instance, cheapest_walks(instance))._orders is None
