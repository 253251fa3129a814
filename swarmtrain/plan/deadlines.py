"""When a call has taken too long, and which replicas to leave alone for a while: from measured times, never guesses.

A call's time covers everything further down its route, so times are kept by route position. A call is late once
another replica of the same stage would almost certainly have answered: its mean and four mean deviations (as TCP
does), and at least twice its mean, so that machines of different speed are not late. Until the other replica is known
well enough nothing is late but silence (rule R7).

A second call beside a late one (a hedge) is paid with double work, so few are allowed in a step. A replica that lost
clearly to its hedge is avoided, twice as long every time, and comes back with one call at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from swarmtrain.core.types import PeerId

LEAST_SAMPLES = 5
SMOOTHING = 0.125
DEVIATIONS = 4.0
LATE_FACTOR = 2.0
LONGER_FACTOR = 1.25
"""Keys queue for a lane, in every step alike: the last one's time is far from the mean and no reason to hedge."""

FADING = 0.02
"""Of the longest time with every answer: a step that something held up is not remembered for ever."""

GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it fill the unit interval most evenly (Fibonacci hashing, Knuth volume 3, 6.4)."""

HEDGED_SHARE = 0.05
"""Of the calls that a peer makes in a step; one is always allowed."""

CLEAR_WIN = 0.5
"""The hedge was answered in less than this share of the time the first call had had."""

AVOIDED_FACTOR = 10.0
"""A replica is avoided so many times as long as the call that it lost, at first."""

LONGEST_AVOIDED_SECONDS = 600.0


def spread(key: int, count: int) -> int:
    """Which of `count` other replicas takes a key: one index for each key, far apart for keys in any regular order.

    The keys of one replica are as many apart as there are others, so that by `key % count` one would get them all.
    """
    return int(key * GOLDEN % 1 * count)


@dataclass(slots=True)
class Times:
    """Running mean and mean deviation, the first samples weighing alike; and the longest time, which fades."""

    count: int = 0
    mean_seconds: float = 0.0
    deviation_seconds: float = 0.0
    longest_seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        weight = max(SMOOTHING, 1 / self.count)
        self.longest_seconds = max(seconds, (1 - FADING) * self.longest_seconds)
        off = seconds - self.mean_seconds
        self.mean_seconds += weight * off
        if self.count > 1:
            self.deviation_seconds += weight * (abs(off) - self.deviation_seconds)

    @property
    def late_seconds(self) -> float:
        spread_seconds = DEVIATIONS * self.deviation_seconds
        return max(
            LATE_FACTOR * self.mean_seconds,
            self.mean_seconds + spread_seconds,
            LONGER_FACTOR * self.longest_seconds,
        )


@dataclass(slots=True)
class _Record:
    """A replica that lost: how often, until when it is avoided, and how many calls to it are under way."""

    strikes: int = 0
    until_seconds: float = 0.0
    under_way: int = 0


@dataclass(slots=True)
class Deadlines:
    """One peer's measured times as a caller. Forgets nothing: one entry per position and peer ever called."""

    _times: dict[tuple[int, PeerId], Times] = field(default_factory=dict)
    _records: dict[PeerId, _Record] = field(default_factory=dict)
    _step: int = -1
    _calls: int = 0
    _hedges: int = 0

    def begin(self, peer: PeerId, step: int) -> None:
        """A call to `peer` begins."""
        if step != self._step:
            self._step, self._calls, self._hedges = step, 0, 0
        self._calls += 1
        self._records.setdefault(peer, _Record()).under_way += 1

    def end(self, peer: PeerId) -> None:
        """It is over, however it ended."""
        self._records[peer].under_way -= 1

    def answered(self, position: int, peer: PeerId, seconds: float, limit_seconds: float) -> None:
        """`peer` answered; within `limit_seconds` it makes up for what it lost earlier."""
        self._times.setdefault((position, peer), Times()).add(seconds)
        record = self._records.setdefault(peer, _Record())
        if seconds <= limit_seconds:
            record.strikes //= 2

    def late(
        self, position: int, peer: PeerId, replicas: Sequence[PeerId], key: int, now: float
    ) -> tuple[float, PeerId] | None:
        """After how many seconds a call to `peer` is late, and whom to call then; None while nobody is known.

        The middle one of the others says when: of many replicas the nearest is far quicker than the rest, and lateness
        by its measure would be usual. One that lost clearly is late already when others usually have answered. Of the
        quicker half one is called by `key`: a peer may be late with many keys at once.
        """
        known = sorted(
            (times.late_seconds, other, times.mean_seconds)
            for other in replicas
            if other != peer and not self.is_avoided(other, now)
            if (times := self._times.get((position, other))) and times.count >= LEAST_SAMPLES
        )
        if not known:
            return None
        middle = len(known) // 2
        late_seconds, _, mean_seconds = known[middle]
        seconds = mean_seconds if self.is_avoided(peer, now) else late_seconds
        return seconds, known[spread(key, middle + 1)][1]

    def allows_hedge(self, peer: PeerId, now: float) -> bool:
        """Whether a call to `peer` may be hedged: the budget has room, or others have proved faster than it."""
        return self.is_avoided(peer, now) or self._hedges < max(1.0, HEDGED_SHARE * self._calls)

    def hedged(self) -> None:
        self._hedges += 1

    def lost(self, position: int, peer: PeerId, waited_seconds: float, now: float) -> float | None:
        """The hedge of a call to `peer` won clearly: avoid it. Returns for how many seconds, None if it already is."""
        # At least so long it would have taken.
        self._times.setdefault((position, peer), Times()).add(waited_seconds)
        record = self._records.setdefault(peer, _Record())
        if now < record.until_seconds:
            return None
        seconds = min(
            AVOIDED_FACTOR * waited_seconds * 2.0**record.strikes, LONGEST_AVOIDED_SECONDS
        )
        record.strikes += 1
        record.until_seconds = now + seconds
        return seconds

    def is_avoided(self, peer: PeerId, now: float) -> bool:
        """Whether new calls go elsewhere; after its time a replica gets one call until it answered in time."""
        record = self._records.get(peer)
        if record is None or not record.strikes:
            return False
        return now < record.until_seconds or record.under_way > 0
