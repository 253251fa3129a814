"""Reports: what is read off journals, what seeds can tell, and that the same journals give the same bytes."""

import csv
import html
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.errors import ConfigError, SwarmError
from swarmtrain.experiments.curves import (
    Point,
    loss_at,
    points_of,
    smoothed,
    steady_step_seconds,
    steps_to,
)
from swarmtrain.experiments.plots import _mean_curve, _rates, plots_of
from swarmtrain.experiments.report import write_report
from swarmtrain.experiments.results import read_study
from tests.experiments.study_folders import write_run, write_study
from tests.experiments.test_experiment import command, written

# ---- curves ---------------------------------------------------------------------------------------------------------


def line(at: float, by: str, kind: str, **event: object) -> str:
    return json.dumps(
        {"event": {"kind": kind, **event}, "peer": by, "time_seconds": at}, separators=(",", ":")
    )


def commit(at: float, peer: str, step: int, loss: float, tokens: int = 10, sha: str = "x") -> str:
    said = {"step": step, "loss": loss, "tokens": tokens, "parameters_sha256": sha}
    return line(at, peer, "step_committed", **said)


def test_a_curve_counts_from_the_first_opening() -> None:
    points = points_of(
        [
            line(5.0, "a", "step_opened", step=0),
            commit(7.0, "a", 0, 4.0),
            line(7.0, "world", "traffic", bytes_sent=100),
            line(7.5, "a", "traffic", bytes_sent=999),  # a peer's own word is not the world's
            commit(9.0, "a", 1, 3.0),
            line(9.0, "world", "traffic", bytes_sent=150),
        ]
    )
    assert points == [Point(0, 2.0, 10, 100, 4.0), Point(1, 4.0, 20, 150, 3.0)]


def test_what_a_new_conductor_repeats_is_not_another_step() -> None:
    lines = [commit(1.0, "a", 0, 4.0), commit(2.0, "a", 1, 3.0), commit(6.0, "b", 1, 3.0, sha="")]
    assert [(p.step, p.seconds) for p in points_of(lines)] == [(0, 1.0), (1, 2.0)]


def test_steps_that_are_taken_again_count_when_they_come_to_stay() -> None:
    lines = [commit(1.0, "a", 0, 4.0), commit(2.0, "a", 1, 3.0), commit(3.0, "a", 2, 2.5)]
    again = [commit(8.0, "a", 1, 3.0), commit(9.0, "a", 2, 2.5)]
    # While the last step has not been taken again, it does not count.
    assert [p.step for p in points_of([*lines, again[0]])] == [0, 1]
    points = points_of([*lines, *again])
    assert [(p.step, p.seconds, p.tokens) for p in points] == [
        (0, 1.0, 10),
        (1, 8.0, 20),
        (2, 9.0, 30),
    ]


def test_islands_make_one_curve() -> None:
    joined = [line(0.0, p, "peer_joined", peer=p, island=i) for i, p in enumerate("ab")]
    lines = [
        commit(1.0, "a", 0, 4.0),
        commit(3.0, "b", 0, 2.0, tokens=30),
        commit(2.0, "a", 1, 1.0),
    ]
    assert points_of([*joined, *lines]) == [Point(0, 3.0, 40, 0, 2.5), Point(1, 3.0, 50, 0, 1.0)]


losses = st.lists(st.floats(0.5, 10), min_size=1, max_size=30)


def curve(values: list[float]) -> list[Point]:
    return [Point(i, 2.0 * (i + 1), 10 * (i + 1), 7 * (i + 1), v) for i, v in enumerate(values)]


@given(losses, st.integers(1, 8), st.floats(0.4, 10))
def test_the_target_is_reached_at_the_first_point_under_it(
    values: list[float], window: int, target: float
) -> None:
    points = curve(values)
    steps = steps_to(points, target, window)
    means = smoothed(points, window)
    if steps is None:
        assert min(means) > target
    else:
        assert means[steps - 1] <= target and all(mean > target for mean in means[: steps - 1])


