"""The coordinator's checkpoints: saved beside training, served to peers that restore from them (tier 2).

A run that continues an imported model (`model.initial`) starts from a checkpoint as well, one of step 0 that lies in
the model's own files. That one is served for as long as the run goes on: whoever begins an island anew starts from it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from swarmtrain.checkpoint.initial import InitialModel
from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.checkpoint.store import load, load_stage, step_folder
from swarmtrain.coordinator.collect import collect
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import StateError, WireError
from swarmtrain.core.messages import CheckpointAt
from swarmtrain.core.sections import RecoverySection
from swarmtrain.core.types import Digest
from swarmtrain.recovery.serving import layout_answer, state_piece
from swarmtrain.transport.link import Link, Message
from swarmtrain.transport.requests import StateReply, StateRequest, Status

READ_BYTES = 2 << 30
"""Stages that peers ask for stay in memory up to this; beyond it one at a time is kept."""
READ_SECONDS = 60.0
"""After so long without a question nothing is kept."""

Read = Callable[[int], StageState]


class Checkpoints:
    """Checkpoints of one run in `folder`; `newest` is what peers may restore from.

    Older ones are served as long as they are on disk, to who began to fetch them.
    """

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self._config, self.folder = config, folder
        self.newest: CheckpointAt | None = None
        self._known: dict[int, tuple[Digest, Read]] = {}
        self._origin: tuple[Digest, Read] | None = None
        self._saving, self._reading = asyncio.Lock(), asyncio.Lock()
        self._read: OrderedDict[tuple[int, int], StageState] = OrderedDict()
        self._forgetting: asyncio.TimerHandle | None = None

    @property
    def has_any(self) -> bool:
        return any(self.folder.glob("step-*"))

    def resume(self, step: int | None = None) -> tuple[str, ...]:
        """Start from the newest whole checkpoint in the folder; says which damaged ones were passed over.

        With `step`, from that one and no other.

        Raises:
            StateError: there is none, or it is another run's.
        """
        found = load(self.folder if step is None else step_folder(self.folder, step))
        if found.manifest.run != self._config.hash:
            raise StateError(
                f"the checkpoint {found.folder} is of another run",
                f"its configuration hashes to {found.manifest.run[:12]}, this one to {self._config.hash[:12]}",
                "resume with the config.toml that stands beside it, or choose another --out",
            )
        if found.manifest.step >= self._config.run.steps:
            raise StateError(
                f"the checkpoint {found.folder} is of the run's last step",
                f"run.steps = {self._config.run.steps}",
                "there is nothing left to train; see swarmtrain eval and generate",
            )
        at = CheckpointAt(found.manifest.step, found.manifest.base)
        self._add(at, partial(load_stage, found.folder))
        return found.skipped

    def begin(self, initial: InitialModel) -> CheckpointAt:
        """Serve an imported model as step 0 from here on, and start from it where there is no checkpoint."""
        at = CheckpointAt(0, initial.base)
        self._origin = initial.base, initial.stage
        if self.newest is None:
            self.newest = at
        return at

    async def save(self, step: int, donors: dict[int, Sequence[Link]]) -> Path:
        """Collect every stage at `step` and write it, one checkpoint at a time. Raises StateError."""
        async with self._saving:
            path, base = await collect(self._config, step, donors, self.folder)
            self._add(CheckpointAt(step, base), partial(load_stage, path))
            return path

    async def state(self, request: StateRequest) -> Message:
        """A piece of a stage of a checkpoint, as a replica would give it."""
        base, _ = self._found(request.step) or (b"", None)
        state = await self._stage(request.step, request.stage)
        if state is None:
            step = self.newest.step if self.newest is not None else 0
            return Message(StateReply(Status.FENCED, step, b"", 0, (), b"").encode())
        return state_piece(state, base, request)

    async def layout(self, request: StateRequest) -> Message:
        """Names and shapes of a stage's parameters: the same in every checkpoint."""
        state = await self._stage(self.newest.step, request.stage) if self.newest else None
        if state is None:
            raise WireError("this coordinator has no checkpoint", "")
        return layout_answer(state)

    def _add(self, newest: CheckpointAt, read: Read) -> None:
        """A restore may have gone back: checkpoints of later steps are then of another history."""
        step = newest.step
        older = sorted(known for known in self._known if known < step)
        kept = older[max(0, len(older) + 1 - self._config.recovery.checkpoints_kept) :]
        self._known = {known: self._known[known] for known in kept} | {step: (newest.base, read)}
        for key in [key for key in self._read if key[0] not in kept]:
            del self._read[key]
        self.newest = newest

    def _found(self, step: int) -> tuple[Digest, Read] | None:
        return self._origin if step == 0 and self._origin is not None else self._known.get(step)

    async def _stage(self, step: int, stage: int) -> StageState | None:
        """One stage's state; None when the checkpoint is gone. A peer asks for its pieces one after the other."""
        async with self._reading:
            key = (step, stage)
            if key not in self._read:
                found = self._found(step)
                if found is None:
                    return None
                try:
                    self._read[key] = await asyncio.to_thread(found[1], stage)
                except StateError:
                    if self.newest is None or step == self.newest.step:
                        raise
                    # Dropped from disk for newer ones: whoever asks has to take one of these.
                    self._known.pop(step, None)
                    return None
            self._read.move_to_end(key)
            if self._forgetting is not None:
                self._forgetting.cancel()
            loop = asyncio.get_running_loop()
            self._forgetting = loop.call_later(READ_SECONDS, self._read.clear)
            while len(self._read) > 1 and _bytes_of(self._read) > READ_BYTES:
                self._read.popitem(last=False)
            return self._read[key]


def newest_kept(recovery: RecoverySection, step: int, has_ended: bool) -> tuple[int, int]:
    """The newest step up to `step` whose state every peer keeps, 0 if none, and how many steps apart these are."""
    every = recovery.snapshot_steps or recovery.checkpoint_steps
    if has_ended:
        return step, every
    return (step - step % every if every else 0), every


def _bytes_of(read: OrderedDict[tuple[int, int], StageState]) -> int:
    return sum(array.nbytes for state in read.values() for _, array in state.arrays())
