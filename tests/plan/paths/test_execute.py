"""Executing for a search gives the figures of the execution model, to the last bit, whatever was executed before."""

import math
import random
import subprocess
import sys

import pytest

from swarmtrain.plan.paths.compiling import IS_COMPILED, figures
from swarmtrain.plan.paths.construct import first_routes
from swarmtrain.plan.paths.draft import Draft, draft_of, exchange, routes_of, trial_of
from swarmtrain.plan.paths.execute import (
    Tasks,
    _execute_plainly,
    costs_of,
    execute,
    take_costs,
    tasks_of,
    write_row,
)
from swarmtrain.plan.paths.freedom import ANYTHING, Freedom, visits_of
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.moves import propose
from swarmtrain.plan.paths.routes import Plan, PlannedRoute
from swarmtrain.plan.paths.ways import shaken
from tests.plan.paths.networks import peer, random_instance


def drafted(instance: Instance, routes: list[PlannedRoute], seed: int = 1) -> Draft:
    freedom = Freedom(ANYTHING, visits_of(instance))
    return draft_of(instance, routes, freedom, random.Random(seed), 20.0)


def written(tasks: Tasks, draft: Draft) -> Tasks:
    for index in range(len(draft.release_M)):
        write_row(tasks, draft, index)
    return tasks


def expected(instance: Instance, draft: Draft) -> tuple[float, float, int]:
    """By the model itself: makespan, sum in order, who ends last."""
    ends = Plan(instance, tuple(routes_of(draft)), 0.0, 0.0).execution().ends
    total = 0.0
    for end in ends:
        total += end
    return max(ends), total, ends.index(max(ends))


@pytest.mark.parametrize("seed", range(60))
def test_executing_gives_what_the_model_says(seed):
    """Random legal plans, changed and executed again and again."""
    instance = random_instance(seed, exact=seed % 2 == 0)
    draft = drafted(instance, first_routes(instance), seed)
    tasks, trial = written(tasks_of(instance), draft), trial_of(draft)
    for _ in range(30):
        assert execute(tasks, 0.0, math.inf) == expected(instance, draft)
        used = propose(draft, trial)
        exchange(draft, trial, used)
        for k in range(used):
            write_row(tasks, draft, trial.who[k])


def test_nothing_is_executed_further_than_it_is_worth():
    """Over the limit for certain, or executed to the end."""
    cut = 0
    for seed in range(60):
        instance = random_instance(seed, exact=False)
        tasks = written(tasks_of(instance), drafted(instance, first_routes(instance)))
        makespan, total, last = execute(tasks, 0.0, math.inf)
        energy = makespan + 0.5 * total
        assert execute(tasks, 0.5, energy) == (makespan, total, last)
        cut += execute(tasks, 0.5, 0.9 * energy)[0] == math.inf
    assert cut == (60 if IS_COMPILED else 0)


def test_tasks_take_the_costs_of_other_ways():
    """And are executed alike without the compiler."""
    for seed in range(60):
        instance = random_instance(seed, exact=False)
        draft = drafted(instance, first_routes(instance))
        ways = [shaken(instance, random.Random(seed + way), 0.1) for way in range(3)]
        costs_WC, again = (
            figures(cost for way in ways for cost in costs_of(way)),
            tasks_of(instance),
        )
        for at, way in enumerate(ways):
            take_costs(again, costs_WC, at)
            found = execute(written(again, draft), 0.0, math.inf)
            assert found == execute(written(tasks_of(way), draft), 0.0, math.inf)
            assert found == _execute_plainly(again, 0.0, math.inf)


def test_microbatches_that_lock_each_other_up_never_end():
    """Two peers of one slot, visited in opposite orders."""
    instance = Instance(
        peers=(peer("edge", (0,), 2), peer("a", (1, 2), 1), peer("b", (1, 2), 1)),
        send_seconds=((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)),
        stages=3,
        microbatches=2,
        visits=3,
    )
    routes = [PlannedRoute((0, 1, 2), (0, 1, 2)), PlannedRoute((0, 1, 2), (0, 2, 1))]
    tasks = written(tasks_of(instance), drafted(instance, routes))
    makespan, total, _ = execute(tasks, 0.0, math.inf)
    assert math.isinf(makespan) and math.isinf(total)


def test_a_first_plan_does_not_wait_for_the_compiler():
    pytest.importorskip("numba")
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