@given(losses, st.integers(1, 8), st.integers(0, 29))
def test_at_a_point_the_loss_is_that_point_s(values: list[float], window: int, place: int) -> None:
    points = curve(values)
    means = smoothed(points, window)
    index = min(place, len(points) - 1)
    for axis in ("tokens", "seconds", "bytes"):
        assert loss_at(points, axis, getattr(points[index], axis), window) == pytest.approx(
            means[index]
        )
    assert loss_at(points, "tokens", points[-1].tokens + 1, window) is None
    assert loss_at(points, "tokens", 5, window) is None


def test_between_points_it_is_a_straight_line_and_steps_are_means() -> None:
    points = curve([4.0, 2.0, 1.0])
    assert loss_at(points, "tokens", 15, 1) == 3.0 and loss_at(points, "seconds", 5, 1) == 1.5
    late = [*points, Point(3, 16.0, 40, 28, 1.0)]
    assert steady_step_seconds(late, 1) == pytest.approx((2 + 2 + 10) / 3)
    assert steady_step_seconds(points, 3) is None


@given(st.lists(st.floats(0.01, 50), min_size=2, max_size=40))
def test_throughput_loses_no_token(gaps: list[float]) -> None:
    seconds, points = 0.0, []
    for step, gap in enumerate(gaps):
        seconds += gap
        points.append(Point(step, seconds, 10 * (step + 1), 0, 1.0))
    _, rates = _rates(points)
    assert sum(rates) * seconds / len(rates) == pytest.approx(10 * len(gaps), rel=1e-6)


# ---- the report -----------------------------------------------------------------------------------------------------

