"""Routes given to microbatches one by one: edges, then the cheapest walk past peers that are busy already."""

from collections.abc import Iterator, Sequence
from heapq import nsmallest

from swarmtrain.core.errors import ConfigError
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.routes import PlannedRoute
from swarmtrain.plan.paths.sequences import Order, orders

CROWDINGS = (0.1, 0.35, 0.75, 2.0)
"""Seconds of detour that are worth one second of work which a peer has been given already: which weight suits an
instance shows when it is executed."""

LOCKED_SECONDS = 1e12
"""The price of a visit that could never begin."""

MOST_WALKS = 50
"""Walks that are followed at once where the cheapest one of each peer led nowhere (I8)."""


class NoRoomError(ConfigError):
    """Slots hold no whole route."""

    def __init__(self) -> None:
        super().__init__(
            "no route fits into the peers' memory slots",
            "a peer that serves several stages of a route needs a slot for each",
            "raise memory_slots, or let more peers host these stages",
        )


class Builder:
    """Gives microbatches edges and peers one by one, and remembers how much work everybody has."""

    def __init__(self, instance: Instance, crowding: float = CROWDINGS[-1]) -> None:
        self._instance, self._crowding = instance, crowding
        self._work_seconds = [0.0] * len(instance.peers)
        send = instance.send_seconds
        size = range(len(send))
        self._both_ways = [[send[a][b] + send[b][a] for b in size] for a in size]
        self._fitting: dict[tuple[int, Order], bool] = {}

    def pairs(self, sets: Sequence[Order]) -> Iterator[tuple[int, Order]]:
        """These sets of stages, each with an edge peer; no walk needs more slots of a peer than there are.

        Raises:
            NoRoomError: no such edge peer was found.
        """
        if not self._instance.crowded:
            yield from zip(self.edges(), sets, strict=True)
            return
        left = list(sets)
        for edge in self.edges(sets):
            fitting = next((at for at, stages in enumerate(left) if self._fits(edge, stages)), None)
            if fitting is None:
                raise NoRoomError
            yield edge, left.pop(fitting)

    def edges(self, sets: Sequence[Order] = ()) -> Iterator[int]:
        """An edge peer for each microbatch: in turn, or to whoever is through first, where sets of stages are given of
        those whose slots hold a walk through the next of them."""
        hosts = self._instance.hosts[0]
        if self._instance.quotas == "equal":
            yield from (hosts[index % len(hosts)] for index in range(self._instance.microbatches))
            return
        busy = dict.fromkeys(hosts, 0.0)
        away = {edge: self._away_seconds(edge) for edge in hosts}
        for index in range(self._instance.microbatches):
            able = [edge for edge in hosts if self._fits(edge, sets[index])] if sets else hosts
            edge = min(able or hosts, key=lambda edge: busy[edge] + away[edge])
            busy[edge] += away[edge]
            yield edge

    def route(self, edge: int, stages: Order) -> PlannedRoute:
        """The cheapest walk from `edge` through `stages` in a legal order, counting work that waits at its peers."""
        instance = self._instance
        options = orders(stages, instance.max_swaps, instance.max_jump)
        return self.along(edge, options)

    def along(self, edge: int, options: Sequence[Order]) -> PlannedRoute:
        """The cheapest walk from `edge` in one of these orders."""
        _, order, peers = min(self._walk(edge, order) for order in options)
        self.count(peers)
        return PlannedRoute((0, *order), (edge, *peers))

    def count(self, peers: Sequence[int]) -> None:
        """Remember the work of a visit at each of these middle peers."""
        for peer in peers:
            costs = self._instance.peers[peer]
            self._work_seconds[peer] += (
                costs.forward_seconds + costs.backward_seconds + 2 * self._instance.task_gap_seconds
            )

    def _walk(self, edge: int, order: Order) -> tuple[float, Order, Order]:
        """(cost, order, peers) of the cheapest walk through the stages in this order and back to the edge."""
        ways, hosts, crowded = self._both_ways, self._instance.hosts, self._instance.crowded
        reached: dict[int, tuple[float, Order]] = {edge: (0.0, ())}
        for stage in order:
            following: dict[int, tuple[float, Order]] = {}
            for peer in hosts[stage]:
                if crowded:
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
        return (cost, order, peers) if cost < LOCKED_SECONDS else self._walk_by_slots(edge, order)

    def _walk_by_slots(self, edge: int, order: Order) -> tuple[float, Order, Order]:
        """As `_walk`, which knows only one walk to each peer: that one may hold slots that are needed further on."""
        ways, instance = self._both_ways, self._instance
        crowded = instance.crowded
        # By where a walk is and its visits at crowded peers, which limit where it may go.
        held: Order = (edge,) if edge in crowded else ()
        reached: dict[tuple[int, Order], tuple[float, Order]] = {(edge, held): (0.0, ())}
        for stage in order:
            following: dict[tuple[int, Order], tuple[float, Order]] = {}
            for (before, held), (cost, peers) in reached.items():
                for peer in instance.hosts[stage]:
                    more = ways[before][peer] + self._price(peer) + self._lock(peer, held)
                    there = peer, tuple(sorted((*held, peer))) if peer in crowded else held
                    walk = cost + more, (*peers, peer)
                    following[there] = min(following.get(there, walk), walk)
            reached = dict(nsmallest(MOST_WALKS, following.items(), key=lambda entry: entry[1]))
        cost, peers = min(
            (cost + ways[last][edge], peers) for (last, _), (cost, peers) in reached.items()
        )
        return cost, order, peers

    def _lock(self, peer: int, before: Order) -> float:
        """Prohibitive where the route itself holds all of the peer's slots already."""
        slots = self._instance.peers[peer].memory_slots
        return LOCKED_SECONDS if before.count(peer) >= slots else 0.0

    def _fits(self, edge: int, stages: Order) -> bool:
        """Whether slots hold a walk from `edge` through these stages; in which order makes no difference."""
        if (edge, stages) not in self._fitting:
            self._fitting[edge, stages] = self._walk(edge, stages)[0] < LOCKED_SECONDS
        return self._fitting[edge, stages]

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
