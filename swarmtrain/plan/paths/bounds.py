"""A makespan that no plan of an instance can be under: the largest of three reasons.

With n visits at a peer that has m slots, f and b seconds for forward and backward and g for the gap:

1. critical path: some microbatch needs the cheapest round trip of its edge;
2. node load: head + n (f + b + 2g) - g + tail, with the loss besides at an edge;
3. residence (Little's law): a visit holds a slot for at least its cheapest residence R. Slots begin one forward after
   the other and end one backward after the other, and a slot rests for a gap between two visits. So with k slots in use
   k (T - head - tail) >= n R + (n - k) g + (f + b + 2g) k (k - 1) / 2, for the best k up to m;
4. whole visits: some slots serve c = ceil(n / m) visits, at least q = n - (c - 1) m of them if none serves more. One of
   these q begins last or ends first: T - head - tail >= c R + (c - 1) g + (q - 1) (max(f, b) + g).

2 to 4 grow with n: microbatches are dealt to edges, and visits to the replicas of each stage, so that the largest
figure is smallest. Where peers have no place yet, a makespan is too short as long as no choice of edges leaves the
other peers room for all middle visits, or slots for as long as these hold them, the more the earlier on the route; or
as whole peers do not suffice for every stage.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heapreplace

import numpy as np

from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.walks import Walks, cheapest_walks

HALVINGS = 24
"""Of the interval in which the bound of peers without a place lies."""

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
    """The longest makespan found for which the peers, each edge or middle as is best, could not serve all visits."""
    least, most = 0.0, 1.0
    while not _could_serve(instance, walks, most):
        least, most = most, 2 * most
    for _ in range(HALVINGS):
        middle = (least + most) / 2
        if _could_serve(instance, walks, middle):
            most = middle
        else:
            least = middle
    return least


def _could_serve(instance: Instance, walks: Walks, limit_seconds: float) -> bool:
    """Whether peers have room for all embeddings and all middle visits within the limit, however they are dealt."""
    visits = instance.microbatches * instance.middle_visits
    as_edge = [_room(_edge_seconds, instance, walks, p, limit_seconds) for p in walks.head]
    as_middle = [_room(_middle_seconds, instance, walks, p, limit_seconds) for p in walks.head]
    if _most_beside_edges(instance, as_edge, as_middle) < visits:
        return False
    held, needed_seconds = _held_seconds(instance, walks, limit_seconds)
    if _most_beside_edges(instance, as_edge, held) < needed_seconds * SAFETY:
        return False
    return _enough_peers(instance, as_edge, max(as_middle))


def _most_beside_edges(
    instance: Instance, as_edge: Sequence[int], as_middle: Sequence[float]
) -> float:
    """The most that peers can give as middle ones while others, or those placed at both, take all embeddings."""
    microbatches = instance.microbatches
    # By embeddings that the edges so far have room for, the most of the other peers so far.
    room_M = np.full(microbatches + 1, -np.inf)
    room_M[0] = 0.0
    for peer, (edge, middle) in enumerate(zip(as_edge, as_middle, strict=True)):
        stages = instance.peers[peer].stages
        if stages is not None:  # its place says what it is; with both roles it serves both
            edge, middle = edge * (0 in stages), middle * any(stages)
        edge = min(edge, microbatches)
        chosen_M = np.full(microbatches + 1, -np.inf)
        chosen_M[edge:] = room_M[: microbatches + 1 - edge]
        if edge:
            chosen_M[-1] = max(chosen_M[-1], room_M[microbatches + 1 - edge :].max())
        if stages is not None and 0 in stages:
            room_M = chosen_M + middle
        else:
            room_M = np.maximum(room_M + middle, chosen_M)
    return float(room_M[-1])


def _held_seconds(
    instance: Instance, walks: Walks, limit_seconds: float
) -> tuple[list[float], float]:
    """Seconds of slots by peer that middle visits can hold within the limit, and those that they all hold at least.

    A visit at a far peer holds its slot for longer. So both count seconds of a peer less, the longer its visits last;
    any weights give a bound.
    """
    gap, least = instance.task_gap_seconds, math.fsum(min(stay) for stay in walks.stays)
    sums = [math.fsum(stay) for stay in zip(*walks.stays, strict=True)]
    weights = [least / total if math.isfinite(total) else 1.0 for total in sums]
    needed = math.fsum(
        min(weight * (seconds + gap) for weight, seconds in zip(weights, stay, strict=True))
        for stay in walks.stays
    )
    held = []
    for peer, (costs, weight) in enumerate(zip(instance.peers, weights, strict=True)):
        span = max(0.0, limit_seconds - walks.head[peer] - walks.tail[peer] + gap)
        stagger = costs.forward_seconds + costs.backward_seconds + 2 * gap
        used = range(costs.memory_slots + 1)
        held.append(weight * max(k * span - stagger * k * (k - 1) / 2 for k in used))
    return held, instance.microbatches * needed


def _enough_peers(instance: Instance, as_edge: Sequence[int], most_visits: int) -> bool:
    """Whether whole peers suffice: every stage takes as many as its visits need of the roomiest one."""
    if any(peer.stages is not None for peer in instance.peers):
        return True
    edges = room = 0
    for own in sorted(as_edge, reverse=True):
        if room >= instance.microbatches:
            break
        edges, room = edges + 1, room + own
    fewest = [least for least, _ in instance.visit_limits[1:]]
    needed = sum(-(-visits // most_visits) for visits in fewest if visits)
    return edges + needed <= len(instance.peers)


def _room(
    seconds: Callable[[Instance, Walks, int, int], float],
    instance: Instance,
    walks: Walks,
    peer: int,
    limit_seconds: float,
) -> int:
    """The most visits of the peer that end within the limit; `seconds` grow with them."""
    least, most = 0, instance.microbatches * instance.visits
    while least < most:
        visits = (least + most + 1) // 2
        if seconds(instance, walks, peer, visits) <= limit_seconds:
            least = visits
        else:
            most = visits - 1
    return least


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
    even = min(held / slots - gap + stagger * (slots - 1) / 2 for slots in used)
    turns = -(-visits // costs.memory_slots)
    full = visits - (turns - 1) * costs.memory_slots
    apart = max(costs.forward_seconds, costs.backward_seconds) + gap
    taken = turns * (residence_seconds + gap) - gap
    return max(even, min(taken + (full - 1) * apart, taken + residence_seconds + gap))
