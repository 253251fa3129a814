"""What the planner is given: peers, links and the rules of one step, as frozen values.

Stage 0 is the edge; `stages` and `visits` count it. Seconds are those of one microbatch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol

Share = Literal["equal", "free"]


class Chance(Protocol):
    """Where randomness comes from: a seeded `random.Random`, passed in (I6)."""

    def random(self) -> float: ...


@dataclass(frozen=True, slots=True)
class PeerCosts:
    """A peer: the stages it hosts (None: the planner places it), its seconds per task, and its memory slots."""

    name: str
    stages: tuple[int, ...] | None
    forward_seconds: float
    backward_seconds: float
    loss_seconds: float
    memory_slots: int


@dataclass(frozen=True)
class Instance:
    """One step to plan. `send_seconds[a][b]` is a send from peer a to peer b, one way.

    `quotas` equal: microbatches are split evenly over edge peers (within one). `visit_shares` equal: every middle stage
    that is not protected is visited equally often over the step (within one). `opening_seconds` by peer: when an edge
    peer hears that the step has begun; a release counts from there. Nothing: all hear at once. `may_wait`: whether
    microbatches can be released later than at once.
    """

    peers: tuple[PeerCosts, ...]
    send_seconds: tuple[tuple[float, ...], ...]
    stages: int
    microbatches: int
    visits: int
    max_swaps: int = 2
    max_jump: int = 4
    task_gap_seconds: float = 0.0
    quotas: Share = "equal"
    visit_shares: Share = "equal"
    stage_sizes: tuple[int, ...] | None = None
    protected_stages: tuple[int, ...] = ()
    opening_seconds: tuple[float, ...] = ()
    may_wait: bool = True

    @cached_property
    def hosts(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the peers of every stage, ascending; peers without a place are in none."""
        return tuple(
            tuple(index for index, peer in enumerate(self.peers) if stage in (peer.stages or ()))
            for stage in range(self.stages)
        )

    @property
    def middle_visits(self) -> int:
        """Middle stages that a microbatch visits."""
        return self.visits - 1

    @cached_property
    def unplaced(self) -> tuple[int, ...]:
        return tuple(index for index, peer in enumerate(self.peers) if peer.stages is None)

    @cached_property
    def crowded(self) -> frozenset[int]:
        """Peers with fewer slots than stages: no microbatch can visit all of these there."""
        return frozenset(
            index
            for index, peer in enumerate(self.peers)
            if peer.memory_slots < len(peer.stages or ())
        )

    @cached_property
    def visit_limits(self) -> tuple[tuple[int, int], ...]:
        """Fewest and most visits of every stage in a step; stage 0 stands for the embeddings."""
        free = self.stages - 1 - len(self.protected_stages)
        rest = self.microbatches * (self.middle_visits - len(self.protected_stages))
        limits = [(self.microbatches, self.microbatches)]
        for stage in range(1, self.stages):
            if stage in self.protected_stages:
                limits.append((self.microbatches, self.microbatches))
            elif self.visit_shares == "free":
                limits.append((0, self.microbatches))
            else:
                limits.append((rest // free, -(-rest // free)))
        return tuple(limits)

    def begin_seconds(self, edge: int, release_seconds: float) -> float:
        """When a microbatch of this edge peer begins at the earliest."""
        return release_seconds + (self.opening_seconds[edge] if self.opening_seconds else 0.0)

    def quota_limits(self, edges: int) -> tuple[int, int]:
        """Fewest and most microbatches of an edge peer where there are `edges` of them."""
        if self.quotas == "free":
            return 0, self.microbatches
        return self.microbatches // edges, -(-self.microbatches // edges)

    def placed(self, stages: Iterable[tuple[int, ...]]) -> "Instance":
        """The same with every peer at its place."""
        peers = zip(self.peers, stages, strict=True)
        return replace(self, peers=tuple(replace(peer, stages=hosted) for peer, hosted in peers))

    def without(self, lost: Iterable[str]) -> "Instance":
        """The same without the peers of these names."""
        names = set(lost)
        kept = [index for index, peer in enumerate(self.peers) if peer.name not in names]
        return replace(
            self,
            peers=tuple(self.peers[index] for index in kept),
            send_seconds=tuple(tuple(self.send_seconds[a][b] for b in kept) for a in kept),
            stage_sizes=None,
            opening_seconds=tuple(self.opening_seconds[a] for a in kept)
            if self.opening_seconds
            else (),
        )
