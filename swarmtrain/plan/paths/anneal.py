"""Simulated annealing of one draft on the execution model, compiled; `search.Annealer` gives it heat and budget."""

import math
from collections.abc import Sequence
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
from swarmtrain.plan.paths.execute import (
    Tasks,
    costs_of,
    execute,
    safe_seconds,
    take_costs,
    tasks_of,
    trip_seconds,
    write_row,
)
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.moves import propose, relocate

ENERGY, OWN, LONGEST, WORTH = range(4)
"""Of `Search.found`: energy of now; makespan of the best plan; its longest one, with other ways; what it is worth."""

UNSTEADY = 0.05
"""Another program may sum round trips in another order and find another makespan. A plan that hangs on that is worth
its longest one and this share of it: so much better has to be what takes the place of a plan that does not. Where all
is alike nearly every plan hangs on it, so these cannot be left out."""

MOST_IDLE = 2000
"""Proposals in a row that came to nothing, after which there is nothing to search."""

SAME_SECONDS = 1e-6
"""Makespans of one plan nearer than this are the same: sums round."""

RISES = tuple(-math.log((place + 0.5) / 1024) for place in range(1024))
"""By how many temperatures the energy may rise, by chance: what Metropolis' rule comes to where the limit is drawn
before the energy is known."""


class Search(NamedTuple):
    """A draft, the best one so far, and one of before a move of peers; tasks, and those of other ways in turn."""

    draft: Draft
    best: Draft
    before: Draft
    trial: Trial
    tasks: Tasks
    again: Tasks
    costs_WC: Any
    spread: float
    found: Any
    rises: Any


def search_of(draft: Draft, instance: Instance, ways: Sequence[Instance], spread: float) -> Search:
    """`spread` is the weight of the sum of all ends beside the makespan; `ways` have other costs."""
    tasks, again = tasks_of(instance), tasks_of(instance)
    return Search(
        draft,
        best=same(draft),
        before=same(draft),
        trial=trial_of(draft),
        tasks=tasks,
        again=again._replace(safe_seconds=min(map(safe_seconds, ways))),
        costs_WC=figures(seconds for way in ways for seconds in costs_of(way)),
        spread=spread,
        found=figures([math.inf, math.inf, math.inf, math.inf]),
        rises=figures(RISES),
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
    if search.found[LONGEST] == math.inf:
        _keep(search, makespan)


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
                if makespan < found[LONGEST] - SAME_SECONDS:
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
def _again_seconds(search, way):  # type: ignore[no-untyped-def]
    """The makespan with the costs of that way."""
    take_costs(search.again, search.costs_WC, way)
    _write_all(search.again, search.draft)
    return execute(search.again, 0.0, math.inf)[0]


@compiled()
def _keep(search, makespan):  # type: ignore[no-untyped-def]
    """Keep the draft as the best, if it is better than the best one in the other ways too."""
    found, longest, is_steady = search.found, makespan, True
    peers = len(search.tasks.slots_P)
    for way in range(len(search.costs_WC) // (3 * peers + peers * peers)):
        again = _again_seconds(search, way)
        longest = max(longest, again)
        if abs(again - makespan) >= SAME_SECONDS:
            is_steady = False
        worth = longest if is_steady else longest * (1.0 + UNSTEADY)
        if worth >= found[WORTH] - SAME_SECONDS:
            return
    found[OWN], found[LONGEST], found[WORTH] = makespan, longest, worth
    copy(search.draft, search.best)
