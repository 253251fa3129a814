"""Fault points: nothing happens until one is armed, then what was asked for, once, and never unsaid."""

import os
import signal
import subprocess
import sys
import time
import timeit
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmtrain.core.errors import ConfigError
from swarmtrain.core.faultpoints import (
    ENDINGS,
    HEARING,
    MESSAGE_POINTS,
    POINTS,
    SENDING,
    arm,
    hearing,
    is_armed,
    parse_fault,
    reached,
    sending,
)
from swarmtrain.core.messages import Freeze, Held, StepMessage
from swarmtrain.core.types import Roster
from swarmtrain.experiments import faults

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fired() -> Iterator[list[str]]:
    """What `fired` heard; nothing stays armed."""
    heard: list[str] = []
    yield heard
    arm((), heard.append)


def armed(fired: list[str], *texts: str) -> None:
    arm(map(parse_fault, texts), fired.append)


def test_an_unarmed_point_does_nothing_and_costs_next_to_nothing() -> None:
    assert not is_armed() and reached("forward.done") == ""
    # Processor time, which other work on the machine does not lengthen.
    seconds = timeit.repeat(
        lambda: reached("forward.done"), time.process_time, number=10_000, repeat=5
    )
    assert min(seconds) < 0.03


def test_the_nth_passing_of_the_armed_point_is_hit_once(fired: list[str]) -> None:
    armed(fired, "process.answered:drop:3", "process.answered:duplicate:5", "forward.done:stop:99")
    actions = [reached("process.answered") for _ in range(8)]
    assert actions == ["", "", "drop", "", "duplicate", "", "", ""]
    assert fired == ["process.answered:drop:3", "process.answered:duplicate:5"]
    assert reached("process.received") == ""


def test_messages_of_the_step_protocol_pass_their_points(fired: list[str]) -> None:
    # Both actions are harmless where no message is at hand.
    armed(fired, "process.received:drop:1")
    message: StepMessage = Freeze(1, 0, 1, Roster(1, ()))
    sending(message)
    hearing(message)
    assert not fired
    assert (SENDING[type(message).__name__], HEARING[type(message).__name__]) == (
        "freezing",
        "frozen",
    )
    assert SENDING[Held.__name__] == "held" and Held.__name__ not in HEARING


@pytest.mark.parametrize("action", ENDINGS)
def test_a_process_says_so_and_then_is_ended_or_stopped(action: str) -> None:
    code = (
        "from swarmtrain.core.faultpoints import arm, parse_fault, reached\n"
        f"arm([parse_fault('forward.done:{action}:2')], lambda what: print(what, flush=True))\n"
        "reached('forward.done'); print('once', flush=True)\n"
        "reached('forward.done'); print('went on', flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    if action == "stop":
        assert os.WIFSTOPPED(status)
        os.kill(process.pid, signal.SIGCONT)
        _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    said = process.stdout.read().split("\n")
    assert said[:2] == ["once", f"forward.done:{action}:2"]
    assert ("went on" in said) == (action == "stop")
    assert process.returncode == (0 if action == "stop" else -signal.SIGKILL)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "forward.done",
        "nowhere:kill:1",
        "forward.done:melt:1",
        "forward.done:drop:1",
        "forward.done:kill:0",
        "forward.done:kill:x",
    ],
)
def test_a_fault_that_is_none_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_fault(text)
    assert "forward.done" in refused.value.remedy and "POINT:ACTION:NTH" in refused.value.why


def test_a_fault_without_a_number_is_the_first_time() -> None:
    assert parse_fault("forward.done:kill").nth == 1
    assert all(point in POINTS for point in MESSAGE_POINTS)


def test_names_that_the_virtual_world_shares_are_spelled_alike() -> None:
    """Every point of the virtual world is in the real program as well, which has more."""
    assert set(faults.POINTS) <= set(POINTS)
