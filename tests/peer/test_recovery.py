"""Losing every replica of a stage: what brings it back, at what price, and when nothing can (design.md section 9)."""

from collections.abc import Sequence

import pytest

from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import Event, Recovered, Restored, StageLost, StepCommitted
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, VirtualRun, simulate
from tests.experiments.runs import corpus, known_reference, small_config

EDGES = (VirtualPeer("edge-a", (0,)), VirtualPeer("edge-b", (0,)))
FLEET = (
    *EDGES,
    VirtualPeer("one-a", (1,)),
    VirtualPeer("one-b", (1,)),
    VirtualPeer("one-c", (1,)),
    VirtualPeer("two-a", (2,)),
    VirtualPeer("two-b", (2,)),
)
STEP_SECONDS = 0.75
"""Measured: about how long a step of these runs takes, so that a time means a step."""


def config_of(*settings: str, steps: int = 10) -> RunConfig:
    return small_config("train.microbatches=2", *settings, steps=steps)


def kill(*names: str, at_seconds: float) -> tuple[Fault, ...]:
    return tuple(Fault("kill", (name,), at_seconds=at_seconds) for name in names)


def run_with(
    config: RunConfig, faults: Sequence[Fault], fleet: tuple[VirtualPeer, ...] = FLEET
) -> VirtualRun:
    run = simulate(config, Scenario(fleet, faults=tuple(faults), stall_seconds=300), corpus())
    assert len(run.injected) == len(faults), "every fault fired"
    assert not run.errors and not run.stalled, (run.errors, run.stalled)
    return run


def of(run: VirtualRun, kind: type[Event]) -> list[Event]:
    return [event for _, _, event in run.events if isinstance(event, kind)]


def restored(run: VirtualRun) -> Restored:
    [event] = of(run, Restored)
    assert isinstance(event, Restored)
    return event


def expect_same_model(run: VirtualRun, config: RunConfig) -> None:
    assert any(outcome.finished for outcome in run.outcomes.values()), run.outcomes
    assert run.commits[-1].parameters_sha256 == known_reference(config).parameters_sha256


def test_a_lost_stage_comes_back_from_snapshots_with_the_same_parameters() -> None:
    config = config_of("recovery.snapshot_steps=3")
    run = run_with(config, kill("two-a", "two-b", at_seconds=7.5 * STEP_SECONDS))
    expect_same_model(run, config)
    event = restored(run)
    assert (event.tier, event.flagged, event.step % 3) == ("snapshot", False, 0)
    assert 0 < event.step <= event.lost_step
    assert {event.stage for event in of(run, StageLost)} == {2}  # type: ignore[attr-defined]
    assert "snapshot" in {event.tier for event in of(run, Recovered)}  # type: ignore[attr-defined]
    redone = [e.step for _, _, e in run.events if isinstance(e, StepCommitted)]
    assert len(redone) - len(set(redone)) == event.lost_step - event.step, "the stated loss of work"


def test_before_the_first_snapshot_the_run_begins_again() -> None:
    config = config_of("recovery.snapshot_steps=8", steps=4)
    run = run_with(config, kill("two-a", "two-b", at_seconds=1.5 * STEP_SECONDS))
    expect_same_model(run, config)
    assert (restored(run).tier, restored(run).step) == ("initial", 0)


def test_the_last_edge_comes_back_elsewhere() -> None:
    config = config_of("recovery.snapshot_steps=3")
    run = run_with(config, kill("edge-a", "edge-b", at_seconds=7.5 * STEP_SECONDS))
    expect_same_model(run, config)
    assert restored(run).tier == "snapshot"
    assert {event.stage for event in of(run, StageLost)} == {0}  # type: ignore[attr-defined]


def test_frozen_replicas_wake_into_another_epoch_and_are_taken_in() -> None:
    config = config_of("recovery.snapshot_steps=3", steps=30)
    at = 7.5 * STEP_SECONDS
    faults = [
        Fault("freeze", (n,), at_seconds=at, duration_seconds=20.0) for n in ("two-a", "two-b")
    ]
    run = run_with(config, faults)
    expect_same_model(run, config)
    assert restored(run).step < restored(run).lost_step + 1
    assert all(run.outcomes[name].finished for name in ("two-a", "two-b")), "back in the run"


@pytest.mark.parametrize("other", ["edge-a", "edge-b", "one-a"])
def test_a_loss_while_the_island_is_restored_starts_the_restore_again(other: str) -> None:
    config = config_of("recovery.snapshot_steps=3")
    at = 7.5 * STEP_SECONDS
    run = run_with(
        config, [*kill("two-a", "two-b", at_seconds=at), *kill(other, at_seconds=at + 0.08)]
    )
    expect_same_model(run, config)


def test_a_stale_snapshot_of_the_lost_stage_alone_is_flagged_and_redoes_nothing() -> None:
    config = config_of("recovery.snapshot_steps=3", "recovery.stale_steps=5")
    run = run_with(config, kill("two-a", "two-b", at_seconds=7.5 * STEP_SECONDS))
    event = restored(run)
    assert (event.tier, event.flagged, event.stages) == ("stale", True, (2,))
    assert event.step == event.lost_step and len(run.commits) == config.run.steps


def test_a_stage_that_was_never_kept_is_not_taken_for_a_stale_one() -> None:
    """It is lost within the steps that a snapshot may be old, before there was any."""
    config = config_of("recovery.snapshot_steps=8", "recovery.stale_steps=5", steps=4)
    run = run_with(config, kill("two-a", "two-b", at_seconds=1.5 * STEP_SECONDS))
    expect_same_model(run, config)
    assert restored(run).tier == "initial"


FOUR = tuple(VirtualPeer(f"{stage}-{copy}", (stage,)) for stage in range(5) for copy in ("a", "b"))


def test_without_snapshots_neighbours_stand_in_where_allowed() -> None:
    settings = ("model.stages=4", "recovery.snapshot_steps=0", "recovery.neighbours=true")
    config = config_of(*settings)
    run = run_with(config, kill("2-a", "2-b", at_seconds=9.0 * STEP_SECONDS), FOUR)
    event = restored(run)
    assert (event.tier, event.flagged, event.stages) == ("neighbours", True, (2,))
    assert len(run.commits) == config.run.steps
    assert run.commits[-1].parameters_sha256 != known_reference(config).parameters_sha256, (
        "another model, as flagged"
    )


@pytest.mark.parametrize(
    ("lost", "why"), [(("2", "3"), "were lost together"), (("1",), "swap_ends"), (("0",), "edge")]
)
def test_neighbours_are_refused_with_the_reason(lost: tuple[str, ...], why: str) -> None:
    settings = ("model.stages=4", "recovery.snapshot_steps=0", "recovery.neighbours=true")
    names = [f"{stage}-{copy}" for stage in lost for copy in ("a", "b")]
    run = run_with(config_of(*settings), kill(*names, at_seconds=9.0 * STEP_SECONDS), FOUR)
    reasons = {outcome.reason for outcome in run.outcomes.values()}
    assert not of(run, Restored) and any(why in reason for reason in reasons), reasons
