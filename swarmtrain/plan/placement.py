"""Who hosts what while stages are handed out (plan.assign), and what each stage gets from it; pure.

A peer adds its rate, one over `seconds_per_stage`, to the stages it hosts, each as much as the others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swarmtrain.core.types import PeerId
from swarmtrain.plan.nearness import Change, Nearness


@dataclass(frozen=True, slots=True)
class Candidate:
    """A peer to place. `pinned` are the stages its owner chose (None: free); `capacity_stages` fit in its memory;
    `seconds_per_stage` is above 0 and covers forward and backward of one microbatch; `region` is empty where nobody
    stated it."""

    peer: PeerId
    pinned: tuple[int, ...] | None
    capacity_stages: int
    seconds_per_stage: float
    edge_capable: bool = True
    region: str = ""


class Placement:
    """Who hosts what so far; peers ascend by id wherever they are iterated, so that all machines agree.

    `near` chooses among what is equal in throughput.
    """

    def __init__(self, candidates: Sequence[Candidate], stages: int, near: Nearness | None) -> None:
        self.near = near
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
        if self.near is not None:
            self.near.place(peer, self.hosted[peer])

    def share(self, peer: PeerId) -> float:
        """Microbatches per second that each stage of `peer` gets from it."""
        return 1 / self.candidates[peer].seconds_per_stage / len(self.hosted[peer])

    def throughput_without(self, peer: PeerId) -> list[float]:
        """Microbatches per second of every stage if `peer` were not there."""
        rates = self.throughput.copy()
        for stage in self.hosted.get(peer, ()):
            rates[stage] -= self.share(peer)
        return rates

    @property
    def pace(self) -> float:
        """Throughput of the slowest covered stage, 0 where none is."""
        covered = (self.throughput[stage] for stage in self.all_stages if self.replicas[stage])
        return min(covered, default=0.0)

    @property
    def lonely(self) -> int:
        """Stages with one replica where another stage has three."""
        return self.replicas.count(1) if max(self.replicas) >= 3 else 0

    def pace_with(self, candidate: Candidate, stages: Sequence[int]) -> float:
        """Throughput of the slowest covered stage if `candidate` hosted `stages`."""
        rates = self.throughput_without(candidate.peer)
        for stage in stages:
            rates[stage] += 1 / candidate.seconds_per_stage / len(stages)
        return min(rate for stage, rate in enumerate(rates) if self.replicas[stage])

    def preferred(self, changes: Sequence[Change]) -> tuple[int, str]:
        """Which of `changes` that are equal in throughput to make, and why beyond that: the first without `near`."""
        return (0, "") if self.near is None else self.near.preferred(changes)

    def allowed(self, candidate: Candidate) -> range:
        return self.all_stages if candidate.edge_capable else self.all_stages[1:]
