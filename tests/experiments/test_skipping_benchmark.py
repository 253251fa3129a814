"""The benchmark of skipping: its modelled seconds, how it reads curves, and that it runs, goes on and times anew."""

import json
from pathlib import Path

import pytest

from benchmarks import skipping as benchmark
from benchmarks.skipping_report import first_at, loss_at, smoothed
from benchmarks.skipping_time import Costs, step_seconds
from swarmtrain.core.config import load_config
from swarmtrain.experiments.profiles import NetworkProfile

LINE = NetworkProfile(
    description="two regions, 1 MB a second",
    source="made up",
    regions=("here", "there"),
    one_way_latency_seconds=((0.0, 0.5), (0.5, 0.0)),
    bytes_per_second=((1e6, 1e6), (1e6, 1e6)),
)
COSTS = Costs(
    forward_seconds=1.0,
    backward_ratio=2.0,
    loss_ratio=0.5,
    boundary_bytes=1_000_000,
    send_overhead_seconds=0.0,
    task_gap_seconds=0.25,
    replicas=1,
    judged_steps=2,
)


def test_a_step_is_the_longest_round_trip_and_its_wait() -> None:
    """One key: edge, two stages, edge. Peers 0 and 2 are here, 1 is there: sends of 1.5, 1.5 and 1 s, both ways."""
    one = load_config((), ["model.stages=2", "train.microbatches=1"])
    three = load_config((), ["model.stages=2", "train.microbatches=3"])
    task = 1.0 * (1 + 2) + 2 * 0.25
    round_trip = 0.5 + 2 * task + 2 * (1.5 + 1.5 + 1.0)
    assert step_seconds(one, LINE, COSTS) == pytest.approx(round_trip)
    assert step_seconds(three, LINE, COSTS) == pytest.approx(round_trip + 2 * task)


def test_leaving_stages_out_takes_less_time() -> None:
    seconds = [
        step_seconds(
            load_config((), ["model.stages=12", "train.microbatches=4", f"paths.skip={skip}"]),
            LINE,
            COSTS,
        )
        for skip in (0.0, 0.25, 0.33, 0.5)
    ]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[-1] < 0.7 * seconds[0]


def test_curves_are_read_between_their_points() -> None:
    curve = [(0.0, 4.0), (10.0, 2.0), (20.0, 2.0), (30.0, 1.0)]
    assert (loss_at(curve, 5.0), loss_at(curve, 30.0), loss_at(curve, 31.0)) == (3.0, 1.0, None)
    assert (first_at(curve, 2.0), first_at(curve, 1.5), first_at(curve, 0.5)) == (10.0, 25.0, None)
    assert smoothed([(1, 4.0), (2, 2.0), (3, 3.0), (4, 1.0)])[1:] == [(2, 3.0), (3, 3.0), (4, 2.0)]


def test_the_quick_benchmark_writes_goes_on_and_times_anew(tmp_path: Path) -> None:
    out, base = tmp_path / "out", tmp_path / "base"
    quick = ["--quick", "--base", str(base), "--out", str(out)]
    benchmark.main(quick)
    first = json.loads((out / "skipping.json").read_text())
    assert [v["name"] for v in first["variants"]] == [v.name for v in benchmark.VARIANTS]
    for variant in first["variants"]:
        assert variant["curve"][-1][0] >= first["setting"]["steps"]
        assert "equal tokens" in variant["depths"]
    half = first["variants"][2]
    assert half["curve"][-1][0] > first["setting"]["steps"] and "equal time" in half["depths"]
    # A second call finds everything trained.
    benchmark.main(quick)
    again = json.loads((out / "skipping.json").read_text())
    assert again["variants"] == first["variants"]
    benchmark.main(["--retime", "--out", str(out), "--step-seconds", "full=100, 50 %=50"])
    timed = json.loads((out / "skipping.json").read_text())
    assert (timed["step_seconds"]["full"], timed["step_seconds"]["50 %"]) == (100.0, 50.0)
    assert timed["step_seconds"]["33 %"] == first["step_seconds"]["33 %"]
    assert timed["variants"] == first["variants"]
    assert "| 50 % | 3 of 6 |" in (out / "skipping.md").read_text()
    assert (out / "skipping.svg").read_text().count("<polyline") == 15


def test_an_unknown_variant_in_the_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="90 %"):
        benchmark.main(["--quick", "--out", str(tmp_path), "--step-seconds", "90 %=3"])
