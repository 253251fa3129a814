"""A sketch of an instance (`sketch.anneal`), from a plan to begin with to one that is worth executing.

Importing this module compiles where numba is installed: seconds, once a machine.
"""

from collections.abc import Sequence

from swarmtrain.plan.paths.compiling import figures
from swarmtrain.plan.paths.draft import draft_of, placed_by, routes_of, same, trial_of
from swarmtrain.plan.paths.freedom import ANYTHING, RELEASE, Freedom, visits_of
from swarmtrain.plan.paths.instance import Chance, Instance
from swarmtrain.plan.paths.routes import PlannedRoute
from swarmtrain.plan.paths.search import Spent
from swarmtrain.plan.paths.sketch import Sketch, anneal, recount

HOT, COLD = 0.3, 0.005
"""Temperatures, as shares of the first energy of one microbatch."""

MOVES = 1500
"""Moves a visit that a whole sketch takes."""

COOLINGS = 100
"""Steps from hot to cold of a whole sketch."""

MOVES_AN_EVALUATION = 25
"""Moves that take as long as one execution of the plan."""


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
    sketch = _sketch(free, placed, routes, waiting, chance)
    energy = recount(sketch)
    scale = energy / free.microbatches
    moves = max(1, MOVES * free.microbatches * free.visits // COOLINGS)
    cost = -(-moves // MOVES_AN_EVALUATION)
    cooling = 0
    while cooling < COOLINGS and (share := spent(cooling * cost)) < 1.0:
        heat = HOT * (COLD / HOT) ** max(share, cooling / (COOLINGS - 1))
        energy = anneal(sketch, energy, scale * heat, moves)
        cooling += 1
    return placed_by(sketch.draft, free), routes_of(sketch.draft), cooling * cost


def _sketch(
    free: Instance,
    placed: Instance,
    routes: Sequence[PlannedRoute],
    waiting: float,
    chance: Chance,
) -> Sketch:
    peers, gap, everyone = placed.peers, placed.task_gap_seconds, range(len(placed.peers))
    freedom = Freedom(ANYTHING - {RELEASE}, visits_of(placed), free.unplaced)
    draft = draft_of(placed, routes, freedom, chance)
    both = [peer.forward_seconds + peer.backward_seconds for peer in peers]
    send, nothing = placed.send_seconds, [0.0] * len(peers)
    return Sketch(
        draft,
        same(draft),
        trial_of(draft),
        both_P=figures(both),
        work_P=figures(seconds + 2 * gap for seconds in both),
        loss_P=figures(peer.loss_seconds for peer in peers),
        slots_P=figures(peer.memory_slots for peer in peers),
        way_PP=figures(send[a][b] + send[b][a] for a in everyone for b in everyone),
        gap_seconds=gap,
        trip_weight=len(peers) / placed.microbatches,
        waiting=waiting,
        busy_P=figures(nothing),
        held_P=figures(nothing),
        price_P=figures(nothing),
        trip_M=figures([0.0] * placed.microbatches),
        reference=figures([0.0]),
    )
