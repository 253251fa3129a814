"""Sketches: legal, better than what they begin with, the same with and without the compiler."""

import random
import subprocess
import sys
from dataclasses import replace

import pytest

from swarmtrain.plan.paths import moves
from swarmtrain.plan.paths.compiling import counts
from swarmtrain.plan.paths.construct import first_routes
from swarmtrain.plan.paths.execution import Executor
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.placement import first_placement
from swarmtrain.plan.paths.routes import Plan, violations
from swarmtrain.plan.paths.search import by_evaluations
from swarmtrain.plan.paths.sequences import is_legal
from swarmtrain.plan.paths.sketching import sketched
from tests.plan.paths.networks import peer, random_instance, unplaced


def sketch_of(instance: Instance, seed: int = 1) -> Plan:
    placed = first_placement(instance)
    routes, budget = first_routes(placed), by_evaluations(400)
    there, along, _ = sketched(instance, placed, routes, 1.2, budget, random.Random(seed))
    return Plan(there, tuple(along), 1.0, 1.0)


def mean_trip_seconds(found: Plan) -> float:
    executor = Executor(found.instance)
    trips = [executor.round_trip_seconds(route.peers) for route in found.routes]
    return sum(trips) / len(trips)


def camps(count: int, size: int = 4) -> Instance:
    """Peers in far camps of `size`, dealt out in turn, four stages: no route needs to leave its camp."""
    return Instance(
        peers=tuple(peer(f"p{i}", None, 4) for i in range(count * size)),
        send_seconds=tuple(
            tuple(0.1 if a % count == b % count else 9.0 for b in range(count * size))
            for a in range(count * size)
        ),
        stages=4,
        microbatches=4 * count,
        visits=4,
        quotas="free",
        stage_sizes=(count * size // 4,) * 4,
    )


@pytest.mark.parametrize("seed", range(40))
def test_sketches_are_legal_plans(seed: int):
    instance = random_instance(seed)
    assert not list(violations(sketch_of(instance, seed)))
    assert not list(violations(sketch_of(unplaced(instance), seed)))
    sizes = tuple(map(len, first_placement(unplaced(instance)).hosts))
    sized = replace(unplaced(instance), stage_sizes=sizes)
    assert not list(violations(sketch_of(sized, seed)))


def test_who_has_a_place_keeps_it():
    for seed in range(20):
        instance = random_instance(seed)
        kept = replace(instance.peers[0], stages=(0,))
        others = unplaced(instance).peers[1:]
        mixed = replace(instance, peers=(kept, *others), quotas="free")
        assert sketch_of(mixed, seed).instance.peers[0] == kept


def test_first_places_follow_chains_of_near_peers():
    found = first_placement(camps(3))
    for stage in range(4):
        assert {index % 3 for index in found.hosts[stage]} == {0, 1, 2}


def test_a_sketch_finds_near_neighbours():
    """Most of a camp on one stage to begin with: every route has to leave it."""
    instance = replace(camps(3), stage_sizes=None, visits=3)
    by_camp = sorted(range(12), key=lambda index: index % 3)
    scrambled = instance.placed((by_camp.index(index) // 3,) for index in range(12))
    routes = first_routes(scrambled)
    before = mean_trip_seconds(Plan(scrambled, tuple(routes), 1.0, 1.0))
    budget, chance = by_evaluations(4000), random.Random(1)
    there, along, _ = sketched(instance, scrambled, routes, 1.0, budget, chance)
    assert mean_trip_seconds(Plan(there, tuple(along), 1.0, 1.0)) < 0.5 * before


def test_orders_are_judged_as_everywhere():
    chance = random.Random(1)
    legal = 0
    for _ in range(3000):
        order = tuple(chance.sample(range(1, 7), chance.randint(1, 6)))
        rules = chance.randint(0, 2), chance.randint(1, 4)
        assert _is_legal_route(order, *rules) == is_legal(order, *rules), (order, rules)
        legal += is_legal(order, *rules)
    assert legal > 300


def _is_legal_route(order: tuple[int, ...], max_swaps: int, max_jump: int) -> bool:
    return bool(moves.is_legal(counts((0, *order)), 0, 1 + len(order), max_swaps, max_jump))


def test_the_compiler_changes_nothing():
    script = (
        "import random, sys\n"
        "if sys.argv[1] == 'plain':\n"
        "    import importlib.util as util\n"
        "    find = util.find_spec\n"
        "    util.find_spec = lambda name, *more: None if name == 'numba' else find(name, *more)\n"
        "from swarmtrain.plan.paths.planner import plan\n"
        "from swarmtrain.plan.paths.search import by_evaluations\n"
        "from tests.plan.paths.networks import random_instance, unplaced\n"
        "for seed in (3, 11, 12):\n"
        "    instance = unplaced(random_instance(seed, exact=False))\n"
        "    print(plan(instance, by_evaluations(600), random.Random(5)))\n"
        "    instance = random_instance(seed, exact=False)\n"
        "    print(plan(instance, by_evaluations(600), random.Random(5)))\n"
        "assert ('numba' in sys.modules) == (sys.argv[1] != 'plain')\n"
    )
    pytest.importorskip("numba")
    plain, fast = (
        subprocess.run(
            [sys.executable, "-c", script, way], check=True, timeout=200, capture_output=True
        ).stdout
        for way in ("plain", "compiled")
    )
    assert plain == fast and plain