REPORT = '[report]\ntarget_loss = 6.2\nwarm_steps = 0\nwindow_steps = 1\nfigures = ["replayed_keys", "cpu_seconds"]\n'


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny experiment, run."""
    folder = tmp_path_factory.mktemp("finished")
    out = folder / "out"
    done = command("run", written(folder, REPORT), "--out", out, "--jobs", 1)
    assert done.exit_code == 0, done.output
    return out


def test_the_same_journals_give_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    files = write_report(finished, tmp_path / "first")
    assert {"report.md", "table.csv", "curves.svg", "throughput.svg", "report.html"} <= {
        file.name for file in files
    }
    moved = tmp_path / "elsewhere"
    shutil.copytree(finished, moved)
    for file in write_report(moved, tmp_path / "second"):
        assert file.read_bytes() == (tmp_path / "first" / file.name).read_bytes(), file.name


def test_the_page_loads_nothing(finished: Path, tmp_path: Path) -> None:
    page = write_report(finished, tmp_path)[-1].read_text(encoding="utf-8")
    assert page.count("<svg") == 4 and "policy=slow" in page
    outside = re.findall(r"""(?:src|href)\s*=\s*["'](?!#)([^"']*)""", page)
    assert not outside and "url(http" not in page and "@import" not in page


def test_the_table_is_what_the_runs_say(finished: Path, tmp_path: Path) -> None:
    write_report(finished, tmp_path)
    rows = {row["policy"]: row for row in csv.DictReader((tmp_path / "table.csv").open())}
    assert set(rows) == {"calm", "slow"} and all(row["runs"] == "2" for row in rows.values())
    for policy, row in rows.items():
        seconds = []
        for seed in (1, 2):
            folder = finished / "runs" / f"seed={seed},policy={policy}"
            lines = map(json.loads, (folder / "journal.jsonl").read_text().splitlines())
            events = [(e["time_seconds"], e["event"]) for e in lines]
            opened = min(at for at, event in events if event["kind"] == "step_opened")
            ended = max(at for at, event in events if event["kind"] == "step_committed")
            seconds.append((ended - opened) / 3)
        assert float(row["steady_step_seconds"]) == pytest.approx(sum(seconds) / 2)
        score = float(row["steps_to_target"]) * float(row["steady_step_seconds"])
        assert float(row["T"]) == pytest.approx(score, rel=1e-3)
    assert float(rows["slow"]["steady_step_seconds"]) > float(rows["calm"]["steady_step_seconds"])
    # The same losses in the same order: what differs is when and with how many bytes.
    assert rows["slow"]["loss_at_equal_tokens"] == rows["calm"]["loss_at_equal_tokens"]


def test_a_run_that_is_missing_is_counted(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "runs" / "seed=2,policy=slow")
    write_report(tmp_path / "part", tmp_path / "report")
    assert "1 of 2" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize("package", ["matplotlib", "scipy"])
def test_what_is_not_installed_is_named(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SwarmError, match=rf"needs {package}(?s:.*)swarmtrain\[report\]"):
        write_report(finished, tmp_path)


def test_a_folder_without_an_experiment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no experiment"):
        write_report(tmp_path, tmp_path / "report")


# ---- what is in a mean, and what a label may be ---------------------------------------------------------------------


def test_all_that_is_read_off_curves_needs_every_run_of_the_row(tmp_path: Path) -> None:
    """One seed reached the target, and one alone was between its first step and its last at the equal time."""
    calm = {1: [4.0, 3.0, 2.0], 2: [4.2, 3.9, 3.8]}
    folder = write_study(tmp_path / "out", {"calm": calm, "fast": calm}, {"target_loss": 3.0})
    late = folder / "runs" / "seed=2,policy=calm"
    shutil.rmtree(late)
    write_run(late, calm[2], seconds=9.0)
    write_report(folder, tmp_path / "report")
    calm_row, fast_row = csv.DictReader((tmp_path / "report" / "table.csv").open())
    for figure in ("T", "steps_to_target", "loss_at_equal_seconds"):
        assert (calm_row[figure], calm_row[f"{figure}_half_width"]) == ("", ""), figure
        assert calm_row[f"{figure}_n"] == "1"
    assert (fast_row["loss_at_equal_seconds_n"], fast_row["T_n"]) == ("2", "1")
    assert float(fast_row["loss_at_equal_seconds"]) == pytest.approx(2.9)
    cells = (tmp_path / "report" / "report.md").read_text().split("| calm |")[1].split(" | ")
    assert cells[0].strip() == "2 of 2" and cells[1] == "- (1 of 2)"


def test_bars_are_what_the_table_says(tmp_path: Path) -> None:
    runs = {"calm": {1: [4.0, 3.0], 2: [4.0, 3.9]}, "slow": {1: [4.0, 3.0], 2: [4.0, 3.0]}}
    study = read_study(write_study(tmp_path, runs, {"target_loss": 3.5}))
    assert "> 1 of 2</text>" in plots_of(study)["figures.svg"]


def test_a_curve_is_a_mean_of_all_runs_or_ends(tmp_path: Path) -> None:
    runs = {"calm": {1: [4.0, 3.0, 1.0], 2: [4.0, 5.0]}}
    (group,) = read_study(write_study(tmp_path, runs)).groups
    assert [loss for _, loss in _mean_curve(group, 1)] == [4.0, 4.0]


@pytest.mark.parametrize("label", [r"cheap $\x$ & <b>", "$0.20/h and $0.40/h", "a_{b}^"])
def test_a_label_is_shown_as_it_is_written(tmp_path: Path, label: str) -> None:
    folder = write_study(tmp_path / "out", {"p": {1: [4.0, 3.0], 2: [4.1, 3.1]}})
    plan = json.loads((folder / "experiment.json").read_text())
    for run in plan["runs"]:
        run["labels"]["policy"] = label
    (folder / "experiment.json").write_text(json.dumps(plan))
    page = write_report(folder, tmp_path / "report")[-1].read_text(encoding="utf-8")
    drawn = (tmp_path / "report" / "curves.svg").read_text(encoding="utf-8")
    assert f"policy={html.escape(label, quote=False)}<" in drawn and "<b>" not in page
