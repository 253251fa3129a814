"""Going on with an experiment: what is finished counts only while the same would be computed; one command at a time."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from swarmtrain.core.errors import ConfigError
from swarmtrain.experiments import peak_memory, work
from swarmtrain.experiments.children import Child, stop_all
from swarmtrain.experiments.execute import Due, Ended, execute, works_of
from swarmtrain.experiments.experiment import read_experiment
from swarmtrain.experiments.folder_lock import LOCK, locked
from swarmtrain.experiments.matrix import applied
from swarmtrain.experiments.report import write_report
from swarmtrain.experiments.results import read_study
from swarmtrain.experiments.trials import RunTrial, prepared
from swarmtrain.experiments.work import Work
from swarmtrain.experiments.world_json import world_json
from tests.experiments.test_experiment import ROOT, TINY, command, written

ONE = TINY.replace("run.steps=3", "run.steps=1").replace("seed = [1, 2]", "seed = [1]")


def resumed(path: Path, out: Path, *more: object) -> Result:
    done = command("run", path, "--out", out, "--jobs", 1, "--resume", *more)
    assert done.exit_code == 0, done.output
    return done


def json_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def another_program(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The source files of the program are those in `folder` now."""
    folder.mkdir(exist_ok=True)
    (folder / "one.py").write_text(f"# {len(list(folder.iterdir()))}\n")
    monkeypatch.setattr(work, "PACKAGE", folder)


def test_another_program_another_corpus_or_another_rule_is_other_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    rule = "def r(turn, seconds):\n    return 0\n"
    (tmp_path / "mine.py").write_text(rule)
    (tmp_path / "text.txt").write_text("hello world " * 300)
    settings = f'"planner.wiring=mine:r", "data.source=text:{tmp_path}/text.txt", "run.steps=1"'
    text = ONE.replace('"run.steps=1"', settings).replace("calm = {}\n", "")
    path, out = written(tmp_path, text=text), tmp_path / "out"
    resumed(path, out)
    record = json_of(out / "runs" / "seed=1,policy=slow" / "record.json")
    assert len({record[f"{part}_sha256"] for part in ("program", "corpus", "named_code")}) == 3

    (tmp_path / "mine.py").write_text(rule.replace("0", "len(seconds) - 1"))
    done = resumed(path, out)
    assert "seed=1,policy=slow begins again: rule, model family or codec changed\n" in done.output
    (tmp_path / "text.txt").write_text("quite another text " * 300)
    assert "begins again: corpus changed\n" in resumed(path, out).output
    another_program(monkeypatch, tmp_path / "program")
    assert "begins again: program changed\n" in resumed(path, out).output
    path = written(tmp_path, text=text.replace("3.0", "4.0"))
    assert "begins again: settings changed\n" in resumed(path, out).output
    assert "1 runs, 1 of them finished" in resumed(path, out).output


