"""The cheapest round trip of an edge peer that comes to nobody twice, by best-first search (A*).

What is left of a trip is taken to cost what the cheapest walk does, which may come to a peer again, only not at once.
So the least promise of all that was not looked at yet is a bound at any time.
"""

from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MOST_STEPS = 500
"""Of one search (I8); where regions have a handful of peers each, 25 were enough."""

GRID_SECONDS = 1e-9
"""Sums round: promises nearer than this are one, half of it under them, and of these the longest known go first."""


class Ways(NamedTuple):
    """Seconds there and back between two peers, of forward and backward at one; and who is on a route once at most."""

    there_and_back_PQ: Floats
    both_P: Floats
    is_once_P: npt.NDArray[np.bool_]


class _Steps(NamedTuple):
    """Where a trip may go on to, the most promising first: its peers so far, seconds by the peer that comes next."""

    peers: tuple[int, ...]
    spent_P: Floats
    promise_P: Floats
    order: Sequence[int]


def round_trip_seconds(ways: Ways, edge: int, rest_LP: Floats, least_seconds: float) -> float:
    """Seconds of the cheapest one, or what it takes at the least where that is long to tell; infinite if there is none.

    `rest_LP` are the least seconds, the edge's loss with them, after a visit at place L of the route, at peer P;
    `least_seconds` those of the whole trip. Sends of one peer to itself are infinite where it is on routes once.
    """
    numbers = count()
    queue: list[tuple[float, int, int, int, _Steps]] = []

    def wait(steps: _Steps, choice: int) -> None:
        if choice < len(steps.order):
            seconds = float(steps.promise_P[steps.order[choice]])
            if seconds < np.inf:
                promise = (round(seconds / GRID_SECONDS) - 0.5) * GRID_SECONDS
                heappush(queue, (promise, -len(steps.peers), next(numbers), choice, steps))

    wait(_steps(ways, (edge,), float(ways.both_P[edge]), rest_LP), 0)
    for _ in range(MOST_STEPS):
        if not queue:
            return np.inf
        promise, _, _, choice, steps = heappop(queue)
        if len(steps.peers) + 1 == len(rest_LP):
            return max(least_seconds, promise)
        wait(steps, choice + 1)
        peer = int(steps.order[choice])
        wait(_steps(ways, (*steps.peers, peer), float(steps.spent_P[peer]), rest_LP), 0)
    return max(least_seconds, queue[0][0]) if queue else np.inf


def _steps(ways: Ways, peers: tuple[int, ...], spent_seconds: float, rest_LP: Floats) -> _Steps:
    spent_P = spent_seconds + ways.there_and_back_PQ[peers[-1]] + ways.both_P
    promise_P = spent_P + rest_LP[len(peers)]
    promise_P[[peer for peer in peers if ways.is_once_P[peer]]] = np.inf
    return _Steps(peers, spent_P, promise_P, np.argsort(promise_P, kind="stable"))  # type: ignore[arg-type]
