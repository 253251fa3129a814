"""Which replica serves which position of a microbatch when there is no plan (after SWARM, arXiv 2301.11913, 3.2).

Keys are dealt to the replicas of a stage by virtual time: each key goes where it would end first, and charges that
replica with what a microbatch takes there. Alike replicas have turns, others get work in proportion.

Two things differ from SWARM, where each caller keeps virtual times of its own and charges what its calls took. Every
caller deals *all* keys of the step alike and looks up its own: with a few keys for each of many callers, each on its
own would send its first ones to the same fastest replicas, and they would wait for each other there. And a call is
charged with what it occupies, the replica's lane or the line, as the replica says itself in its answers; how long it
waited, in a queue or on a far line, says nothing about how many calls can be served.

Callers hear of a change one after the other. So shares are brought about by moving as few turns as they need: callers
that know of a slow replica deal its turns to others, and agree with those that do not on all the rest.
"""

import heapq
import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from swarmtrain.core.types import EDGE_STAGE, PeerId, Roster, Route, Visit
from swarmtrain.plan.deadlines import spread
from swarmtrain.plan.wiring_rules import WiringRule, ruled

ALIKE = 1.25
"""Charges are rounded to powers of this factor of the usual one: smaller differences are noise, and callers that have
heard different figures would deal differently."""

MOST_POWERS = 20
"""Machines 87 times apart: what a replica says of itself moves its charge no further."""

FADES_AFTER = 20.0
"""What a replica said is forgotten after so many times what the slowest one takes, without an answer meanwhile: a slow
one may get no key of a step at all, and could never show that it recovered. Trying costs a twentieth of the time."""

MOST_DEALS = 64
"""That a caller remembers: one for each stage and state of its replicas, lately."""


class Turn(NamedTuple):
    """A key is the `number`-th, from 0, `of` so many that visit the same stage in this step."""

    number: int
    of: int


def route_of(roster: Roster, sequence: Sequence[int], turns: Sequence[int], lead: PeerId) -> Route:
    """The route of a key: `lead` embeds and computes the loss, replicas take turns in between.

    `turns` says for each stage of `sequence` how many keys visit it before this one (`core.sequences.turns_of`).
    """
    visits = enumerate(zip(sequence, turns, strict=True), start=1)
    middle = (
        Visit(stage, _dealt(roster.replicas(stage), turn, position))
        for position, (stage, turn) in visits
    )
    return (Visit(EDGE_STAGE, lead), *middle, Visit(EDGE_STAGE, lead))


def next_replica(
    replicas: Sequence[PeerId], key: int, wanted: PeerId | None, tried: Collection[PeerId]
) -> PeerId:
    """The replica to call: the wanted one, else by key one that was not tried, else all over again.

    Raises:
        ValueError: the stage has no replica at all.
    """
    if not replicas:
        raise ValueError("a stage without replicas cannot be called")
    untried = [peer for peer in replicas if peer not in tried] or list(replicas)
    return wanted if wanted in untried else untried[spread(key, len(untried))]


def _dealt(replicas: Sequence[PeerId], turn: int, position: int = 0) -> PeerId:
    """In each round of as many turns as there are replicas everybody has one."""
    return replicas[_rotated(turn, len(replicas), position) % len(replicas)]


def _rotated(turn: int, count: int, position: int) -> int:
    """Rounds of `count` turns are rotated by `position`: otherwise every caller would know one replica of the next
    stage only, and could not tell a slow one from a busy stage (plan.deadlines)."""
    round_, place = divmod(turn, count)
    return round_ * count + (place + position * round_) % count


def shares_of(charges: Sequence[float], turns: int) -> list[int]:
    """How many of `turns` each replica gets by virtual time: nobody could end another one's last turn sooner."""
    shares = [0] * len(charges)
    ends = [(charge, index) for index, charge in enumerate(charges)]
    heapq.heapify(ends)
    for _ in range(turns):
        end, index = ends[0]
        shares[index] += 1
        heapq.heapreplace(ends, (end + charges[index], index))
    return shares


