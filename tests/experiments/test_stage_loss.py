"""Stage losses in modelled time: failures, the arithmetic of rollbacks against real ones, and real recoveries."""

import json
import statistics
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from benchmarks import stage_loss as benchmark
from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.experiments import stage_loss
from swarmtrain.experiments.reference import Reference
from swarmtrain.experiments.stage_loss import (
    Costs,
    Failures,
    Horizon,
    Outcome,
    Point,
    Policy,
    Trial,
    loss_at,
    retimed,
    roll_back,
    seconds_to_loss,
    smoothed,
)
from tests.experiments.runs import corpus, small_config

COSTS = Costs(iteration_seconds=10.0, stage_bytes=30.0, bytes_per_second=1.0)
"""A whole state takes 30 s, one neighbour's parameters 10 s."""

STAGES, ITERATIONS = 4, 12


@dataclass(frozen=True)
class Planned(Failures):
    """Failures that a test chooses: which stages are lost before which iteration."""

    plan: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def lost(self, iteration: int) -> tuple[int, ...]:
        return self.plan.get(iteration, ())


def planned(plan: dict[int, tuple[int, ...]]) -> Planned:
    return Planned(0, STAGES, 0.0, plan=plan)


def loop_of(swap_ends: bool = False) -> Reference:
    config = small_config(
        f"model.stages={STAGES}",
        "model.width=16",
        "model.heads=2",
        "model.kv_heads=1",
        "model.ffn_width=16",
        "train.microbatches=2",
        "train.microbatch_size=1",
        "train.sequence_length=8",
        f"train.swap_ends={str(swap_ends).lower()}",
        steps=100,
    )
    return Reference(config, corpus(), corpus().tokenizer.vocab_size)


def trial(policy: Policy, failures: Failures, swap_ends: bool = False) -> tuple[Reference, Outcome]:
    """Judged by the digest of the parameters, as a number: equal losses are equal bits."""
    loop = loop_of(swap_ends)

    def judge() -> float:
        return float(int(loop.parameters_sha256()[:12], 16))

    outcome = Trial(loop, policy, failures, COSTS, judge).run(
        Horizon(ITERATIONS * COSTS.iteration_seconds, 1)
    )
    return loop, outcome


# ---- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hourly_rate", "seconds", "chance"), [(0.05, 63, 0.0009), (0.10, 68, 0.002), (0.16, 83, 0.004)]
)
def test_the_chance_of_an_iteration_is_the_papers(
    hourly_rate: float, seconds: float, chance: float
):
    """The paper's table of hourly rates, with the seconds an iteration that its figures imply."""
    assert Failures(1, 6, hourly_rate, seconds).chance == pytest.approx(chance, rel=0.01)


def test_failures_come_at_their_rate_and_repeat():
    failures = Failures(3, 6, 0.5, 600.0)
    lost = [failures.lost(iteration) for iteration in range(4000)]
    assert lost == [Failures(3, 6, 0.5, 600.0).lost(iteration) for iteration in range(4000)]
    assert statistics.mean(map(len, lost)) == pytest.approx(6 * failures.chance, rel=0.1)
    assert {stage for stages in lost for stage in stages} == {1, 2, 3, 4, 5, 6}
    assert lost != [Failures(4, 6, 0.5, 600.0).lost(iteration) for iteration in range(4000)]


def test_what_a_low_rate_loses_a_high_rate_loses_too():
    low, high = Failures(1, 6, 0.05), Failures(1, 6, 0.16)
    assert all(set(low.lost(i)) <= set(high.lost(i)) for i in range(500))
    assert sum(map(len, map(low.lost, range(500)))) < sum(map(len, map(high.lost, range(500))))


def test_nothing_is_lost_before_the_first_iteration():
    assert Failures(1, 6, 1.0).lost(0) == ()
    assert Failures(1, 6, 1.0).lost(1) == (1, 2, 3, 4, 5, 6)


# ---- rollbacks ------------------------------------------------------------------------------------------------------


def test_rollbacks_cost_what_they_redo_and_the_transfer():
    progress = roll_back(planned({3: (1,), 7: (2, 3)}), 4, COSTS, 6, 100)
    # Steps 1 to 3 by 30 s; lost: again from 0, with 30 s; step 4 is done at 100 s. Then a loss right at 4.
    assert progress.first_seconds == [0.0, 10.0, 20.0, 30.0, 100.0, 140.0, 150.0]
    assert (progress.failures, progress.redone_steps, progress.iterations) == (2, 3, 9)


def test_a_run_that_cannot_get_on_gives_up():
    progress = roll_back(planned({i: (1,) for i in range(1, 60)}), 100, COSTS, 5, 50)
    assert len(progress.first_seconds) == 2 and progress.iterations == 50


@pytest.mark.parametrize(
    "failures", [planned({2: (1,), 5: (4,), 6: (2,)}), Failures(5, STAGES, 0.95, 60.0)]
)
def test_the_arithmetic_of_rollbacks_is_what_real_ones_do(failures: Failures):
    """Also to the bit: a replayed step gives the fault-free run's parameters again (I2)."""
    _, calm = trial(Policy("rollback", 4), Failures(0, STAGES, 0.0))
    _, real = trial(Policy("rollback", 4), failures)
    assert real.recoveries
    progress = roll_back(failures, 4, COSTS, ITERATIONS, 1000)
    firsts: dict[int, Point] = {}
    for point in real.points:
        firsts.setdefault(point.steps, point)
    expected = retimed(calm.points, progress.first_seconds)
    assert list(firsts.values()) == expected[: len(firsts)]


