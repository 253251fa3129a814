"""A call that takes far longer than its replicas is made at another beside it: faster, within bounds, the same bits."""

import functools

import pytest
import torch

from swarmtrain.core.events import Banned, Hedged, SumChanged
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, VirtualRun, simulate
from swarmtrain.peer.exchange import Exchange
from swarmtrain.peer.hops import _Race
from tests.experiments.runs import corpus, events_of, known_reference, sha_of, small_config

STEPS = 8
KEYS = 8
POSITIONS = 3
SLOW = 10.0


def run_of(
    hedge: bool = True, faults: tuple[Fault, ...] = (), steps: int = STEPS, **slowness: float
) -> VirtualRun:
    """Two replicas of everything; `slowness` by peer."""
    names = {"edge_a": 0, "edge_b": 0, "one_a": 1, "one_b": 1, "two_a": 2, "two_b": 2}
    fleet = tuple(
        VirtualPeer(name, (stage,), slowness=slowness.get(name, 1.0))
        for name, stage in names.items()
    )
    torch.set_num_threads(1)
    run = simulate(config_of(hedge, steps), Scenario(fleet, faults=faults), corpus())
    assert [commit.step for commit in run.commits] == list(range(steps))
    return run


@functools.cache
def config_of(hedge: bool, steps: int = STEPS):
    switch = f"limits.hedge={str(hedge).lower()}"
    return small_config(switch, f"train.microbatches={KEYS}", steps=steps)


def hedges_of(run: VirtualRun) -> list[Hedged]:
    return [event for event in events_of(run, Hedged) if isinstance(event, Hedged)]


BECOMES_SLOW = Fault("straggler", ("one_b",), at_seconds=5.0, duration_seconds=1e6, amount=SLOW)


def test_hedges_make_a_straggler_cost_less_and_change_no_bit():
    """A machine becomes slow in the middle of a step: calls that already wait for it are the ones to hedge. From the
    next step on wiring gives it less, with or without hedges."""
    with_hedges, without = (
        run_of(faults=(BECOMES_SLOW,)),
        run_of(hedge=False, faults=(BECOMES_SLOW,)),
    )
    assert seconds_of(with_hedges) < 0.85 * seconds_of(without)
    assert lost_seconds(with_hedges) < 0.45 * lost_seconds(without)
    assert hedges_of(with_hedges) and events_of(with_hedges, Banned)
    assert not hedges_of(without)
    expected = known_reference(config_of(True)).parameters_sha256
    assert sha_of(with_hedges) == sha_of(without) == expected


def lost_seconds(run: VirtualRun) -> float:
    """By the step in which the machine became slow."""
    seconds = sorted(commit.seconds for commit in run.commits[1:])
    return seconds[-1] - seconds[0]


def test_the_loser_of_a_hedge_drops_the_key(monkeypatch: pytest.MonkeyPatch):
    """Otherwise it goes on, and the step waits until all that nobody asked for is taken out of its sum again."""
    dropped = run_of(faults=(BECOMES_SLOW,))
    monkeypatch.setattr(Exchange, "withdraw", lambda *_: None)
    kept = run_of(faults=(BECOMES_SLOW,))
    assert changes_of(dropped).count("retract") < changes_of(kept).count("retract")
    assert lost_seconds(dropped) < 0.7 * lost_seconds(kept)
    assert sha_of(dropped) == sha_of(kept)


def changes_of(run: VirtualRun) -> list[str]:
    return [event.change for event in events_of(run, SumChanged)]  # type: ignore[attr-defined]


def test_a_clear_loss_makes_the_other_calls_late(monkeypatch: pytest.MonkeyPatch):
    """They wait for the same slow machine: each on its own would find out once more."""
    hurried = run_of(faults=(BECOMES_SLOW,))
    monkeypatch.setattr(_Race, "waited_for", _Race.pending)
    assert lost_seconds(hurried) < lost_seconds(run_of(faults=(BECOMES_SLOW,)))


def test_a_machine_that_was_always_slow_needs_no_hedges():
    """Wiring gives it what it can do, and without that it would hold up every step (plan.wiring)."""
    run = run_of(hedge=False, one_b=SLOW)
    assert run.commits[-1].seconds < 0.3 * run.commits[0].seconds


def seconds_of(run: VirtualRun) -> float:
    return sum(commit.seconds for commit in run.commits)


def test_callers_further_up_leave_it_to_the_caller_of_the_straggler(
    monkeypatch: pytest.MonkeyPatch,
):
    """Their calls take as long, but the callee says that it waits for others itself."""
    faults = tuple(
        Fault("straggler", (name,), at_seconds=6.0, duration_seconds=1e6, amount=SLOW)
        for name in ("two_a", "two_b")
    )
    # A key may also wait for a slot at the callee, which is no reason to leave it there.
    assert positions_hedged(faults).count(1) <= 1 < positions_hedged(faults).count(2)

    async def always_here(*_: object) -> bool:
        return False

    monkeypatch.setattr(Exchange, "is_below", always_here)
    assert positions_hedged(faults).count(1) >= 3


def positions_hedged(faults: tuple[Fault, ...]) -> list[int]:
    return [hedge.position for hedge in hedges_of(run_of(faults=faults))]


def test_a_calm_swarm_hedges_nothing_and_pays_nothing():
    calm, without = run_of(), run_of(hedge=False)
    assert not hedges_of(calm) and not events_of(calm, Banned)
    assert [c.seconds for c in calm.commits] == [c.seconds for c in without.commits]
    assert calm.bytes_sent <= 1.001 * without.bytes_sent


def test_machines_of_different_speed_are_no_stragglers():
    assert not hedges_of(run_of(one_b=1.5, two_a=1.5, edge_b=1.5))


@pytest.mark.parametrize("stage", ["one", "two"])
def test_when_all_replicas_slow_down_at_once_there_is_no_storm(stage: str):
    """Both replicas of a stage become slow for good in the middle of the run: at most one hedge a caller and step."""
    slow = tuple(
        Fault("straggler", (f"{stage}_{which}",), at_seconds=6.0, duration_seconds=1e6, amount=SLOW)
        for which in "ab"
    )
    run = run_of(faults=slow)
    assert len(run.injected) == 2
    hedges = hedges_of(run)
    calls = STEPS * KEYS * POSITIONS
    assert len(hedges) <= 0.05 * calls
    assert sha_of(run) == known_reference(config_of(True)).parameters_sha256


def test_a_straggler_that_recovers_is_used_again():
    fault = Fault("straggler", ("one_b",), at_seconds=4.6, duration_seconds=10.0, amount=SLOW)
    run = run_of(faults=(fault,), steps=30)
    assert run.injected and events_of(run, Banned)
    first, last = run.commits[1].seconds, run.commits[-1].seconds
    assert last <= 1.05 * first
