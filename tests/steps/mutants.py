"""The step machines with one safeguard taken out each, by patching: the explorer must notice every one of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from swarmtrain.core.messages import Decision, Open, Ownership, Reopen, pack_items
from swarmtrain.core.types import Item, PeerId
from swarmtrain.steps import ballot, conductor, gathering, holdings
from swarmtrain.steps.conductor import StepConductor
from swarmtrain.steps.effects import Effect
from swarmtrain.steps.holdings import Audit
from swarmtrain.steps.member import StepMember
from tests.steps.stand_ins import Contents, CountingReducer, CountingWorker, Tag

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]


def dedupe_off(patch: Patch) -> None:
    """A repeat of what is held enters the sum again."""

    def admits(self: StepMember, item: Item) -> bool:
        return not self.ledger.closed or item in self.ledger.reopened

    patch.setattr(StepMember, "admits", admits)


def every_holder_owns(patch: Patch) -> None:
    """R2: whoever holds an item keeps it."""
    held_by: dict[PeerId, frozenset[Item]] = {}

    def audit(needed: Iterable[Item], held: Mapping[PeerId, frozenset[Item]], void: Any) -> Audit:
        held_by.clear()
        held_by.update(held)
        return holdings.audit(needed, held, void)

    def ownerships(owners: Mapping[Item, PeerId]) -> tuple[Ownership, ...]:
        kept = {peer: [item for item in owners if item in held_by[peer]] for peer in held_by}
        return tuple(Ownership(peer, pack_items(kept[peer])) for peer in sorted(kept))

    patch.setattr(gathering, "audit", audit)
    patch.setattr(conductor, "ownerships", ownerships)


def owners_by_route(patch: Patch) -> None:
    """R2: the owner is who the roster's first route names, not who holds the item."""
    real = gathering.Gathering.audit

    def audit(self: gathering.Gathering, opening: Open) -> Audit:
        found = real(self, opening)
        named = {item: opening.roster.replicas(opening.stage_at(*item)) for item in found.owners}
        owners = {item: next(p for p in named[item] if p in self.held) for item in named}
        return replace(found, owners=owners)

    patch.setattr(gathering.Gathering, "audit", audit)


def answer_counts_as_held(patch: Patch) -> None:
    """R3: a stored answer is given without accumulating again."""
    real = CountingWorker.settle

    def settle(self: CountingWorker, step: int, item: Item) -> None:
        entry = self.store.get((step, item))
        if entry is not None and entry.answered:
            admits = self.member.admits
            self.member.admits = lambda item: False  # type: ignore[method-assign]
            real(self, step, item)
            self.member.admits = admits  # type: ignore[method-assign]
        else:
            real(self, step, item)

    patch.setattr(CountingWorker, "settle", settle)


def embedding_has_no_position(patch: Patch) -> None:
    """R4: the ledger does not know the embedding, so nobody looks for it."""
    _edge_positions_off(patch, lambda opening, position, key: position == 0)


def head_has_no_position(patch: Patch) -> None:
    """R4: the ledger does not know the head."""
    patch.setattr(conductor, "mean_loss", lambda opening, found, held: 0.0)
    _edge_positions_off(
        patch, lambda opening, position, key: position == len(opening.sequence(key)) + 1
    )


def _edge_positions_off(patch: Patch, unknown: Callable[[Open, int, int], bool]) -> None:
    """Such items stay with whoever holds them and are never missing."""
    real = gathering.Gathering.audit

    def audit(self: gathering.Gathering, opening: Open) -> Audit:
        found = real(self, opening)
        missing = tuple(item for item in found.missing if not unknown(opening, *item))
        return replace(found, missing=missing)

    patch.setattr(gathering.Gathering, "audit", audit)


def items_without_embedding(patch: Patch) -> None:
    """R4, coarser: Open.items leaves position 0 out."""
    real = Open.items
    patch.setattr(Open, "items", lambda self: tuple(item for item in real(self) if item[0]))


def never_reopened(patch: Patch) -> None:
    """R5: a closed step stays closed."""

    def reopen(self: StepMember, message: Reopen) -> list[Effect]:
        return []

    patch.setattr(StepMember, "_reopen", reopen)


def late_work_counts(patch: Patch) -> None:
    """R5: closing keeps nothing out, and the reduce reads live sums instead of snapshots.

    Comparing digests repairs most of it with a new seal, so that is off as well.
    """
    digests_not_compared(patch)

    def admits(self: StepMember, item: Item) -> bool:
        return item not in self.ledger.held and item not in self.ledger.void

    def end(self: CountingReducer, effect: Any, pieces: dict[PeerId, Contents]) -> None:
        actors = self.outside.actors  # type: ignore[attr-defined]
        real(self, effect, {peer: actors[peer].reducer.snapshot() for peer in pieces})

    real = CountingReducer.end
    patch.setattr(StepMember, "admits", admits)
    patch.setattr(CountingReducer, "end", end)


def decides_without_everybody(patch: Patch) -> None:
    """R8: one replica of every stage is enough for a decision; the others are taken to agree."""
    real = StepConductor._decide_if_agreed

    def decide(self: StepConductor) -> list[Effect]:
        by_stage = {sums[0].stage: sums for sums in self._got.reduced.values()}
        if len(by_stage) > self.plan.stages:
            for hosted in self.roster.members:
                self._got.reduced.setdefault(hosted.peer, by_stage[hosted.stages[0]])
        return real(self)

    patch.setattr(StepConductor, "_decide_if_agreed", decide)


def no_majority(patch: Patch) -> None:
    """R8: any part of the roster may go on by itself."""
    for module in (ballot, conductor, gathering):
        patch.setattr(module, "is_majority", lambda present, base: True)
    patch.setattr("tests.steps.explorer.is_majority", lambda present, base: True)


def no_terms(patch: Patch) -> None:
    """R8: every conductor has the same term."""
    patch.setattr("tests.steps.actor.next_term", lambda highest, rank: 1)
    real = StepMember._from_conductor

    def from_conductor(self: StepMember, sender: PeerId, message: Any) -> list[Effect]:
        self.conductor = sender
        return real(self, sender, message)

    patch.setattr(StepMember, "_from_conductor", from_conductor)


def dropped_when_answered(patch: Patch) -> None:
    """R11: what was received and answered is not kept."""
    real = CountingWorker.settle

    def settle(self: CountingWorker, step: int, item: Item) -> None:
        real(self, step, item)
        self.store.pop((step, item), None)

    def retract(self: CountingWorker, items: tuple[Item, ...]) -> None:
        for item in items:
            self.sums[item, self.member.base] -= 1

    patch.setattr(CountingWorker, "settle", settle)
    patch.setattr(CountingWorker, "retract", retract)


def untagged_pieces(patch: Patch) -> None:
    """R16: a reduce takes any piece of the step."""

    def tag_of(effect: Any) -> Tag:
        return (effect.step, 0, 0)

    patch.setattr(CountingReducer, "tag_of", staticmethod(tag_of))


def digests_not_compared(patch: Patch) -> None:
    """I3: the first reported sum of each stage is decided on."""

    def sums(self: gathering.Gathering, roster: Any) -> dict[int, set[Any]]:
        found = {s.stage: {s} for peer in roster.peers for s in self.reduced[peer]}
        return dict(sorted(found.items()))

    patch.setattr(gathering.Gathering, "sums", sums)


def lost_ready_stays_lost(patch: Patch) -> None:
    """R10: a lost READY stays lost."""

    def repeat_ready(self: StepMember, sender: PeerId, message: Decision) -> list[Effect]:
        return []

    patch.setattr(StepMember, "_repeat_ready", repeat_ready)
