"""A makespan that no plan of an instance can be under: the largest of three reasons.

With n visits at a peer that has m slots, f and b seconds for forward and backward and g for the gap:

1. critical path: some microbatch needs the cheapest round trip of its edge;
2. node load: head + n (f + b + 2g) - g + tail, with the loss besides at an edge;
3. residence (Little's law): a visit holds a slot for at least its cheapest residence R. Slots begin one forward after
   the other and end one backward after the other, and a slot rests for a gap between two visits. So with k slots in use
   k (T - head - tail) >= n R + (n - k) g + (f + b + 2g) k (k - 1) / 2, for the best k up to m.

2 and 3 grow with n: microbatches are dealt to edges, and visits to the replicas of each stage, so that the largest
figure is smallest. Where peers have no place yet, all visits are dealt to all peers.
"""

import math
from collections.abc import Callable, Mapping
from heapq import heapify, heapreplace

from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.walks import Walks, cheapest_walks

SAFETY = 1.0 - 1e-12
"""Sums round; a bound that is a rounding above an optimum would be a lie."""


def lower_bound_seconds(instance: Instance) -> float:
    """Seconds that every plan of `instance` takes at least, in any placement of peers that have no place yet."""
    walks = cheapest_walks(instance)
    bounds = [min(walks.round_trip.values())]
    if instance.unplaced:
        bounds.append(_anywhere_seconds(instance, walks))
    else:
        bounds.append(_edges_seconds(instance, walks))
        for stage in range(1, instance.stages):
            bounds.append(_stage_seconds(instance, walks, stage))
    return max(bounds) * SAFETY


def _edges_seconds(instance: Instance, walks: Walks) -> float:
    least, most = instance.quota_limits(len(instance.hosts[0]))
    start = dict.fromkeys(instance.hosts[0], least)
    return _dealt_seconds(
        start, instance.microbatches, most, lambda p, n: _edge_seconds(instance, walks, p, n)
    )


def _stage_seconds(instance: Instance, walks: Walks, stage: int) -> float:
    start, visits = dict.fromkeys(instance.hosts[stage], 0), instance.visit_limits[stage][0]
    return _dealt_seconds(
        start, visits, visits, lambda p, n: _middle_seconds(instance, walks, p, n)
    )


def _anywhere_seconds(instance: Instance, walks: Walks) -> float:
    """All visits, embeddings included, dealt to all peers in whatever role is lightest."""

    def seconds(peer: int, visits: int) -> float:
        stages = instance.peers[peer].stages
        middle = _middle_seconds(instance, walks, peer, visits)
        if stages is None:
            return min(middle, _edge_seconds(instance, walks, peer, visits))
        return middle if any(stages) else _edge_seconds(instance, walks, peer, visits)

    visits = instance.microbatches * instance.visits
    return _dealt_seconds(dict.fromkeys(range(len(instance.peers)), 0), visits, visits, seconds)


def _dealt_seconds(
    start: Mapping[int, int], total: int, most: int, seconds: Callable[[int, int], float]
) -> float:
    """The least possible largest `seconds(peer, visits)`, when `total` visits are dealt on top of `start`."""
    worst = max((seconds(peer, visits) for peer, visits in start.items() if visits), default=0.0)
    queue = [(seconds(p, visits + 1), p, visits + 1) for p, visits in start.items()]
    heapify(queue)
    for _ in range(total - sum(start.values())):
        cost, peer, visits = queue[0]
        worst = max(worst, cost)
        more = seconds(peer, visits + 1) if visits < most else math.inf
        heapreplace(queue, (more, peer, visits + 1))
    return worst


def _edge_seconds(instance: Instance, walks: Walks, peer: int, visits: int) -> float:
    costs, gap = instance.peers[peer], instance.task_gap_seconds
    load = costs.forward_seconds + costs.backward_seconds + costs.loss_seconds + 3 * gap
    return max(
        visits * load - gap,
        _slots_seconds(instance, peer, visits, walks.round_trip.get(peer, math.inf)),
    )


def _middle_seconds(instance: Instance, walks: Walks, peer: int, visits: int) -> float:
    costs, gap = instance.peers[peer], instance.task_gap_seconds
    around = walks.head[peer] + walks.tail[peer]
    if math.isinf(around):  # no legal route comes here
        return math.inf
    load = visits * (costs.forward_seconds + costs.backward_seconds + 2 * gap) - gap
    return around + max(load, _slots_seconds(instance, peer, visits, walks.residence[peer]))


def _slots_seconds(instance: Instance, peer: int, visits: int, residence_seconds: float) -> float:
    """The span of `visits` residences on the peer's slots."""
    if math.isinf(residence_seconds):
        return math.inf
    costs, gap = instance.peers[peer], instance.task_gap_seconds
    stagger = costs.forward_seconds + costs.backward_seconds + 2 * gap
    held = visits * (residence_seconds + gap)
    # Convex in the number of slots used: the best whole number is beside the root of its slope.
    most = min(visits, costs.memory_slots)
    root = math.floor(math.sqrt(2 * held / stagger))
    used = {min(max(1, slots), most) for slots in (root, root + 1)}
    return min(held / slots - gap + stagger * (slots - 1) / 2 for slots in used)
