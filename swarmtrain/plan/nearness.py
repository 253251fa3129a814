"""Which of several placements of equal throughput is best: what one region's outage would take, and how far sends go.

Two criteria, in this order:
  - independence: a stage is exposed while its replicas are known to stand in fewer than two regions, so that one outage
    may take it whole. The fewer exposed stages, the better; a region that nobody stated is no second one;
  - links: the fewer seconds a peer's sends to its neighbours take, there and back, the better.

The neighbours of a stage are the one before and the one after it; the edge stands before the first middle stage and
after the last. A send to a neighbouring stage counts as the mean over the nearest half of its replicas: callers choose
by measured times, so the far ones get little, and the nearest one alone could not take everything.

Links are as peers published them (plan.costs). Peers that never spoke are as far apart as the median link between their
regions; where none was measured, as the median link inside regions or across them, and without regions as that of
all: medians, so that one liar moves no region. Whoever asks passes only what is equal in throughput; where regions and
links say nothing, the first of it is kept.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from swarmtrain.core.types import PeerId
from swarmtrain.plan.costs import Costs
from swarmtrain.plan.words import stages_in_words

SECONDS_DIGITS = 4
"""Hops are compared in units of 0.1 ms: what is measured trembles more."""

_BEST_EXCHANGE = "compare best with those it leaves, of all that could come"

Change = tuple[PeerId, tuple[int, ...]]
"""A peer, and the stages that it would host instead of those it hosts."""


@dataclass(frozen=True, eq=False)
class Lines:
    """What peers measured of their links, for sends of `sent_bytes`: one microbatch between two stages.

    Compared by identity, so that caches need not read all links.
    """

    costs: Costs
    sent_bytes: int


class Nearness:
    """Who hosts what while a placement is made (`place`), and which of its changes is best (`preferred`).

    `regions` are empty where nobody stated one.
    """

    def __init__(self, stages: int, regions: Mapping[PeerId, str], lines: Lines | None) -> None:
        self.lines = lines
        self._regions = regions
        self._hosted: dict[PeerId, tuple[int, ...]] = {}
        self._replicas: list[dict[PeerId, None]] = [{} for _ in range(stages + 1)]
        self._known: list[Counter[str]] = [Counter() for _ in range(stages + 1)]

    def place(self, peer: PeerId, stages: tuple[int, ...]) -> None:
        """From here on `peer` hosts `stages` and nothing else."""
        region = self._regions.get(peer, "")
        for stage in self._hosted.get(peer, ()):
            del self._replicas[stage][peer]
            self._known[stage][region] -= 1
        self._hosted[peer] = stages
        for stage in stages:
            self._replicas[stage][peer] = None
            self._known[stage][region] += 1

    def preferred(self, changes: Sequence[Change]) -> tuple[int, str]:
        """The index of the best of `changes`, the first among equals, and why in words; "" when all are equal."""
        if len(changes) == 1:
            return 0, ""
        exposed = [self._newly_exposed(*change) for change in changes]
        fewest = min(exposed)
        safest = [number for number, more in enumerate(exposed) if more == fewest]
        more_seconds = {number: self._more_seconds(*changes[number]) for number in safest}
        best = min(safest, key=lambda number: (more_seconds[number], number))
        reasons = []
        if len(safest) < len(changes):
            reasons.append(self._why_safest(*changes[best]))
        if len(set(more_seconds.values())) > 1:
            near = stages_in_words(sorted(self._neighbours(changes[best][1])))
            is_choice_of_stages = len({peer for peer, _ in changes}) == 1
            how = "are the shortest of those in need" if is_choice_of_stages else _BEST_EXCHANGE
            reasons.append(f"its links to {near} {how}")
        return best, ", and ".join(reasons)

    # ---- independence -------------------------------------------------------------------------------------------

    def is_exposed(self, stage: int, peer: PeerId, is_there: bool) -> bool:
        """Whether fewer than two regions are known to host `stage`, if `peer` did or did not."""
        own, counts = self._regions.get(peer, ""), self._known[stage]
        is_counted = stage in self._hosted.get(peer, ())
        regions = {region for region in counts if counts[region] > (is_counted and region == own)}
        if is_there:
            regions.add(own)
        return len(regions - {""}) < 2

    def _newly_exposed(self, peer: PeerId, stages: tuple[int, ...]) -> int:
        """Stages that the change exposes, less those that it saves."""
        changed = set(stages) ^ set(self._hosted.get(peer, ()))
        return sum(
            self.is_exposed(stage, peer, stage in stages)
            - self.is_exposed(stage, peer, stage not in stages)
            for stage in changed
        )

    def _why_safest(self, peer: PeerId, stages: tuple[int, ...]) -> str:
        taken = sorted(set(stages) - set(self._hosted.get(peer, ())))
        saved = [
            stage
            for stage in taken
            if self.is_exposed(stage, peer, False) and not self.is_exposed(stage, peer, True)
        ]
        if saved:
            return f"without it one region's outage could take {stages_in_words(saved)}"
        return "that leaves fewest stages to one region's outage"

    # ---- links --------------------------------------------------------------------------------------------------

    def hop_seconds(self, peer: PeerId, stages: tuple[int, ...]) -> float:
        """Of one microbatch through each of `stages` at `peer`: sends to the neighbouring stages, there and back."""
        count = len(self._replicas)
        return sum(
            self._reach_seconds(peer, neighbour)
            for stage in stages
            for neighbour in ((stage - 1) % count, (stage + 1) % count)
            if neighbour not in stages
        )

    def _neighbours(self, stages: tuple[int, ...]) -> set[int]:
        count = len(self._replicas)
        return {(stage + way) % count for stage in stages for way in (-1, 1)} - set(stages)

    def _more_seconds(self, peer: PeerId, stages: tuple[int, ...]) -> float:
        """What the change adds to the peer's hops."""
        if self.lines is None:
            return 0.0
        before = self._hosted.get(peer, ())
        more = self.hop_seconds(peer, stages) - self.hop_seconds(peer, before)
        return round(more, SECONDS_DIGITS)

    def _reach_seconds(self, peer: PeerId, stage: int) -> float:
        """Mean round trip to the nearest half of the other replicas of `stage`; the median one where it has none."""
        replicas, others = self._replicas[stage], self._known[stage].copy()
        others[self._regions.get(peer, "")] -= peer in replicas
        rows: list[tuple[float, int]] = []
        for partner in self._partners.get(peer, ()):
            if partner in replicas and partner != peer:
                others[self._regions.get(partner, "")] -= 1
                rows.append((self.round_trip_seconds(peer, partner), 1))
        # All that it never spoke with are as far as their regions, so they are counted, not listed.
        here = self._regions.get(peer, "")
        rows += [(self._apart_seconds(here, away), n) for away, n in others.items() if n]
        left = nearest = (sum(count for _, count in rows) + 1) // 2
        seconds = []
        for row_seconds, count in sorted(rows):
            seconds.append(row_seconds * min(count, left))
            left -= min(count, left)
        return math.fsum(seconds) / nearest if nearest else 2 * self._median_seconds

    def round_trip_seconds(self, one: PeerId, other: PeerId) -> float:
        """A send from `one` to `other` and one of as many bytes back."""
        assert self.lines is not None
        if other not in self._partners.get(one, ()):
            return self._apart_seconds(self._regions.get(one, ""), self._regions.get(other, ""))
        costs, sent_bytes = self.lines.costs, self.lines.sent_bytes
        there = costs.send_seconds(one, other, sent_bytes)
        return there + costs.send_seconds(other, one, sent_bytes)

    def _apart_seconds(self, here: str, away: str) -> float:
        """The round trip between peers of these regions that never spoke."""
        if not here or not away:
            return 2 * self._median_seconds
        known = self._between_seconds
        ways = [known[way] for way in ((here, away), (away, here)) if way in known]
        general = known.get(_general(here, away), self._median_seconds)
        return 2 * statistics.fmean(ways or [general])

    @cached_property
    def _partners(self) -> dict[PeerId, dict[PeerId, None]]:
        """With whom each peer has a link of which one end published figures."""
        assert self.lines is not None
        found: dict[PeerId, dict[PeerId, None]] = {}
        for one, other in self.lines.costs.links:
            found.setdefault(one, {})[other] = None
            found.setdefault(other, {})[one] = None
        return found

    @cached_property
    def _median_seconds(self) -> float:
        """Of a send on a link of which nothing is known."""
        assert self.lines is not None
        costs = self.lines.costs
        return costs.one_way_seconds + self.lines.sent_bytes / costs.bytes_per_second

    @cached_property
    def _between_seconds(self) -> dict[tuple[str, str], float]:
        """By regions of sender and receiver, the median send on the links measured between them; and by `_general`."""
        assert self.lines is not None
        found: dict[tuple[str, str], list[float]] = {}
        for sender, receiver in self.lines.costs.links:
            pair = self._regions.get(sender, ""), self._regions.get(receiver, "")
            if all(pair):
                send_seconds = self.lines.costs.send_seconds(
                    sender, receiver, self.lines.sent_bytes
                )
                for key in (pair, _general(*pair)):
                    found.setdefault(key, []).append(send_seconds)
        return {pair: statistics.median(seconds) for pair, seconds in found.items()}


def _general(here: str, away: str) -> tuple[str, str]:
    """Stands for all pairs of regions of this kind: one region with itself, or two; no region has these names."""
    return ("", "inside" if here == away else "across")
