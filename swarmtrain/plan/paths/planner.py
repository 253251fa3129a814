"""The planner's entrance: `plan` a step from nothing. `replanning.replan` changes one whose network changed."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from swarmtrain.plan.paths.bounds import better_bound_seconds, lower_bound_seconds
from swarmtrain.plan.paths.builder import NoRoomError
from swarmtrain.plan.paths.construct import first_routes
from swarmtrain.plan.paths.freedom import ANYTHING, Freedom, visits_of
from swarmtrain.plan.paths.instance import Chance, Instance
from swarmtrain.plan.paths.placement import placements
from swarmtrain.plan.paths.routes import Plan, PlannedRoute
from swarmtrain.plan.paths.search import (
    AGAIN,
    ONCE_MORE,
    ROUNDS,
    TRIAL,
    Annealer,
    Report,
    Rounds,
    Spent,
    nobody,
    part_of,
)

EPISODES = (1 / 32, 1 / 6, 1.0)
"""Where there are places to choose, the whole search is made three times, each until this share of the budget and from
nothing, and the best plan counts: what a short one finds in its time, a long one has not found by then."""

STARTS: tuple[tuple[float | None, float], ...] = (
    *((1.0, 0.006), (1.3, 0.008), (None, 0.018)),
    *((1.1, 0.04), (1.4, 0.06), (1.2, 0.09), (None, 0.1)),
)
"""How an episode begins: each start is a sketch that expects so much waiting, made and searched within a share of the
episode; None searches on from the best so far. Short starts come first, for a good plan early, and the best of all is
searched to the end."""

SKETCHED = 0.4
"""Share of a start's budget that its sketch may take."""


def plan(instance: Instance, spent: Spent, chance: Chance, report: Report | None = None) -> Plan:
    """The best plan found within the budget: routes, releases, and places for peers that have none.

    `spent` maps evaluations to the share of the budget used; the first plan is made whatever it says. The same
    instance, budget in evaluations and seed give the same plan.

    Raises:
        ConfigError: the instance has no plan.
    """
    bound, teller = lower_bound_seconds(instance), _Teller(report or nobody)
    placed, routes = _first(instance)
    search = _Search(instance, placed, routes, chance, teller)
    best = first = search.annealer(placed, search.routes)
    teller.begin(first.evaluations, first.best_seconds)
    if not instance.unplaced:
        search.on(first, spent, 1.0, ROUNDS)
        return first.plan(bound, teller.done)
    begin = 0.0
    for end in EPISODES:
        if spent(teller.done) < end:
            if end == 1.0:
                bound = better_bound_seconds(instance, bound, best.best_seconds)
            found = search.episode(part_of(spent, 0, begin, end))
            best, begin = min(best, found, key=_makespan_seconds), end
    return best.plan(bound, teller.done)


def _first(instance: Instance) -> tuple[Instance, list[PlannedRoute]]:
    """The first placement whose slots hold whole routes, and these."""
    choices = placements(instance)
    placed = next(choices)
    try:
        return placed, first_routes(placed)
    except NoRoomError as refusal:
        for placed in choices:
            with suppress(NoRoomError):
                return placed, first_routes(placed)
        raise refusal


def _makespan_seconds(annealer: Annealer) -> float:
    return annealer.best_seconds


@dataclass(frozen=True)
class _Search:
    """An instance, its first placement and routes, and what searches from there."""

    instance: Instance
    placed: Instance
    routes: Sequence[PlannedRoute]
    chance: Chance
    teller: "_Teller"

    def annealer(self, placed: Instance, routes: Sequence[PlannedRoute]) -> Annealer:
        """From routes of the instance `placed`; peers that have no place in the instance itself may be moved."""
        freedom = Freedom(ANYTHING, visits_of(self.instance), self.instance.unplaced)
        return Annealer(placed, routes, freedom, self.chance, self.teller)

    def episode(self, spent: Spent) -> Annealer:
        """The best of several starts, searched on until the budget is used."""
        best = self.annealer(self.placed, self.routes)
        self.teller.done += best.evaluations
        for waiting, tried in STARTS:
            begin = spent(self.teller.done)
            end = begin + tried
            if end > 1.0:
                break
            if waiting is None:
                self.on(best, spent, end, ONCE_MORE)
            else:
                start = self._start(waiting, spent, begin, end)
                best = min(best, start, key=_makespan_seconds)
        self.on(best, spent, 1.0, AGAIN)
        return best

    def _start(self, waiting: float, spent: Spent, begin: float, end: float) -> Annealer:
        """A sketch that expects so much waiting, searched within the budget from share `begin` to `end`."""
        from swarmtrain.plan.paths.sketching import sketched  # compiles, so not before it is needed

        teller = self.teller
        part = part_of(spent, teller.done, begin, begin + SKETCHED * (end - begin))
        there, along, used = sketched(
            self.instance, self.placed, self.routes, waiting, part, self.chance
        )
        teller.done += used
        start = self.annealer(there, along)
        if math.isfinite(start.best_seconds):  # slots may have locked up
            start.search(part_of(spent, teller.done, begin, end), TRIAL)
        teller.done += start.evaluations
        return start

    def on(self, annealer: Annealer, spent: Spent, end: float, rounds: Rounds) -> None:
        """Search on until share `end` of the budget."""
        teller, begin = self.teller, spent(self.teller.done)
        teller.done -= annealer.evaluations  # which the annealer counts itself
        annealer.search(part_of(spent, teller.done, begin, end), rounds)
        teller.done += annealer.evaluations


class _Teller:
    """Passes on what is better than all before, with the evaluations `done` by others added."""

    def __init__(self, report: Report) -> None:
        self._report, self.done, self._best_seconds = report, 0, math.inf

    def begin(self, evaluations: int, makespan_seconds: float) -> None:
        """From the first plan, of which nobody has to be told."""
        self.done, self._best_seconds = evaluations, makespan_seconds

    def __call__(self, evaluations: int, makespan_seconds: float) -> None:
        if makespan_seconds < self._best_seconds:
            self._best_seconds = makespan_seconds
            self._report(self.done + evaluations, makespan_seconds)
