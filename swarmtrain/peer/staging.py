"""What an experiment makes of this machine, from a file: its lines to other peers, and how long its tasks take.

The file may change while the peer runs: lines are cut or slowed and compute becomes slower without a word to the peer,
as in the world outside. It is JSON (`Staging`), written whole under another name and renamed.
"""

import asyncio
import random
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from swarmtrain.compute.lane import Kind, Task
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.types import PeerId
from swarmtrain.transport.shaping import Lines, Shape

LOOK_SECONDS = 0.1

_Seconds = tuple[float, ...]


class Staging(BaseModel):
    """`lines` by peer id, towards that peer. Seconds of a microbatch's tasks at each stage, by its number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(0, description="Of jitter and losses")
    lines: dict[str, Shape] = Field(default_factory=dict)
    forward_seconds: _Seconds = ()
    backward_seconds: _Seconds = ()
    loss_seconds: float = Field(0.0, ge=0)


class StagedMachine:
    """The machine that the file at `path` describes. Raises ConfigError when it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said, self._changed_ns = self._read(), self._when()
        chance = random.Random(f"lines {self._said.seed}")
        self.lines = Lines(self._towards(), chance)

    def least_seconds(self, task: Task) -> float:
        """What the task takes on that machine; called from the lane's thread."""
        said = self._said
        match task.kind:
            case Kind.LOSS:
                return said.loss_seconds
            case Kind.FORWARD:
                return _at(said.forward_seconds, task.stage)
            case Kind.BACKWARD:
                return _at(said.backward_seconds, task.stage)
        return 0.0

    async def follow(self) -> None:
        """Look at the file again and again."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            changed_ns = self._when()
            if changed_ns != self._changed_ns:
                self._said, self._changed_ns = self._read(), changed_ns
                self.lines.change(self._towards())

    def _towards(self) -> dict[PeerId, Shape]:
        return {PeerId(peer): shape for peer, shape in self._said.lines.items()}

    def _when(self) -> int:
        return self._path.stat().st_mtime_ns

    def _read(self) -> Staging:
        try:
            return Staging.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ConfigError(
                f"{self._path} does not say what to make of this machine",
                str(error),
                "it is written by swarmtrain up --network and swarmtrain experiment run --world processes",
            ) from error


def write_staging(staging: Staging, path: Path) -> None:
    """Whole or not at all, whoever reads meanwhile."""
    partial = path.with_suffix(".partial")
    partial.write_text(staging.model_dump_json(), encoding="utf-8")
    partial.rename(path)


def _at(seconds: _Seconds, stage: int) -> float:
    return seconds[stage] if stage < len(seconds) else 0.0
