"""Simulated annealing of one draft on the execution model, compiled; `search.Annealer` gives it heat and budget."""

import math
from typing import Any, NamedTuple

from swarmtrain.plan.paths.compiling import compiled, figures
from swarmtrain.plan.paths.draft import (
    Draft,
    Trial,
    below,
    copy,
    count_all,
    exchange,
    same,
    trial_of,
)
from swarmtrain.plan.paths.execute import Tasks, execute, trip_seconds, write_row
from swarmtrain.plan.paths.moves import propose, relocate

ENERGY, BEST, AGAIN, STEADY = range(4)
"""Of `Search.found`: energy of now; least makespan; the same plan's makespan of the second way; whether the two of
every plan that is kept have to be equal, 1 or 0."""

MOST_STEADY = 100
"""Microbatches up to which plans whose two makespans differ are not kept. Of several hundred some are always nearly
equal, and a search that kept steady plans alone would stand still."""

MOST_IDLE = 2000
"""Proposals in a row that came to nothing, after which there is nothing to search."""

SAME_SECONDS = 1e-6
"""Makespans of one plan nearer than this are the same: sums round."""

RISES = tuple(-math.log((place + 0.5) / 1024) for place in range(1024))
"""By how many temperatures the energy may rise, by chance: what Metropolis' rule comes to where the limit is drawn
before the energy is known."""


class Search(NamedTuple):
    """A draft, the best one so far, and one of before a move of peers; tasks, and those of the second way."""

    draft: Draft
    best: Draft
    before: Draft
    trial: Trial
    tasks: Tasks
    again: Tasks
    spread: float
    found: Any
    rises: Any


def search_of(draft: Draft, tasks: Tasks, again: Tasks, spread: float) -> Search:
    """`spread` is the weight of the sum of all ends beside the makespan."""
    found, rises = figures([math.inf, math.inf, math.inf, 0.0]), figures(RISES)
    return Search(
        draft, same(draft), same(draft), trial_of(draft), tasks, again, spread, found, rises
    )


@compiled()
def begin(search):  # type: ignore[no-untyped-def]
    """Execute the best draft, and go on from there."""
    copy(search.best, search.draft)
    count_all(search.draft)
    _write_all(search.tasks, search.draft)
    makespan, total, last = execute(search.tasks, search.spread, math.inf)
    search.found[ENERGY] = makespan + search.spread * total
    search.draft.late[0] = search.draft.peer_MV[last * search.draft.visits]
    if search.found[BEST] == math.inf:
        again = _again_seconds(search)
        search.found[BEST], search.found[AGAIN] = makespan, again
        is_small = len(search.draft.release_M) <= MOST_STEADY
        search.found[STEADY] = 1.0 if is_small and abs(again - makespan) < SAME_SECONDS else 0.0


@compiled()
def anneal(search, temperature, longest, most, idle):  # type: ignore[no-untyped-def]
    """Execute up to `most` changed drafts; how many these were, and how many proposals in a row came to nothing.

    Drafts whose round trips alone cost `longest` more energy are not executed.
    """
    draft, found, evaluations = search.draft, search.found, 0
    while evaluations < most and idle < MOST_IDLE:
        idle += 1
        used = propose(draft, search.trial)
        if used == 0:
            continue
        risen = _exchange(search, used) if used > 0 else _relocate(search, -used)
        rise = temperature * search.rises[below(draft, len(search.rises))]
        if search.spread * risen <= longest:
            limit = found[ENERGY] + rise
            makespan, total, last = execute(search.tasks, search.spread, limit)
            evaluations += 1
            idle = 0
            if makespan + search.spread * total <= limit:
                found[ENERGY] = makespan + search.spread * total
                draft.late[0] = draft.peer_MV[last * draft.visits]
                if makespan < found[BEST] - SAME_SECONDS:
                    _keep(search, makespan)
                continue
        if used > 0:
            _exchange(search, used)
        elif risen < math.inf:
            copy(search.before, draft)
            count_all(draft)
            _write_all(search.tasks, draft)
    return evaluations, idle


@compiled("always")
def _exchange(search, used):  # type: ignore[no-untyped-def]
    """Exchange routes with the trial; by how much all round trips together get longer."""
    draft, tasks, trial, risen = search.draft, search.tasks, search.trial, 0.0
    exchange(draft, trial, used)
    for k in range(used):
        index = trial.who[k]
        risen -= trip_seconds(tasks, index)
        write_row(tasks, draft, index)
        risen += trip_seconds(tasks, index)
    return risen


@compiled("always")
def _relocate(search, kind):  # type: ignore[no-untyped-def]
    """Move peers; by how much all round trips together get longer, infinite where that move is not possible."""
    draft, tasks, risen = search.draft, search.tasks, 0.0
    copy(draft, search.before)
    if not relocate(draft, kind):
        return math.inf
    for index in range(len(draft.release_M)):
        risen -= trip_seconds(tasks, index)
        write_row(tasks, draft, index)
        risen += trip_seconds(tasks, index)
    return risen


@compiled()
def _write_all(tasks, draft):  # type: ignore[no-untyped-def]
    for index in range(len(draft.release_M)):
        write_row(tasks, draft, index)


@compiled()
def _again_seconds(search):  # type: ignore[no-untyped-def]
    """The makespan of the second way."""
    _write_all(search.again, search.draft)
    return execute(search.again, 0.0, math.inf)[0]


@compiled("always")
def _keep(search, makespan):  # type: ignore[no-untyped-def]
    """Keep the draft as the best, if its makespan of the second way is less than the best one's too.

    Another program may sum round trips in another order, and a plan of few microbatches must not take longer there: it
    is kept only if both are the same.
    """
    found, again = search.found, _again_seconds(search)
    if found[STEADY] > 0.0 and abs(again - makespan) >= SAME_SECONDS:
        return
    if again < found[AGAIN] - SAME_SECONDS:
        found[BEST], found[AGAIN] = makespan, again
        copy(search.draft, search.best)
