"""What a coordinator serves of its checkpoints: whole to who began to fetch, never of another history."""

import asyncio
from pathlib import Path

import pytest

from swarmtrain.checkpoint.store import save
from swarmtrain.coordinator import checkpoints as module
from swarmtrain.coordinator.checkpoints import Checkpoints, newest_kept
from swarmtrain.core.clock import run_virtual
from swarmtrain.core.config import RunConfig
from swarmtrain.core.messages import CheckpointAt
from swarmtrain.core.sections import RecoverySection
from swarmtrain.transport.requests import StateReply, StateRequest, Status
from tests.checkpoint.states import CONFIG_JSON, stage_state

CONFIG = RunConfig(recovery=RecoverySection(checkpoints_kept=2))


def written(folder: Path, step: int, base: bytes) -> Path:
    states = [stage_state(stage, step) for stage in range(2)]
    return save(folder, step=step, base=base, config_json=CONFIG_JSON, states=states, keep=2)


def served(checkpoints: Checkpoints, step: int, stage: int = 1) -> tuple[Status, bytes, bytes]:
    """Status, base and first bytes of what a peer that asks for `step` gets."""
    message = asyncio.run(checkpoints.state(StateRequest(stage, step, 0, 64)))
    reply = StateReply.decode(message.meta)
    return reply.status, reply.base, bytes(message.body)


def kept(folder: Path, *steps: int) -> Checkpoints:
    """Checkpoints after one of each step was saved."""
    checkpoints = Checkpoints(CONFIG, folder)
    for step in steps:
        path = written(folder, step, bytes([step]) * 32)
        at = CheckpointAt(step, bytes([step]) * 32)
        checkpoints._add(at, lambda stage, path=path: module.load_stage(path, stage))
    return checkpoints


def test_the_checkpoint_before_is_served_to_who_began_with_it(tmp_path: Path) -> None:
    checkpoints = kept(tmp_path, 10, 20)
    for step in (10, 20):
        expected = stage_state(1, step).parameters.tobytes()[:64]
        assert served(checkpoints, step) == (Status.OK, bytes([step]) * 32, expected)


def test_what_is_gone_from_disk_is_refused(tmp_path: Path) -> None:
    checkpoints = kept(tmp_path, 10, 20, 30)
    assert served(checkpoints, 10)[0] is Status.FENCED
    assert [served(checkpoints, step)[0] for step in (20, 30)] == [Status.OK, Status.OK]


def test_later_steps_of_a_history_that_was_left_are_refused(tmp_path: Path) -> None:
    checkpoints = kept(tmp_path, 10, 20)
    assert served(checkpoints, 20)[0] is Status.OK
    checkpoints._add(CheckpointAt(15, b"n" * 32), lambda stage: stage_state(stage, 15))
    assert served(checkpoints, 20)[0] is Status.FENCED
    checkpoints._add(CheckpointAt(20, b"m" * 32), lambda stage: stage_state(stage, 99))
    expected = stage_state(1, 99).parameters.tobytes()[:64]
    assert served(checkpoints, 20) == (Status.OK, b"m" * 32, expected)


def test_stages_stay_in_memory_only_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    state_bytes = sum(array.nbytes for _, array in stage_state(0).arrays())

    def play(limit_bytes: int) -> int:
        monkeypatch.setattr(module, "READ_BYTES", limit_bytes)
        checkpoints, before = Checkpoints(CONFIG, tmp_path), len(reads)
        checkpoints._add(
            CheckpointAt(5, bytes(32)), lambda s: (reads.append(s), stage_state(s, 5))[1]
        )
        for stage in (0, 1, 0, 1, 2):
            served(checkpoints, 5, stage)
        return len(reads) - before

    assert play(10 * state_bytes) == 3
    assert play(1) == 5


def test_the_newest_state_that_everybody_keeps() -> None:
    every_ten = RecoverySection(snapshot_steps=10)
    assert [newest_kept(every_ten, step, False)[0] for step in (0, 9, 10, 25)] == [0, 0, 10, 20]
    assert newest_kept(every_ten, 25, True) == (25, 10)
    assert newest_kept(RecoverySection(snapshot_steps=0), 25, False) == (0, 0)
    assert newest_kept(RecoverySection(snapshot_steps=0, checkpoint_steps=7), 25, False) == (21, 7)


def test_nothing_is_kept_when_nobody_asks_any_more(tmp_path: Path) -> None:
    async def main() -> None:
        checkpoints = Checkpoints(CONFIG, tmp_path)
        checkpoints._add(CheckpointAt(5, bytes(32)), lambda stage: stage_state(stage, 5))
        # Reading takes a thread, which virtual time has not: it was read before.
        checkpoints._read[5, 1] = stage_state(1, 5)
        for _ in range(3):
            await checkpoints.state(StateRequest(1, 5, 0, 64))
            await asyncio.sleep(0.9 * module.READ_SECONDS)
            assert len(checkpoints._read) == 1
        await asyncio.sleep(0.2 * module.READ_SECONDS)
        assert not checkpoints._read

    run_virtual(main())
