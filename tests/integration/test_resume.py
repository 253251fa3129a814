"""Everything dies at once: `--resume auto` goes on from the newest checkpoint, on other peers, bit for bit."""

import os
import signal
from pathlib import Path

import pytest

from swarmtrain.core.config import load_config
from swarmtrain.experiments.imported import settings_of
from tests.checkpoint.llamas import write_llama
from tests.experiments.island_worlds import plain_islands
from tests.integration.processes import SMALL_RUN, Workplace, events_in, lines_of, read_json, until

STEPS = 120
RUN = SMALL_RUN.replace("steps = 20", f"steps = {STEPS}")
CHECKPOINTS = ("--set", "recovery.checkpoint_steps=5")

Places = tuple[str, ...]
"""The stages of each peer, as --stage pins them."""

APART: Places = ("0", "1", "2")
TOGETHER: Places = ("0:1", "0:2")
CROWD: Places = ("0", "2", "0:1", "1:2")


def arguments(run_file: Path, out: Path, places: Places) -> tuple[object, ...]:
    pinned = [part for stages in places for part in ("--stage", stages)]
    return ("up", run_file, "--peers", len(places), "--out", out, *CHECKPOINTS, *pinned)


def kill_in_the_middle(workplace: Workplace, out: Path, more: int, *command: object) -> None:
    """Start `command` and send SIGKILL to it once `more` further steps are committed; its peers go with it."""
    before = len(lines_of(out / "metrics.jsonl"))
    running = workplace.start(*command)
    until(lambda: len(lines_of(out / "metrics.jsonl")) >= before + more, 90, f"{more} more steps")
    os.kill(running.process.pid, signal.SIGKILL)
    workplace.expect_nothing_left(15)
    assert events_in(out, "checkpoint_saved") and len(lines_of(out / "metrics.jsonl")) < STEPS


@pytest.mark.parametrize(
    "legs",
    [
        (APART, TOGETHER),
        pytest.param((TOGETHER, CROWD, APART), marks=pytest.mark.slow),
    ],
    ids=["three peers, then two", "two, four, three"],
)
def test_a_run_that_was_killed_whole_resumes_bit_for_bit(
    workplace: Workplace, legs: tuple[Places, ...]
) -> None:
    run_file, out = workplace.write("run.toml", RUN), workplace.folder / "out"
    first, *between, last = legs
    kill_in_the_middle(workplace, out, 14, *arguments(run_file, out, first))
    for places in between:
        command = (*arguments(run_file, out, places), "--resume", "auto")
        kill_in_the_middle(workplace, out, 14, *command)

    workplace.run(*arguments(run_file, out, last), "--resume", "auto", seconds=150)
    steps = [line["step"] for line in lines_of(out / "metrics.jsonl")]
    assert steps == [*range(STEPS)], "every step once, those before the checkpoint too"
    from_checkpoint = [e for e in events_in(out, "recovered") if e["tier"] == "checkpoint"]
    assert {event["stage"] for event in from_checkpoint} == {0, 1, 2}
    assert len(list((out / "checkpoint").iterdir())) <= 3, "only the newest are kept"
    expected = reference_sha256(workplace, run_file)
    assert read_json(out / "summary.json")["parameters_sha256"] == expected


def reference_sha256(workplace: Workplace, run_file: Path) -> str:
    workplace.run("reference", run_file, "--out", workplace.folder / "reference")
    return str(read_json(workplace.folder / "reference" / "summary.json")["parameters_sha256"])


ROUNDS = ("--islands", 2, "--set", "outer.inner_steps=30", "--set", "outer.grace_seconds=60")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_islands_that_were_killed_whole_resume_bit_for_bit(workplace: Workplace) -> None:
    """Each from its own checkpoint of one step, on other peers; rounds go on as if nothing had happened."""
    run_file, out = workplace.write("run.toml", RUN), workplace.folder / "out"
    # A first round that lasts longer than processes need to start one after the other: both islands are in it,
    # and are known to the group when the run goes on.
    slow = ("--set", "train.sequence_length=128", "--set", "train.microbatches=12")
    command = (*arguments(run_file, out, ("0", "1:2")), *ROUNDS, *slow)
    kill_in_the_middle(workplace, out, 48, *command)
    assert list((out / "checkpoint" / "island-0001").iterdir())
    command = (*arguments(run_file, out, ("0:1", "2", "0")), *ROUNDS, *slow)
    workplace.run(*command, "--resume", "auto", seconds=250)

    told = [event["what"] for event in events_in(out, "noted")]
    assert "resumed" in told and "an island begins anew" not in told
    counted = {(event["round"], *event["islands"]) for event in events_in(out, "round_chosen")}
    assert counted == {(number, 0, 1) for number in range(4)}, "without the bits of the plain loop"
    expected = plain_islands(load_config([out / "config.toml"]), 2)
    summary = read_json(out / "summary.json")
    assert summary["parameters_sha256"] == expected.active[0].parameters_sha256()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_islands_continue_an_imported_model_each_from_its_weights(workplace: Workplace) -> None:
    """Both begin with the model and not with the seed, and end with the bits of the plain loop that does so, too."""
    settings = settings_of(write_llama(workplace.folder / "llama"))
    more = ["run.steps=60", "train.microbatches=12", "train.microbatch_size=2"]
    rounds = ["outer.inner_steps=30", "outer.grace_seconds=60", "train.sequence_length=128"]
    said = [part for each in (*settings, *more, *rounds) for part in ("--set", each)]
    out = workplace.folder / "out"
    pinned = ("--stage", "0", "--stage", "1:2")
    done = workplace.run(
        "up", *said, "--peers", 2, "--islands", 2, "--out", out, *pinned, seconds=200
    )
    assert done.process.returncode == 0, done.output
    from_model = [e for e in events_in(out, "recovered") if e["tier"] == "checkpoint"]
    assert sorted(event["stage"] for event in from_model) == [0, 0, 1, 1, 2, 2]
    chosen = {(event["round"], *event["islands"]) for event in events_in(out, "round_chosen")}
    assert chosen == {(0, 0, 1), (1, 0, 1)}, "without the bits of the plain loop"
    expected = plain_islands(load_config([out / "config.toml"]), 2)
    summary = read_json(out / "summary.json")
    assert summary["parameters_sha256"] == expected.active[0].parameters_sha256()
