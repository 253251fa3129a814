"""The experiments in deploy/experiments: every run can be made, and quick forms run and are reported."""

from pathlib import Path

import pytest

from swarmtrain.experiments.experiment import read_experiment
from swarmtrain.experiments.report import write_report
from swarmtrain.experiments.results import read_study
from swarmtrain.experiments.trials import prepared
from tests.experiments.test_experiment import ROOT, command

FILES = sorted((ROOT / "deploy" / "experiments").glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_run_of_it_can_be_made(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    runs = read_experiment(path).runs
    assert len(runs) > 1
    # One seed is like another.
    for run in runs:
        if run.labels["seed"] == runs[0].labels["seed"]:
            prepared(run)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_quick_form_runs(path: Path, tmp_path: Path) -> None:
    done = command("run", path, "--quick", "--jobs", 1, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    write_report(tmp_path / "out", tmp_path / "report")
    study = read_study(tmp_path / "out")
    assert study.claim or "claim" not in path.read_text()
    for group in study.groups:
        assert len(group.results) == group.planned
        for figure in study.report.figures:
            # What a figure counts may be nothing in a quick run, but the figure is there.
            assert all(figure in result.summary for result in group.results), figure
            assert not any(result.summary.get("violations") for result in group.results)
    if path.stem == "skippipe_gcp":
        drawn = (tmp_path / "report" / "traffic.svg").read_text(encoding="utf-8")
        assert "Belgium" in drawn and " GB" in drawn
    if path.stem == "elasticity":
        killed = next(result for result in study.results if "killed" in result.name)
        assert killed.summary["faults"] == 1 and killed.summary["equal_to_reference"] == 1
