"""The benchmark of skipping: its modelled seconds, how it reads curves, and that it runs, goes on and times anew."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import skipping as benchmark
from benchmarks.skipping_curves import first_at, loss_at, over_seeds, smoothed
from benchmarks.skipping_report import _above
from benchmarks.skipping_time import Costs, planned_visits, step_seconds
from swarmtrain.core.config import load_config
from swarmtrain.experiments.profiles import NetworkProfile, read_network

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
    evaluations=300,
)


def test_a_step_takes_what_the_execution_model_says() -> None:
    """One key: edge, two stages, edge. Peers 0 and 2 are here, 1 is there: sends of 1.5, 1.5 and 1 s, both ways."""
    one = load_config((), ["model.stages=2", "train.microbatches=1"])
    three = load_config((), ["model.stages=2", "train.microbatches=3"])
    round_trip = 3 * (1.0 + 2.0) + 0.5 + 2 * (1.5 + 1.5 + 1.0)
    assert step_seconds(one, LINE, COSTS, False) == pytest.approx((round_trip, round_trip))
    # With one replica each there is nothing to plan: the others wait for the first.
    dealt, planned = step_seconds(three, LINE, COSTS, False)
    assert dealt == planned > round_trip + 3.0


def test_leaving_stages_out_takes_less_time_and_planning_less_again() -> None:
    network = read_network("gcp12", Path(benchmark.__file__).parent)
    found = [
        step_seconds(
            load_config((), ["model.stages=6", "train.microbatches=8", f"paths.skip={skip}"]),
            network,
            replace(COSTS, replicas=2),
            False,
        )
        for skip in (0.0, 0.25, 0.33, 0.5)
    ]
    dealt, planned = zip(*found, strict=True)
    assert list(dealt) == sorted(dealt, reverse=True) and dealt[-1] < 0.7 * dealt[0]
    assert all(mine < plain for mine, plain in zip(planned, dealt, strict=True))


def test_planned_visits_are_even_and_differ_from_step_to_step() -> None:
    config = load_config((), ["model.stages=4", "train.microbatches=8", "paths.skip=0.5"])
    sequences = planned_visits(config, LINE, COSTS)
    for step in range(3):
        visits = Counter(stage for sequence in sequences(step) for stage in sequence)
        assert set(visits.values()) == {4}
    assert len({sequences(step) for step in range(3)}) > 1


def test_curves_are_read_between_their_points() -> None:
    curve = [(0.0, 4.0), (10.0, 2.0), (20.0, 2.0), (30.0, 1.0)]
    assert (loss_at(curve, 5.0), loss_at(curve, 30.0), loss_at(curve, 31.0)) == (3.0, 1.0, None)
    assert (first_at(curve, 2.0), first_at(curve, 1.5), first_at(curve, 0.5)) == (10.0, 25.0, None)
    assert smoothed([(1, 4.0), (2, 2.0), (3, 3.0), (4, 1.0)])[1:] == [(2, 3.0), (3, 3.0), (4, 2.0)]


def test_seeds_are_averaged_and_compared_with_full_of_the_same_seed() -> None:
    def variant(name: str, *losses: float) -> dict[str, Any]:
        depth = {"keep": 0.5, "losses": [losses[-1]]}
        curve = [(20 * place, loss) for place, loss in enumerate(losses, start=1)]
        return {"name": name, "curve": curve, "depths": {"equal tokens": {"any": [depth]}}}

    seeds = (
        [variant("full", 4.0, 3.0), variant("half", 4.5, 3.3, 3.0)],
        [variant("full", 2.0, 1.0), variant("half", 2.5, 1.5)],
    )
    full, half = over_seeds(seeds)
    assert full["curve"] == [(20, 3.0), (40, 2.0)] and len(half["curve"]) == 2
    assert half["depths"]["equal tokens"]["any"][0]["losses"] == [3.0, 1.5]
    seeds[1][0]["depths"] = {}
    assert over_seeds(seeds)[0]["depths"]["equal tokens"]["any"][0]["losses"] == [3.0]
    # Means of two judgements: 0.4 and 0.5 above full.
    assert _above(half, full, 40) == "+0.4500 ± 0.0500"
    assert _above(half, full, 41) == "-"


def test_the_quick_benchmark_writes_goes_on_and_times_anew(tmp_path: Path) -> None:
    out, base = tmp_path / "out", tmp_path / "base"
    quick = ["--quick", "--base", str(base), "--out", str(out)]
    benchmark.main(quick)
    first = json.loads((out / "skipping.json").read_text())
    assert [v["name"] for v in first["seeds"]["1"]] == [v.name for v in benchmark.VARIANTS]
    for variant in first["seeds"]["1"]:
        assert variant["curve"][-1][0] >= first["setting"]["steps"]
        assert "equal tokens" in variant["depths"]
    half = first["seeds"]["1"][2]
    assert half["curve"][-1][0] > first["setting"]["steps"] and "equal time" in half["depths"]
    # A second call finds everything trained.
    benchmark.main(quick)
    again = json.loads((out / "skipping.json").read_text())
    assert again["seeds"] == first["seeds"]
    first["step_seconds"] = dict.fromkeys(first["step_seconds"], 1.0)
    (out / "skipping.json").write_text(json.dumps(first))
    benchmark.main(["--retime", "--out", str(out)])
    timed = json.loads((out / "skipping.json").read_text())
    assert timed["step_seconds"] == again["step_seconds"]
    assert timed["seeds"] == first["seeds"]
    assert "| 50 % | 3 of 6 |" in (out / "skipping.md").read_text()
    assert (out / "skipping.svg").read_text().count("<polyline") == 21
