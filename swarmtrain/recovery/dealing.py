"""Many pieces from several donors: each donor gives the next piece that is wanted, and what one fails to give comes
from another."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from swarmtrain.core.config import LinksSection
from swarmtrain.core.errors import LinkError, WireError

PIECES_IN_FLIGHT = 4
"""Over all donors, of a transfer that takes all it can get."""

D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Pace:
    """How a transfer goes about it: pieces of `piece_bytes`, given up after `silence_seconds` without a sign of life.

    `rest` is 0 for a transfer that others wait for. Otherwise each donor gives one piece at a time and is left alone
    for `rest` times as long as a piece takes while its line is free, so that its own work keeps most of the line.
    """

    silence_seconds: float
    piece_bytes: int
    rest: float = 0.0


def pace_of(links: LinksSection, rest: float = 0.0) -> Pace:
    return Pace(links.silence_seconds, links.piece_bytes, rest)


async def deal(
    count: int, donors: Sequence[D], pull: Callable[[D, int], Awaitable[None]], pace: Pace
) -> None:
    """`pull(donor, number)` for every number below `count`. A donor that fails once is not asked again.

    Raises:
        LinkError, WireError: what the last donor failed with; some pieces are missing then.
    """
    loop = asyncio.get_running_loop()
    wanted, living = deque(range(count)), list(donors)
    errors: list[LinkError | WireError] = []

    async def take(donor: D) -> None:
        shortest_seconds = math.inf
        while wanted and donor in living:
            number, begin_seconds = wanted.popleft(), loop.time()
            try:
                await pull(donor, number)
            except (LinkError, WireError) as error:
                wanted.append(number)
                errors.append(error)
                if donor in living:
                    living.remove(donor)
                return
            shortest_seconds = min(shortest_seconds, loop.time() - begin_seconds)
            if pace.rest and wanted:
                await asyncio.sleep(pace.rest * shortest_seconds)

    while wanted:
        if not living:
            raise errors[-1]
        each = 1 if pace.rest else max(1, PIECES_IN_FLIGHT // len(living))
        await asyncio.gather(*(take(donor) for donor in list(living) for _ in range(each)))
