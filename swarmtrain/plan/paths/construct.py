"""The first plan, within milliseconds: stages dealt by need, then each microbatch the cheapest walk past busy peers."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, islice

from swarmtrain.core.errors import ConfigError
from swarmtrain.plan.paths.execution import Executor
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.routes import PlannedRoute
from swarmtrain.plan.paths.sequences import Order, is_legal, orders, stage_sets

CROWDINGS = (0.1, 0.35, 0.75, 2.0)
"""Seconds of detour that are worth one second of work which a peer has been given already: which weight suits an
instance shows when it is executed."""

SPREAD = 2.0
"""Weight of the mean end beside the makespan, where plans are compared."""

APART = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Shares of a round trip between two releases that are tried where slots lock up."""

MOST_TRIED_VISITS = 1000
"""In larger instances only the last of `CROWDINGS` and ascending orders are tried: the first plan is to be there at
once, and it was no worse where measured."""

LOCKED_SECONDS = 1e12
"""The price of a visit that could never begin."""

MOST_SETS = 1000
"""Stage sets that are looked at: beyond that the choice is good enough (I8)."""


def first_routes(instance: Instance, crowdings: Sequence[float] = CROWDINGS) -> list[PlannedRoute]:
    """Legal routes for all microbatches: the best of one try for each of `crowdings`, released at once. Where slots
    lock up, ascending ones, which cannot where nobody serves two stages; where these do too, released some time apart.

    Raises:
        ConfigError: visits cannot be shared as asked for, or slots hold no whole route.
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
            (energy(executor, routes), at, routes) for at, routes in enumerate(tried)
        )
        if math.isfinite(best_energy):
            return routes
    return _apart(instance, routes)


def _dealt_routes(instance: Instance, sets: Sequence[Order], crowding: float) -> list[PlannedRoute]:
    builder = Builder(instance, crowding)
    return [builder.route(edge, stages) for edge, stages in zip(builder.edges(), sets, strict=True)]


def energy(executor: Executor, routes: Sequence[PlannedRoute]) -> float:
    """How good routes are that are released at once, the less the better; infinite where they lock up."""
    execution = executor.run([executor.chain(route.peers) for route in routes], [0.0] * len(routes))
    return execution.makespan_seconds + SPREAD * sum(execution.ends) / len(routes)


def _apart(instance: Instance, routes: Sequence[PlannedRoute]) -> list[PlannedRoute]:
    """Released so close together that slots do not lock up; at the most, no two microbatches ever meet."""
    executor, gap = Executor(instance), instance.task_gap_seconds
    chains = [executor.chain(route.peers) for route in routes]
    openings = [instance.begin_seconds(route.peers[0], 0.0) for route in routes]
    trips = [executor.run([chain], [0.0]).makespan_seconds + gap for chain in chains]
    spans = [opening + trip for opening, trip in zip(openings, trips, strict=True)]
    if not math.isfinite(sum(spans)):
        raise ConfigError(
            "no route fits into the peers' memory slots",
            "a peer that serves several stages of a route needs a slot for each",
            "raise memory_slots, or let more peers host these stages",
        )
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


class Builder:
    """Gives microbatches edges and peers one by one, and remembers how much work everybody has."""

    def __init__(self, instance: Instance, crowding: float = CROWDINGS[-1]) -> None:
        self._instance, self._crowding = instance, crowding
        self._work_seconds = [0.0] * len(instance.peers)
        send = instance.send_seconds
        size = range(len(send))
        self._both_ways = [[send[a][b] + send[b][a] for b in size] for a in size]
        # Only who serves several stages is on a route more than once.
        self._may_lock = any(
            len(peer.stages or ()) > 1 or not peer.memory_slots for peer in instance.peers
        )

    def edges(self) -> Iterator[int]:
        """An edge peer for each microbatch: in turn, or to whoever is through first."""
        hosts = self._instance.hosts[0]
        if self._instance.quotas == "equal":
            yield from (hosts[index % len(hosts)] for index in range(self._instance.microbatches))
            return
        busy = dict.fromkeys(hosts, 0.0)
        away = {edge: self._away_seconds(edge) for edge in hosts}
        for _ in range(self._instance.microbatches):
            edge = min(hosts, key=lambda edge: busy[edge] + away[edge])
            busy[edge] += away[edge]
            yield edge

    def route(self, edge: int, stages: Order) -> PlannedRoute:
        """The cheapest walk from `edge` through `stages` in a legal order, counting work that waits at its peers."""
        instance = self._instance
        options = orders(stages, instance.max_swaps, instance.max_jump)
        return self.along(edge, options)

    def along(self, edge: int, options: Sequence[Order]) -> PlannedRoute:
        """The cheapest walk from `edge` in one of these orders."""
        instance = self._instance
        _, order, peers = min(self._walk(edge, order) for order in options)
        for peer in peers:
            costs = instance.peers[peer]
            self._work_seconds[peer] += (
                costs.forward_seconds + costs.backward_seconds + 2 * instance.task_gap_seconds
            )
        return PlannedRoute((0, *order), (edge, *peers))

    def _walk(self, edge: int, order: Order) -> tuple[float, Order, Order]:
        """(cost, order, peers) of the cheapest walk through the stages in this order and back to the edge."""
        ways, hosts = self._both_ways, self._instance.hosts
        reached: dict[int, tuple[float, Order]] = {edge: (0.0, ())}
        for stage in order:
            following: dict[int, tuple[float, Order]] = {}
            for peer in hosts[stage]:
                if self._may_lock:
                    cost, peers = min(
                        (cost + ways[before][peer] + self._lock(peer, (edge, *peers)), peers)
                        for before, (cost, peers) in reached.items()
                    )
                else:
                    cost, peers = min(
                        [
                            (cost + ways[before][peer], peers)
                            for before, (cost, peers) in reached.items()
                        ]
                    )
                following[peer] = (cost + self._price(peer), (*peers, peer))
            reached = following
        cost, peers = min(
            (cost + ways[last][edge], peers) for last, (cost, peers) in reached.items()
        )
        return cost, order, peers

    def _lock(self, peer: int, before: Order) -> float:
        """Prohibitive where the route itself holds all of the peer's slots already."""
        slots = self._instance.peers[peer].memory_slots
        return LOCKED_SECONDS if before.count(peer) >= slots else 0.0

    def _price(self, peer: int) -> float:
        costs = self._instance.peers[peer]
        own = costs.forward_seconds + costs.backward_seconds
        return own + self._crowding * self._work_seconds[peer]

    def _away_seconds(self, edge: int) -> float:
        """How long one slot of an edge is taken by a typical microbatch, over its slots."""
        instance = self._instance
        costs = instance.peers[edge]
        near = sorted(self._both_ways[edge][p] for p in range(len(instance.peers)) if p != edge)
        hop = near[len(near) // 4] if near else 0.0
        work = costs.forward_seconds + costs.backward_seconds + hop
        return (work * instance.visits + costs.loss_seconds) / costs.memory_slots
