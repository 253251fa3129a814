"""The planner's entrance: `plan` a step from nothing, `replan` one whose network changed."""

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from swarmtrain.core.errors import ConfigError
from swarmtrain.plan.paths.bounds import better_bound_seconds, lower_bound_seconds
from swarmtrain.plan.paths.builder import NoRoomError
from swarmtrain.plan.paths.construct import first_routes
from swarmtrain.plan.paths.freedom import ANYTHING, SAME_STAGES, Freedom, visits_of
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

DRIFTED = 0.1
"""Costs that changed by less than this share are the same: they are measured, and measurements stray."""


def plan(instance: Instance, spent: Spent, chance: Chance, report: Report | None = None) -> Plan:
    """The best plan found within the budget: routes, releases, and places for peers that have none.

    `spent` maps evaluations to the share of the budget used; the first plan is made whatever it says. The same
    instance, budget in evaluations and seed give the same plan.

    Raises:
        ConfigError: the instance has no plan.
    """
    bound, teller = lower_bound_seconds(instance), _Teller(report or _nobody)
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
            found = search.episode(_part(spent, 0, begin, end))
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
        part = _part(spent, teller.done, begin, begin + SKETCHED * (end - begin))
        there, along, used = sketched(
            self.instance, self.placed, self.routes, waiting, part, self.chance
        )
        teller.done += used
        start = self.annealer(there, along)
        if math.isfinite(start.best_seconds):  # slots may have locked up
            start.search(_part(spent, teller.done, begin, end), TRIAL)
        teller.done += start.evaluations
        return start

    def on(self, annealer: Annealer, spent: Spent, end: float, rounds: Rounds) -> None:
        """Search on until share `end` of the budget."""
        teller, begin = self.teller, spent(self.teller.done)
        teller.done -= annealer.evaluations  # which the annealer counts itself
        annealer.search(_part(spent, teller.done, begin, end), rounds)
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


def _part(spent: Spent, done: int, begin: float, end: float) -> Spent:
    """The budget from share `begin` to share `end` of another one of which `done` evaluations are used."""

    def share(evaluations: int) -> float:
        used = spent(done + evaluations)
        return 1.0 if used >= end else (used - begin) / (end - begin)

    return share


def replan(
    instance: Instance, previous: Plan, spent: Spent, chance: Chance, report: Report | None = None
) -> Plan:
    """`previous` repaired for the network as it is now: routes that the change does not touch stay as they are.

    `instance` has a place for everybody; peers are matched by name, so one without the lost peers tells of a loss, one
    with other costs of a drift. Touched are routes with a lost peer, a peer that left the stage, or a cost that rose by
    more than a tenth. They keep their stages and their order (rule R14) and get other peers: first the cheapest ones,
    then what the search finds.

    Raises:
        ConfigError: a stage of some route is hosted by nobody any more.
    """
    index_of = {peer.name: index for index, peer in enumerate(instance.peers)}
    routes: list[PlannedRoute] = []
    touched: list[int] = []
    for index, route in enumerate(previous.routes):
        names = [previous.instance.peers[peer].name for peer in route.peers]
        kept = [index_of.get(name) for name in names]
        if _is_touched(instance, previous, route, kept):
            touched.append(index)
        routes.append(_mended(instance, route, kept, routes))
    freedom = Freedom(SAME_STAGES, visits_of(instance, touched), may_lengthen=True)
    annealer = Annealer(instance, routes, freedom, chance, report or _nobody)
    if touched:
        annealer.search(spent)
    return annealer.plan(lower_bound_seconds(instance), annealer.evaluations)


def _is_touched(
    instance: Instance, previous: Plan, route: PlannedRoute, kept: Sequence[int | None]
) -> bool:
    now = [index for index in kept if index is not None]
    if len(now) < len(kept):
        return True
    if any(
        peer not in instance.hosts[stage] for stage, peer in zip(route.stages, now, strict=True)
    ):
        return True
    return _costs_seconds(instance, now) > (1 + DRIFTED) * _costs_seconds(
        previous.instance, route.peers
    )


def _costs_seconds(instance: Instance, peers: Sequence[int]) -> float:
    """Of one way round: sends and forwards and backwards, without waiting."""
    hops = zip(peers, (*peers[1:], peers[0]), strict=True)
    sends = sum(instance.send_seconds[a][b] + instance.send_seconds[b][a] for a, b in hops)
    work = (instance.peers[peer] for peer in peers)
    return sends + sum(peer.forward_seconds + peer.backward_seconds for peer in work)


def _mended(
    instance: Instance,
    route: PlannedRoute,
    kept: Sequence[int | None],
    earlier: Sequence[PlannedRoute],
) -> PlannedRoute:
    """The route with a host for every stage: those it had, else a near one that is little used so far."""
    used = Counter(peer for other in earlier for peer in other.peers)
    peers: list[int] = []
    for stage, peer in zip(route.stages, kept, strict=True):
        hosts = instance.hosts[stage]
        if not hosts:
            raise ConfigError(
                f"nobody hosts stage {stage} any more",
                "its last peer was lost",
                "let a peer take the stage before planning again",
            )
        if peer is None or peer not in hosts:
            before = peers[-1] if peers else None
            peer = min(
                hosts, key=lambda host: (used[host] // 3, _hop(instance, before, host), host)
            )
        peers.append(peer)
    return PlannedRoute(route.stages, tuple(peers), route.release_seconds)


def _hop(instance: Instance, before: int | None, peer: int) -> float:
    return 0.0 if before is None else instance.send_seconds[before][peer]


def _nobody(evaluations: int, makespan_seconds: float) -> None:
    """Reports to nobody."""
