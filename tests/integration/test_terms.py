"""A volunteer's terms with real processes: another terminal, caps as the kernel counts them, a refusal with numbers."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.caps import ROWS, TOLERANCE, measure
from tests.integration.processes import SMALL_RUN, Command, Workplace, events_in, read_json, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

RUN = SMALL_RUN.replace("steps = 20", "steps = 100000") + "\n[swarm]\nmin_peers = 3\n"
BIG = ("--set", "model.width=1024")


def control(workplace: Workplace, action: str, *more: object) -> str:
    shown = workplace.run(action, *more, seconds=60)
    assert shown.process.returncode == 0, shown.output
    return shown.output


def swarm(workplace: Workplace, out: Path, *more: str) -> tuple[str, Command]:
    run_file = workplace.write("run.toml", RUN)
    arguments = ("coordinator", run_file, "--listen", "127.0.0.1:0", "--out", out)
    coordinator = workplace.start(*arguments, "--no-dashboard", *more, name="coordinator")
    return coordinator.until_prints("swarmtrain peer --join"), coordinator


def test_pause_resume_and_leave_from_another_terminal(workplace: Workplace) -> None:
    out = workplace.folder / "out"
    address, coordinator = swarm(workplace, out)
    join = ("peer", "--join", address, "--stage", "0:2")
    others = [
        workplace.start(*join, "--state", workplace.folder / f"state-{number}")
        for number in range(2)
    ]
    mine = workplace.start(*join, "--name", "mine", name="mine")
    until(lambda: len(events_in(out, "step_committed")) >= 3, 200, "three steps are committed")
    assert "mine" in control(workplace, "pause"), "the only peer in the default folder is found"
    mine.until_prints("paused: the volunteer asked for a pause", 60)
    until(lambda: ": paused" in control(workplace, "status"), 60, "the peer is out")
    steps = len(events_in(out, "step_committed"))
    until(lambda: len(events_in(out, "step_committed")) >= steps + 3, 60, "the run goes on")
    control(workplace, "resume")
    until(lambda: len(changes(out)) == 2, 120, "the peer is in again")
    assert [reason.split()[0] for reason in changes(out)] == ["leaves", "joins"]
    assert len({event["peer"] for event in events_in(out, "peer_joined")}) == 3
    assert not events_in(out, "replayed")
    shown = control(workplace, "status", "-o", "json")
    assert '"doing": "serving"' in shown
    control(workplace, "leave")
    assert mine.wait(60) == 0, mine.output
    assert all(other.process.poll() is None for other in others)
    coordinator.signal(2)
    coordinator.wait(120)


def changes(out: Path) -> list[str]:
    return [event["reason"] for event in events_in(out, "membership_changed")]


def test_a_stage_that_would_not_fit_is_refused_with_numbers(workplace: Workplace) -> None:
    address, coordinator = swarm(workplace, workplace.folder / "out", *BIG)
    wanted = ("--stage", "0:2", "--memory", "700MiB")
    refused = workplace.run("peer", "--join", address, *wanted, seconds=120)
    assert refused.process.returncode == 1
    assert "do not fit into memory here why: they need" in refused.output
    assert "may be used" in refused.output
    coordinator.signal(2)
    coordinator.wait(60)


@pytest.mark.parametrize("row", ["upload", "day", "memory"])
def test_caps_hold_as_the_kernel_counts(row: str, tmp_path: Path) -> None:
    result = asyncio.run(measure(row, ROWS[row], 25.0, tmp_path))
    assert result.steps > 0 and not result.broken
    if row == "day":
        assert "were transferred today" in result.said
        assert result.moved_bytes <= TOLERANCE * 100e6
        assert read_json(tmp_path / "volunteer" / "state" / "transfer.json")["bytes"] > 0
