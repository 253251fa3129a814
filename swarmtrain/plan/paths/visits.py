"""How long a peer's visits take at the least: what node load and memory slots say of one peer.

With n visits at a peer that has m slots, f and b seconds for forward and backward and g for the gap:

1. load: head + n (f + b + 2g) - g + tail, with the loss besides at an edge. Before the first backward, which cannot
   begin before some visit's answer, at most m forwards find a slot; after the last forward, which cannot end later than
   some visit's finish allows, at most m backwards are left. What these leave of both times is idle;
2. residence (Little's law): a visit holds a slot for at least its cheapest residence R. Slots begin one forward after
   the other and end one backward after the other, and a slot rests for a gap between two visits. So with k slots in use
   k (T - head - tail) >= n R + (n - k) g + (f + b + 2g) k (k - 1) / 2, for the best k up to m;
3. turns: the j-th visit to begin waits for the (j - m)-th to end, and of j visits that ended one began as the j-th or
   later. So with c = ceil(n / m) turns, q = n - (c - 1) m of them in the last, the first end comes at the answer and
   b, each turn but two takes R + g more, and then q - 1 backwards and as many forwards precede the last forward.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from swarmtrain.plan.paths.instance import Instance, PeerCosts
from swarmtrain.plan.paths.walks import Walks

Spans = Callable[[int, int], float]
"""A peer and its visits to the seconds from the step's begin to the end of the last of them, at the least."""


class Around(NamedTuple):
    """Seconds of a visit without waiting, as in `walks.Walks`; `loss_seconds` with its gap, where there is one."""

    head: float
    tail: float
    answer: float
    finish: float
    residence: float
    loss_seconds: float = 0.0


def edge_spans(instance: Instance, walks: Walks) -> Spans:
    """Of embeddings with their losses, at the edge peers."""
    gap = instance.task_gap_seconds

    def seconds(peer: int, visits: int) -> float:
        costs, trip = instance.peers[peer], walks.round_trip.get(peer, math.inf)
        answer, finish = trip - costs.backward_seconds, trip - costs.forward_seconds
        around = Around(0.0, 0.0, answer, finish, trip, costs.loss_seconds + gap)
        return span_seconds(costs, gap, around, visits)

    return seconds


def middle_spans(instance: Instance, walks: Walks) -> Spans:
    """Of middle visits, at any peers."""
    own = walks.head, walks.tail, walks.answer, walks.finish, walks.residence

    def seconds(peer: int, visits: int) -> float:
        around = Around(*(by_peer[peer] for by_peer in own))
        return span_seconds(instance.peers[peer], instance.task_gap_seconds, around, visits)

    return seconds


def span_seconds(costs: PeerCosts, gap_seconds: float, around: Around, visits: int) -> float:
    """From the step's begin to the end of the last of `visits` at this peer, at the least."""
    if math.isinf(around.residence):  # no legal route comes here
        return math.inf
    return max(
        _busy_seconds(costs, gap_seconds, around, visits),
        around.head + around.tail + _held_seconds(costs, gap_seconds, around, visits),
        _turns_seconds(costs, gap_seconds, around, visits),
    )


def _busy_seconds(costs: PeerCosts, gap: float, around: Around, visits: int) -> float:
    loss, open_visits = around.loss_seconds, min(visits, costs.memory_slots)
    forward, backward = costs.forward_seconds + gap, costs.backward_seconds + gap
    first = around.answer - around.head - open_visits * (forward + loss)
    last = around.finish - around.tail - open_visits * (backward + loss)
    # With more visits than slots some forward follows a backward, and both idle times are apart.
    idle = max(0.0, first) + max(0.0, last) if visits > open_visits else max(0.0, first, last)
    return around.head + visits * (forward + backward + loss) - gap + idle + around.tail


def _held_seconds(costs: PeerCosts, gap: float, around: Around, visits: int) -> float:
    stagger = costs.forward_seconds + costs.backward_seconds + 2 * gap
    held = visits * (around.residence + gap)
    # Convex in the number of slots used: the best whole number is beside the root of its slope.
    most = min(visits, costs.memory_slots)
    root = math.floor(math.sqrt(2 * held / stagger))
    used = {min(max(1, slots), most) for slots in (root, root + 1)}
    return min(held / slots - gap + stagger * (slots - 1) / 2 for slots in used)


def _turns_seconds(costs: PeerCosts, gap: float, around: Around, visits: int) -> float:
    turns = -(-visits // costs.memory_slots)
    if turns < 2:
        return 0.0
    last = visits - (turns - 1) * costs.memory_slots
    both = costs.forward_seconds + costs.backward_seconds + 2 * gap
    between = (turns - 2) * (around.residence + gap) + (last - 1) * both
    return around.answer + around.finish + both - gap + between


class Room:
    """The most visits that end within a limit; their `seconds` are asked for once."""

    def __init__(self, seconds: Callable[[int], float], most: int) -> None:
        self._seconds, self._most = seconds, most
        self._known = [0.0]

    def __call__(self, limit_seconds: float) -> int:
        while self._known[-1] <= limit_seconds and len(self._known) <= self._most:
            self._known.append(max(self._known[-1], self._seconds(len(self._known))))
        return bisect_right(self._known, limit_seconds) - 1
