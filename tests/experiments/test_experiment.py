"""Experiments: a matrix becomes runs, each in its folder; what fails is told, what is finished is not repeated."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from swarmtrain.cli.app import app
from swarmtrain.core.config import load_config
from swarmtrain.core.errors import ConfigError
from swarmtrain.experiments.experiment import read_experiment
from swarmtrain.experiments.matrix import applied, axis_of, product, run_name
from swarmtrain.experiments.scenario import read_scenario
from swarmtrain.experiments.trials import RunTrial, prepared

ROOT = Path(__file__).parents[2]
TINY = f'''
title = "tiny"
question = "does it work?"
run = "{ROOT / "deploy" / "runs" / "equality.toml"}"
set = [
    "run.steps=3", "optimizer.warmup_steps=1", "model.family=vector", "model.width=8", "model.heads=2",
    "model.kv_heads=1", "train.microbatches=2", "train.microbatch_size=1", "train.sequence_length=4",
]

[[machine]]
name = "edge"
count = 2
stages = [0]

[[machine]]
name = "rest"
count = 2
stages = [1, 2]

[matrix]
seed = [1, 2]

[matrix.policy]
calm = {{}}
slow = {{ "machine.rest.slowness" = 3.0, "world.latency_seconds" = 0.05 }}
'''


def written(folder: Path, more: str = "", text: str = TINY) -> Path:
    path = folder / "tiny.toml"
    path.write_text(text + more, encoding="utf-8")
    return path


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["experiment", *map(str, arguments)])


# ---- the matrix -----------------------------------------------------------------------------------------------------

names = st.text("abcdefgh", min_size=1, max_size=6)
axes_of_lists = st.dictionaries(
    names, st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True), max_size=4
)


@given(axes_of_lists)
def test_every_combination_is_there_once(values: dict[str, list[int]]) -> None:
    axes = [axis_of(name, entries) for name, entries in values.items()]
    combinations = product(axes)
    found = {run_name(axes, combination) for combination in combinations}
    expected = 1
    for entries in values.values():
        expected *= len(entries)
    assert len(combinations) == len(found) == expected


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    lists = [[{"name": f"machine-{k}", "count": n} for k in range(9)] for n in (1, 2)]
    axes = [axis_of("machine", lists), axis_of("seed", [1, 2])]
    found = [run_name(axes, combination) for combination in product(axes)]
    assert len(set(found)) == 4 and all(len(name) < 100 for name in found)
    assert found[0].startswith("machine=") and found[0].endswith(",seed=1")
    wide = "\u00e4" * 30
    many = [axis_of(f"section.{wide}{number}", ["x"]) for number in range(9)]
    (name,) = (run_name(many, combination) for combination in product(many))
    assert len(name.encode()) <= 200


def test_only_takes_whole_parts_and_else_any_piece(tmp_path: Path) -> None:
    text = TINY.replace("seed = [1, 2]", 'seed = [1, 10]\n"paths.protected" = [[1], [1, 2]]')
    experiment = read_experiment(written(tmp_path, text=text))

    def chosen(name: str) -> list[dict[str, str]]:
        return [run.labels for run in experiment.only(name)]

    assert {labels["seed"] for labels in chosen("seed=1")} == {"1"}
    assert len(chosen("seed=1")) == len(chosen("seed=10")) == 4 == len(chosen("seed=1,"))
    assert len(chosen("policy=slow, seed=10")) == 2
    assert len(chosen("protected=[1, 2]")) == len(chosen("paths.protected=[1]")) == 4
    assert len(chosen("protected=_1,_2_,policy=calm,seed=1")) == 1
    assert len(chosen("seed=")) == 8 and len(chosen("slow")) == 4
    with pytest.raises(ConfigError):
        chosen("seed=1,seed=10")


def test_settings_reach_every_part_of_a_scenario_and_leave_the_base_alone() -> None:
    base = {"run": "x", "set": ["run.steps=1"], "machine": [{"name": "a"}, {"name": "b"}]}
    before = json.dumps(base)
    changed = applied(
        base,
        {
            "train.microbatches": 8,
            "data.source": "text:a file",
            "paths.protected": [1, 2],
            "world.latency_seconds": 0.5,
            "charge.model": "1b",
            "faults.count": 2,
            "machine.a.churn": "spot",
            "machine.*.slowness": 2.0,
            "fault": [{"kind": "kill"}],
        },
    )
    assert json.dumps(base) == before
    assert changed["set"][1:] == [
        "train.microbatches=8",
        'data.source="text:a file"',
        "paths.protected=[1, 2]",
    ]
    assert changed["world"] == {"latency_seconds": 0.5} and changed["charge"] == {"model": "1b"}
    assert changed["faults"] == {"count": 2} and changed["fault"] == [{"kind": "kill"}]
    first, second = changed["machine"]
    assert first == {"name": "a", "churn": "spot", "slowness": 2.0}
    assert second == {"name": "b", "slowness": 2.0}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "train.microbatchs",
            8,
            "train.microbatchs",
        ),  # a section's wrong key: found when run is read
        ("trian.microbatches", 8, "did you mean train.microbatches"),
        ("world", {"peers": 3}, "is not a setting"),
        ("machine.none.count", 2, "machine.NAME.key"),
        ("machine.edge", 2, "machine.NAME.key"),
        ("machine", [[3]], "is no table"),
        ("fault", [3], "is no table"),
    ],
)
def test_a_setting_that_is_none_is_named(
    tmp_path: Path, name: str, value: object, says: str
) -> None:
    path = written(tmp_path, f"wrong = {{ {json.dumps(name)} = {_toml(value)} }}\n")
    with pytest.raises(ConfigError, match=says):
        for run in read_experiment(path).runs:
            prepared(run)


def _toml(value: object) -> str:
    return "{ peers = 3 }" if isinstance(value, dict) else json.dumps(value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("seed = [1, 2]", "seed = [1, 1]"), "has a value twice"),
        (("seed = [1, 2]", "seed = []"), "is no axis"),
        (('title = "tiny"', 'titel = "tiny"\ntitle = "tiny"'), "titel"),
        (('run = "', 'scenaro = "x"\nrun = "'), "scenaro"),
        (("[matrix]", "[market]\n[matrix]"), "either a run"),
        (("calm = {}", "calm = 3"), "is no axis"),
        (("[matrix]", '[quick]\nmatrix = { "x" = [1] }\n[matrix]'), "no axis of"),
        (("[matrix]", "[report]\nwarm = 1\n[matrix]"), "report.warm"),
        (('"machine.rest.slowness" = 3.0', '"machine.rest.slowness" = -1.0'), "slowness"),
        (("calm = {}", 'calm = { "optimizer.warmup_steps" = 1979-05-27 }'), "1979-05-27"),
        (("seed = [1, 2]", "seed = [1, 2]\nmachine = [[[3]]]"), "is no table"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_before_anything_runs(
    tmp_path: Path, change: tuple[str, str], says: str
) -> None:
    assert change[0] in TINY
    path = written(tmp_path, text=TINY.replace(*change))
    done = command("run", path, "--out", tmp_path / "out")
    assert isinstance(done.exception, ConfigError) and says in str(done.exception), done.output
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"title = '\xff'")
    done = command("run", tmp_path / "x.toml")
    assert isinstance(done.exception, ConfigError) and "UTF-8" in str(done.exception)


def test_quick_changes_win_over_the_matrix(tmp_path: Path) -> None:
    more = '[quick]\nsettings = { "machine.rest.slowness" = 9.0 }\nmatrix = { seed = [7], policy = ["slow"] }\n'
    (run,) = read_experiment(written(tmp_path, more), quick=True).runs
    trial = prepared(run)
    assert isinstance(trial, RunTrial)
    assert run.labels == {"seed": "7", "policy": "slow"} and trial.config.run.seed == 7
    assert [peer.slowness for peer in trial.scenario.peers] == [1.0, 1.0, 9.0, 9.0]
    assert trial.scenario.latency_seconds == 0.05
    assert len(read_experiment(written(tmp_path, more)).runs) == 4


def test_an_experiment_may_build_on_a_scenario(tmp_path: Path) -> None:
    text = f'title = "t"\nquestion = "q"\nscenario = "{ROOT}/deploy/scenarios/soak.toml"\nset = ["run.steps=2"]\n'
    (run,) = read_experiment(
        written(tmp_path, text=text + "[world]\npatience_seconds = 7.0\n")
    ).runs
    trial = prepared(run)
    assert isinstance(trial, RunTrial) and run.name == "run"
    base = read_scenario(ROOT / "deploy" / "scenarios" / "soak.toml")
    config = load_config([base.run], [*base.overrides, "run.steps=2"])
    assert trial.config == config and config.model.family == "vector"
    assert trial.scenario == replace(base.scenario, patience_seconds=7.0)


# ---- running --------------------------------------------------------------------------------------------------------


def test_every_run_has_its_folder_and_is_repeated_only_when_it_changed(tmp_path: Path) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    done = command("run", path, "--out", out, "--jobs", 1)
    assert done.exit_code == 0, done.output
    assert "[4/4]" in done.output and "ETA 0 s" in done.output
    folders = sorted(folder.name for folder in (out / "runs").iterdir())
    assert folders == [f"seed={s},policy={p}" for s in (1, 2) for p in ("calm", "slow")]
    for folder in (out / "runs").iterdir():
        config = tomllib.loads((folder / "config.toml").read_text())
        assert config["run"]["steps"] == 3 and f"seed={config['run']['seed']}" in folder.name
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["steps"] == 3 and summary["equal_to_reference"] == 1
        record = json.loads((folder / "record.json").read_text())
        assert len(record["corpus_sha256"]) == 64 and record["packages"]["torch"]
        assert record["seed"] == summary["seed"] and record["memory_bytes"] > 0
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
        assert (folder / "journal.jsonl").stat().st_size > 0

    refused = command("run", path, "--out", out, "--jobs", 1)
    assert isinstance(refused.exception, ConfigError) and "--resume" in str(refused.exception)
    times = {file: file.stat().st_mtime_ns for file in out.glob("runs/*/summary.json")}
    again = command("run", path, "--out", out, "--jobs", 1, "--resume")
    assert "4 runs, 4 of them finished" in again.output
    assert all(file.stat().st_mtime_ns == before for file, before in times.items())

    changed = written(
        tmp_path,
        text=TINY.replace('"machine.rest.slowness" = 3.0', '"machine.rest.slowness" = 4.0'),
    )
    (out / "runs" / "seed=1,policy=calm" / "summary.json").unlink()
    third = command("run", changed, "--out", out, "--jobs", 1, "--resume")
    assert "4 runs, 1 of them finished" in third.output, third.output
    kept = out / "runs" / "seed=2,policy=calm" / "summary.json"
    assert kept.stat().st_mtime_ns == times[kept]


def test_a_run_that_fails_is_told_and_the_rest_go_on(tmp_path: Path) -> None:
    # Without any machine for the middle stages nothing can be trained.
    more = 'lost = { machine = [{ name = "edge", stages = [0] }], "world.stall_seconds" = 50.0 }\n'
    path, out = written(tmp_path, more), tmp_path / "out"
    done = command("run", path, "--out", out, "--jobs", 1, "--only", "seed=1")
    assert done.exit_code != 0 and "1 of 3 runs failed" in str(done.exception)
    assert "[3/3]" in done.output and "policy=lost: FAILED" in done.output
    assert (
        "stalled"
        in json.loads((out / "runs" / "seed=1,policy=lost" / "failure.json").read_text())["why"]
    )
    assert not (out / "runs" / "seed=1,policy=lost" / "summary.json").exists()
    assert (out / "runs" / "seed=1,policy=slow" / "summary.json").exists()
    again = command("run", path, "--out", out, "--jobs", 1, "--only", "seed=1", "--resume")
    assert "3 runs, 2 of them finished" in again.output and again.exit_code != 0


def test_only_must_choose_something(tmp_path: Path) -> None:
    done = command("run", written(tmp_path), "--only", "policy=fast", "--out", tmp_path / "out")
    assert isinstance(done.exception, ConfigError) and "seed=2,policy=slow" in str(done.exception)


def test_processes_come_to_the_same_bytes(tmp_path: Path) -> None:
    path = written(tmp_path)
    for jobs in (1, 2):
        out = tmp_path / f"out-{jobs}"
        done = command("run", path, "--out", out, "--jobs", jobs, "--only", "policy=slow")
        assert done.exit_code == 0, done.output
    for name in ("journal.jsonl", "metrics.jsonl", "config.toml", "summary.json"):
        for run in ("seed=1,policy=slow", "seed=2,policy=slow"):
            alone, beside = ((tmp_path / f"out-{jobs}" / "runs" / run / name) for jobs in (1, 2))
            assert alone.read_bytes() == beside.read_bytes(), name


@pytest.mark.slow
def test_a_process_that_dies_costs_its_run_and_not_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text("import os\n\ndef rule(turn, seconds):\n    os._exit(9)\n")
    monkeypatch.syspath_prepend(tmp_path)  # processes of the pool get the path of this one
    path = written(tmp_path, 'dies = { "planner.wiring" = "deadly:rule" }\n')
    done = command("run", path, "--out", tmp_path / "out", "--jobs", 2)
    assert "[6/6]" in done.output and "ended from outside" in done.output
    finished = {file.parent.name for file in tmp_path.glob("out/runs/*/summary.json")}
    assert not any("dies" in name for name in finished)
    again = command(
        "run", path, "--out", tmp_path / "out", "--jobs", 2, "--resume", "--only", "policy=calm"
    )
    assert again.exit_code == 0, again.output
