"""The real program with one safeguard taken out each, by patching: the simulate suite must notice every one (F29).

Patches of the machines that the explorer uses as well are in tests/steps/mutants.py.
"""

import asyncio
from typing import Any

import pytest
import torch

from swarmtrain.compute.replica import Replica
from swarmtrain.core.messages import Open
from swarmtrain.core.types import Item
from swarmtrain.peer import reduce
from swarmtrain.peer.reduce import Reducer, Tag
from swarmtrain.peer.store import Answer, Entry, Store
from swarmtrain.peer.worker import Worker
from swarmtrain.steps import conductor
from swarmtrain.steps.effects import Reduce
from swarmtrain.steps.holdings import Run, missing_runs
from swarmtrain.steps.member import StepMember
from swarmtrain.wire import tensors

Patch = pytest.MonkeyPatch


class _Generations(Store):
    """Keeps entries by the roster's version: after a change of members nothing kept before is found."""

    def __init__(self, member: StepMember) -> None:
        super().__init__()
        self._member = member
        self._versions: dict[tuple[int, Item], int] = {}

    @property
    def _version(self) -> int:
        opening = self._member.ledger.open
        return opening.roster.version if opening is not None else 0

    def get(self, step: int, item: Item) -> Entry | None:
        known = self._versions.get((step, item), self._version) == self._version
        return super().get(step, item) if known else None

    def put(self, step: int, entry: Entry) -> None:
        self._versions[step, entry.item] = self._version
        super().put(step, entry)


def keyed_by_generation(patch: Patch) -> None:
    """R1: store and dedupe belong to one generation, and a change of members bumps it."""
    init, accumulated, admits = Worker.__init__, StepMember.accumulated, StepMember.admits

    def start(self: Worker, config: Any, positions: Any, record: Any) -> None:
        init(self, config, positions, record)
        self.store = _Generations(self.member)

    def version_of(self: StepMember) -> int:
        return self.ledger.open.roster.version if self.ledger.open is not None else 0

    def note(self: StepMember, item: Item, loss_sum: float | None) -> None:
        accumulated(self, item, loss_sum)
        self.ledger.__dict__.setdefault("generations", {})[item] = version_of(self)

    def ask(self: StepMember, item: Item) -> bool:
        version = self.ledger.__dict__.get("generations", {}).get(item)
        if version is not None and version < version_of(self) and not self.ledger.closed:
            return True
        return admits(self, item)

    patch.setattr(Worker, "__init__", start)
    patch.setattr(StepMember, "accumulated", note)
    patch.setattr(StepMember, "admits", ask)


def answer_counts_as_held(patch: Patch) -> None:
    """R3: a stored answer is given without accumulating again."""

    async def answer(self: Worker, opening: Open, entry: Entry) -> Answer:
        return await asyncio.shield(entry.answer)

    patch.setattr(Worker, "_answer", answer)


def late_work_counts(patch: Patch) -> None:
    """R5: closing keeps nothing out, and a snapshot goes on changing."""

    def admits(self: StepMember, item: Item) -> bool:
        return item not in self.ledger.held and item not in self.ledger.void

    def snapshot(self: Replica) -> torch.Tensor:
        return self.total

    patch.setattr(StepMember, "admits", admits)
    patch.setattr(Replica, "snapshot", snapshot)


def only_lone_gaps_are_driven(patch: Patch) -> None:
    """R6: a position is driven again only where both its neighbours are held."""

    def lone(missing: Any) -> tuple[Run, ...]:
        return tuple(run for run in missing_runs(missing) if run.first == run.last)

    patch.setattr(conductor, "missing_runs", lone)


def dropped_when_answered(patch: Patch) -> None:
    """R11: what was received and answered is not kept."""
    put = Store.put

    def keep(self: Store, step: int, entry: Entry) -> None:
        put(self, step, entry)
        entry.answer.add_done_callback(lambda _: self.drop(step, entry.item))

    patch.setattr(Store, "put", keep)


def untagged_pieces(patch: Patch) -> None:
    """R16: a reduce takes any piece of the step."""
    run, is_past = Reducer._reduce_stage, Reducer._is_past

    async def reduce_stage(
        self: Reducer, tag: Tag, stage: int, effect: Reduce, snapshot: Any
    ) -> Any:
        return await run(self, (tag[0], 0, 0), stage, effect, snapshot)

    def past(self: Reducer, tag: Tag) -> bool:
        return is_past(self, tag) if tag[1] else tag[0] < self._member.step

    patch.setattr(Reducer, "_reduce_stage", reduce_stage)
    patch.setattr(Reducer, "_is_past", past)


def bytes_not_checked(patch: Patch) -> None:
    """I5: what arrives is taken without comparing its digest."""
    patch.setattr(tensors, "_payload_digest", lambda payload: bytes(16))
    patch.setattr(reduce, "_digest", lambda body: bytes(16))
