"""Work done once for arguments that are the very same objects.

Peers of a virtual world read the same immutable records, rosters and messages; a peer that looks again mostly finds
what it knew. To compare a tuple of thousands of records costs as much as the work on it, to compare addresses nothing.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def remembered(size: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """For a pure function of immutable positional arguments: its last `size` results, by identity of the arguments.

    Arguments are kept alive as long as their result, so that no address is used twice.
    """

    def decorate(work: Callable[P, T]) -> Callable[P, T]:
        kept: dict[tuple[int, ...], tuple[object, T]] = {}

        @wraps(work)
        def once(*args: P.args, **named: P.kwargs) -> T:
            assert not named, "arguments are told apart by their places"
            key = tuple(map(id, args))
            known = kept.get(key)
            if known is not None:
                return known[1]
            result = work(*args, **named)
            kept[key] = (args, result)
            if len(kept) > size:
                del kept[next(iter(kept))]
            return result

        return once

    return decorate
