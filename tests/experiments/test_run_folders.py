"""What counts as a finished run of an experiment: the planned one, whole, and ended by itself."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from swarmtrain.core.errors import ConfigError
from swarmtrain.experiments.report import write_report
from swarmtrain.experiments.results import Study, read_study
from tests.experiments.study_folders import change, write_plan, write_study

CALM = {1: [4.0, 3.0, 2.0], 2: [4.2, 3.2, 2.2]}
SLOW = {1: [4.1, 3.1, 2.1], 2: [4.3, 3.3, 2.3]}
HURT = "seed=1,policy=slow"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_study(tmp_path / "out", {"calm": CALM, "slow": SLOW}, {"target_loss": 3.25})


def means(study: Study, figure: str) -> dict[str, float | None]:
    found = {group.name: study.estimate(group, figure) for group in study.groups}
    return {name: estimate and estimate.mean for name, estimate in found.items()}


def test_a_run_of_another_configuration_is_in_no_mean(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(folder / "runs" / HURT / "record.json", work_sha256="of another")
    study = read_study(folder)
    assert [group.runs for group in study.groups] == ["2 of 2", "1 of 2"]
    assert means(study, "loss_last")["policy=slow"] == 2.3
    assert f"runs/{HURT} is left out: of another configuration" in caplog.text
    write_report(folder, tmp_path / "report")
    for name in ("report.md", "report.html"):
        assert f"{HURT} (of another configuration" in (tmp_path / "report" / name).read_text()


def test_a_summary_of_another_configuration_counts_as_little(folder: Path) -> None:
    change(folder / "runs" / HURT / "summary.json", work_sha256="of another")
    assert [group.runs for group in read_study(folder).groups] == ["2 of 2", "1 of 2"]


def test_a_folder_whose_plan_names_no_hashes_is_read(folder: Path) -> None:
    change(folder / "experiment.json", work=None)
    assert [group.runs for group in read_study(folder).groups] == ["2 of 2", "2 of 2"]


def test_a_run_that_halted_changes_no_other_row(folder: Path, tmp_path: Path) -> None:
    before = read_study(folder)
    home = folder / "runs" / HURT
    lines = (home / "journal.jsonl").read_text().splitlines(keepends=True)
    (home / "journal.jsonl").write_text("".join(lines[:3]))
    change(home / "summary.json", outcome="halted", steps=1, tokens=10, loss_last=9.0)
    study = read_study(folder)
    assert study.ends == before.ends
    assert [group.runs for group in study.groups] == ["2 of 2", "1 of 2, 1 halted"]
    assert means(study, "loss_last") == {"policy=calm": 2.1, "policy=slow": 2.3}
    report = write_report(folder, tmp_path / "report")[0].read_text()
    assert "| slow | 1 of 2, 1 halted |" in report and f"{HURT} (halted" in report


def test_what_failed_and_what_is_missing_is_counted(folder: Path, tmp_path: Path) -> None:
    for name in (HURT, "seed=2,policy=slow"):
        shutil.rmtree(folder / "runs" / name)
    (folder / "runs" / HURT).mkdir()
    (folder / "runs" / HURT / "failure.json").write_text("{}")
    assert read_study(folder).groups[1].runs == "0 of 2, 1 failed"
    write_report(folder, tmp_path)
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    counts = [(r["runs"], r["runs_planned"], r["runs_failed"], r["runs_halted"]) for r in rows]
    assert counts == [("2", "2", "0", "0"), ("0", "2", "1", "0")]


def cut(home: Path) -> None:
    lines = (home / "journal.jsonl").read_text().splitlines(keepends=True)
    (home / "journal.jsonl").write_text("".join(lines[: len(lines) // 2]))


def cut_a_line(home: Path) -> None:
    text = (home / "journal.jsonl").read_text()
    (home / "journal.jsonl").write_text(text[: text.rindex("parameters_sha256")])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no journal": (lambda home: (home / "journal.jsonl").unlink(), "not all of its 3 steps"),
    "half a journal": (cut, "not all of its 3 steps"),
    "half a line": (cut_a_line, "its journal.jsonl cannot be read"),
    "bytes": (
        lambda home: (home / "journal.jsonl").write_bytes(b"\xff\xfe"),
        "its journal.jsonl cannot be read",
    ),
    "no figures": (
        lambda home: (home / "journal.jsonl").write_text('{"event":{"kind":"step_committed"}}\n'),
        "its journal.jsonl cannot be read",
    ),
    "half a summary": (
        lambda home: (home / "summary.json").write_text('{"seed": 1'),
        "its summary.json cannot be read",
    ),
    "a list": (lambda home: (home / "summary.json").write_text("[]"), "holds no table"),
    "no record": (lambda home: (home / "record.json").unlink(), "its record.json cannot be read"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_run_is_named_and_the_rest_is_reported(
    folder: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage, why = DAMAGE[what]
    damage(folder / "runs" / HURT)
    study = read_study(folder)
    assert [group.runs for group in study.groups] == ["2 of 2", "1 of 2"]
    assert means(study, "loss_last") == {"policy=calm": 2.1, "policy=slow": 2.3}
    assert f"runs/{HURT} is left out: " in caplog.text and why in caplog.text
    assert study.ends["tokens"] == 30


def test_where_nothing_is_left_it_says_what_there_was(folder: Path) -> None:
    for home in (folder / "runs").iterdir():
        change(home / "summary.json", outcome="halted")
    with pytest.raises(ConfigError, match=r"no run of (?s:.*)4 halted"):
        read_study(folder)


def test_a_figure_that_no_run_has_is_refused_with_the_known_ones(folder: Path) -> None:
    change(folder / "experiment.json", report={"figures": ["move"]})
    with pytest.raises(ConfigError, match=r"names 'move'(?s:.*)known are T, (?s:.*)mean moves"):
        read_study(folder)
    change(folder / "experiment.json", report={"figures": ["outcome"]})
    with pytest.raises(ConfigError, match="names 'outcome'"):
        read_study(folder)


def test_a_plan_that_is_none_is_refused(folder: Path) -> None:
    plan = json.loads((folder / "experiment.json").read_text())
    write_plan(folder, [{"name": "a"}], plan["axes"])
    with pytest.raises(ConfigError, match="holds no experiment"):
        read_study(folder)
