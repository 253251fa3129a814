"""Which middle stages a microbatch visits, in which order: a pure function of the configuration and the step (R14).

The swarm and the plain loop use it alike. With `paths.skip` every microbatch leaves stages out, with `paths.swaps` it
visits some neighbours in swapped order (SkipPipe, arXiv 2502.19913). Chance comes from hashes of (run.seed, step,
index), so any peer of any version finds the same sequences.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from swarmtrain.core.sections import RunConfig

Sequence = tuple[int, ...]
Sequences = tuple[Sequence, ...]
"""One entry that serves all keys of a step, or one per key."""

GOLDEN = (math.sqrt(5) - 1) / 2

_DRAW_BYTES = 8
"""Of the ranges here a 64-bit number is even to 2^-51."""


def stage_sequences(config: RunConfig, step: int) -> Sequences:
    """The sequences of `step`: every middle stage in order, unless the configuration says otherwise.

    With `train.swap_ends` every second microbatch of the run visits the first two and the last two middle stages in
    swapped order, so that their weights learn each other's part (CheckFree+, arXiv 2506.15461). Three stages have
    one in the middle that belongs to both pairs: there the pairs take turns.

    With `paths.skip` each microbatch visits `paths.visited` of the stages, the protected ones always. Which others is
    drawn so that over the step all of these are visited equally often, within one where it does not come out even;
    who has one visit more rotates over the steps, so that over the run the difference stays one too. With
    `paths.shares` they are visited in these proportions, within one in every step.
    """
    straight = tuple(range(1, config.model.stages + 1))
    paths = config.paths
    if paths.swaps or paths.visited(len(straight)) < len(straight):
        return _seeded(config, step)
    if not config.train.swap_ends or len(straight) < 2:
        return (straight,)
    # Counted over the whole run: with one microbatch a step, every second step is swapped.
    microbatches = config.train.microbatches
    counts = range(step * microbatches, (step + 1) * microbatches)
    return tuple(_swapped(straight, count // 2) if count % 2 else straight for count in counts)


def sequence_of(sequences: Sequences, key: int) -> Sequence:
    """The middle stages that microbatch `key` of the step visits."""
    return sequences[key if len(sequences) > 1 else 0]


@lru_cache(maxsize=8)
def turns_of(sequences: Sequences) -> tuple[Sequence, ...]:
    """For every key and middle position, how many lower keys visit the same stage."""
    visited: Counter[int] = Counter()
    turns = []
    for sequence in sequences:
        turns.append(tuple(visited[stage] for stage in sequence))
        visited.update(sequence)
    return tuple(turns)


def _swapped(stages: Sequence, turn: int) -> Sequence:
    if len(stages) == 3 and turn % 2:
        first, second, last = stages
        return (first, last, second)
    first, second, *rest = stages
    if len(rest) < 2:
        return (second, first, *rest)
    *middle, before_last, last = rest
    return (second, first, *middle, last, before_last)


@dataclass(frozen=True, slots=True)
class Deal:
    """Deals `stages` to the microbatches of a step: `each` of them to every one, all equally often or by `shares`."""

    seed: int
    stages: Sequence
    each: int
    microbatches: int
    shares: tuple[float, ...] = ()

    def hands(self, step: int) -> Sequences:
        """What each microbatch gets, ascending.

        Every stage has so many visits left to give to so many microbatches; it is drawn with just that chance
        (systematic sampling of the stages in random order), so every hand is full and all comes out even.
        """
        left = self._visits(step)
        hands = []
        for key in range(self.microbatches):
            keys_left = self.microbatches - key
            draws = _draws(f"visits {self.seed} {step} {key}", 1 + len(left))
            passed, hand = next(draws) % keys_left, []
            for stage in sorted(left, key=lambda _: next(draws)):
                passed += left[stage]
                if passed >= keys_left:
                    passed -= keys_left
                    hand.append(stage)
            for stage in hand:
                left[stage] -= 1
            hands.append(tuple(sorted(hand)))
        return tuple(hands)

    def _visits(self, step: int) -> dict[int, int]:
        """Visits of each stage in this step. Those that have one more follow each other around a circle, step by
        step: however long the run, nobody is ahead of another by more than one."""
        if self.shares:
            return self._shared_visits(step)
        count = len(self.stages)
        base, more = divmod(self.each * self.microbatches, count)
        circle = sorted(self.stages, key=lambda s: next(_draws(f"circle {self.seed} {s}", 1)))
        favoured = {circle[(step * more + place) % count] for place in range(more)}
        return {stage: base + (stage in favoured) for stage in self.stages}

    def _shared_visits(self, step: int) -> dict[int, int]:
        """Of each stage its share, rounded down or up: fractions are laid end to end, and who holds one of the marks
        at whole distances is rounded up. A golden ratio of a mark further every step favours nobody for long."""
        total = self.each * self.microbatches
        due = [total * share / math.fsum(self.shares) for share in self.shares]
        mark = next(_draws(f"marks {self.seed}", 1)) / 2 ** (8 * _DRAW_BYTES) + step * GOLDEN
        mark %= 1.0
        visits, passed = {}, mark
        for stage, share in zip(self.stages, due, strict=True):
            before, passed = passed, passed + share
            visits[stage] = math.floor(passed) - math.floor(before)
        # Sums round: the last mark may fall just beside the end.
        last = self.stages[-1]
        visits[last] += total - sum(visits.values())
        return visits


# The conductor asks once a step, the plain loop once a microbatch.
@lru_cache(maxsize=8)
def _seeded(config: RunConfig, step: int) -> Sequences:
    paths, stages, seed = config.paths, config.model.stages, config.run.seed
    free = tuple(stage for stage in range(1, stages + 1) if stage not in paths.protected)
    each = paths.visited(stages) - len(paths.protected)
    hands = Deal(seed, free, each, config.train.microbatches, paths.shares).hands(step)
    return tuple(
        _with_swaps(
            tuple(sorted((*paths.protected, *hand))), paths.swaps, f"swaps {seed} {step} {key}"
        )
        for key, hand in enumerate(hands)
    )


def _with_swaps(route: Sequence, most: int, name: str) -> Sequence:
    """`route`, ascending, with up to `most` pairs of adjacent stages swapped; how many is drawn, each number alike.

    A swap takes a microbatch one stage below the furthest it reached and never twice for one stage, as in SkipPipe.
    """
    draws = _draws(name, 1 + most)
    swapped = list(route)
    for _ in range(next(draws) % (most + 1)):
        pairs = [
            place for place in range(len(route) - 1) if swapped[place + 1] == swapped[place] + 1
        ]
        if pairs:
            place = pairs[next(draws) % len(pairs)]
            swapped[place : place + 2] = swapped[place + 1], swapped[place]
    return tuple(swapped)


def _draws(name: str, count: int) -> Iterator[int]:
    """`count` even 64-bit numbers that follow from `name`."""
    digits = hashlib.shake_256(f"swarmtrain {name}".encode()).digest(_DRAW_BYTES * count)
    for place in range(0, len(digits), _DRAW_BYTES):
        yield int.from_bytes(digits[place : place + _DRAW_BYTES], "little")
