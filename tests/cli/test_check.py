"""`swarmtrain check`: the journals of a run, judged from the command line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from swarmtrain.cli.app import app
from swarmtrain.core.errors import ConfigError, Stopped


def journal(folder: Path, *events: dict[str, object]) -> Path:
    folder.mkdir(parents=True)
    lines = [json.dumps({"event": e, "peer": "a", "time_seconds": 0.0}) + "\n" for e in events]
    (folder / "journal.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


STOPPED = {"kind": "run_stopped", "step": 1, "finished": False}


def test_a_run_without_a_violation_ends_well(tmp_path: Path):
    folder = journal(tmp_path / "run" / "a", {**STOPPED, "reason": "told to"})
    result = CliRunner().invoke(app, ["check", str(folder)])
    assert result.exit_code == 0 and "0 violations in 0 steps" in result.output


def test_violations_are_listed_and_end_with_an_error(tmp_path: Path):
    good = journal(tmp_path / "good", {**STOPPED, "reason": "told to"})
    bad = journal(tmp_path / "bad" / "peer", {**STOPPED, "reason": ""})
    result = CliRunner().invoke(app, ["check", str(good), str(bad), "-o", "json"])
    assert isinstance(result.exception, Stopped) and "does not say why" in result.exception.why
    found = json.loads(result.output)
    assert found[str(good)] == {"violations": [], "steps": 0, "peers": 0}
    assert [v["check"] for v in found[str(bad)]["violations"]] == ["STOP"]


def test_a_folder_without_journals_is_refused(tmp_path: Path):
    result = CliRunner().invoke(app, ["check", str(tmp_path)])
    with pytest.raises(ConfigError, match="cannot be checked"):
        raise result.exception or AssertionError
