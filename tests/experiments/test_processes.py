"""Experiments with real processes: what they cannot have is refused, what they are made to be is the scenario's."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from swarmtrain.core.errors import ConfigError
from swarmtrain.core.types import PeerId
from swarmtrain.experiments.execute import split, works_of
from swarmtrain.experiments.experiment import in_worlds, read_experiment
from swarmtrain.experiments.figures import Figures
from swarmtrain.experiments.peak_memory import peak_bytes
from swarmtrain.experiments.report import write_report
from swarmtrain.experiments.results import read_study
from swarmtrain.experiments.staging import arguments_of, staging_of
from swarmtrain.experiments.trials import RunTrial, prepared
from swarmtrain.experiments.virtual import simulate
from swarmtrain.monitor.journal import read_journal
from swarmtrain.transport.shaping import Shape
from tests.experiments.runs import corpus, sha_of
from tests.experiments.test_experiment import ROOT, TINY, command, written

THREE = ROOT / "deploy" / "experiments" / "three_regions.toml"


def trial_of(path: Path) -> RunTrial:
    run = in_worlds(read_experiment(path), ["processes"]).runs[0]
    trial = prepared(run)
    assert isinstance(trial, RunTrial)
    return trial


REFUSED = {
    "charged model": '[charge]\nmodel = "125m"\n[[machine]]\nname = "one"\nprofile = "t4"\n',
    "49 machines": '[[machine]]\nname = "m"\ncount = 49\n',
    "stages 0, 2": '[[machine]]\nname = "m"\nstages = [0, 2]\n',
    "single messages": '[[machine]]\nname = "m"\n[faults]\ncount = 1\n',
    "named points": '[[machine]]\nname = "m"\n[[fault]]\nkind = "kill"\npeers = ["m"]\nat_point = "sealed"\n',
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_processes_cannot_have_is_refused_before_any_of_them_starts(
    what: str, tmp_path: Path
) -> None:
    (tmp_path / "peers").symlink_to(ROOT / "peers")
    text = f'title = "x"\nquestion = "x?"\nrun = "{ROOT / "deploy/runs/equality.toml"}"\n'
    path = written(tmp_path, REFUSED[what], text)
    done = command("run", path, "--world", "processes", "--out", tmp_path / "out")
    assert done.exit_code != 0 and not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=what):
        trial_of(path)
    prepared(read_experiment(path).runs[0])  # virtual time has all of it


def test_several_runs_at_a_time_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    done = command("run", path, "--world", "processes", "--jobs", 2, "--out", tmp_path / "out")
    assert isinstance(done.exception, ConfigError) and "--jobs" in str(done.exception)


def test_a_machine_is_made_to_be_what_the_virtual_world_charges() -> None:
    trial = trial_of(THREE)
    config, scenario = trial.config, trial.scenario
    assert scenario.network is not None
    slow = replace(scenario.peers[0], slowness=3.0)
    scenario = replace(scenario, peers=(slow, *scenario.peers[1:]))
    figures = Figures(scenario, config, 256)
    for peer in scenario.peers:
        figures.place(peer)
    names = {peer.name: PeerId(peer.name) for peer in scenario.peers}
    japan = next(peer.name for peer in scenario.peers if peer.region == "Japan")
    staging = staging_of(slow, figures, config, names, {(slow.name, japan)})
    rows = [scenario.network.place(region) for region in ("Iowa", "Japan")]
    latency = scenario.network.one_way_latency_seconds[rows[0]][rows[1]]
    rate = scenario.network.bytes_per_second[rows[0]][rows[1]]
    assert staging.lines[japan] == Shape(rate, latency, is_cut=True)
    assert set(staging.lines) == set(names) - {slow.name}
    assert not any(shape.is_cut for name, shape in staging.lines.items() if name != japan)
    assert staging.forward_seconds[1] == pytest.approx(3 * scenario.forward_seconds)
    assert staging.loss_seconds == pytest.approx(3 * scenario.backward_seconds)


def test_access_lines_are_caps(tmp_path: Path) -> None:
    text = f'title = "x"\nquestion = "x?"\nrun = "{ROOT / "deploy/runs/equality.toml"}"\n'
    (tmp_path / "peers").symlink_to(ROOT / "peers")
    more = '[[machine]]\nname = "home"\nprofile = "laptop"\nstages = [0, 1]\n'
    trial = trial_of(written(tmp_path, more, text))
    said = arguments_of(trial.scenario.peers[0], trial.scenario, tmp_path)
    machine = trial.scenario.peers[0].machine
    assert machine is not None
    assert f"{round(8 * machine.up_bytes_per_second)}bit" in said[said.index("--upload-limit") + 1]
    assert said[said.index("--stage") + 1] == "0:1"


def test_both_worlds_are_one_axis_more_and_other_work(tmp_path: Path) -> None:
    experiment = in_worlds(read_experiment(THREE, quick=True), ["virtual", "processes"])
    assert experiment.axes[-1] == "world"
    assert [run.labels["world"] for run in experiment.runs] == ["virtual", "processes"]
    assert len({run.name for run in experiment.runs}) == 2
    works = works_of(experiment.runs)
    assert len({work.sha256 for work in works.values()}) == 2
    assert len(split(experiment.runs, works, tmp_path)[1]) == 2


def test_jitter_and_losses_slow_virtual_lines_down_and_change_no_bit(tmp_path: Path) -> None:
    """The same draws as behind real lines (transport.shaping); twice the same seconds."""
    run = read_experiment(written(tmp_path)).runs[0]
    trial = prepared(run)
    assert isinstance(trial, RunTrial)
    rough = replace(trial.scenario, jitter_seconds=0.05, loss=0.1)
    calm, *shaken = (simulate(trial.config, s, corpus()) for s in (trial.scenario, rough, rough))
    assert shaken[0].seconds == shaken[1].seconds > calm.seconds + 0.5
    assert sha_of(shaken[0]) == sha_of(calm)


def commits_of(folder: Path) -> set[tuple[int, float, str]]:
    """Step, loss and digest of the parameters of every step of every island."""
    entries = (entry["event"] for entry in read_journal(folder / "journal.jsonl"))
    return {
        (event["step"], event["loss"], event["parameters_sha256"])
        for event in entries
        if event["kind"] == "step_committed"
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_regions_train_the_same_curve_in_both_worlds(tmp_path: Path) -> None:
    done = command("run", THREE, "--world", "both", "--only", "seed=1,", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    virtual, real = (group.results[0] for group in read_study(tmp_path / "out").groups)
    assert [point.loss for point in virtual.points] == [point.loss for point in real.points]
    steps = commits_of(tmp_path / "out" / "runs" / virtual.name)
    assert steps == commits_of(tmp_path / "out" / "runs" / real.name)
    assert len(steps) == 24 * 3, "three islands that differ between rounds"
    for result in (virtual, real):
        assert result.summary["faults"] == 1 and result.summary["violations"] == 0
    carried = [result.summary["bytes_by_regions"] for result in (virtual, real)]
    # In virtual time two machines of one region greet each other only when they have something to say.
    assert carried[0].keys() <= carried[1].keys() and "Iowa > Belgium" in carried[0]
    for pair, sent_bytes in carried[0].items():
        # Where little but control goes, its bytes grow with the seconds that real processes take.
        assert carried[1][pair] / sent_bytes > 0.7, pair
        assert sent_bytes < 100_000 or carried[1][pair] / sent_bytes < 1.5, pair
    write_report(tmp_path / "out", tmp_path / "report")
    drawn = (tmp_path / "report" / "traffic.svg").read_text(encoding="utf-8")
    assert "world=processes" in drawn and drawn.count("Belgium") == 2


@pytest.mark.slow
def test_the_memory_of_real_peers_is_counted(tmp_path: Path) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    done = command(
        "run", path, "--world", "processes", "--out", out, "--only", "seed=1,policy=calm"
    )
    assert done.exit_code == 0, done.output
    record = json.loads((out / "runs" / "seed=1,policy=calm" / "record.json").read_text())
    assert record["world"] == "processes" and record["seed"] == 1
    # Each of the four, and this process besides, has torch in it.
    assert record["peak_memory_bytes"] > 5 * (100 << 20)
    assert record["peak_memory_bytes"] > 2 * peak_bytes()


CHURN = """
description = "one leaves, one is gone, one comes"
source = "for this test"
[[event]]
at_seconds = 4.0
kind = "leave"
machines = 1
notice_seconds = 5.0
[[event]]
at_seconds = 14.0
kind = "arrive"
machines = 1
"""

FAULTY = """
[[machine]]
name = "edge"
count = 3
stages = [0]
[[machine]]
name = "rest"
count = 3
stages = [1, 2]
churn = "brief"
[[fault]]
kind = "one_way"
peers = ["edge-0", "edge-1"]
at_seconds = 1.0
duration_seconds = 1.0
[[fault]]
kind = "freeze"
peers = ["edge-2"]
at_seconds = 2.0
duration_seconds = 2.0
[[fault]]
kind = "straggler"
peers = ["edge-1"]
at_seconds = 3.0
duration_seconds = 3.0
amount = 5
[faults]
survivable = false
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_signals_cuts_and_churn_reach_real_processes_and_change_no_bit(tmp_path: Path) -> None:
    (tmp_path / "peers" / "churn").mkdir(parents=True)
    (tmp_path / "peers" / "churn" / "brief.toml").write_text(CHURN)
    text = TINY[: TINY.index("[[machine]]")].replace("run.steps=3", "run.steps=60")
    out = tmp_path / "out"
    path = written(tmp_path, FAULTY, text + "[world]\njitter_seconds = 0.01\nloss = 0.01\n")
    done = command("run", path, "--world", "processes", "--out", out)
    assert done.exit_code == 0, done.output
    (result,) = read_study(out).results
    assert result.summary["equal_to_reference"] == 1 and result.summary["violations"] == 0
    journal = (out / "runs" / result.name / "journal.jsonl").read_text(encoding="utf-8")
    for fault in ("one_way", "freeze", "straggler"):
        assert re.search(f'"fault":"{fault}","kind":"fault_injected"', journal), fault
        assert re.search(f'"fault":"{fault}","kind":"fault_ended"', journal), fault
    assert '"what":"machine arrives"' in journal and '"name":"rest-0.1"' in journal
