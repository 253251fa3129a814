"""Ctrl+C once, Ctrl+C twice, and a death without warning: what stays and what must not."""

import itertools
import os
import signal
from pathlib import Path

import psutil
import pytest
import torch

from swarmtrain.core.config import load_config
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.reference import Reference
from tests.experiments.test_experiment import TINY
from tests.integration.processes import (
    SMALL_RUN,
    Command,
    Workplace,
    events_in,
    lines_of,
    read_json,
    until,
)

LONG = ("--set", "run.steps=100000")


def started(workplace: Workplace) -> Command:
    """`up` with two peers, some steps into a run that would take hours."""
    run_file, out = workplace.write("run.toml", SMALL_RUN), workplace.folder / "out"
    command = workplace.start("up", run_file, "--peers", 2, "--out", out, *LONG)
    command.until_prints("step 1/100000")
    until(lambda: len(lines_of(out / "metrics.jsonl")) >= 3, 20, "three steps are committed")
    workplace.note_ports()
    return command


def test_ctrl_c_drains_and_keeps_a_checkpoint(workplace: Workplace):
    command = started(workplace)
    command.signal(signal.SIGINT)
    assert command.wait(40) == 130, command.output
    workplace.expect_nothing_left()
    out = workplace.folder / "out"
    summary, steps = read_json(out / "summary.json"), len(lines_of(out / "metrics.jsonl"))
    assert summary["steps"] == steps >= 3 and not summary["finished"]
    assert [path.name for path in (out / "checkpoint").iterdir()] == [f"step-{steps:08d}"]
    manifest = read_json(out / "checkpoint" / f"step-{steps:08d}" / "manifest.json")
    assert manifest["step"] == steps
    assert summary["parameters_sha256"] == sha_after(out / "config.toml", steps)
    evaluated = workplace.run("eval", out, "-o", "json", "--batches", "2")
    assert read_json(evaluated.output_path)["step"] == steps


def sha_after(config_path: Path, steps: int) -> str:
    """The reference's parameters after the first steps of a longer run."""
    torch.set_num_threads(1)
    config = load_config([config_path])
    corpus = load_corpus(config.data, None)
    loop = Reference(config, corpus, corpus.tokenizer.vocab_size)
    for _ in itertools.islice(loop.train(), steps):
        pass
    return loop.parameters_sha256()


def test_ctrl_c_twice_leaves_at_once(workplace: Workplace):
    command = started(workplace)
    command.signal(signal.SIGINT)
    command.signal(signal.SIGINT)
    assert command.wait(40) == 130, command.output
    workplace.expect_nothing_left(15)


def test_ctrl_c_before_anybody_joined_leaves_nothing(workplace: Workplace):
    run_file, out = workplace.write("run.toml", SMALL_RUN), workplace.folder / "out"
    command = workplace.start("up", run_file, "--peers", 2, "--out", out)
    until(lambda: len(workplace.named("swarmtrain peer")) == 2, 60, "the peers are started")
    command.signal(signal.SIGINT)
    assert command.wait(60) == 130, command.output
    workplace.expect_nothing_left(5)
    assert not (out / "checkpoint").exists()


def test_a_killed_up_takes_its_peers_along(workplace: Workplace):
    """The peers' lifeline closes, and p2pd ends with the process that started it."""
    command = started(workplace)
    assert len(workplace.processes()) >= 6
    command.signal(signal.SIGKILL)
    assert command.wait(5) == -signal.SIGKILL
    workplace.expect_nothing_left(15)


def test_ctrl_c_at_a_coordinator_drains_the_run_and_frees_its_peers(workplace: Workplace):
    """Peers on other terminals hear of it: they end by themselves and leave nothing."""
    run_file, out = workplace.write("run.toml", SMALL_RUN), workplace.folder / "out"
    arguments = ("--listen", "127.0.0.1:0", "--out", out, *LONG, "--set", "swarm.min_peers=2")
    coordinator = workplace.start("coordinator", run_file, *arguments)
    address = coordinator.until_prints("swarmtrain peer --join")
    peers = [workplace.start("peer", "--join", address, name=name) for name in ("one", "two")]
    until(lambda: len(lines_of(out / "metrics.jsonl")) >= 3, 60, "three steps are committed")
    workplace.note_ports()
    coordinator.signal(signal.SIGINT)
    assert coordinator.wait(40) == 130, coordinator.output
    assert [peer.wait(20) for peer in peers] == [0, 0], [peer.output for peer in peers]
    workplace.expect_nothing_left()
    steps = len(lines_of(out / "metrics.jsonl"))
    assert read_json(out / "summary.json")["steps"] == steps
    assert [path.name for path in (out / "checkpoint").iterdir()] == [f"step-{steps:08d}"]


