"""The first plan, within milliseconds: stages dealt by need, then each microbatch the cheapest walk past busy peers."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, islice

from swarmtrain.core.errors import ConfigError
from swarmtrain.plan.paths.builder import CROWDINGS, Builder, NoRoomError
from swarmtrain.plan.paths.execution import Executor
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.routes import PlannedRoute
from swarmtrain.plan.paths.sequences import Order, is_legal, stage_sets

SPREAD = 2.0
"""Weight of the mean end beside the makespan, where plans are compared."""

APART = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Shares of a round trip between two releases that are tried where slots lock up."""

MOST_TRIED_VISITS = 1000
"""In larger instances only the last of `CROWDINGS` and ascending orders are tried: the first plan is to be there at
once, and it was no worse where measured."""

MOST_SETS = 1000
"""Stage sets that are looked at: beyond that the choice is good enough (I8)."""


def first_routes(instance: Instance, crowdings: Sequence[float] = CROWDINGS) -> list[PlannedRoute]:
    """Legal routes for all microbatches: the best of one try for each of `crowdings`, released at once. Where slots
    lock up, ascending ones, which cannot where nobody serves two stages; where these do too, released some time apart.

    Raises:
        ConfigError: visits cannot be shared as asked for.
        NoRoomError: slots hold no whole route.
    """
    sets, executor = deal_stages(instance), Executor(instance)
    tried_swaps: Iterable[int] = dict.fromkeys((instance.max_swaps, 0))
    if instance.microbatches * instance.visits > MOST_TRIED_VISITS:
        crowdings, tried_swaps = crowdings[-1:], (0,)
    routes = list[PlannedRoute]()
    for swaps in tried_swaps:
        given = replace(instance, max_swaps=swaps)
        tried = (_dealt_routes(given, sets, crowding) for crowding in crowdings)
        best_energy, _, routes = min(
            (_energy(executor, instance, routes), at, routes) for at, routes in enumerate(tried)
        )
        if math.isfinite(best_energy):
            return routes
    return _apart(instance, routes)


def _dealt_routes(instance: Instance, sets: Sequence[Order], crowding: float) -> list[PlannedRoute]:
    builder = Builder(instance, crowding)
    return [builder.route(edge, stages) for edge, stages in builder.pairs(sets)]


def _energy(executor: Executor, instance: Instance, routes: Sequence[PlannedRoute]) -> float:
    """How good routes are that are released at once, the less the better; infinite where they lock up."""
    chains = [executor.chain(route.peers) for route in routes]
    begins = [instance.begin_seconds(route.peers[0], 0.0) for route in routes]
    execution = executor.run(chains, begins)
    return execution.makespan_seconds + SPREAD * sum(execution.ends) / len(routes)


def _apart(instance: Instance, routes: Sequence[PlannedRoute]) -> list[PlannedRoute]:
    """Released so close together that slots do not lock up; at the most, no two microbatches ever meet."""
    executor, gap = Executor(instance), instance.task_gap_seconds
    chains = [executor.chain(route.peers) for route in routes]
    openings = [instance.begin_seconds(route.peers[0], 0.0) for route in routes]
    trips = [executor.run([chain], [0.0]).makespan_seconds + gap for chain in chains]
    spans = [opening + trip for opening, trip in zip(openings, trips, strict=True)]
    if not math.isfinite(sum(spans)):
        raise NoRoomError
    for share in APART:
        releases = [share * seconds for seconds in accumulate(spans[:-1], initial=0.0)]
        begins = [release + opening for release, opening in zip(releases, openings, strict=True)]
        if math.isfinite(executor.run(chains, begins).makespan_seconds):
            break
    return [
        PlannedRoute(route.stages, route.peers, release)
        for route, release in zip(routes, releases, strict=True)
    ]


def deal_stages(instance: Instance) -> list[Order]:
    """The set of middle stages of every microbatch, ascending; every stage's visits are within its limits.

    Raises:
        ConfigError: found no such choice.
    """
    known = _known_sets(instance)
    limits = instance.visit_limits
    need = [float(most) for _, most in limits]
    if instance.visit_shares == "free":
        need = [instance.microbatches * instance.middle_visits / (instance.stages - 1)] * len(need)
    dealt = []
    for _ in range(instance.microbatches):
        # Squares: rather two stages in need than one in great need and one in none.
        best = max(known, key=lambda stages: sum(need[s] * abs(need[s]) for s in stages))
        dealt.append(best)
        for stage in best:
            need[stage] -= 1
    _even_out(dealt, frozenset(known), limits)
    return dealt


def _known_sets(instance: Instance) -> list[Order]:
    """Stage sets to choose from: all, or in big instances many that lie apart."""
    middle, count = instance.stages - 1, instance.middle_visits
    protected, jump = instance.protected_stages, instance.max_jump
    if math.comb(middle, count) <= MOST_SETS:
        return list(stage_sets(middle, count, protected, jump))
    turned = []
    left_out = [s for s in range(1, middle + 1) if s not in protected]
    skipped = middle - count
    for turn in range(len(left_out)):
        for stride in (1, 2, 3, max(1, len(left_out) // max(skipped, 1))):
            gone = {left_out[(turn + stride * step) % len(left_out)] for step in range(skipped)}
            stages = tuple(s for s in range(1, middle + 1) if s not in gone)
            if len(stages) == count and is_legal(stages, 0, jump):
                turned.append(stages)
    first = islice(stage_sets(middle, count, protected, jump), 1)
    return list(dict.fromkeys((*turned, *first)))


def _even_out(
    dealt: list[Order], known: frozenset[Order], limits: tuple[tuple[int, int], ...]
) -> None:
    """Exchange stages of single microbatches until every stage's visits are within its limits."""
    visits = [0] * len(limits)
    for stages in dealt:
        for stage in stages:
            visits[stage] += 1
    middle = range(1, len(limits))
    for _ in range(len(dealt) * len(limits)):
        over = [s for s in middle if visits[s] > limits[s][1]]
        under = [s for s in middle if visits[s] < limits[s][0]]
        if not over and not under:
            return
        givers = over or [s for s in middle if visits[s] > limits[s][0]]
        takers = under or [s for s in middle if visits[s] < limits[s][1]]
        swap = _exchange(dealt, known, givers, takers)
        if swap is None:
            break
        index, left, taken = swap
        dealt[index] = tuple(sorted({*dealt[index], taken} - {left}))
        visits[left] -= 1
        visits[taken] += 1
    raise ConfigError(
        "no way was found to visit all middle stages equally often",
        "max_jump, max_swaps and visits leave too few choices of stages",
        'raise max_jump or visits, or set visit_shares to "free"',
    )


def _exchange(
    dealt: list[Order], known: frozenset[Order], givers: list[int], takers: list[int]
) -> tuple[int, int, int] | None:
    for index, stages in enumerate(dealt):
        for left in givers:
            for taken in takers:
                if left not in stages or taken in stages:
                    continue
                if tuple(sorted({*stages, taken} - {left})) in known:
                    return index, left, taken
    return None
