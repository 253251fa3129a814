"""Which peer hosts which stages: the first form of placement (SWARM section 3.2 without moving, Petals' selection).

The load of a stage is seen through its throughput: every replica adds its rate (one over `seconds_per_stage`)
divided by the number of stages it hosts, and the slowest stage sets the pace of the run. The edge, stage 0, counts
like any other stage, in memory too. Stages come in contiguous ranges where that is possible, so that hops stay local.

Four passes, each keeping what the one before it reached:
  1. cover: free peers share the stages nobody is pinned to, so that the most loaded of them finishes first;
  2. help: peers left over join the slowest stages, as many as their share of the total speed;
  3. lift: a peer's range is changed where that makes the slowest stage at least a tenth faster;
  4. spread: no stage keeps one replica while another has three and somebody could take it.

Where help and spread could as well choose otherwise, within a tenth in throughput, regions and links decide
(plan.nearness). Such a placement that ends more than a tenth slower than throughput alone would have, or with more
lonely stages, is dropped.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from swarmtrain.core.types import EDGE_STAGE, PeerId
from swarmtrain.plan.nearness import Lines, Nearness
from swarmtrain.plan.placement import Candidate, Placement
from swarmtrain.plan.words import gaps_in_words, stages_in_words

__all__ = ["Assignment", "Candidate", "assign", "choose_stages"]

CLEARLY_FASTER = 2.0
"""A peer this many times faster than another never hosts fewer stages, memory permitting."""

WORTHWHILE_GAIN = 1.1
"""Every further stage costs memory and reduce traffic; the slowest stage must gain this much. Throughputs within this
factor of each other are equal where other things than throughput count too."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The stages of one peer, ascending, and why, in words for its owner."""

    stages: tuple[int, ...]
    reason: str


def assign(
    candidates: Sequence[Candidate], stages: int, lines: Lines | None = None
) -> dict[PeerId, Assignment]:
    """Place `candidates` on the edge and the middle stages 1..`stages`; equal sets give equal answers everywhere.

    Stages that the candidates' memory cannot cover stay uncovered, which every reason then says.
    """
    return dict(_assigned(tuple(candidates), stages, lines))


# Peers look into the directory far more often than it changes; those of a virtual world all see the same.
@lru_cache(maxsize=16)
def _assigned(
    candidates: tuple[Candidate, ...], stages: int, lines: Lines | None
) -> Mapping[PeerId, Assignment]:
    placement = _placed(candidates, stages, None)
    regions = {c.peer: c.region for c in candidates}
    if lines is not None or len({*regions.values()} - {""}) > 1:
        near = _placed(candidates, stages, Nearness(stages, regions, lines))
        if near.pace * WORTHWHILE_GAIN >= placement.pace and near.lonely <= placement.lonely:
            placement = near
    return {peer: placement.assignment(peer) for peer in placement.candidates}


def choose_stages(
    me: Candidate, others: Sequence[Candidate], stages: int, lines: Lines | None = None
) -> Assignment:
    """The stages `me` takes among `others`; pin those others that already serve and shall not move."""
    candidates = [me, *(other for other in others if other.peer != me.peer)]
    return assign(candidates, stages, lines)[me.peer]


def _placed(candidates: tuple[Candidate, ...], stages: int, near: Nearness | None) -> "_Passes":
    placement = _Passes(candidates, stages, near)
    placement.cover()
    placement.help()
    placement.lift()
    placement.spread()
    return placement