def test_a_journal_that_was_cut_is_no_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind a line, after the last step: what is left reads like a whole journal."""
    path, out = written(tmp_path, text=ONE), tmp_path / "out"
    resumed(path, out)
    name = "seed=1,policy=slow"
    journal = out / "runs" / name / "journal.jsonl"
    whole = journal.read_text()
    journal.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    assert [group.runs for group in read_study(out).groups] == ["1 of 1", "0 of 1"]
    assert f"runs/{name} is left out: its journal.jsonl is not what the run wrote" in caplog.text
    report = write_report(out, tmp_path / "report")[0].read_text()
    assert f"{name} (its journal.jsonl is not what the run wrote)" in report
    done = resumed(path, out)
    assert "2 runs, 1 of them finished" in done.output
    assert f"{name} begins again: its journal.jsonl is not what the run wrote\n" in done.output
    assert journal.read_text() == whole and len(read_study(out).results) == 2
    journal.unlink()
    assert "begins again: its journal.jsonl is not" in resumed(path, out).output


def test_a_folder_has_the_quick_form_or_the_whole_one(tmp_path: Path) -> None:
    quick = '[quick]\nsettings = { "machine.rest.slowness" = 9.0 }\n'
    path, out, small = written(tmp_path, quick, ONE), tmp_path / "out", tmp_path / "small"
    resumed(path, out)
    resumed(path, small, "--quick")

    def contents() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    before = contents()
    mixed = command("run", path, "--out", out, "--resume", "--quick")
    assert isinstance(mixed.exception, ConfigError) and "--quick out" in str(mixed.exception)
    assert "holds the whole form" in str(mixed.exception)
    mixed = command("run", path, "--out", small, "--resume")
    assert isinstance(mixed.exception, ConfigError) and "add --quick" in str(mixed.exception)
    assert contents() == before
    assert "2 runs, 2 of them finished" in resumed(path, small, "--quick").output
    # Without a [quick] both are the same.
    assert "2 of them finished" in resumed(written(tmp_path, text=ONE), out, "--quick").output


def test_the_plan_says_which_work_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = written(tmp_path, text=ONE), tmp_path / "out"
    resumed(path, out)
    names = ["seed=1,policy=calm", "seed=1,policy=slow"]

    def planned() -> list[str]:
        return [json_of(out / "experiment.json")["work"][name] for name in names]

    def done() -> list[str]:
        return [json_of(out / "runs" / name / "record.json")["work_sha256"] for name in names]

    before = done()
    assert planned() == before and len(set(before)) == 2
    # Another program: a part that is done again has its work, and the rest is what it was.
    another_program(monkeypatch, tmp_path / "program")
    resumed(path, out, "--only", "policy=calm")
    assert planned() == done() and done()[0] != before[0] and done()[1] == before[1]
    # Other settings: what was done with the former ones counts no more, although it is left there.
    resumed(written(tmp_path, text=ONE.replace("3.0", "4.0")), out, "--only", "policy=calm")
    assert planned()[0] == done()[0] and planned()[1] != done()[1] == before[1]


def test_a_record_without_its_parts_is_another_programs() -> None:
    mine = Work("a", "b", "c")
    assert mine.changes(mine.entries()) == []
    assert mine.changes({"work_sha256": mine.sha256}) == ["program changed"]
    assert replace(mine, corpus_sha256="d").changes(mine.entries()) == ["corpus changed"]
    assert Work("a", "b", "", "c").sha256 != mine.sha256


def test_code_and_text_that_are_not_there_are_said_before_anything_runs(tmp_path: Path) -> None:
    for setting in ('"planner.wiring" = "nowhere:r"', '"data.source" = "text:/nowhere"'):
        path = written(tmp_path, f"wrong = {{ {setting} }}\n", ONE)
        done = command("run", path, "--out", tmp_path / "out")
        assert "run seed=1,policy=wrong" in str(done.exception) and "nowhere" in str(done.exception)
        assert not (tmp_path / "out").exists()


def test_a_failed_run_has_its_record_and_its_world(tmp_path: Path) -> None:
    more = 'lost = { machine = [{ name = "edge", stages = [0] }], "world.stall_seconds" = 50.0 }\n'
    path, out = written(tmp_path, more, ONE), tmp_path / "out"
    assert command("run", path, "--out", out, "--jobs", 1, "--only", "lost").exit_code != 0
    folder = out / "runs" / "seed=1,policy=lost"
    record, world = json_of(folder / "record.json"), json_of(folder / "scenario.json")
    assert record["seed"] == 1 and record["packages"]["torch"] and record["memory_bytes"] > 0
    assert len(record["corpus_sha256"]) == 64 and "cpu_seconds" not in record
    assert world["stall_seconds"] == 50.0 and [p["name"] for p in world["peers"]] == ["edge"]


def test_a_world_is_written_with_its_profiles_resolved() -> None:
    runs = read_experiment(ROOT / "deploy" / "experiments" / "skippipe_gcp.toml").runs
    tables = applied(runs[0].tables, {"machine.*.churn": "spot"})
    trial = prepared(replace(runs[0], tables=tables))
    assert isinstance(trial, RunTrial)
    world = json.loads(json.dumps(world_json(trial.scenario)))
    profiles = [world["machines"][peer["machine"]] for peer in world["peers"]]
    assert [p["flops_per_second"] for p in profiles] == [
        peer.machine.flops_per_second for peer in trial.scenario.peers if peer.machine
    ]
    assert "Belgium" in world["network"]["regions"] and world["churn"][0]["description"]
    assert world["charged"]["model"]["width"] > 0 and world["chances"]["count"] == 0


def test_a_folder_belongs_to_one_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with locked(out):
        done = command("run", written(tmp_path, text=ONE), "--out", out, "--resume")
    assert isinstance(done.exception, ConfigError)
    assert f"in use by process {os.getpid()}" in str(done.exception)
    assert [path.name for path in out.iterdir()] == [LOCK]
    with locked(out):
        pass


def test_a_folder_that_cannot_be_made_costs_its_run_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    (out / "runs" / "seed=1,policy=calm").write_text("in the way")
    done = command("run", written(tmp_path, text=ONE), "--out", out, "--jobs", 1)
    assert "1 of 2 runs failed" in str(done.exception), done.output
    assert "calm: FAILED" in done.output
    assert (out / "runs" / "seed=1,policy=slow" / "summary.json").exists()


@pytest.mark.slow
def test_a_program_that_changes_meanwhile_is_not_mixed_in(tmp_path: Path) -> None:
    runs = read_experiment(written(tmp_path, text=ONE)).runs
    works = works_of(runs)
    due = [Due(run, replace(works[run.name], program_sha256="older")) for run in runs]
    happened = list(execute(due, tmp_path / "out", 2, os.times))  # type: ignore[arg-type]
    failures = [ended.failure for ended in happened if isinstance(ended, Ended)]
    assert len(failures) == 2 and all("program changed while" in why for why in failures)


def test_the_peak_of_memory_is_each_runs_own() -> None:
    large = bytearray(b"x") * (200 << 20)
    high_bytes = peak_memory.peak_bytes()
    del large
    peak_memory.restart_peak()
    assert peak_memory.peak_bytes() < high_bytes - (100 << 20)
    assert peak_memory.peak_bytes(os.getpid()) > 1 << 20
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    assert peak_memory.peak_bytes(ended.pid) == 0


def test_a_stopped_peer_ends_in_its_own_way(tmp_path: Path) -> None:
    leaving = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    program = f"{leaving}; print('ready', flush=True); time.sleep(60)"

    async def stopped() -> int | None:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=pipe)
        assert process.stdout is not None
        await process.stdout.readline()
        os.kill(process.pid, signal.SIGSTOP)
        await stop_all([Child("stopped", process, tmp_path / "log")])
        return process.returncode

    assert asyncio.run(stopped()) == 7, "not killed after its time to leave"
