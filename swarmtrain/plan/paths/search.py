"""Anytime search: simulated annealing on the exact execution model, in rounds, from the first plan on.

What is annealed is not the makespan alone, a rugged thing that says nothing of microbatches which are not the last, but
makespan + SPREAD * mean end: it falls with every wait that is saved anywhere. The plan that is kept is the one with the
least makespan. Nothing here knows the time: `spent` maps evaluations done to the share of the budget that is used.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from swarmtrain.plan.paths.construct import SPREAD
from swarmtrain.plan.paths.execution import Executor
from swarmtrain.plan.paths.freedom import Freedom
from swarmtrain.plan.paths.instance import Chance, Instance
from swarmtrain.plan.paths.routes import Plan, PlannedRoute
from swarmtrain.plan.paths.ways import other_sums

if TYPE_CHECKING:
    from swarmtrain.plan.paths.anneal import Search

Spent = Callable[[int], float]
"""Evaluations done so far to the share of the budget used, 1 or more when there is none left."""

Report = Callable[[int, float], None]
"""Told of evaluations done and the makespan in seconds, whenever a better plan was found."""

Rounds = tuple[tuple[float, float], ...]

ROUNDS: Rounds = ((0.01, 0.05), (0.03, 0.10), (0.12, 0.15), (0.4, 0.20), (1.0, 0.30))
"""Each round of annealing ends at this share of the budget and begins at this heat: a good plan early, a better one
later."""

ONCE_MORE: Rounds = ((1.0, 0.05),)
"""One round from the best of several beginnings."""

AGAIN: Rounds = tuple((end / 8, 0.08) for end in range(1, 9))
"""From a good plan with places: short rounds, each from the best so far. Longer and hotter ones lose what was good."""

ENOUGH = 2
"""Evaluations before a round, for every microbatch and peer, that make its whole heat pay; after fewer it is less."""

COLD, COLDEST = 0.02, 0.001
"""Heat at which every round ends, and where there was not one evaluation. A heat is a temperature as a share of the
energy of one microbatch."""

TRIAL: Rounds = ((1.0, COLDEST),)
"""One cold round, which tells which of several beginnings is best."""

LONGER = 2.0
"""By how many temperatures round trips alone may cost more for a draft to be worth executing: waiting less seldom makes
up for it."""

MOST_TASKS = 200_000
"""Tasks that are executed before the budget is asked for again."""

LATE_SHARE = 8
"""And so many times as few evaluations as were made so far: a short budget is kept as well."""


def by_evaluations(count: int) -> Spent:
    """A budget that is the same on every machine."""
    return lambda evaluations: evaluations / max(count, 1)


def part_of(spent: Spent, done: int, begin: float, end: float) -> Spent:
    """The budget from share `begin` to share `end` of another one of which `done` evaluations are used."""

    def share(evaluations: int) -> float:
        used = spent(done + evaluations)
        return 1.0 if used >= end else (used - begin) / (end - begin)

    return share


def nobody(evaluations: int, makespan_seconds: float) -> None:
    """Reports to nobody."""


class Annealer:
    """Searches from one plan; `placed` and `routes` are the best it found.

    A plan counts as best only if it is better than the best so far with the costs of `ways` too: those of `other_sums`,
    or others that it is to be good with. `best_seconds` is its longest makespan, in any of them, once it was searched;
    `makespan_seconds` that with its own costs.
    """

    def __init__(
        self,
        placed: Instance,
        routes: Sequence[PlannedRoute],
        freedom: Freedom,
        chance: Chance,
        report: Report,
        ways: Sequence[Instance] | None = None,
    ) -> None:
        self.placed, self.routes = placed, list(routes)
        self._freedom, self._chance, self._report, self._ways = freedom, chance, report, ways
        self._search: Search | None = None
        self.evaluations = 1
        self.makespan_seconds = Plan(placed, tuple(routes), 0.0, 0.0).execution().makespan_seconds
        self.best_seconds = self.makespan_seconds

    def search(self, spent: Spent, rounds: Rounds = ROUNDS) -> None:
        """Anneal round after round until the budget is used."""
        start = spent(self.evaluations)
        if start >= 1.0:
            return
        from swarmtrain.plan.paths.anneal import begin  # compiles, so not before it is needed
        from swarmtrain.plan.paths.draft import placed_by, routes_of

        if self._search is None:
            self._search = self._begun()
        for end, hot in rounds:
            if start < end:
                begin(self._search)
                self._note(self._search)
                self.evaluations += 1
                self._anneal(self._search, spent, (start, end), hot)
                start = end
        self.placed = placed_by(self._search.best, self.placed)
        self.routes = routes_of(self._search.best)

    def plan(self, bound_seconds: float, evaluations: int) -> Plan:
        routes = tuple(self.routes)
        return Plan(self.placed, routes, self.makespan_seconds, bound_seconds, evaluations)

    def _begun(self) -> "Search":
        from swarmtrain.plan.paths.anneal import search_of
        from swarmtrain.plan.paths.draft import draft_of

        horizon_seconds = self.best_seconds
        if math.isinf(horizon_seconds):
            # Slots lock up; with one microbatch after the other they would not.
            executor = Executor(self.placed)
            horizon_seconds = sum(executor.round_trip_seconds(r.peers) for r in self.routes)
        draft = draft_of(self.placed, self.routes, self._freedom, self._chance, horizon_seconds)
        ways = self._ways or other_sums(self.placed, self._chance)
        return search_of(draft, self.placed, ways, SPREAD / self.placed.microbatches)

    def _note(self, search: "Search") -> None:
        """Take over the figures of the best plan; infinite ones are of none, as slots lock up in one of the ways."""
        from swarmtrain.plan.paths.anneal import LONGEST, OWN

        if math.isfinite(search.found[OWN]):
            self.makespan_seconds = float(search.found[OWN])
            self.best_seconds = float(search.found[LONGEST])

    def _affordable(self, heat: float) -> float:
        """Where evaluations are few, a search that climbs never comes down again."""
        choices = self.placed.microbatches * len(self.placed.peers)
        return COLDEST + (heat - COLDEST) * min(1.0, self.evaluations / (ENOUGH * choices))

    def _anneal(
        self, search: "Search", spent: Spent, shares: tuple[float, float], hot: float
    ) -> None:
        from swarmtrain.plan.paths.anneal import ENERGY, LONGEST, MOST_IDLE, anneal

        instance, idle, (start, end) = self.placed, 0, shares
        most = max(1, MOST_TASKS // (instance.microbatches * (2 * instance.visits + 1)))
        energy = float(search.found[ENERGY])
        # Where nothing ends the search takes what is found, and then only what is better.
        heat, cold = self._affordable(hot), self._affordable(COLD)
        one = energy / instance.microbatches if math.isfinite(energy) else 0.0
        is_all_executed = self._freedom.may_lengthen or one == 0.0
        while (share := spent(self.evaluations)) < end and idle < MOST_IDLE:
            temperature = one * heat * (cold / heat) ** ((share - start) / (end - start))
            longest = math.inf if is_all_executed else LONGER * temperature
            few = min(most, 1 + self.evaluations // LATE_SHARE)
            done, idle = anneal(search, temperature, longest, few, idle)
            self.evaluations += done
            if search.found[LONGEST] < self.best_seconds:
                self._note(search)
                self._report(self.evaluations, self.best_seconds)