class _Passes(Placement):
    """The four passes, each over free peers."""

    def count_limits(self, candidate: Candidate) -> tuple[int, int]:
        """Fewest and most stages `candidate` may host, seen from the clearly slower and faster free peers."""
        fewest, most = 1, min(candidate.capacity_stages, len(self.allowed(candidate)))
        for other in self.free:
            hosts = len(self.hosted[other.peer])
            if other.seconds_per_stage * CLEARLY_FASTER <= candidate.seconds_per_stage:
                # A faster peer that is full does not hold back one with more memory.
                most = min(most, hosts) if hosts < other.capacity_stages else most
            elif candidate.seconds_per_stage * CLEARLY_FASTER <= other.seconds_per_stage:
                fewest = max(fewest, hosts)
        return min(fewest, candidate.capacity_stages), max(most, 1)

    # Pass 1.

    def cover(self) -> None:
        """Split the uncovered stages among the free peers: each next one to whoever would finish it first."""
        uncovered = [stage for stage in self.all_stages if not self.replicas[stage]]
        counts = dict.fromkeys((c.peer for c in self.free), 0)
        edge_host = None
        if EDGE_STAGE in uncovered:
            edge_host = next((c.peer for c in self.free if c.edge_capable), None)
            if edge_host is None:
                uncovered.remove(EDGE_STAGE)
            else:
                counts[edge_host] = 1
        while sum(counts.values()) < len(uncovered):
            open_to_more = [c for c in self.free if counts[c.peer] < c.capacity_stages]
            if not open_to_more:
                break
            quickest = min(open_to_more, key=lambda c: (counts[c.peer] + 1) * c.seconds_per_stage)
            counts[quickest.peer] += 1
        # The edge's host comes first in line because the edge is the first stage; the rest by id.
        for peer in sorted(counts, key=lambda peer: (peer != edge_host, peer)):
            if counts[peer]:
                self.host(peer, uncovered[: counts[peer]], "so that every stage is covered")
                uncovered = uncovered[counts[peer] :]

    # Pass 2.

    def help(self) -> None:
        """Peers still without a stage, fastest first, take the slowest range that fits their share of the speed."""
        speeds = [1 / c.seconds_per_stage for c in self.candidates.values() if c.capacity_stages]
        for candidate in self.free:
            allowed = self.allowed(candidate)
            if self.hosted[candidate.peer] or not allowed:
                continue
            share = len(self.all_stages) / candidate.seconds_per_stage / math.fsum(speeds)
            count = max(1, min(int(share), self.count_limits(candidate)[1]))
            ranges = [allowed[first : first + count] for first in range(len(allowed) - count + 1)]
            self.host(candidate.peer, *self._slowest(candidate, ranges))

    def _slowest(self, candidate: Candidate, ranges: list[range]) -> tuple[range, str]:
        """The slowest range and why; of those that are as slow stage by stage, the one `near` prefers."""
        needs = {r: sorted(self.throughput[stage] for stage in r) for r in ranges}
        ranked = sorted(ranges, key=needs.__getitem__)
        limits = [rate * WORTHWHILE_GAIN for rate in needs[ranked[0]]]
        equal = [r for r in ranked if all(map(operator.le, needs[r], limits))]
        best, why = self.preferred([(candidate.peer, tuple(r)) for r in equal])
        return equal[best], f"because {why or 'that was the slowest part of the run'}"

    # Pass 3.

    def lift(self) -> None:
        """Change one free peer's range at a time while the slowest covered stage gains enough."""
        covered = [stage for stage in self.all_stages if self.replicas[stage]]
        improved = bool(covered)
        while improved:
            improved = False
            # The slowest first: they matter least where they are.
            for candidate in reversed(self.free):
                improved = self._lift_with(candidate, covered) or improved

    def _lift_with(self, candidate: Candidate, covered: list[int]) -> bool:
        rate = 1 / candidate.seconds_per_stage
        base = self.throughput_without(candidate.peer)
        best = min(self.throughput[stage] for stage in covered) * WORTHWHILE_GAIN
        # Whatever is slower than the aim has to be in the range; further stages join it from the slowest up.
        covered = sorted(covered, key=lambda stage: (base[stage], stage))
        required = sum(base[stage] <= best for stage in covered)
        chosen: range | None = None
        for count in range(max(required, 1), len(covered) + 1):
            wanted = range(min(covered[:count]), max(covered[:count]) + 1)
            if base[covered[0]] + rate / len(wanted) <= best:
                break
            pace = self.pace_with(candidate, wanted)
            if pace > best and self._may_host(candidate, wanted):
                best, chosen = pace, wanted
        if chosen is not None:
            reason = "because the slowest stage of the run gains most this way"
            self.host(candidate.peer, chosen, reason)
        return chosen is not None

    def _may_host(self, candidate: Candidate, wanted: range) -> bool:
        fewest, most = self.count_limits(candidate)
        allowed = self.allowed(candidate)
        return fewest <= len(wanted) <= most and wanted[0] in allowed

    # Pass 4.

    def spread(self) -> None:
        """Give every stage with one replica a second while another has three (a peer moves, or takes one more)."""
        for _ in self.all_stages:
            lonely = [stage for stage in self.all_stages if self.replicas[stage] == 1]
            if max(self.replicas) < 3 or not any(map(self._give_second_replica, lonely)):
                return

    def _give_second_replica(self, lonely: int) -> bool:
        options: list[tuple[bool, float, bool, PeerId, tuple[int, ...]]] = []
        for candidate in self.free:
            hosted = self.hosted[candidate.peer]
            if lonely in hosted or lonely not in self.allowed(candidate):
                continue
            crowded = [stage for stage in hosted if self.replicas[stage] >= 3]
            left = [tuple(sorted({*hosted, lonely} - {stage})) for stage in crowded]
            if not crowded and len(hosted) < candidate.capacity_stages:
                left = [tuple(sorted({*hosted, lonely}))]
            for stages in left:
                is_broken = stages[-1] - stages[0] >= len(stages)
                pace = self.pace_with(candidate, stages)
                options.append((not crowded, -pace, is_broken, candidate.peer, stages))
        if not options:
            return False
        # Rather move than load more, then what leaves the run fastest, then whole ranges.
        is_load, slowness, is_broken, *_ = min(options)
        limits = (is_load, slowness / WORTHWHILE_GAIN, is_broken)
        equal = [o[3:] for o in sorted(options) if all(map(operator.le, o[:3], limits))]
        best, why = self.preferred(equal)
        reason = f"because stage {lonely} had one replica and another stage three"
        self.host(*equal[best], f"{reason}, and {why}" if why else reason)
        return True

    # What came out of it.

    def assignment(self, peer: PeerId) -> Assignment:
        missing = [stage for stage in self.all_stages if not self.replicas[stage]]
        room = sum(candidate.capacity_stages for candidate in self.free)
        why = self._why(self.candidates[peer])
        return Assignment(self.hosted[peer], why + gaps_in_words(missing, room))

    def _why(self, candidate: Candidate) -> str:
        hosted = self.hosted[candidate.peer]
        if candidate.pinned is not None:
            text = f"Stays with {stages_in_words(hosted)}, {self.reasons[candidate.peer]}."
            if len(hosted) > candidate.capacity_stages:
                text += (
                    f" Its memory has room for {candidate.capacity_stages} only, by its own count."
                )
            return text
        if not hosted:
            return f"Takes no stage: its memory has room for {candidate.capacity_stages}."
        seconds = candidate.seconds_per_stage * len(hosted)
        pace = min(self.throughput[stage] for stage in hosted)
        return (
            f"Takes {stages_in_words(hosted)} {self.reasons[candidate.peer]}. "
            f"One microbatch takes this machine {seconds:.3g} s; with everybody on it, the slowest of "
            f"its stages does {pace:.3g} microbatches a second."
        )
