"""Collects the stages' states from the peers and writes a checkpoint of them."""

from collections.abc import Sequence
from pathlib import Path

from swarmtrain.checkpoint.store import save
from swarmtrain.core.config import RunConfig
from swarmtrain.recovery.transfer import fetch_stage
from swarmtrain.transport.link import Link


async def collect(
    config: RunConfig, step: int, donors: dict[int, Sequence[Link]], folder: Path
) -> Path:
    """Write the checkpoint of `step`; `donors` are the links to each stage's replicas.

    Raises:
        StateError: no replica of some stage could give its state, or the disk refused it.
    """
    transfers = [
        await fetch_stage(donors.get(stage, ()), stage, step, config.links.silence_seconds)
        for stage in range(config.model.stages + 1)
    ]
    return save(
        folder,
        step=step,
        base=transfers[0].base,
        config_json=config.to_json(),
        states=[transfer.state for transfer in transfers],
    )
