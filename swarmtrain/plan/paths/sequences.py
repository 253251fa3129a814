"""Which orders of middle stages a microbatch may visit (SkipPipe, arXiv 2502.19913; reference C-a, C-b, C-d).

The frontier is the furthest stage reached so far, 0 at the start. A visit beyond it may move it by at most `max_jump`
stages. A visit behind it may only go to the stage right below the frontier, at most `max_swaps` times a route. So a
legal order is an ascending one in which some pairs of adjacent stages have changed places; no stage comes twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice, pairwise

Order = tuple[int, ...]
"""Middle stages in the order of their visits."""

MOST_OF_A_SET = 256
"""Orders of one set that are looked at, those of fewest swaps (I8): all of up to 12 stages, and up to 24 with two
swaps."""


def is_legal(order: Sequence[int], max_swaps: int, max_jump: int) -> bool:
    """Whether `order` keeps the frontier rule; the range of the stages is not checked here."""
    frontier = swaps = 0
    seen: set[int] = set()
    for stage in order:
        if stage in seen:
            return False
        seen.add(stage)
        if stage > frontier:
            if stage - frontier > max_jump:
                return False
            frontier = stage
        else:
            swaps += 1
            if stage != frontier - 1 or swaps > max_swaps:
                return False
    return True


@lru_cache(maxsize=1 << 14)
def orders(stages: Order, max_swaps: int, max_jump: int) -> tuple[Order, ...]:
    """Legal orders of the ascending `stages`, the ascending one first: all, or `MOST_OF_A_SET` of them.

    None, where the ascending order is not legal: some gap is too wide for a move, and no order has a stage in a gap.
    """
    if not is_legal(stages, 0, max_jump):
        return ()
    return tuple(_swapped(stages, firsts) for firsts in _pairs(stages, max_swaps, max_jump))


def stage_sets(middle: int, count: int, protected: Iterable[int], max_jump: int) -> Iterator[Order]:
    """All ascending sets of `count` of the stages 1..`middle` that have every protected one and no gap over `max_jump`.

    A gap that is too wide stays too wide in every order of the set.
    """
    needed = frozenset(protected)

    def grow(chosen: Order, start: int) -> Iterator[Order]:
        if len(chosen) == count:
            if needed <= set(chosen):
                yield chosen
            return
        last = chosen[-1] if chosen else 0
        left, missing = count - len(chosen), sorted(needed - set(chosen))
        hops = (high - low for low, high in pairwise((last, *missing)))
        if sum(-(-hop // max_jump) for hop in hops) > left:
            return
        for stage in range(start, min(last + max_jump, middle - left + 1) + 1):
            yield from grow((*chosen, stage), stage + 1)
            if stage in needed:  # what comes next would leave it out
                return

    return grow((), 1)


def _pairs(stages: Order, most: int, max_jump: int) -> list[tuple[int, ...]]:
    """Places of the first of each swapped pair: up to `most` disjoint pairs of neighbours that may change places.

    The frontier comes to a pair from the stage before it, swapped or not, so no pair depends on the others.
    """
    places = [
        at
        for at, (low, high) in enumerate(pairwise(stages))
        if high == low + 1 and high - (stages[at - 1] if at else 0) <= max_jump
    ]
    found: list[tuple[int, ...]] = []
    level: list[tuple[int, ...]] = [()]
    for _ in range(most + 1):
        found += level
        wider = (
            (*firsts, at) for firsts in level for at in places if not firsts or at > firsts[-1] + 1
        )
        level = list(islice(wider, MOST_OF_A_SET - len(found)))
    return sorted(found)


def _swapped(stages: Order, firsts: tuple[int, ...]) -> Order:
    order = list(stages)
    for at in firsts:
        order[at], order[at + 1] = order[at + 1], order[at]
    return tuple(order)
