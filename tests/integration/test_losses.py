"""Peers that die, freeze or come late while `up` trains: the parameters are those of the plain loop, bit for bit."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.integration.processes import (
    SMALL_RUN,
    Command,
    Workplace,
    events_in,
    lines_of,
    read_json,
    until,
)

STEPS = 60
RUN = SMALL_RUN.replace("steps = 20", f"steps = {STEPS}").replace(
    "microbatch_size = 2", "microbatch_size = 8"
)
PINNED = ("--stage", "0:1", "--stage", "1:2", "--stage", "0:2", "--stage", "1", "--stage", "2")
"""Two edges, and at least three replicas of each middle stage, on five peers."""


@pytest.fixture(scope="module")
def expected_sha256(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = Workplace(tmp_path_factory.mktemp("losses"))
    try:
        run_file = place.write("run.toml", RUN)
        place.run("reference", run_file, "--out", place.folder / "out")
        return str(read_json(place.folder / "out" / "summary.json")["parameters_sha256"])
    finally:
        place.close()


def started(workplace: Workplace) -> tuple[Command, Path]:
    """`up` with five peers, some steps into the run."""
    run_file, out = workplace.write("run.toml", RUN), workplace.folder / "out"
    command = workplace.start("up", run_file, "--peers", 5, "--out", out, *PINNED)
    command.until_prints(f"step 1/{STEPS}")
    until(lambda: len(lines_of(out / "metrics.jsonl")) >= 4, 30, "four steps are committed")
    return command, out


def process_of(workplace: Workplace, out: Path, is_conductor: bool) -> psutil.Process:
    """The conductor's process, or that of a peer which hosts middle stages only."""
    names = {event["peer"]: event["name"] for event in events_in(out, "peer_joined")}
    stages = {event["peer"]: event["stages"] for event in events_in(out, "placed")}
    conductor = events_in(out, "term_started")[-1]["peer"]
    middle = next(peer for peer, hosted in stages.items() if 0 not in hosted)
    name = names[conductor if is_conductor else middle]
    return next(
        process
        for process in workplace.processes()
        if "--name" in process.cmdline()
        and process.cmdline()[process.cmdline().index("--name") + 1] == name
    )


@pytest.mark.parametrize("is_conductor", [True, False], ids=["conductor", "stage peer"])
def test_a_killed_peer_costs_no_bit(
    workplace: Workplace, expected_sha256: str, is_conductor: bool
) -> None:
    command, out = started(workplace)
    victim = process_of(workplace, out, is_conductor)
    os.kill(victim.pid, signal.SIGKILL)
    assert command.wait(200) == 0, command.output
    workplace.expect_nothing_left(5)
    summary = read_json(out / "summary.json")
    assert summary["parameters_sha256"] == expected_sha256
    assert (summary["faults"], summary["recoveries"]) == (1, 1), "the fault fired, once"
    assert [line["step"] for line in lines_of(out / "metrics.jsonl")] == [*range(STEPS)]
    conductors = {event["peer"] for event in events_in(out, "term_started")}
    assert len(conductors) == (2 if is_conductor else 1)


def test_a_frozen_peer_is_found_and_comes_back(workplace: Workplace, expected_sha256: str) -> None:
    command, out = started(workplace)
    frozen = process_of(workplace, out, is_conductor=False)
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        until(lambda: events_in(out, "lost"), 20, "the frozen peer was found")
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    assert command.wait(200) == 0, command.output
    workplace.expect_nothing_left(5)
    assert read_json(out / "summary.json")["parameters_sha256"] == expected_sha256
