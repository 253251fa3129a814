"""The execution model: by hand, against a second simulation, and where slots lock up."""

import math
import random

import pytest

from swarmtrain.plan.paths.construct import first_routes
from swarmtrain.plan.paths.execution import Executor
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.routes import PlannedRoute
from tests.plan.paths import naive
from tests.plan.paths.networks import peer, random_instance


def run(instance: Instance, routes: list[PlannedRoute]):
    executor = Executor(instance)
    chains = [executor.chain(route.peers) for route in routes]
    return executor.run(
        chains, [instance.begin_seconds(route.peers[0], route.release_seconds) for route in routes]
    )


def pair(microbatches: int, slots: int = 2, gap: float = 0.25) -> Instance:
    """One edge, one middle peer; sends take 0.5 s there and 0.75 s back."""
    return Instance(
        peers=(peer("edge", (0,), slots), peer("middle", (1,), slots, forward=1.5)),
        send_seconds=((0.0, 0.5), (0.75, 0.0)),
        stages=2,
        microbatches=microbatches,
        visits=2,
        task_gap_seconds=gap,
    )


def test_one_microbatch_by_hand():
    # embed 0-1, send, forward 1.5-3, send, loss 3.75-4.25, send, backward 4.75-6.75, send, backward 7.5-9.5
    execution = run(pair(1), [PlannedRoute((0, 1), (0, 1))])
    assert execution.starts == [[0.0, 1.5, 3.75, 4.75, 7.5]]
    assert execution.ends == [9.5]


def test_two_microbatches_by_hand():
    # The second embed waits for the gap (1.25-2.25), its forward for the first's and the gap (3.25-4.75).
    # Loss 0 at 3.75-4.25; loss 1 arrives at 5.5. Backward 0 at 4.75 has to wait until 4.75+0.25=5.0.
    execution = run(pair(2), [PlannedRoute((0, 1), (0, 1))] * 2)
    assert execution.starts[0] == [0.0, 1.5, 3.75, 5.0, 7.75]
    assert execution.starts[1] == [1.25, 3.25, 5.5, 7.25, 10.0]
    assert execution.ends == [9.75, 12.0]


def test_a_forward_waits_for_a_slot_and_backward_goes_first():
    # One slot: the second embed starts after the first one's last backward and the gap.
    execution = run(pair(2, slots=1), [PlannedRoute((0, 1), (0, 1))] * 2)
    assert execution.ends[0] == 9.5
    assert execution.starts[1][0] == 9.75


def test_a_release_delays_the_first_forward_only():
    execution = run(pair(1), [PlannedRoute((0, 1), (0, 1), 2.0)])
    assert execution.starts == [[2.0, 3.5, 5.75, 6.75, 9.5]]


def test_the_longest_round_trip_goes_first_whatever_its_index():
    instance = Instance(
        peers=(peer("edge", (0,)), peer("near", (1,)), peer("far", (1,))),
        send_seconds=((0.0, 1.0, 5.0), (1.0, 0.0, 0.0), (5.0, 0.0, 0.0)),
        stages=2,
        microbatches=2,
        visits=2,
    )
    execution = run(instance, [PlannedRoute((0, 1), (0, 1)), PlannedRoute((0, 1), (0, 2))])
    assert execution.starts[1][0] == 0.0 and execution.starts[0][0] == 1.0


def test_microbatches_that_hold_each_others_slots_never_end():
    # Both middle peers serve both stages with one slot each, and the two routes meet head on.
    instance = Instance(
        peers=(peer("edge", (0,), 2), peer("a", (1, 2), 1), peer("b", (1, 2), 1)),
        send_seconds=((0.0,) * 3,) * 3,
        stages=3,
        microbatches=2,
        visits=3,
    )
    routes = [PlannedRoute((0, 1, 2), (0, 1, 2)), PlannedRoute((0, 1, 2), (0, 2, 1))]
    assert run(instance, routes).makespan_seconds == math.inf
    assert [job.over for job in naive.simulate(instance, routes)] == [False, False]


@pytest.mark.parametrize("exact", [True, False])
def test_a_second_simulation_agrees_to_the_bit(exact: bool):
    for seed in range(150):
        instance = random_instance(seed, exact)
        chance = random.Random(seed)
        routes = [
            PlannedRoute(r.stages, r.peers, chance.choice((0.0, 0.0, chance.randint(1, 80) / 8)))
            for r in first_routes(instance)
        ]
        execution, jobs = run(instance, routes), naive.simulate(instance, routes)
        assert execution.starts == [job.starts for job in jobs], seed
        assert execution.ends == [job.end for job in jobs], seed