def test_ctrl_c_at_a_peer_that_waits_for_others_ends_it_alone(workplace: Workplace):
    run_file, out = workplace.write("run.toml", SMALL_RUN), workplace.folder / "out"
    arguments = ("--listen", "127.0.0.1:0", "--out", out, "--set", "swarm.min_peers=2")
    coordinator = workplace.start("coordinator", run_file, *arguments)
    address = coordinator.until_prints("swarmtrain peer --join")
    peer = workplace.start("peer", "--join", address)
    until(lambda: events_in(out, "peer_joined"), 60, "the peer joined")
    peer.signal(signal.SIGINT)
    assert peer.wait(20) == 130, peer.output
    assert "leaving after this step" in peer.output
    until(lambda: events_in(out, "peer_left"), 10, "its farewell is in the journal")
    assert coordinator.process.poll() is None
    coordinator.signal(signal.SIGINT)
    assert coordinator.wait(20) == 130, coordinator.output
    workplace.expect_nothing_left()


def are_importing(workers: list[psutil.Process]) -> bool:
    """Past the interpreter's own start, when it takes SIGINT for itself, and far from done with torch."""
    return len(workers) == 2 and all(worker.cpu_times().user > 0.3 for worker in workers)


@pytest.mark.parametrize("when", ["they work", "they import"])
def test_an_interrupted_experiment_ends_its_workers_at_once(
    workplace: Workplace, when: str
) -> None:
    """SIGINT to the parent alone, while each works at a run of hours; or Ctrl+C, which all get, while they start."""
    file = workplace.write("tiny.toml", TINY.replace("run.steps=3", "run.steps=100000"))
    out = workplace.folder / "out"
    command = workplace.start("experiment", "run", file, "--out", out, "--jobs", 2)
    if when == "they work":
        until(lambda: len(list(out.glob("runs/*"))) == 2, 100, "two runs are under way")
        command.signal(signal.SIGINT)
    else:
        until(lambda: are_importing(workplace.named("spawn_main")), 100, "two workers import")
        os.killpg(command.process.pid, signal.SIGINT)
    assert command.wait(20) == 130, command.output
    assert "Traceback" not in command.output and "leaked" not in command.output, command.output
    workplace.expect_nothing_left(15)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_workers_of_an_experiment_end_with_it(workplace: Workplace, number: int) -> None:
    file = workplace.write("tiny.toml", TINY.replace("run.steps=3", "run.steps=100000"))
    out = workplace.folder / "out"
    command = workplace.start("experiment", "run", file, "--out", out, "--jobs", 2)
    until(lambda: len(list(out.glob("runs/*"))) == 2, 100, "two runs are under way")
    beside = workplace.run("experiment", "run", file, "--out", out, "--resume")
    assert f"in use by process {command.process.pid}" in beside.output
    command.signal(number)
    assert command.wait(20) == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    assert "Traceback" not in command.output, command.output
    until(lambda: not workplace.named("spawn_main"), 5, "the workers have ended")


FROZEN = """
[[fault]]
kind = "freeze"
peers = ["rest-0"]
at_seconds = 0.0
duration_seconds = 600

[matrix]
seed = [1]
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_frozen_peer_of_an_experiment_ends_with_it(workplace: Workplace, number: int) -> None:
    text = TINY[: TINY.index("[matrix]")].replace("run.steps=3", "run.steps=100000") + FROZEN
    file, out = workplace.write("tiny.toml", text), workplace.folder / "out"
    command = workplace.start("experiment", "run", file, "--world", "processes", "--out", out)

    def is_frozen() -> bool:
        return any(p.status() == psutil.STATUS_STOPPED for p in workplace.processes())

    until(is_frozen, 100, "a peer is frozen")
    command.signal(number)
    assert command.wait(30) == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    workplace.expect_nothing_left(15)
