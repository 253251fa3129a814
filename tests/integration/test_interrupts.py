"""Ctrl+C once, Ctrl+C twice, and a death without warning: what stays and what must not."""

import itertools
import signal
from pathlib import Path

import torch

from swarmtrain.core.config import load_config
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.reference import Reference
from tests.integration.processes import (
    SMALL_RUN,
    Command,
    Workplace,
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
