"""A peer with large stages moves beside its work: the step in which it moves is about as long as any other."""

import pytest

from swarmtrain.core.events import Learned, Moved, Noted, Recovered
from swarmtrain.core.types import PeerId
from swarmtrain.experiments.virtual import Stage, VirtualRun
from swarmtrain.peer.moving import Moving
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

    return run_with(large_config("model.stages=2", steps=8), large_scenario(stages=2), script)


def test_no_step_takes_a_tenth_longer_while_a_peer_moves_with_a_large_state() -> None:
    run = moving()
    [moved], [learnt] = of(run, Moved), of(run, Learned)
    assert moved.peer == learnt.peer  # type: ignore[attr-defined]
    assert longest_share(run) <= MOST_SHARE, step_seconds(run)


def test_inside_a_step_the_others_would_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Moving, "_obstacle", lambda self, old, stages: "a test says so")
    run = moving()
    assert not of(run, Learned) and of(run, Recovered)
    assert "a test says so" in [event.detail for event in of(run, Noted)]  # type: ignore[attr-defined]
    assert longest_share(run) > MOST_SHARE, step_seconds(run)
