"""What facts about a machine mean: every failure and warning says what to do, and the exit code follows."""

import re
from pathlib import Path

import pytest

from swarmtrain.compute.place import HERE, Devices
from swarmtrain.core.errors import Incompatible, LinkError
from swarmtrain.core.events import Measured
from swarmtrain.peer.diagnosis import (
    TESTED_VERSIONS,
    Finding,
    MemoryFacts,
    ReachFacts,
    exit_code,
    failed,
    judge_clock,
    judge_device,
    judge_disk,
    judge_memory,
    judge_reach,
    judge_speed,
    judge_threads,
    judge_versions,
)

ROOT = Path(__file__).parents[2]


def test_tested_versions_are_those_of_the_constraints() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([a-z-]+)==(\S+)$", text, re.MULTILINE))
    assert {name: pinned[name] for name in TESTED_VERSIONS} == TESTED_VERSIONS


@pytest.mark.parametrize(
    ("python", "changed", "states"),
    [
        ((3, 11), {}, {}),
        ((3, 13), {"torch": "2.13.0+cpu"}, {}),
        ((3, 10), {}, {"python": "fail"}),
        ((3, 14), {}, {"python": "fail"}),
        ((3, 12), {"torch": "2.14.0"}, {"torch": "warn"}),
        ((3, 12), {"torch": None}, {"torch": "fail"}),
        ((3, 12), {"hivemind": "1.1.11"}, {"hivemind": "fail"}),
        ((3, 12), {"hivemind": None, "grpcio": "1.80.0"}, {"hivemind": "fail", "grpcio": "warn"}),
    ],
)
def test_versions(
    python: tuple[int, int], changed: dict[str, str | None], states: dict[str, str]
) -> None:
    findings = judge_versions(python, {**TESTED_VERSIONS, **changed})
    assert {one.check: one.state for one in findings if one.state != "ok"} == states
    assert all(one.remedy for one in findings if one.state != "ok")


@pytest.mark.parametrize(
    ("ahead_seconds", "doubt_seconds", "state"),
    [
        (0.2, 0.01, "ok"),
        (-0.9, 0.2, "ok"),
        (1.5, 0.1, "warn"),
        (-3.2, 0.5, "warn"),  # may be 2.7
        (3.2, 0.1, "fail"),
        (-3600.0, 0.1, "fail"),
    ],
)
def test_clock(ahead_seconds: float, doubt_seconds: float, state: str) -> None:
    finding = judge_clock(ahead_seconds, doubt_seconds)
    assert finding.state == state and bool(finding.remedy) == (state != "ok")
    assert ("ahead of" in finding.found) == (ahead_seconds > 0)


@pytest.mark.parametrize(
    ("announced", "dialled", "problem", "state"),
    [
        ("127.0.0.1:7700", "127.0.0.1:7700", "", "ok"),
        ("localhost:7700", "127.0.0.1:7700", "", "ok"),
        ("home.example:7700", "203.0.113.7:7700", "", "ok"),
        ("[::1]:7700", "[::1]:7700", "", "ok"),
        ("127.0.0.1:7700", "203.0.113.7:7700", "", "warn"),
        ("localhost:7700", "203.0.113.7:7700", "", "warn"),
        ("0.0.0.0:7700", "203.0.113.7:7700", "", "warn"),
        ("203.0.113.7:7700", "203.0.113.7:7700", "cannot reach it", "warn"),
    ],
)
def test_reachability(announced: str, dialled: str, problem: str, state: str) -> None:
    finding = judge_reach(ReachFacts(announced, dialled, problem))
    assert finding.state == state and dialled in finding.found
    if state == "warn":
        host = dialled.rpartition(":")[0]
        assert f"--listen 0.0.0.0:7700 --announce {host}:7700" in finding.remedy


def test_memory_with_numbers() -> None:
    fits = judge_memory(MemoryFacts(8 << 30, 3, 5, 1 << 30))
    assert fits.state == "ok" and "3 of 5" in fits.found
    small = judge_memory(MemoryFacts(1 << 29, 0, 5, 1 << 30))
    assert small.state == "fail" and "512MiB" in small.found and "1GiB" in small.found
    assert "--max-memory" in small.remedy


@pytest.mark.parametrize(
    ("others", "state"), [((), "ok"), ((0.3, 0.5, 9.0), "ok"), ((0.01, 0.02, 9.0), "warn")]
)
def test_speed_against_the_runs_peers(others: tuple[float, ...], state: str) -> None:
    measured = Measured(forward_seconds=0.1, backward_seconds=0.3, memory_bytes=1, reason="")
    finding = judge_speed(measured, 400, others)
    assert finding.state == state and "1,000 tokens/s" in finding.found


@pytest.mark.parametrize(("free_bytes", "state"), [(1000, "ok"), (700, "warn"), (100, "fail")])
def test_disk(free_bytes: int, state: str) -> None:
    assert judge_disk("cache", "/x", free_bytes, 1000).state == state


def test_threads_and_device() -> None:
    assert judge_threads(2, 2).state == "ok"
    assert judge_threads(3, 2).state == "warn"
    found = judge_device(Devices("a card", True, 8 << 30), HERE, "exact sums").found
    assert "cpu: exact sums" in found and "a card, with bf16, 8GiB free" in found


def test_the_exit_code_is_that_of_the_first_failure() -> None:
    well, odd = Finding("a", "ok", ""), Finding("b", "warn", "")
    assert exit_code([]) == exit_code([well, odd]) == 0
    far = failed("run", LinkError("cannot reach it", "no answer", "check the address"))
    other = failed("run", Incompatible("another version"))
    assert (far.found, far.remedy) == ("cannot reach it: no answer", "check the address")
    assert exit_code([odd, far, other]) == 3 and exit_code([other, far]) == 4
    assert exit_code([Finding("memory", "fail", "")]) == 1
