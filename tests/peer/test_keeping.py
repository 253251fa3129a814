"""Snapshots beside training: what is asked for at a step is kept, also when the peer moves away in the same moment."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.compute.lane import VirtualLane
from swarmtrain.core.clock import run_virtual
from swarmtrain.peer.keeping import Keeping
from swarmtrain.recovery.snapshots import Snapshots
from tests.experiments.runs import small_config


def state(stage: int) -> StageState:
    flat = np.full(3, float(stage), np.float32)
    return StageState(stage, (("w", (3,)),), flat, flat.copy(), flat.copy(), 5)


def test_a_peer_that_moves_away_from_a_stage_keeps_what_it_was_asked_for():
    config = small_config()
    step = config.recovery.snapshot_steps
    failures: list[BaseException] = []

    async def main() -> list[int]:
        held = {0: state(0), 1: state(1)}
        parts: Any = SimpleNamespace(
            config=config,
            replicas=held,
            state_of=lambda stage: held[stage],
            lane=VirtualLane(lambda task: 0.1),
            snapshots=Snapshots(),
            record=lambda event: None,
        )
        keeping = Keeping(parts, failures.append)
        keeping.keep_own(step, b"b" * 32)
        del held[0]
        await asyncio.sleep(1.0)
        await parts.lane.close()
        return [kept.at.stage for kept in parts.snapshots]

    assert run_virtual(main()) == [0, 1] and failures == []
