"""Which orders of middle stages a microbatch may visit (SkipPipe, arXiv 2502.19913; reference C-a, C-b, C-d).

The frontier is the furthest stage reached so far, 0 at the start. A visit beyond it may move it by at most `max_jump`
stages. A visit behind it may only go to the stage right below the frontier, at most `max_swaps` times a route. So a
legal order is an ascending one in which some pairs of adjacent stages have changed places; no stage comes twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

Order = tuple[int, ...]
"""Middle stages in the order of their visits."""


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
    """All legal orders of the ascending `stages`, the ascending one first where it is legal."""
    found = (_swapped(stages, firsts) for firsts in _pairs(stages, max_swaps))
    return tuple(order for order in found if is_legal(order, max_swaps, max_jump))


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
        left, missing = count - len(chosen), needed - set(chosen)
        if len(missing) > left or max(missing, default=0) > last + left * max_jump:
            return
        for stage in range(start, min(last + max_jump, middle - left + 1) + 1):
            yield from grow((*chosen, stage), stage + 1)
            if stage in needed:  # what comes next would leave it out
                return

    return grow((), 1)


def _pairs(stages: Order, most: int) -> Iterator[tuple[int, ...]]:
    """Places of the first of each swapped pair: up to `most` disjoint pairs of adjacent stages."""
    places = [at for at in range(len(stages) - 1) if stages[at + 1] == stages[at] + 1]

    def grow(chosen: tuple[int, ...], start: int) -> Iterator[tuple[int, ...]]:
        yield chosen
        if len(chosen) < most:
            for index in range(start, len(places)):
                if not chosen or places[index] > chosen[-1] + 1:
                    yield from grow((*chosen, places[index]), index + 1)

    return grow((), 0)


def _swapped(stages: Order, firsts: tuple[int, ...]) -> Order:
    order = list(stages)
    for at in firsts:
        order[at], order[at + 1] = order[at + 1], order[at]
    return tuple(order)
