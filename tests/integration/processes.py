"""Real `swarmtrain` processes for tests: started, watched, and never left behind.

Every process inherits a mark in its environment, so that whatever it starts is found again, also in a session of its
own and after its parent died.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
MARK = "SWARMTRAIN_TEST"
POLL_SECONDS = 0.05
START_SECONDS = 150.0
"""A process imports torch and hivemind first; with several on two busy cores that takes its time."""

SMALL_RUN = """
[run]
name = "small"
seed = 7
steps = 20

[model]
preset = "nano"

[train]
microbatches = 6
microbatch_size = 2
sequence_length = 32

[optimizer]
warmup_steps = 4
"""


# Whoever runs these tests as a background job has SIGINT ignored, and would hand that down: what is handled here, if
# only as usual, begins as usual in a process that is started.
signal.signal(signal.SIGINT, signal.default_int_handler)


def until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """Poll `true` until it is; its value. Fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = true()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(POLL_SECONDS)


@dataclass(slots=True)
class Command:
    """One running `swarmtrain` command and its output so far."""

    name: str
    process: "subprocess.Popen[bytes]"
    output_path: Path
    started_seconds: float = field(default_factory=time.monotonic)

    @property
    def output(self) -> str:
        """Standard output and error, with the line breaks of a narrow terminal taken out."""
        return " ".join(self.output_path.read_text(errors="replace").split())

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """The exit code; fails the test after `seconds`, showing the output."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} ran longer than {seconds:g} s: {self.output[-3000:]}"
            ) from None

    def until_prints(self, text: str, seconds: float = START_SECONDS) -> str:
        """Wait for `text`; the first word after it."""

        def seen() -> str | None:
            if self.process.poll() is not None and text not in self.output:
                raise AssertionError(f"{self.name} ended without {text!r}: {self.output[-3000:]}")
            after = self.output.partition(text)[2].split()
            return after[0] if after else None

        return str(until(seen, seconds, f"{self.name} prints {text!r}"))


class Workplace:
    """A folder and a temporary directory of its own, and all processes that were started from here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = secrets.token_hex(8)
        # A unix socket's path may have 107 characters: not in pytest's own deep folder.
        self.temporary = Path(tempfile.mkdtemp(prefix="swt-"))
        self.commands: list[Command] = []
        self.ports: set[int] = set()

    @property
    def environment(self) -> dict[str, str]:
        """What every process from here has in its environment besides the test's own."""
        return {
            MARK: self.mark,
            "TMPDIR": str(self.temporary),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "XDG_STATE_HOME": str(self.folder / "state"),
            # A polite peer would fall silent where other tests take all cores.
            "SWARMTRAIN_NICE": "0",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
            # More threads than cores would make the held-out loss at the end of a run take minutes.
            "OMP_NUM_THREADS": "1",
        }

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def start(self, *arguments: object, name: str = "") -> Command:
        """`swarmtrain ARGUMENTS` as a process of its own."""
        name = name or f"{arguments[0]}-{len(self.commands)}"
        output_path = self.folder / f"{name}.out"
        environment = {**os.environ, **self.environment, "PYTHONPATH": str(ROOT)}
        with open(output_path, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "swarmtrain", *map(str, arguments)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self.commands.append(Command(name, process, output_path))
        return self.commands[-1]

    def run(self, *arguments: object, seconds: float = START_SECONDS) -> Command:
        """`start` and wait."""
        command = self.start(*arguments)
        command.wait(seconds)
        return command

    def processes(self) -> list[psutil.Process]:
        """Everything alive that was started from here, by anybody."""
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get(MARK) == self.mark
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def named(self, name: str) -> list[psutil.Process]:
        return [process for process in self.processes() if name in _name(process)]

    def note_ports(self) -> set[int]:
        """Remember which ports are listened on now; returns them."""
        mine = {process.pid for process in self.processes()}
        for connection in psutil.net_connections("tcp"):
            if connection.pid in mine and connection.status == psutil.CONN_LISTEN:
                self.ports.add(connection.laddr.port)
        return self.ports

    def expect_nothing_left(self, seconds: float = 0.0) -> None:
        """No process, no noted port, no file in the temporary directory, at the latest after `seconds`."""
        until(lambda: not self.processes(), seconds, f"gone: {list(map(_name, self.processes()))}")
        listening = {
            connection.laddr.port
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert not self.ports & listening
        assert [path.name for path in self.temporary.iterdir()] == []

    def close(self) -> None:
        """Kill what is left, by pid."""
        for process in self.processes():
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.Error:
                continue
        for command in self.commands:
            command.process.wait(10)
        for path in sorted(self.temporary.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        self.temporary.rmdir()


def read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a .jsonl file that may still be written, or may not be there yet."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def events_in(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Events of one kind in a run folder's journal."""
    entries = lines_of(folder / "journal.jsonl")
    return [entry["event"] for entry in entries if entry["event"]["kind"] == kind]


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:200]
    except psutil.Error:
        return "(gone)"
