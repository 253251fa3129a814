"""A synthetic spot market: when machines come and when they are taken away, from a seed."""

import itertools
import math
import random
from dataclasses import dataclass

HOUR_SECONDS = 3600.0
TRACE_SECONDS = 5.0
"""What happens in a market happens at multiples of this."""


@dataclass(frozen=True, slots=True)
class Market:
    """A spot market over `hours`. How many machines it gives goes from `first` to `last` and wanders around that by
    up to `swing` every `drift_seconds`; those above it are taken away, those below it are given back one by one,
    `refill_seconds` each on average. Besides, a machine lives `life_seconds` on average, and every
    `reclaim_seconds` on average the market takes the share `reclaimed` of all at once; both happen `unrest` times as
    often, which goes from its first value to its second (geometrically). `speed_spread` is the standard deviation of
    the logarithm of machines' speeds.
    """

    first: int = 64
    last: int = 24
    swing: float = 0.1
    drift_seconds: float = 1200.0
    refill_seconds: float = 45.0
    life_seconds: float = 8 * HOUR_SECONDS
    reclaim_seconds: float = 4 * HOUR_SECONDS
    reclaimed: float = 0.2
    unrest: tuple[float, float] = (0.1, 20.0)
    speed_spread: float = 0.0
    hours: float = 32.0

    def unrest_at(self, seconds: float) -> float:
        begin, end = self.unrest
        return begin * (end / begin) ** (seconds / self.hours / HOUR_SECONDS)

    def level_at(self, seconds: float) -> float:
        return self.first + (self.last - self.first) * seconds / self.hours / HOUR_SECONDS


@dataclass(frozen=True, slots=True)
class Change:
    """At `seconds` a machine comes with `speed` microbatches per second (its first download is behind it), or goes
    when `speed` is 0."""

    seconds: float
    machine: int
    speed: float


def market_trace(market: Market, chance: random.Random) -> list[Change]:
    """Machines coming and going; those of time 0 come first."""
    changes: list[Change] = []
    alive: dict[int, None] = {}
    numbers = itertools.count()

    def come(now: float) -> None:
        number = next(numbers)
        alive[number] = None
        changes.append(Change(now, number, math.exp(market.speed_spread * chance.gauss(0.0, 1.0))))

    def go(now: float, victims: list[int]) -> None:
        for number in victims:
            del alive[number]
            changes.append(Change(now, number, 0.0))

    for _ in range(market.first):
        come(0.0)
    wander = 1.0
    for step in range(1, int(market.hours * HOUR_SECONDS / TRACE_SECONDS)):
        now = step * TRACE_SECONDS
        hazard = TRACE_SECONDS * market.unrest_at(now)
        go(now, [number for number in alive if chance.random() < hazard / market.life_seconds])
        if chance.random() < hazard / market.reclaim_seconds:
            go(now, chance.sample(list(alive), round(market.reclaimed * len(alive))))
        if step % round(market.drift_seconds / TRACE_SECONDS) == 0:
            wander = 1.0 + chance.uniform(-market.swing, market.swing) * min(
                market.unrest_at(now), 1.0
            )
        level = round(wander * market.level_at(now))
        go(now, chance.sample(list(alive), max(len(alive) - level, 0)))
        if len(alive) < level and chance.random() < TRACE_SECONDS / market.refill_seconds:
            come(now)
    return changes
