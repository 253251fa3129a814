"""What a conductor has heard so far in the current phase, and what the answers add up to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from swarmtrain.core.events import Diverged
from swarmtrain.core.messages import (
    Assign,
    Commit,
    Held,
    KeyLoss,
    Open,
    Ready,
    StageDigest,
    StageSum,
    unpack_items,
)
from swarmtrain.core.types import Digest, PeerId, Roster, is_majority
from swarmtrain.steps.holdings import Audit, Run, audit


@dataclass
class Gathering:
    """Answers of the current phase, by peer or key."""

    done: set[int] = field(default_factory=set)
    held: dict[PeerId, Held] = field(default_factory=dict)
    runs: set[Run] = field(default_factory=set)
    reduced: dict[PeerId, tuple[StageSum, ...]] = field(default_factory=dict)
    assign: Assign | None = None
    found: Audit | None = None

    def audit(self, opening: Open) -> Audit:
        held = {peer: frozenset(unpack_items(answer.held)) for peer, answer in self.held.items()}
        void = {peer: frozenset(unpack_items(answer.void)) for peer, answer in self.held.items()}
        return audit(opening.items(), held, void)

    def sums(self, roster: Roster) -> dict[int, set[StageSum]]:
        """The different sums that members report, by stage; one each when all agree. Stages ascend."""
        by_stage: dict[int, set[StageSum]] = {}
        for peer in roster.peers:
            for entry in self.reduced[peer]:
                by_stage.setdefault(entry.stage, set()).add(entry)
        return dict(sorted(by_stage.items()))

    def diverged(self, step: int, stage: int, roster: Roster) -> Diverged:
        digests = tuple(
            (peer, entry.digest.hex())
            for peer in roster.peers
            for entry in self.reduced[peer]
            if entry.stage == stage
        )
        return Diverged(step, stage, "reduced sums", digests)


@dataclass
class Acknowledging:
    """A decided step that waits for READY from a majority and from a replica of every stage (R10)."""

    commit: Commit
    ready: dict[PeerId, Ready] = field(default_factory=dict)
    done: bool = False
    _found: dict[int, set[Digest]] = field(default_factory=dict)
    """By stage what was ever reported, so that thousands of equal answers need not be counted with each new one."""

    def take(
        self, sender: PeerId, message: Ready
    ) -> tuple[tuple[StageDigest, ...], list[Diverged]]:
        """What all answers so far add up to, as `agree` says."""
        self.ready[sender] = message
        for entry in message.stages:
            self._found.setdefault(entry.stage, set()).add(entry.digest)
        if any(len(digests) > 1 for digests in self._found.values()):
            return agree(self.ready)
        agreed = [StageDigest(stage, next(iter(its))) for stage, its in self._found.items()]
        return tuple(sorted(agreed, key=lambda entry: entry.stage)), []

    @property
    def is_enough(self) -> bool:
        roster = self.commit.roster
        if 2 * len(self.ready) + 1 < len(roster.members):
            return False  # not even with the second vote of an edge
        reported = {entry.stage for ready in self.ready.values() for entry in ready.stages}
        hosted = {stage for member in roster.members for stage in member.stages}
        return is_majority(self.ready, roster) and reported >= hosted


def mean_loss(opening: Open, found: Audit, held: Mapping[PeerId, Held]) -> float:
    """Nats per token over the keys that count, as the owners of their heads reported, summed in key order.

    nan when every key is void.
    """
    losses: list[KeyLoss] = []
    for key in range(opening.microbatches):
        if key in found.void:
            continue
        head = (len(opening.sequence(key)) + 1, key)
        losses += [entry for entry in held[found.owners[head]].losses if entry.key == key]
    if not losses:
        return math.nan
    per_key_tokens = opening.tokens // opening.microbatches
    return sum(entry.loss_sum for entry in losses) / (per_key_tokens * len(losses))


def agree(ready: Mapping[PeerId, Ready]) -> tuple[tuple[StageDigest, ...], list[Diverged]]:
    """Each stage's parameter digest: the most frequent, then the lowest peer's; and who disagrees."""
    by_stage: dict[int, list[tuple[PeerId, Digest]]] = {}
    for peer in sorted(ready):
        for entry in ready[peer].stages:
            by_stage.setdefault(entry.stage, []).append((peer, entry.digest))
    agreed, split = [], []
    for stage in sorted(by_stage):
        digests = [digest for _, digest in by_stage[stage]]
        agreed.append(StageDigest(stage, max(digests, key=digests.count)))
        if len(set(digests)) > 1:
            shown = tuple((peer, digest.hex()) for peer, digest in by_stage[stage])
            split.append(Diverged(ready[min(ready)].step, stage, "parameters", shown))
    return tuple(agreed), split
