"""Peers with large stages move, and come back from standing still, in steps that are about as long as any other."""

import itertools
import statistics
from dataclasses import replace

import pytest

from swarmtrain.core.events import FaultEnded, Learned, Moved, Noted, Recovered, StepCommitted
from swarmtrain.core.types import PeerId
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.virtual import Stage, VirtualRun
from swarmtrain.peer.moving import Moving
from swarmtrain.peer.recovering import Recovering
from tests.peer.test_learning import (
    USUAL_STEPS,
    asyncio,
    large_config,
    large_scenario,
    longest_share,
    of,
    run_with,
    step_seconds,
    until_committed,
)

MOST_SHARE = 1.1
"""A state of 730 MB on a line of 200 Mbit/s takes half of a step by itself."""


def moving() -> VirtualRun:
    """In the middle of the fourth step the conductor asks one of three replicas of stage 1 to host stage 2."""

    async def script(stage: Stage) -> None:
        await until_committed(stage, USUAL_STEPS - 1)
        await asyncio.sleep(7.0)
        for session in stage.sessions.values():
            if session.runtime is not None:
                mover = PeerId(stage.names["t4-0"])
                session.runtime.island.move(mover, (2,), "a test says so")

    return run_with(large_config("model.stages=2", steps=7), large_scenario(stages=2), script)


def test_no_step_takes_a_tenth_longer_while_a_peer_moves_with_a_large_state() -> None:
    run = moving()
    [moved], [learnt] = of(run, Moved), of(run, Learned)
    assert moved.peer == learnt.peer  # type: ignore[attr-defined]
    assert longest_share(run) <= MOST_SHARE, step_seconds(run)


@pytest.mark.slow
def test_inside_a_step_the_others_would_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Moving, "_obstacle", lambda self, old, stages: "a test says so")
    run = moving()
    assert not of(run, Learned) and of(run, Recovered)
    assert "a test says so" in [event.detail for event in of(run, Noted)]  # type: ignore[attr-defined]
    assert longest_share(run) > MOST_SHARE, step_seconds(run)


# ---- who stood still ------------------------------------------------------------------------------------------------


def waking() -> VirtualRun:
    """A machine stands still until it is out of the roster and two more steps were decided without it."""
    faults = (Fault("freeze", ("t4-0",), at_seconds=60.0, duration_seconds=200.0),)
    scenario = replace(large_scenario(stages=2), faults=faults)
    config = large_config("model.stages=2", "train.microbatches=48", steps=11)

    async def script(stage: Stage) -> None:
        await asyncio.sleep(0.0)

    return run_with(config, scenario, script)


def share_after_waking(run: VirtualRun) -> float:
    """The longest step that ended after the machine woke, over the usual one."""
    [woken_seconds] = [at for at, _, event in run.events if isinstance(event, FaultEnded)]
    ended = [at for at, _, event in run.events if isinstance(event, StepCommitted)]
    seconds = [b - a for a, b in itertools.pairwise(ended) if b > woken_seconds]
    return max(seconds) / statistics.median(step_seconds(run))


def test_who_stood_still_comes_back_without_making_a_step_wait() -> None:
    run = waking()
    [learnt] = of(run, Learned)
    assert learnt.joined_step < 11  # type: ignore[attr-defined]
    assert share_after_waking(run) <= 1.15, step_seconds(run)


@pytest.mark.slow
def test_fetching_inside_a_step_who_stood_still_makes_it_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Recovering, "_learn_again", lambda self, roster: None)
    run = waking()
    assert not of(run, Learned) and of(run, Recovered)
    assert share_after_waking(run) > 1.15, step_seconds(run)
