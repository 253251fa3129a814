"""Snapshots beside training: what is asked for at a step is kept, also when the peer moves away in the same moment."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.compute.lane import VirtualLane
from swarmtrain.core.clock import run_virtual
from swarmtrain.core.events import SnapshotKept
from swarmtrain.experiments.virtual import VirtualPeer
from swarmtrain.peer.keeping import Keeping
from swarmtrain.recovery.snapshots import Snapshots
from tests.experiments.runs import events_of, sha_of, small_config, virtual


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


def test_snapshots_come_packed_over_slow_lines_alone() -> None:
    config = small_config("recovery.snapshot_steps=4", steps=14)
    fleet = tuple(VirtualPeer(f"p{stage}", (stage,)) for stage in range(3))
    bytes_of, digests = [], set()
    for bytes_per_second in (100e6, 5e6):
        run = virtual(config, fleet, bytes_per_second=bytes_per_second)
        digests.add(sha_of(run))
        # The last: by then every line was measured.
        held = [e for e in events_of(run, SnapshotKept) if e.bytes_received and e.step == 12]
        bytes_of.append(sorted((event.stage, event.bytes_received) for event in held))
    plain, packed = bytes_of
    assert [stage for stage, _ in plain] == [stage for stage, _ in packed] == [0, 0, 1, 1, 2, 2]
    for (_, more), (_, less) in zip(plain, packed, strict=True):
        assert 0.5 * more < less < 0.95 * more and more % 12 == 0
    assert len(digests) == 1
