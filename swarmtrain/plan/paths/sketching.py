"""A sketch of an instance (`sketch.anneal`), from a plan to begin with to one that is worth executing.

Importing this module compiles where numba is installed: seconds, once a machine.
"""

from collections.abc import Sequence

import numpy as np

from swarmtrain.plan.paths.instance import Chance, Instance
from swarmtrain.plan.paths.routes import PlannedRoute
from swarmtrain.plan.paths.search import Spent
from swarmtrain.plan.paths.sketch import anneal
from swarmtrain.plan.paths.sketch_table import Table, recount

HOT, COLD = 0.3, 0.005
"""Temperatures, as shares of the first energy of one microbatch."""

MOVES = 1500
"""Moves a visit that a whole sketch takes."""

COOLINGS = 100
"""Steps from hot to cold of a whole sketch."""

MOVES_AN_EVALUATION = 25
"""Moves that take as long as one execution of the plan."""

MOST_SEED = 2**31 - 1


def sketched(
    free: Instance,
    placed: Instance,
    routes: Sequence[PlannedRoute],
    waiting: float,
    spent: Spent,
    chance: Chance,
) -> tuple[Instance, list[PlannedRoute], int]:
    """`placed` and `routes` made better within the budget: an instance with all in places, its routes, evaluations.

    `free` is the instance as it was asked for; whoever has no place in it may be moved. `waiting` is how many
    times as long as without waiting slots are taken to be held.
    """
    table = _table(free, placed, routes, waiting, 1 + int(chance.random() * (MOST_SEED - 1)))
    energy = recount(table)
    scale = energy / free.microbatches
    moves = max(1, MOVES * free.microbatches * free.visits // COOLINGS)
    cost = -(-moves // MOVES_AN_EVALUATION)
    cooling = 0
    while cooling < COOLINGS and (share := spent(cooling * cost)) < 1.0:
        heat = HOT * (COLD / HOT) ** max(share, cooling / (COOLINGS - 1))
        energy = anneal(table, energy, scale * heat, moves)
        cooling += 1
    return _instance(free, table), _routes(table), cooling * cost


def _table(
    free: Instance, placed: Instance, routes: Sequence[PlannedRoute], waiting: float, seed: int
) -> Table:
    peers, count, stages = placed.peers, len(placed.peers), placed.stages
    gap, slots = placed.task_gap_seconds, [peer.memory_slots for peer in peers]
    both_P = np.array([peer.forward_seconds + peer.backward_seconds for peer in peers])
    send_PP = np.array(placed.send_seconds)
    host_SH = np.zeros((stages, count), np.int64)
    for stage, hosts in enumerate(placed.hosts):
        host_SH[stage, : len(hosts)] = hosts
    quota = placed.quota_limits(len(placed.hosts[0]))
    return Table(
        both_P=both_P,
        work_P=both_P + 2 * gap,
        loss_P=np.array([peer.loss_seconds for peer in peers]),
        slots_P=np.array(slots, np.float64),
        way_PP=send_PP + send_PP.T,
        gap_seconds=gap,
        least_S=np.array([least for least, _ in placed.visit_limits]),
        most_S=np.array([most for _, most in placed.visit_limits]),
        is_protected_S=np.isin(np.arange(stages), placed.protected_stages),
        max_swaps=placed.max_swaps,
        max_jump=placed.max_jump,
        least_quota=quota[0],
        most_quota=quota[1],
        free=np.array(free.unplaced, np.int64),
        are_sizes_free=free.stage_sizes is None,
        are_quotas_equal=placed.quotas == "equal",
        trip_weight=count / placed.microbatches,
        waiting=waiting,
        stage_MV=np.array([route.stages for route in routes]),
        peer_MV=np.array([route.peers for route in routes]),
        host_SH=host_SH,
        hosts_S=np.array([len(hosts) for hosts in placed.hosts]),
        visits_S=np.zeros(stages, np.int64),
        quota_P=np.zeros(count, np.int64),
        busy_P=np.zeros(count),
        held_P=np.zeros(count),
        price_P=np.zeros(count),
        trip_M=np.zeros(placed.microbatches),
        reference=np.zeros(1),
        seed=np.array([seed]),
    )


def _instance(free: Instance, table: Table) -> Instance:
    stages: list[list[int]] = [[] for _ in free.peers]
    for stage, count in enumerate(table.hosts_S):
        for peer in table.host_SH[stage, :count]:
            stages[peer].append(stage)
    return free.placed(tuple(hosted) for hosted in stages)


def _routes(table: Table) -> list[PlannedRoute]:
    pairs = zip(table.stage_MV.tolist(), table.peer_MV.tolist(), strict=True)
    return [PlannedRoute(tuple(stages), tuple(peers)) for stages, peers in pairs]
