"""Which peer takes which stage: first along chains of near peers, then by moves that join those of routes.

Only peers without a place are moved.
"""

from collections.abc import Sequence

from swarmtrain.plan.paths.draft import Change, Draft, Entry
from swarmtrain.plan.paths.instance import Chance, Instance
from swarmtrain.plan.paths.routes import PlannedRoute

MORE_EDGES = 0.25
"""Share of all peers that starts as edges where sizes are free."""


def first_placement(instance: Instance) -> Instance:
    """Everybody placed: whoever is near follows in the chain, and every stretch of it has all stages in proportion."""
    hosted = [len(hosts) for hosts in instance.hosts]
    sizes = instance.stage_sizes or _even_sizes(instance)
    wanted = [max(0, size - count) for size, count in zip(sizes, hosted, strict=True)]
    spare = len(instance.unplaced) - sum(wanted)
    for extra in range(spare):
        wanted[1 + extra % (instance.stages - 1)] += 1
    places: dict[int, int] = {}
    dealt = [0] * instance.stages
    for step, peer in enumerate(_chain(instance), 1):
        # Whichever stage is furthest behind its share of the chain so far.
        behind = [
            want * step / sum(wanted) - have for want, have in zip(wanted, dealt, strict=True)
        ]
        places[peer] = max(range(instance.stages), key=behind.__getitem__)
        dealt[places[peer]] += 1
    return instance.placed(
        (places[index],) if peer.stages is None else peer.stages
        for index, peer in enumerate(instance.peers)
    )


def _chain(instance: Instance) -> list[int]:
    """Peers without a place, each followed by the nearest one left."""
    send, left = instance.send_seconds, list(instance.unplaced)
    chain = [left.pop(0)] if left else []
    while left:
        last = chain[-1]
        chain.append(min(left, key=lambda peer: send[last][peer] + send[peer][last]))
        left.remove(chain[-1])
    return chain


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
