"""Collects the stages' states from the peers and writes a checkpoint of them."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from swarmtrain.checkpoint.store import save
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import StateError
from swarmtrain.core.types import Digest
from swarmtrain.recovery.dealing import pace_of
from swarmtrain.recovery.transfer import fetch_stage
from swarmtrain.transport.link import Link


async def collect(
    config: RunConfig, step: int, donors: dict[int, Sequence[Link]], folder: Path
) -> tuple[Path, Digest]:
    """Write the checkpoint of `step` beside the loop; its folder and base. `donors` are each stage's replicas.

    Raises:
        StateError: no replica of some stage could give its state, or the disk refused it.
    """
    transfers = [
        await fetch_stage(donors.get(stage, ()), stage, step, pace_of(config.links))
        for stage in range(config.model.stages + 1)
    ]
    bases = {transfer.base for transfer in transfers}
    if len(bases) > 1:
        raise StateError(
            f"the stages' states at step {step} are not of one run of steps",
            "their base digests differ: a stage was restored meanwhile",
            "the next checkpoint will be whole",
        )
    path = await asyncio.to_thread(
        save,
        folder,
        step=step,
        base=transfers[0].base,
        config_json=config.to_json(),
        states=[transfer.state for transfer in transfers],
        keep=config.recovery.checkpoints_kept,
    )
    return path, transfers[0].base
