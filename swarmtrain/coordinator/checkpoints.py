"""The coordinator's checkpoints: saved beside training, served to peers that restore from them (tier 2)."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.checkpoint.store import load, load_stage
from swarmtrain.coordinator.collect import collect
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import StateError, WireError
from swarmtrain.core.messages import CheckpointAt
from swarmtrain.recovery.serving import layout_answer, state_piece
from swarmtrain.transport.link import Link, Message
from swarmtrain.transport.requests import StateReply, StateRequest, Status


class Checkpoints:
    """Checkpoints of one run in `folder`; `newest` is what peers may restore from."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self._config, self.folder = config, folder
        self.newest: CheckpointAt | None = None
        self._path: Path | None = None
        self._saving = asyncio.Lock()
        self._reading: tuple[int, StageState] | None = None

    @property
    def has_any(self) -> bool:
        return any(self.folder.glob("step-*"))

    def resume(self) -> tuple[str, ...]:
        """Start from the newest whole checkpoint in the folder; says which damaged ones were passed over.

        Raises:
            StateError: there is none, or it is another run's.
        """
        found = load(self.folder)
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
        self._set(CheckpointAt(found.manifest.step, found.manifest.base), found.folder)
        return found.skipped

    async def save(self, step: int, donors: dict[int, Sequence[Link]]) -> Path:
        """Collect every stage at `step` and write it, one checkpoint at a time. Raises StateError."""
        async with self._saving:
            path, base = await collect(self._config, step, donors, self.folder)
            self._set(CheckpointAt(step, base), path)
            return path

    async def state(self, request: StateRequest) -> Message:
        """A piece of a stage of the newest checkpoint, as a replica would give it."""
        newest = self.newest
        if newest is None or request.step != newest.step:
            step = newest.step if newest is not None else 0
            return Message(StateReply(Status.FENCED, step, b"", 0, (), b"").encode())
        return state_piece(await self._stage(request.stage), newest.base, request)

    async def layout(self, request: StateRequest) -> Message:
        return layout_answer(await self._stage(request.stage))

    def _set(self, newest: CheckpointAt, path: Path) -> None:
        self.newest, self._path, self._reading = newest, path, None

    async def _stage(self, stage: int) -> StageState:
        """One stage in memory at a time: a peer asks for all of its pieces one after the other."""
        if self._reading is None or self._reading[0] != stage:
            if self._path is None:
                raise WireError("this coordinator has no checkpoint", "")
            state = await asyncio.to_thread(load_stage, self._path, stage)
            self._reading = (stage, state)
        return self._reading[1]
