"""Both boards give the figures of the execution model, to the last bit, whatever was put on them before."""

import math
import random
import subprocess
import sys

import pytest

from swarmtrain.plan.paths import boards
from swarmtrain.plan.paths.boards import CompiledBoard, PlainBoard
from swarmtrain.plan.paths.construct import first_routes
from swarmtrain.plan.paths.draft import Draft
from swarmtrain.plan.paths.execution import Executor
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.moves import Moves
from swarmtrain.plan.paths.planner import plan
from swarmtrain.plan.paths.search import by_evaluations
from tests.plan.paths.networks import peer, random_instance

pytest.importorskip("numba")


@pytest.mark.parametrize("kind", [PlainBoard, CompiledBoard])
def test_a_board_measures_what_the_model_says(kind):
    """Random legal plans, changed and measured again and again."""
    for seed in range(60):
        instance = random_instance(seed, exact=seed % 2 == 0)
        draft, chance = Draft(instance, first_routes(instance)), random.Random(seed)
        board, executor = kind(instance), Executor(instance)
        moves = Moves(draft, chance, range(instance.microbatches))
        moves.horizon_seconds = 20.0
        for _ in range(12):
            for index, route in enumerate(draft.routes):
                board.put(index, route.peers, route.release_seconds)
            chains = [executor.chain(route.peers) for route in draft.routes]
            ends = executor.run(chains, [route.release_seconds for route in draft.routes]).ends
            makespan, total, last = board.measure()
            assert makespan == max(ends) == ends[last]
            assert total == pytest.approx(sum(ends), rel=1e-12)
            change = moves.propose()
            if change is not None:
                draft.apply(change)


def test_both_boards_agree_where_equals_are_rounded():
    for seed in range(60):
        instance = random_instance(seed, exact=False)
        plain, compiled = PlainBoard(instance), CompiledBoard(instance)
        for index, route in enumerate(first_routes(instance)):
            plain.put(index, route.peers, 0.0)
            compiled.put(index, route.peers, 0.0)
        assert plain.measure() == compiled.measure()
        assert plain.measure(is_again=True) == compiled.measure(is_again=True)


@pytest.mark.parametrize("kind", [PlainBoard, CompiledBoard])
def test_microbatches_that_lock_each_other_up_never_end(kind):
    """Two peers of one slot, visited in opposite orders."""
    instance = Instance(
        peers=(peer("edge", (0,), 2), peer("a", (1, 2), 1), peer("b", (1, 2), 1)),
        send_seconds=((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)),
        stages=3,
        microbatches=2,
        visits=3,
    )
    board = kind(instance)
    board.put(0, (0, 1, 2), 0.0)
    board.put(1, (0, 2, 1), 0.0)
    makespan, total, _ = board.measure()
    assert math.isinf(makespan) and math.isinf(total)


@pytest.mark.parametrize("kind", [PlainBoard, CompiledBoard])
def test_forgotten_chains_come_back(kind, monkeypatch):
    monkeypatch.setattr(boards, "MOST_CHAINS", 2)
    monkeypatch.setattr(boards, "FIRST_CHAINS", 1)
    instance = max(
        map(random_instance, range(40)), key=lambda one: one.microbatches * len(one.peers)
    )
    chance = random.Random(1)
    draft = Draft(instance, first_routes(instance))
    moves = Moves(draft, chance, range(instance.microbatches))
    board, seen = kind(instance), set()
    for _ in range(200):
        change = moves.propose()
        if change is not None:
            draft.apply(change)
        for index, route in enumerate(draft.routes):
            board.put(index, route.peers, 0.0)
            seen.add(route.peers)
    assert len(seen) > 4 * instance.microbatches > 8
    fresh = PlainBoard(instance)
    for index, route in enumerate(draft.routes):
        fresh.put(index, route.peers, 0.0)
    assert board.measure() == fresh.measure()


def test_a_search_finds_the_same_plan_without_the_compiler(monkeypatch):
    instance = random_instance(11)
    fast = plan(instance, by_evaluations(800), random.Random(5))
    monkeypatch.setattr(boards, "find_spec", lambda name: None)
    assert plan(instance, by_evaluations(800), random.Random(5)) == fast


def test_a_first_plan_does_not_wait_for_the_compiler():
    script = (
        "import random, sys\n"
        "from swarmtrain.plan.paths.planner import plan\n"
        "from tests.plan.paths.networks import random_instance\n"
        "plan(random_instance(3), lambda done: 1.0, random.Random(1))\n"
        "assert 'numba' not in sys.modules\n"
        "plan(random_instance(3), lambda done: done / 9, random.Random(1))\n"
        "assert 'numba' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
