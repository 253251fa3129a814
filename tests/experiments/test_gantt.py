"""Gantt charts: what a journal says of machines' tasks, and nothing else, is drawn."""

from pathlib import Path

import pytest

from swarmtrain.experiments.gantt import DRAWN, MOST_MACHINES, bars_of, shown_steps
from swarmtrain.experiments.report import write_report
from swarmtrain.experiments.results import read_study
from tests.experiments.test_experiment import command, written
from tests.experiments.test_experiment_report import line


def traced(at: float, peer: str, step: int, seconds: float, *rows: tuple[object, ...]) -> str:
    said = {"peer": peer, "step": step, "seconds": seconds, "spans": rows, "left_out": 0}
    return line(at, peer, "step_traced", **said)


def test_bars_count_from_the_first_and_have_the_names_of_machines() -> None:
    lines = [
        line(1.0, "p1", "peer_joined", peer="p1", name="edge"),
        traced(
            12.0, "p1", 3, 2.0, ("forward", 0, 0, 500_000, 250_000, ""), ("hop", 1, 0, 0, 9, "")
        ),
        traced(12.5, "p2", 3, 2.0, ("loss", 0, 1, 1_000_000, 100_000, "")),
    ]
    first, second = bars_of(lines)
    assert (first.machine, first.kind, first.start_seconds, first.seconds) == (
        "edge",
        "forward",
        0,
        0.25,
    )
    assert (second.machine, second.kind) == ("p2", "loss")
    assert second.start_seconds == pytest.approx(1.0) and second.seconds == pytest.approx(0.1)


def test_a_chart_has_rows_for_so_many_machines_only() -> None:
    rows = ("forward", 0, 0, 0, 1, "")
    lines = [traced(1.0, f"p{number:03}", 3, 1.0, rows) for number in range(2 * MOST_MACHINES)]
    assert len({bar.machine for bar in bars_of(lines)}) == MOST_MACHINES


def test_the_steps_shown_are_steps_of_the_run() -> None:
    assert list(shown_steps(24)) == [12, 13] and list(shown_steps(1)) == [0]


def test_a_virtual_run_shows_what_its_machines_were_charged(tmp_path: Path) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    done = command("run", path, "--jobs", 1, "--only", "seed=1", "--out", out)
    assert done.exit_code == 0, done.output
    calm, slow = (group.results[0].bars for group in read_study(out).groups)
    assert {bar.step for bar in calm} == {1, 2} and {bar.kind for bar in calm} == set(DRAWN)
    assert {bar.machine for bar in calm} == {"edge-0", "edge-1", "rest-0", "rest-1"}
    for bars, slowness in ((calm, 1.0), (slow, 3.0)):
        forwards = [b.seconds for b in bars if b.machine == "rest-0" and b.kind == "forward"]
        assert forwards == pytest.approx([0.05 * slowness] * len(forwards), rel=1e-3)
    assert "gantt.svg" in [path.name for path in write_report(out, tmp_path / "report")]