# ---- recoveries that make another model -----------------------------------------------------------------------------


def test_a_stale_snapshot_costs_its_transfer_and_no_steps():
    loop, outcome = trial(Policy("stale", snapshot_steps=4), planned({6: (2,)}))
    _, calm = trial(Policy("rollback"), Failures(0, STAGES, 0.0))
    (recovery,) = outcome.recoveries
    assert (recovery.how, recovery.redone_steps, recovery.stages) == ("stale", 0, (2,))
    assert recovery.loss_before == calm.points[6].loss != recovery.loss_after
    assert outcome.points[7].seconds == 70.0 + 30.0 and loop.step == outcome.iterations


def test_a_snapshot_of_this_very_step_changes_nothing():
    _, outcome = trial(Policy("stale", snapshot_steps=3), planned({6: (2,)}))
    (recovery,) = outcome.recoveries
    assert recovery.loss_before == recovery.loss_after


def test_neighbours_are_weighted_by_the_last_committed_gradients(monkeypatch: pytest.MonkeyPatch):
    seen: list[list[tuple[int, float]]] = []
    real = stage_loss.neighbour_state

    def watched(stage: int, neighbours: list[tuple[StageState, float]]) -> StageState:
        seen.append([(state.stage, weight) for state, weight in neighbours])
        return real(stage, neighbours)

    monkeypatch.setattr(stage_loss, "neighbour_state", watched)
    _, outcome = trial(Policy("neighbours"), planned({5: (2,)}))
    alone = loop_of()
    for _ in range(5):
        alone.advance()
    weights = [(n, int(alone.sums[n].square_sum) / 2 ** alone.sums[n].exponent) for n in (1, 3)]
    assert seen == [weights]
    assert [recovery.how for recovery in outcome.recoveries] == ["neighbours"]
    assert outcome.points[6].seconds == 60.0 + 20.0


def test_a_lost_end_goes_back_to_the_checkpoint_unless_ends_were_swapped():
    _, plain = trial(Policy("neighbours", 4), planned({6: (1,)}))
    _, swapped = trial(Policy("neighbours", 4), planned({6: (1,)}), swap_ends=True)
    assert "swap_ends" in plain.recoveries[0].how and plain.recoveries[0].redone_steps == 2
    assert swapped.recoveries[0].how == "neighbours" and swapped.recoveries[0].redone_steps == 0


def test_adjacent_stages_lost_together_go_back_to_the_checkpoint():
    _, outcome = trial(Policy("neighbours", 4), planned({7: (2, 3)}), swap_ends=True)
    assert "together" in outcome.recoveries[0].how and outcome.recoveries[0].redone_steps == 3


# ---- curves ---------------------------------------------------------------------------------------------------------


def points_of(*losses: float) -> list[Point]:
    return [Point(10.0 * i, i, loss) for i, loss in zip(count(), losses)]


def test_the_time_to_a_loss_is_that_of_the_first_crossing():
    assert seconds_to_loss(points_of(3.0, 2.0, 1.0, 2.0), 1.5) == pytest.approx(15.0)
    assert seconds_to_loss(points_of(3.0, 2.0), 1.5) is None


def test_smoothing_is_a_mean_of_the_last_ones():
    assert [point.loss for point in smoothed(points_of(4.0, 2.0, 3.0), 2)] == [4.0, 3.0, 2.5]


def test_the_loss_at_a_time_is_the_last_one_known():
    points = points_of(3.0, 2.0, 1.0)
    assert [loss_at(points, at) for at in (0.0, 9.0, 10.0, 99.0)] == [3.0, 3.0, 2.0, 1.0]


# ---- the benchmark --------------------------------------------------------------------------------------------------


def quick_figures(folder: Path) -> dict[str, Any]:
    benchmark.main(["--quick", "--base", str(folder / "base"), "--out", str(folder)])
    figures: dict[str, Any] = json.loads((folder / "stage_loss.json").read_text(encoding="utf-8"))
    return figures


def test_the_quick_benchmark_writes_its_figures_and_keeps_its_models(tmp_path: Path):
    figures = quick_figures(tmp_path)
    policies = {run["policy"] for run in figures["runs"]}
    assert policies >= {
        "fault-free",
        "CheckFree",
        "CheckFree+",
        "stale snapshot",
        "checkpoint only",
    }
    assert any(run.get("recoveries") for run in figures["runs"])
    page = (tmp_path / "stage_loss.md").read_text(encoding="utf-8")
    assert "CheckFree+ / checkpoint only" in page
    assert (tmp_path / "stage_loss.svg").read_text(encoding="utf-8").count("<polyline") >= 6
    assert len(list((tmp_path / "base").iterdir())) == 2
    assert quick_figures(tmp_path)["runs"] == figures["runs"]
