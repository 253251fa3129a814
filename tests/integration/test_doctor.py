"""`doctor` at a real coordinator, and where there is none: what a volunteer reads, and its exit codes."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from swarmtrain.cli.app import main
from swarmtrain.core.errors import LinkError
from swarmtrain.peer.diagnosis import Finding, exit_code
from swarmtrain.peer.examining import Patient, examine
from swarmtrain.peer.joining import describe_first
from swarmtrain.swarm.checkups import DIAL_PAUSE_SECONDS
from tests.experiments.runs import SMALL, small_config

SETTINGS = [part for setting in SMALL for part in ("--set", setting)]


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a coordinator in a process of its own."""
    folder = tmp_path_factory.mktemp("doctor")
    command = [sys.executable, "-m", "swarmtrain", "coordinator", "--listen", "127.0.0.1:0"]
    command += ["--out", str(folder / "run"), *SETTINGS]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield _printed_address(process, folder / "log")
    finally:
        process.terminate()
        process.wait(60)


def _printed_address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + 120.0
    while process.poll() is None and time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if "--join " in line:
                return line.rpartition(" ")[2]
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def patient(join: str, folder: Path, *before: str) -> Patient:
    return Patient(
        joins=(*before, join) if join else (),
        config=None,
        listen="127.0.0.1:0",
        announce="",
        device="auto",
        memory_bytes=None,
        cache_folder=folder,
        run_folder=folder,
        wall_seconds=time.time,
    )


def examined(one: Patient) -> dict[str, Finding]:
    async def all_findings() -> list[Finding]:
        return [finding async for finding in examine(one)]

    findings = asyncio.run(asyncio.wait_for(all_findings(), 120.0))
    return {finding.check: finding for finding in findings} | {
        "exit": Finding("exit", "ok", str(exit_code(findings)))
    }


def test_a_machine_that_can_join(coordinator: str, tmp_path: Path) -> None:
    found = examined(patient(coordinator, tmp_path))
    assert {one.state for one in found.values()} == {"ok"}, found
    assert {"run", "port", "bootstrap", "clock", "reachability", "directory"} <= set(found)
    assert {"threads", "device", "memory", "speed", "disk"} <= set(found)
    assert found["reachability"].found == f"dialled back at {found['reachability'].seen_at}"
    assert found["reachability"].seen_at.startswith("127.0.0.1:")
    time.sleep(DIAL_PAUSE_SECONDS)


def test_a_wrong_clock_and_too_little_memory(coordinator: str, tmp_path: Path) -> None:
    one = patient(coordinator, tmp_path)
    late = replace(one, wall_seconds=lambda: time.time() - 100.0, memory_bytes=1000)
    found = examined(late)
    assert found["clock"].state == found["memory"].state == "fail"
    assert "100.0" in found["clock"].found and "behind" in found["clock"].found
    assert found["exit"].found == "3"
    time.sleep(DIAL_PAUSE_SECONDS)


def test_another_runs_configuration_and_a_taken_port(coordinator: str, tmp_path: Path) -> None:
    one = patient(coordinator, tmp_path)
    found = examined(replace(one, config=small_config("run.seed=99"), listen=coordinator))
    assert found["run"].state == found["port"].state == "fail"
    assert found["exit"].found == "4" and "in use" in found["port"].found


SILENT = "127.0.0.1:1"


def test_of_several_addresses_the_first_that_answers_counts(
    coordinator: str, tmp_path: Path
) -> None:
    found = examined(patient(coordinator, tmp_path, SILENT))
    assert found["run"].state == "ok" and found["address"].state == "warn"
    assert SILENT in found["address"].found and coordinator in found["address"].remedy
    description, _, (why,) = asyncio.run(describe_first((SILENT, coordinator)))
    assert description.coordinator == coordinator and SILENT in why


def test_where_no_address_answers_each_is_named_with_its_reason() -> None:
    with pytest.raises(LinkError, match="none of the run's 2 addresses") as caught:
        asyncio.run(describe_first((SILENT, "127.0.0.1:2")))
    assert SILENT in caught.value.why and "127.0.0.1:2" in caught.value.why and caught.value.remedy


def test_nobody_at_that_address_and_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["swarmtrain", "doctor", "--join", "127.0.0.1:1", "-o", "json", *SETTINGS]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == told["exit_code"] == 3 and not told["ok"]
    assert told["seen_at"] is None
    run = next(one for one in told["checks"] if one["check"] == "run")
    assert run["state"] == "fail" and "127.0.0.1:1" in run["found"] and run["do"]
    assert next(one for one in told["checks"] if one["check"] == "speed")["state"] == "ok"
