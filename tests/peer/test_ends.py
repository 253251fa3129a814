"""A run that cannot go on ends with an event at everybody who is left; nobody waits for ever (I2, I8)."""

import asyncio

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.events import RunStopped
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualPeer, VirtualRun, play
from swarmtrain.peer.session import Outcome
from tests.experiments.runs import corpus, small_config

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
