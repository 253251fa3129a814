"""A run that cannot go on ends with an event at everybody who is left; nobody waits for ever (I2, I8)."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.events import RunStopped
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualPeer, VirtualRun, play
from swarmtrain.peer.island import Island
from swarmtrain.peer.options import Outcome
from tests.experiments.runs import corpus, known_reference, sha_of, small_config

CONFIG = small_config("train.microbatches=2", "recovery.snapshot_steps=0", steps=1000)
PATIENCE_SECONDS = 600.0


def without(lost: str, fleet: tuple[VirtualPeer, ...]) -> VirtualRun:
    """A run in which the machine `lost` dies after five virtual seconds."""

    def kill(stage: Stage) -> "asyncio.Task[None]":
        async def act() -> None:
            await asyncio.sleep(5.0)
            stage.network.kill(lost)
            stage.sessions[lost].leave("killed")

        return asyncio.create_task(act())

    async def main() -> VirtualRun:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await play(CONFIG, Scenario(fleet), corpus(), kill)

    return run_virtual(main())


def expect_stopped(run: VirtualRun, name: str) -> Outcome:
    outcome = run.outcomes.get(name)
    assert outcome is not None, f"{name} still runs"
    assert not outcome.finished and outcome.reason
    return outcome


def test_without_the_last_replica_of_a_stage_the_conductor_stops_the_run():
    fleet = (VirtualPeer("edge", (0, 1)), VirtualPeer("last", (2,)), VirtualPeer("help", (1,)))
    run = without("last", fleet)
    for name in ("edge", "help"):
        expect_stopped(run, name)
    assert "stage 2 was lost with every snapshot" in expect_stopped(run, "edge").reason
    assert sum(isinstance(event, RunStopped) for _, _, event in run.events) >= 2


def test_without_the_only_edge_the_others_stop_too():
    fleet = (VirtualPeer("edge", (0,)), VirtualPeer("one", (1, 2)), VirtualPeer("two", (1, 2)))
    run = without("edge", fleet)
    for name in ("one", "two"):
        expect_stopped(run, name)


@pytest.mark.parametrize("later_seconds", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_the_only_edge_that_drains_hands_over_to_a_newcomer_first(later_seconds: float):
    """It used to leave in the step in which the newcomer came, whose state then nobody had: the run ended."""
    config = small_config("train.microbatches=2", "recovery.snapshot_steps=0", steps=30)
    fleet = (VirtualPeer("edge", (0,)), VirtualPeer("one", (1, 2)), VirtualPeer("two", (1, 2)))

    def relieve(stage: Stage) -> "asyncio.Task[None]":
        async def act() -> None:
            await asyncio.sleep(5.0)
            stage.add(VirtualPeer("newcomer", (0,)))
            await asyncio.sleep(later_seconds)
            stage.sessions["edge"].drain("tired")

        return asyncio.create_task(act())

    async def main() -> VirtualRun:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await play(config, Scenario(fleet), corpus(), relieve)

    run = run_virtual(main())
    assert run.outcomes["newcomer"].finished, run.outcomes
    assert "edge" in run.outcomes and not run.outcomes["edge"].finished
    assert sha_of(run) == known_reference(config).parameters_sha256


@pytest.mark.parametrize(
    ("conductor", "revives"),
    [
        (SimpleNamespace(is_elected=True, phase="run"), True),
        (SimpleNamespace(is_elected=False, phase="ballot"), False),
        (SimpleNamespace(is_elected=True, phase="finished"), False),
        (None, False),
    ],
)
def test_who_finds_no_state_ends_alone_but_a_conductor_brings_a_whole_one_back(
    conductor: Any, revives: bool
) -> None:
    """A conductor that ended here used to end the run, which its snapshots could have saved."""
    island = object.__new__(Island)
    done: list[Any] = []
    if conductor is not None:
        conductor.revive = lambda reason: [f"revive: {reason}"]
    island.conducting = SimpleNamespace(conductor=conductor)  # type: ignore[assignment]
    island.perform = done.append  # type: ignore[method-assign]
    island._ended = lambda finished, reason: done.append((finished, reason))
    island._has_no_state("nobody has it")
    assert done == ([["revive: nobody has it"]] if revives else [(False, "nobody has it")])
