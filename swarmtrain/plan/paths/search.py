"""Anytime search: simulated annealing on the exact execution model, in rounds, from the first plan on.

What is annealed is not the makespan alone, a rugged thing that says nothing of microbatches which are not the last, but
makespan + SPREAD * mean end: it falls with every wait that is saved anywhere. The plan that is kept is the one with the
least makespan. Nothing here knows the time: `spent` maps evaluations done to the share of the budget that is used.
"""

import math
from collections.abc import Callable

from swarmtrain.plan.paths.construct import SPREAD
from swarmtrain.plan.paths.draft import Change, Draft
from swarmtrain.plan.paths.instance import Chance
from swarmtrain.plan.paths.moves import Proposal

Spent = Callable[[int], float]
"""Evaluations done so far to the share of the budget used, 1 or more when there is none left."""

Report = Callable[[int, float], None]
"""Told of evaluations done and the makespan in seconds, whenever a better plan was found."""

Rounds = tuple[tuple[float, float], ...]

ROUNDS: Rounds = ((0.03, 0.05), (0.2, 0.18), (1.0, 0.30))
"""Each round of annealing ends at this share of the budget and begins at this heat: a good plan early, a better one
later."""

TRIAL: Rounds = ((1.0, 0.06),)
"""One short round, which tells which of several beginnings is best."""

ONCE_MORE: Rounds = ((1.0, 0.05),)
"""One round from the best of several beginnings."""

AGAIN: Rounds = tuple((end / 8, 0.08) for end in range(1, 9))
"""From a good plan with places: short rounds, each from the best so far. Longer and hotter ones lose what was good."""

ENOUGH = 50
"""Evaluations a microbatch before a round that make its whole heat pay; after fewer it is less."""

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
    may sum a round trip in another order, and one plan must not have two makespans. Among a thousand microbatches some
    are always nearly equal, and with other costs beside (`Draft`) all plans have two: where the first plan has, both of
    a plan's makespans have to be better than those of the best so far.
    """

    def __init__(self, draft: Draft, propose: Proposal, chance: Chance, report: Report) -> None:
        self.draft, self._propose, self._chance, self._report = draft, propose, chance, report
        self.evaluations = 0
        self._energy = self._measure()
        self.best_seconds = self._makespan_seconds
        self._best_again_seconds = self._again_seconds()
        self._is_steady = abs(self._best_again_seconds - self.best_seconds) < SAME_SECONDS
        self._since_best: list[Change] = []

    def search(self, spent: Spent, rounds: Rounds = ROUNDS) -> None:
        """Anneal round after round until the budget is used."""
        begin = spent(self.evaluations)
        if begin < 1.0:
            self.draft.hasten()
        for end, hot in rounds:
            if begin < end:
                self._anneal(spent, begin, end, self._affordable(hot))
                self._back_to_best()
                begin = end

    def _affordable(self, hot: float) -> float:
        """Where evaluations are few, a search that climbs never comes down again."""
        done = self.evaluations / self.draft.instance.microbatches
        return COLD + (hot - COLD) * min(1.0, done / ENOUGH)

    def _anneal(self, spent: Spent, begin: float, end: float, hot: float) -> None:
        scale = hot * self._energy / self.draft.instance.microbatches
        cooling, random = COLD / hot, self._chance.random
        idle = 0
        while (share := spent(self.evaluations)) < end and idle < MOST_IDLE:
            change = self._propose()
            if change is None:
                idle += 1
                continue
            idle = 0
            back = self.draft.apply(change)
            energy = self._measure()
            temperature = scale * cooling ** ((share - begin) / (end - begin))
            if energy <= self._energy or random() < math.exp((self._energy - energy) / temperature):
                self._energy = energy
                self._since_best.append(back)
                if self._is_best():
                    self.best_seconds = self._makespan_seconds
                    self._since_best.clear()
                    self._report(self.evaluations, self.best_seconds)
            else:
                self.draft.apply(back)

    def _measure(self) -> float:
        self.evaluations += 1
        self._makespan_seconds, total_seconds, _ = self.draft.measure()
        return self._makespan_seconds + SPREAD * total_seconds / self.draft.instance.microbatches

    def _is_best(self) -> bool:
        if self._makespan_seconds >= self.best_seconds - SAME_SECONDS:
            return False
        again = self._again_seconds()
        if self._is_steady:
            return abs(again - self._makespan_seconds) < SAME_SECONDS
        is_best = again < self._best_again_seconds - SAME_SECONDS
        if is_best:
            self._best_again_seconds = again
        return is_best

    def _again_seconds(self) -> float:
        """The makespan of the second way."""
        return self.draft.measure(is_again=True)[0]

    def _back_to_best(self) -> None:
        while self._since_best:
            self.draft.apply(self._since_best.pop())
        self._energy = self._measure()
