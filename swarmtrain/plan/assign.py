"""Which peer hosts which stages: the first form of placement (SWARM section 3.2 without moving, Petals' selection).

The load of a stage is seen through its throughput: every replica adds its rate (one over `seconds_per_stage`)
divided by the number of stages it hosts, and the slowest stage sets the pace of the run. The edge, stage 0, counts
like any other stage, in memory too. Stages come in contiguous ranges where that is possible, so that hops stay local.

Four passes, each keeping what the one before it reached:
  1. cover: free peers share the stages nobody is pinned to, so that the most loaded of them finishes first;
  2. help: peers left over join the slowest stages, as many as their share of the total speed;
  3. lift: a peer's range is changed where that makes the slowest stage at least a tenth faster;
  4. spread: no stage keeps one replica while another has three and somebody could take it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from swarmtrain.core.types import EDGE_STAGE, PeerId

CLEARLY_FASTER = 2.0
"""A peer this many times faster than another never hosts fewer stages, memory permitting."""

WORTHWHILE_GAIN = 1.1
"""Every further stage costs memory and reduce traffic; the slowest stage must gain this much."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A peer to place. `pinned` are the stages its owner chose (None: free); `capacity_stages` fit in its memory;
    `seconds_per_stage` is above 0 and covers forward and backward of one microbatch."""

    peer: PeerId
    pinned: tuple[int, ...] | None
    capacity_stages: int
    seconds_per_stage: float
    edge_capable: bool = True


@dataclass(frozen=True, slots=True)
class Assignment:
    """The stages of one peer, ascending, and why, in words for its owner."""

    stages: tuple[int, ...]
    reason: str


def assign(candidates: Sequence[Candidate], stages: int) -> dict[PeerId, Assignment]:
    """Place `candidates` on the edge and the middle stages 1..`stages`; equal sets give equal answers everywhere.

    Stages that the candidates' memory cannot cover stay uncovered, which every reason then says.
    """
    return dict(_assigned(tuple(candidates), stages))


# Peers look into the directory far more often than it changes; those of a virtual world all see the same.
@lru_cache(maxsize=16)
def _assigned(candidates: tuple[Candidate, ...], stages: int) -> Mapping[PeerId, Assignment]:
    placement = _Placement(candidates, stages)
    placement.cover()
    placement.help()
    placement.lift()
    placement.spread()
    return {peer: placement.assignment(peer) for peer in placement.candidates}


def choose_stages(me: Candidate, others: Sequence[Candidate], stages: int) -> Assignment:
    """The stages `me` takes among `others`; pin those others that already serve and shall not move."""
    return assign([me, *(other for other in others if other.peer != me.peer)], stages)[me.peer]


class _Placement:
    """Who hosts what so far; peers ascend by id wherever they are iterated, so that all machines agree."""

    def __init__(self, candidates: Sequence[Candidate], stages: int) -> None:
        self.all_stages = range(stages + 1)
        self.candidates = {c.peer: c for c in sorted(candidates, key=lambda c: c.peer)}
        self.hosted: dict[PeerId, tuple[int, ...]] = {}
        self.reasons: dict[PeerId, str] = {}
        self.replicas = [0] * len(self.all_stages)
        self.throughput = [0.0] * len(self.all_stages)
        for peer, candidate in self.candidates.items():
            pinned = set(candidate.pinned or ()) & set(self.all_stages)
            self.host(peer, sorted(pinned), "as its owner chose")
        self.free = [c for c in self.candidates.values() if c.pinned is None and c.capacity_stages]
        # Fastest first; the sort is stable, so equals stay in order of their ids.
        self.free.sort(key=lambda c: c.seconds_per_stage)

    def host(self, peer: PeerId, stages: Iterable[int], reason: str) -> None:
        """Let `peer` host `stages` and nothing else."""
        self.throughput = self.throughput_without(peer)
        for stage in self.hosted.get(peer, ()):
            self.replicas[stage] -= 1
        self.hosted[peer], self.reasons[peer] = tuple(stages), reason
        for stage in self.hosted[peer]:
            self.replicas[stage] += 1
            self.throughput[stage] += self.share(peer)

    def share(self, peer: PeerId) -> float:
        """Microbatches per second that each stage of `peer` gets from it."""
        return 1 / self.candidates[peer].seconds_per_stage / len(self.hosted[peer])

    def throughput_without(self, peer: PeerId) -> list[float]:
        """Microbatches per second of every stage if `peer` were not there."""
        rates = self.throughput.copy()
        for stage in self.hosted.get(peer, ()):
            rates[stage] -= self.share(peer)
        return rates

    def pace_with(self, candidate: Candidate, stages: Sequence[int]) -> float:
        """Throughput of the slowest covered stage if `candidate` hosted `stages`."""
        rates = self.throughput_without(candidate.peer)
        for stage in stages:
            rates[stage] += 1 / candidate.seconds_per_stage / len(stages)
        return min(rate for stage, rate in enumerate(rates) if self.replicas[stage])

    def allowed(self, candidate: Candidate) -> range:
        return self.all_stages if candidate.edge_capable else self.all_stages[1:]

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
            slowest = min(ranges, key=lambda r: sorted(self.throughput[stage] for stage in r))
            self.host(candidate.peer, slowest, "because that was the slowest part of the run")

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
        *_, peer, stages = min(options)
        self.host(peer, stages, f"because stage {lonely} had one replica and another stage three")
        return True

    # What came out of it.

    def assignment(self, peer: PeerId) -> Assignment:
        return Assignment(self.hosted[peer], self._why(self.candidates[peer]) + self._gaps())

    def _gaps(self) -> str:
        missing = [stage for stage in self.all_stages if not self.replicas[stage]]
        text = ""
        if EDGE_STAGE in missing:
            missing.remove(EDGE_STAGE)
            text += " Stage 0, the edge, stays uncovered: no free peer here can be an edge."
        if missing:
            room = sum(candidate.capacity_stages for candidate in self.free)
            verb = "stays" if len(missing) == 1 else "stay"
            text += f" {_name(missing).capitalize()} {verb} uncovered: "
            text += f"the free peers here have room for {room} in all."
        return text

    def _why(self, candidate: Candidate) -> str:
        hosted = self.hosted[candidate.peer]
        if candidate.pinned is not None:
            text = f"Stays with {_name(hosted)}, {self.reasons[candidate.peer]}."
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
            f"Takes {_name(hosted)} {self.reasons[candidate.peer]}. "
            f"One microbatch takes this machine {seconds:.3g} s; with everybody on it, the slowest of "
            f"its stages does {pace:.3g} microbatches a second."
        )


def _name(stages: Sequence[int]) -> str:
    """`stages` in words: "stage 3", "stages 1 to 4", "stages 0, 2 and 5"."""
    if not stages:
        return "no stage"
    if len(stages) == 1:
        return f"stage {stages[0]}"
    if stages[-1] - stages[0] == len(stages) - 1:
        return f"stages {stages[0]} to {stages[-1]}"
    return f"stages {', '.join(map(str, stages[:-1]))} and {stages[-1]}"
