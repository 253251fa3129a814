"""Anytime search: simulated annealing on the exact execution model, in rounds, from the first plan on.

What is annealed is not the makespan alone, a rugged thing that says nothing of microbatches which are not the last, but
makespan + SPREAD * mean end: it falls with every wait that is saved anywhere. The plan that is kept is the one with the
least makespan. Nothing here knows the time: `spent` maps evaluations done to the share of the budget that is used.
"""

import math
from collections.abc import Callable

from swarmtrain.plan.paths.construct import SPREAD
from swarmtrain.plan.paths.draft import Change, Draft, Rechained
from swarmtrain.plan.paths.execution import Execution
from swarmtrain.plan.paths.instance import Chance
from swarmtrain.plan.paths.moves import Proposal

Spent = Callable[[int], float]
"""Evaluations done so far to the share of the budget used, 1 or more when there is none left."""

Report = Callable[[int, float], None]
"""Told of evaluations done and the makespan in seconds, whenever a better plan was found."""

ROUNDS = ((0.03, 0.05), (0.2, 0.18), (1.0, 0.30))
"""Each round of annealing ends at this share of the budget and begins at this heat: a good plan early, a better one
later."""

COLD = 0.02
"""Heat at which every round ends. A heat is a temperature as a share of the energy of one microbatch."""

MOST_IDLE = 2000
"""Proposals in a row that came to nothing, after which there is nothing to search."""

SAME_SECONDS = 1e-6
"""Makespans of one plan nearer than this are the same: sums round."""


def by_evaluations(count: int) -> Spent:
    """A budget that is the same on every machine."""
    return lambda evaluations: evaluations / max(count, 1)


class Annealer:
    """Searches one draft; leaves it at the best plan it found.

    A plan counts as best only if its makespan stays when equal priorities are told apart by rounding: another program
    may sum a round trip in another order, and one plan must not have two makespans.
    """

    def __init__(self, draft: Draft, propose: Proposal, chance: Chance, report: Report) -> None:
        self._draft, self._propose, self._chance, self._report = draft, propose, chance, report
        self._rechained = Rechained()
        self.evaluations = 0
        self._energy = self._measure(draft.run())
        self.best_seconds = self._makespan_seconds
        self._since_best: list[Change] = []

    def search(self, spent: Spent) -> None:
        """Anneal round after round until the budget is used."""
        begin = spent(self.evaluations)
        for end, hot in ROUNDS:
            if begin < end:
                self._anneal(spent, begin, end, hot)
                self._back_to_best()
                begin = end

    def _anneal(self, spent: Spent, begin: float, end: float, hot: float) -> None:
        scale = hot * self._energy / self._draft.instance.microbatches
        cooling, random = COLD / hot, self._chance.random
        idle = 0
        while (share := spent(self.evaluations)) < end and idle < MOST_IDLE:
            change = self._propose()
            if change is None:
                idle += 1
                continue
            idle = 0
            back = self._draft.apply(change)
            energy = self._measure(self._draft.run())
            temperature = scale * cooling ** ((share - begin) / (end - begin))
            if energy <= self._energy or random() < math.exp((self._energy - energy) / temperature):
                self._energy = energy
                self._since_best.append(back)
                if self._makespan_seconds < self.best_seconds - SAME_SECONDS and self._is_sure():
                    self.best_seconds = self._makespan_seconds
                    self._since_best.clear()
                    self._report(self.evaluations, self.best_seconds)
            else:
                self._draft.apply(back)

    def _measure(self, execution: Execution) -> float:
        self.evaluations += 1
        self._makespan_seconds = execution.makespan_seconds
        return self._makespan_seconds + SPREAD * sum(execution.ends) / len(execution.ends)

    def _is_sure(self) -> bool:
        again = self._draft.run_rechained(self._rechained).makespan_seconds
        return abs(again - self._makespan_seconds) < SAME_SECONDS

    def _back_to_best(self) -> None:
        while self._since_best:
            self._draft.apply(self._since_best.pop())
        self._energy = self._measure(self._draft.run())
