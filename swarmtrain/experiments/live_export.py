"""Weights out of a run that goes on: the coordinator's newest checkpoint, made now if peers keep a newer state.

Peers give a state that they keep anyway, as for any checkpoint, and no step waits for it; what leaves the run comes
from the coordinator alone, in verified pieces.
"""

import asyncio
from pathlib import Path

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.core.errors import LinkError, StateError
from swarmtrain.core.messages import CheckpointAt
from swarmtrain.experiments.export import Exported, Progress, Weights, check_target, export
from swarmtrain.peer.asking import reaching
from swarmtrain.peer.joining import describe
from swarmtrain.recovery.dealing import pace_of
from swarmtrain.recovery.transfer import fetch_stage
from swarmtrain.transport.link import Message
from swarmtrain.transport.messages import decode
from swarmtrain.transport.requests import Describe

CONNECT_SECONDS = 10.0


async def export_live(address: str, folder: Path, is_forced: bool, progress: Progress) -> Exported:
    """Write the newest committed state of the run at `address`, a coordinator's or any peer's, to `folder`.

    Raises:
        LinkError: nobody answers, or the run has no coordinator that does.
        StateError: no state is kept yet, or it could not be fetched whole.
        ConfigError, ModelError, CorpusError: as for `export`.
    """
    check_target(folder, is_forced)
    description, config = await describe(address, CONNECT_SECONDS)
    if not description.coordinator:
        raise LinkError(
            f"the run at {address} has no coordinator",
            "peers give their state to each other and to the coordinator only",
            "export the checkpoint in a run folder instead",
        )
    loop, pace = asyncio.get_running_loop(), pace_of(config.links)
    async with reaching(description.coordinator, CONNECT_SECONDS) as link:
        question = Message(Describe().encode())
        answer = await link.call("checkpoint", question, silence_seconds=pace.silence_seconds)
        at = decode(CheckpointAt, answer.meta)

        async def fetch(stage: int) -> StageState:
            transfer = await fetch_stage([link], stage, at.step, pace)
            if transfer.base != at.base:
                raise StateError(
                    f"stage {stage} came from another history of the run than was promised",
                    "the run went back to an earlier state meanwhile",
                    "export again",
                )
            return transfer.state

        def read(stage: int) -> StageState:
            return asyncio.run_coroutine_threadsafe(fetch(stage), loop).result()

        weights = Weights(config, at.step, read)
        return await asyncio.to_thread(export, weights, folder, is_forced, progress)
