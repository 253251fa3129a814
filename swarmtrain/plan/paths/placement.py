"""Which peer takes which stage, searched together with the routes.

First coarsely: places are annealed with the routes that the first plan's builder would give them. Then finely: the
moves below join those of routes, so that places and routes fit each other. Only peers without a place are moved.
"""

import math
from collections.abc import Callable, Sequence

from swarmtrain.plan.paths.bounds import lower_bound_seconds
from swarmtrain.plan.paths.construct import energy, first_routes
from swarmtrain.plan.paths.draft import Change, Draft, Entry
from swarmtrain.plan.paths.execution import Executor
from swarmtrain.plan.paths.instance import Chance, Instance
from swarmtrain.plan.paths.routes import PlannedRoute

COARSE_COST = 12
"""Evaluations that building and executing one set of first routes counts for."""

HOT, COLD = 0.03, 0.003
"""Temperatures of the coarse search, as shares of the first energy."""

CROWDING = (0.75,)
"""One try of first routes is enough to compare places."""

BOUND, TRIP, ROUTED = 2.0, 2.0, 0.2
"""Weights of the places' lower bound, the first routes' mean round trip, and their energy when executed. Collisions can
still be searched away, long ways and full slots cannot."""

MORE_EDGES = 0.25
"""Share of all peers that starts as edges where sizes are free."""


def coarse_placement(
    instance: Instance, chance: Chance, share_spent: Callable[[int], float]
) -> tuple[Instance, int]:
    """The instance with everybody placed, and the evaluations it took; ends when `share_spent` reaches 1."""
    stages = _first_stages(instance)
    current, evaluations = _energy(instance, stages), COARSE_COST
    best, least = stages, current
    scale = current if math.isfinite(current) else 1.0
    while (share := share_spent(evaluations)) < 1.0:
        changed = _changed(instance, stages, chance)
        evaluations += COARSE_COST
        if changed is None:
            continue
        found = _energy(instance, changed)
        heat = scale * HOT * (COLD / HOT) ** share
        if found <= current or chance.random() < math.exp((current - found) / heat):
            stages, current = changed, found
        if found < least:
            best, least = changed, found
    return _placed(instance, best), evaluations


class PlacementMoves:
    """Proposals that move peers in a draft; `free` are the peers that may be moved."""

    def __init__(self, draft: Draft, chance: Chance, free: Sequence[int]) -> None:
        self._draft, self._chance, self._free = draft, chance, free

    def propose(self) -> Change | None:
        if self._draft.instance.stage_sizes is None and self._chance.random() < 0.3:
            return self.move()
        return self.swap()

    def swap(self) -> Change | None:
        """Two peers change places: each takes over the other's visits."""
        one, other = self._drawn(self._free), self._drawn(self._free)
        first, second = self._stage_of(one), self._stage_of(other)
        if first == second:
            return None
        trade = {one: other, other: one}
        entries = tuple(
            (index, _with(route, tuple(trade.get(peer, peer) for peer in route.peers)))
            for index, route in enumerate(self._draft.routes)
            if one in route.peers or other in route.peers
        )
        return Change(entries, ((one, first, second), (other, second, first)))

    def move(self) -> Change | None:
        """A peer leaves its stage to the other replicas and takes a fair share of another one's visits."""
        peer, taken = self._drawn(self._free), int(self._chance.random() * len(self._draft.hosts))
        left, hosts = self._stage_of(peer), self._draft.hosts
        if left == taken or len(hosts[left]) < 2:
            return None
        if 0 in (left, taken) and self._draft.instance.quotas == "equal":
            return None  # every quota would change
        others = [host for host in hosts[left] if host != peer]
        share = 1.0 / (len(hosts[taken]) + 1)
        entries: list[Entry] = []
        for index, route in enumerate(self._draft.routes):
            peers = list(route.peers)
            for at, stage in enumerate(route.stages):
                if stage == left and peers[at] == peer:
                    peers[at] = self._drawn(others)
                elif stage == taken and self._chance.random() < share:
                    peers[at] = peer
            if tuple(peers) != route.peers:
                entries.append((index, _with(route, tuple(peers))))
        return Change(tuple(entries), ((peer, left, taken),))

    def _stage_of(self, peer: int) -> int:
        return next(stage for stage, hosts in enumerate(self._draft.hosts) if peer in hosts)

    def _drawn(self, options: Sequence[int]) -> int:
        return options[int(self._chance.random() * len(options))]


def _with(route: PlannedRoute, peers: tuple[int, ...]) -> PlannedRoute:
    return PlannedRoute(route.stages, peers, route.release_seconds)


def _first_stages(instance: Instance) -> dict[int, int]:
    """A stage for every peer without one: the sizes asked for, or even ones; peers in the order they come."""
    hosted = [len(hosts) for hosts in instance.hosts]
    sizes = instance.stage_sizes or _even_sizes(instance)
    open_places = [
        stage for stage, size in enumerate(sizes) for _ in range(max(0, size - hosted[stage]))
    ]
    spare = len(instance.unplaced) - len(open_places)
    places = open_places + [1 + index % (instance.stages - 1) for index in range(spare)]
    return dict(zip(instance.unplaced, places, strict=False))


def _even_sizes(instance: Instance) -> tuple[int, ...]:
    """Every stage with one peer at least, a quarter of all at the edge, the rest spread over the middle."""
    hosted = [len(hosts) for hosts in instance.hosts]
    sizes = [max(1, count) for count in hosted]
    left = len(instance.unplaced) - sum(
        size - count for size, count in zip(sizes, hosted, strict=True)
    )
    for _ in range(left):
        if sizes[0] < MORE_EDGES * len(instance.peers):
            sizes[0] += 1
        else:
            sizes[min(range(1, len(sizes)), key=lambda stage: sizes[stage])] += 1
    return tuple(sizes)


def _changed(instance: Instance, stages: dict[int, int], chance: Chance) -> dict[int, int] | None:
    """Two peers' places exchanged, or, where sizes are free, one peer at another stage."""
    free = instance.unplaced
    one, other = (free[int(chance.random() * len(free))] for _ in range(2))
    if instance.stage_sizes is None and chance.random() < 0.4:
        left, taken = stages[one], int(chance.random() * instance.stages)
        hosts = sum(stage == left for stage in stages.values()) + len(instance.hosts[left])
        return {**stages, one: taken} if left != taken and hosts > 1 else None
    if stages[one] == stages[other]:
        return None
    return {**stages, one: stages[other], other: stages[one]}


def _placed(instance: Instance, stages: dict[int, int]) -> Instance:
    return instance.placed(
        (stages[index],) if peer.stages is None else peer.stages
        for index, peer in enumerate(instance.peers)
    )


def _energy(instance: Instance, stages: dict[int, int]) -> float:
    placed = _placed(instance, stages)
    executor = Executor(placed)
    routes = first_routes(placed, CROWDING)
    mean = sum(executor.round_trip_seconds(route.peers) for route in routes) / len(routes)
    bound = lower_bound_seconds(placed)
    return BOUND * bound + TRIP * mean + ROUTED * energy(executor, routes)