def deal(charges: Sequence[float], turns: int, position: int) -> list[int]:
    """Which replica, by index, has each turn: dealt in turn, but for those that would be more than its share.

    A replica keeps its first turns. The others go to those with fewer than their share, one each in rounds.
    """
    count, room = len(charges), shares_of(charges, turns)
    dealt = [_rotated(turn, count, position) % count for turn in range(turns)]
    freed = []
    for turn, index in enumerate(dealt):
        if room[index]:
            room[index] -= 1
        else:
            freed.append(turn)
    takers = (index for round_ in range(turns) for index in range(count) if room[index] > round_)
    for turn, index in zip(freed, takers, strict=False):
        dealt[turn] = index
    return dealt


@dataclass(slots=True)
class Wiring:
    """One caller's knowledge of replicas. Forgets nothing: one entry per stage and peer ever called."""

    rule: WiringRule | None = None
    """Chooses instead of what is built in here (wiring_rules)."""
    rule_name: str = ""
    _heard: dict[tuple[int, PeerId], tuple[float, float]] = field(default_factory=dict)
    _deals: dict[tuple[tuple[int, ...], int, int], list[int]] = field(default_factory=dict)

    def answered(self, stage: int, peer: PeerId, seconds: float, now_seconds: float) -> None:
        """`peer` answered, and a microbatch occupies it, or the line to it, for so long; 0 if it cannot say yet."""
        if seconds > 0:
            self._heard[stage, peer] = (seconds, now_seconds)

    def choose(
        self, stage: int, replicas: Sequence[PeerId], turn: Turn, position: int, now_seconds: float
    ) -> PeerId:
        """Who serves the key that has this turn at the stage, at `position` of its route.

        A replica that was never called counts as a usual one, so that it is tried.
        """
        if self.rule is not None:
            seconds = self._seconds(stage, replicas, now_seconds)
            place = _rotated(turn.number, len(replicas), position)
            return replicas[ruled(self.rule, self.rule_name, place, seconds)]
        powers = self._powers(stage, replicas, now_seconds)
        if not any(powers):
            return _dealt(replicas, turn.number, position)
        known = (powers, turn.of, position)
        if known not in self._deals:
            if len(self._deals) >= MOST_DEALS:
                self._deals.pop(next(iter(self._deals)))
            self._deals[known] = deal([ALIKE**power for power in powers], turn.of, position)
        return replicas[self._deals[known][turn.number]]

    def _seconds(
        self, stage: int, replicas: Sequence[PeerId], now_seconds: float
    ) -> tuple[float, ...]:
        """What each replica said lately that a microbatch takes it; 0 where nothing is known."""
        heard = [self._heard.get((stage, peer), (0.0, -math.inf)) for peer in replicas]
        oldest_seconds = now_seconds - FADES_AFTER * max(seconds for seconds, _ in heard)
        return tuple(seconds if at > oldest_seconds else 0.0 for seconds, at in heard)

    def _powers(
        self, stage: int, replicas: Sequence[PeerId], now_seconds: float
    ) -> tuple[int, ...]:
        """Of ALIKE, by which each replica's charge differs from the median."""
        return powers_of(self._seconds(stage, replicas, now_seconds))


def powers_of(heard: Sequence[float]) -> tuple[int, ...]:
    """What a microbatch takes each (seconds, 0 where nothing is known) as powers of ALIKE times the median."""
    known = [seconds for seconds in heard if seconds]
    if len(known) < 2:
        return (0,) * len(heard)
    usual = statistics.median_low(known)
    return tuple(_power(seconds, usual) if seconds else 0 for seconds in heard)


def _power(seconds: float, usual_seconds: float) -> int:
    power = math.log(seconds, ALIKE) - math.log(usual_seconds, ALIKE)
    return round(max(-MOST_POWERS, min(power, MOST_POWERS)))
