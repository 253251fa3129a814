"""The nouns of swarmtrain as frozen values (design.md section 2); stdlib only, shared by every layer.

Positions on a route: 0 is the embedding, 1..n are the middle visits, n+1 is the head with the loss. Embedding
and head are separate positions of the edge stage (rule R4), so an item of work is `(position, key index)`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NewType

PeerId = NewType("PeerId", str)
"""Hex digest of a peer's public key; sorts the same on every machine."""

Digest = bytes
"""A SHA-256 digest, 32 bytes."""

EDGE_STAGE = 0
"""Stage 0: embedding, final norm, head and loss."""

MOST_MEMBERS = 10_000
"""Of one roster. Whole it then takes some 0.7 MB, and what is kept of it at a peer a few megabytes."""

Item = tuple[int, int]
"""`(position, key index)`: one contribution to one stage's gradient sum in one step."""


@dataclass(frozen=True, slots=True, order=True)
class Visit:
    """One hop of a route: `peer` computes `stage`."""

    stage: int
    peer: PeerId


Route = tuple[Visit, ...]
"""Visits of positions 0..n+1 in order; the first and the last are edge visits."""


@dataclass(frozen=True, slots=True)
class Member:
    """A peer as a roster names it; `stages` ascend, `address` is what other peers dial.

    `region` is empty where it is not known. `since` is the list version (steps.ballot) from which on every roster that
    anybody can have acted on had the peer, at these stages: 0 for who was there when the run began.
    """

    peer: PeerId
    stages: tuple[int, ...]
    address: str
    region: str = ""
    since: int = 0


@dataclass(frozen=True)
class Roster:
    """Who takes part in a step; members ascend by peer id so that every reader iterates alike.

    Without slots, so that what is looked up for every message and hop is worked out once.
    """

    version: int
    members: tuple[Member, ...]

    @staticmethod
    def of(version: int, members: Iterable[Member]) -> "Roster":
        return Roster(version, tuple(sorted(members, key=lambda member: member.peer)))

    @cached_property
    def peers(self) -> tuple[PeerId, ...]:
        return tuple(member.peer for member in self.members)

    @cached_property
    def digest(self) -> Digest:
        """Names this roster, its version included, among all others."""
        entries = [(m.peer, m.stages, m.address, m.region, m.since) for m in self.members]
        return hashlib.sha256(repr((self.version, entries)).encode()).digest()

    @cached_property
    def _by_peer(self) -> dict[PeerId, Member]:
        return {member.peer: member for member in self.members}

    @cached_property
    def _by_stage(self) -> dict[int, tuple[PeerId, ...]]:
        hosts: dict[int, tuple[PeerId, ...]] = {}
        for member in self.members:
            for stage in member.stages:
                hosts[stage] = (*hosts.get(stage, ()), member.peer)
        return hosts

    def __contains__(self, peer: object) -> bool:
        return peer in self._by_peer

    def member(self, peer: PeerId) -> Member | None:
        return self._by_peer.get(peer)

    def replicas(self, stage: int) -> tuple[PeerId, ...]:
        """Peers that host `stage`, ascending."""
        return self._by_stage.get(stage, ())

    @property
    def edges(self) -> tuple[PeerId, ...]:
        return self.replicas(EDGE_STAGE)

    def without(self, peer: PeerId) -> "Roster":
        return Roster(self.version + 1, tuple(m for m in self.members if m.peer != peer))

    def with_member(self, member: Member) -> "Roster":
        """The next roster, with `member` in it (instead of an earlier entry of the same peer)."""
        others = [known for known in self.members if known.peer != member.peer]
        return Roster.of(self.version + 1, [*others, member])

    def missing_stages(self, stages: int) -> tuple[int, ...]:
        """Stages 0..`stages` that no member hosts."""
        covered = {stage for member in self.members for stage in member.stages}
        return tuple(stage for stage in range(stages + 1) if stage not in covered)


def is_majority(present: Iterable[PeerId], base: Roster) -> bool:
    """Whether `present` outvotes the rest of `base`; in an even split the lowest edge has a second vote.

    The second vote keeps two peers able to lose one and go on (protocol.md, answer a).
    """
    voters = frozenset(present)
    votes = sum(1 for peer in base.peers if peer in voters)
    total = len(base.members)
    if total % 2 == 0 and base.edges:
        votes += base.edges[0] in voters
        total += 1
    return 2 * votes > total
