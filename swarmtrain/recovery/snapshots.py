"""Whole stage states in a peer's memory: its own stages' at kept steps, and those it holds for others (tier 1)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.core.messages import StageAt
from swarmtrain.core.sizes import SNAPSHOT_DEPTH
from swarmtrain.core.types import Digest


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state that nothing changes any more."""

    at: StageAt
    state: StageState

    @property
    def bytes(self) -> int:
        return sum(array.nbytes for _, array in self.state.arrays())


@dataclass(slots=True)
class Snapshots:
    """The newest `SNAPSHOT_DEPTH` snapshots of each stage."""

    _kept: dict[int, dict[int, Snapshot]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Snapshot]:
        for stage in sorted(self._kept):
            yield from self._kept[stage].values()

    def get(self, stage: int, step: int) -> Snapshot | None:
        return self._kept.get(stage, {}).get(step)

    def put(self, state: StageState, step: int, base: Digest) -> Snapshot:
        """Keep `state`, whose arrays the caller gives away, instead of the oldest of its stage."""
        mine = self._kept.setdefault(state.stage, {})
        mine[step] = Snapshot(StageAt(state.stage, step, base), state)
        for old in sorted(mine)[:-SNAPSHOT_DEPTH]:
            del mine[old]
        return mine[step]

    def forget_beyond(self, step: int) -> None:
        """The island went back to `step`: what came after is another history."""
        for mine in self._kept.values():
            for later in [known for known in mine if known > step]:
                del mine[later]

    def keep_only(self, stages: set[int]) -> None:
        """Drop the snapshots of stages that others hold now."""
        self._kept = {stage: mine for stage, mine in self._kept.items() if stage in stages}

    @property
    def bytes(self) -> int:
        return sum(snapshot.bytes for snapshot in self)


def copy_of(state: StageState) -> StageState:
    """The same state in arrays of its own."""
    copies = {name: np.array(array) for name, array in state.arrays()}
    return StageState(
        state.stage,
        state.names_shapes,
        copies["parameters"],
        copies.get("moment1"),
        copies.get("moment2"),
        copies.get("rounds"),
    )
