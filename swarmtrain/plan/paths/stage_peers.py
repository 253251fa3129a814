"""How many whole peers the middle stages need within a makespan, at the least; nobody has a place yet.

A visit early on a route holds its slot for long, one late on it begins late and has far to go back. Which orders a
microbatch may visit stages in ties stages to places on the route. So: of all ways to give microbatches orders (a
linear programme, fractions allowed), and every stage whole peers, each with a *load*, the visits that one peer serves
by their place on the route, choose the one with the fewest peers. Peers are taken to be as good as the best in
everything, which makes the figure too small where they differ, never too large.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import bmat, csr_array, eye_array, hstack, kron

from swarmtrain.plan.paths.instance import Instance, PeerCosts
from swarmtrain.plan.paths.sequences import MOST_OF_A_SET, Order, orders, stage_sets
from swarmtrain.plan.paths.visits import Around, span_seconds
from swarmtrain.plan.paths.walks import Walks

MOST_LOADS = 2000
MOST_ORDERS = 2000
MOST_TRIED = 500
"""Beyond these the choice is not looked at (I8)."""

MOST_BRANCHES = 200
"""Of the search for whole peers; cut short, it still tells a number that no choice is under."""

ROUNDING = 1e-4
"""Peers that a solver may be off by."""

SAME_SECONDS = 1e-9

Load = tuple[int, ...]
"""Visits of one peer by their place on the route."""


class StagePeers:
    def __init__(self, instance: Instance, walks: Walks) -> None:
        self._instance, peers = instance, instance.peers
        self._best = PeerCosts(
            "best",
            None,
            min(peer.forward_seconds for peer in peers),
            min(peer.backward_seconds for peer in peers),
            0.0,
            max(peer.memory_slots for peer in peers),
        )
        self._around = _best_around(walks)
        self._orders = _legal_orders(instance)

    def fewest(self, limit_seconds: float) -> int | None:
        """Peers that middle stages need within the limit; None where there is too much to choose from."""
        if self._orders is None:
            return None
        loads = self.largest_loads(limit_seconds)
        if not loads:
            return None
        return _fewest_peers(self._instance, loads, self._orders)

    def largest_loads(self, limit_seconds: float) -> list[Load]:
        """Loads that one peer may be able to serve within the limit, of which no other one has more everywhere."""
        places = len(self._around)
        nothing = (0,) * places
        known, front, largest = {nothing}, [nothing], []
        while front and len(known) <= MOST_LOADS:
            following = []
            for load in front:
                is_largest = True
                for more in _with_one_more(load):
                    if more not in known and self._fits(more, limit_seconds):
                        known.add(more)
                        following.append(more)
                    is_largest = is_largest and more not in known
                if is_largest:
                    largest.append(load)
            front = following
        return [] if front else largest

    def _fits(self, load: Load, limit_seconds: float) -> bool:
        """No for loads that no peer serves within the limit: they, or only their later visits, take too long, or
        residences do not go into slots."""
        gap, slots = self._instance.task_gap_seconds, self._best.memory_slots
        limit_seconds += SAME_SECONDS
        visits, around = 0, None
        for place in range(len(load) - 1, -1, -1):
            if load[place]:
                visits += load[place]
                around = _either(self._around[place], around)
                if span_seconds(self._best, gap, around, visits) > limit_seconds:
                    return False
        if around is None:
            return True
        span = limit_seconds - around.head - around.tail + gap
        held = [self._around[at].residence + gap for at, n in enumerate(load) for _ in range(n)]
        return _goes_into(slots, span, held)


def _best_around(walks: Walks) -> list[Around]:
    """By place on the route, for each figure the least of any peer."""
    figures = walks.heads, walks.tails, walks.answers, walks.finishes, walks.stays
    return [Around(*map(min, place)) for place in zip(*figures, strict=True)]


def _either(one: Around, other: Around | None) -> Around:
    return one if other is None else Around(*map(min, one, other))


def _with_one_more(load: Load) -> Iterator[Load]:
    for place, visits in enumerate(load):
        yield (*load[:place], visits + 1, *load[place + 1 :])


def _goes_into(bins: int, span: float, items: Sequence[float]) -> bool:
    """Whether items, the largest first, go into so many bins; yes where that is long to tell."""
    if sum(items) > bins * span:
        return False
    left, steps = [span] * bins, iter(range(MOST_TRIED))

    def rest_goes(start: int) -> bool:
        if start == len(items) or next(steps, None) is None:
            return True
        for at in range(bins):
            room = left[at]
            if items[start] <= room and room not in left[:at]:
                left[at] = room - items[start]
                if rest_goes(start + 1):
                    return True
                left[at] = room
        return False

    return rest_goes(0)


def _legal_orders(instance: Instance) -> list[Order] | None:
    """All of them, or None where they are too many."""
    jump = instance.max_jump
    sets = stage_sets(instance.stages - 1, instance.middle_visits, instance.protected_stages, jump)
    found: list[Order] = []
    for count, stages in enumerate(sets, 1):
        legal = orders(stages, instance.max_swaps, jump)
        found += legal
        if max(count, len(found)) > MOST_ORDERS or len(legal) == MOST_OF_A_SET:
            return None
    return found


def _fewest_peers(instance: Instance, loads: list[Load], legal: list[Order]) -> int:
    """The least whole number of peers; a very large one where nothing suffices.

    Variables: by stage and load the peers that have it, by order the microbatches, by stage the peers.
    Array suffixes: S middle stages, V places of a route, D loads, O orders.
    """
    stages, places = instance.stages - 1, instance.middle_visits
    visit_SVO = np.array(
        [
            [[order[place] == stage for order in legal] for place in range(places)]
            for stage in range(1, stages + 1)
        ],
        float,
    )
    load_VD, each_S = np.array(loads, float).T, eye_array(stages)
    served = hstack([kron(each_S, load_VD), -visit_SVO.reshape(stages * places, -1)])
    counted = kron(each_S, np.ones((1, len(loads))))
    rows = bmat(
        [
            [served, None],
            [hstack([csr_array((stages + 1, stages * len(loads))), _sums(visit_SVO)]), None],
            [hstack([counted, csr_array((stages, len(legal)))]), -each_S],
        ]
    )
    limits = [*instance.visit_limits[1:], (instance.microbatches, instance.microbatches)]
    least = np.concatenate(
        [np.zeros(stages * places), [low for low, _ in limits], np.zeros(stages)]
    )
    most = np.concatenate(
        [np.full(stages * places, np.inf), [high for _, high in limits], np.zeros(stages)]
    )
    is_count = np.zeros(rows.shape[1])
    is_count[-stages:] = 1
    found = milp(
        is_count,
        integrality=is_count,
        bounds=Bounds(0, _most_peers(instance, rows.shape[1])),
        constraints=LinearConstraint(rows.tocsr(), least, most),
        options={"node_limit": MOST_BRANCHES},
    )
    if found.status == 2:  # not possible at all
        return len(instance.peers) + 1
    bound = found.mip_dual_bound
    return math.ceil(bound - ROUNDING) if bound is not None and math.isfinite(bound) else 0


def _sums(visit_SVO: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of microbatches by order: visits of every stage, and all microbatches."""
    return np.vstack([visit_SVO.sum(axis=1), np.ones((1, visit_SVO.shape[2]))])


def _most_peers(instance: Instance, variables: int) -> npt.NDArray[np.float64]:
    """Upper bounds of all variables: sizes where they are given."""
    most = np.full(variables, np.inf)
    if instance.stage_sizes is not None:
        most[-(instance.stages - 1) :] = instance.stage_sizes[1:]
    return most
