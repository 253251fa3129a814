"""The journal: one strict JSON line an event, same bytes in both worlds, torn ends tolerated, damage not."""

import errno
import json
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.errors import StateError
from swarmtrain.core.events import Event, Noted, PeerJoined, Sealed, StepCommitted
from swarmtrain.monitor.journal import Journal, MemoryJournal, journal_line, read_journal

EVENTS: list[Event] = [
    PeerJoined(peer="b", name="line\nbreak \u2028 \u00e4", address="127.0.0.1:1", stages=(0, 2)),
    Sealed(step=1, seal=2, owners=(("a", 3), ("b", 4)), void=()),
    StepCommitted(
        step=1,
        loss=0.1 + 0.2,
        tokens=512,
        seconds=1e-7,
        learning_rate=3e-3,
        gradient_norm=math.inf,
        void=(7,),
        parameters_sha256="ab",
    ),
    Noted(what="x", detail=""),
]


def write_all(path: Path) -> bytes:
    journal = Journal(path)
    for index, event in enumerate(EVENTS):
        journal.write(event, 0.1 * index, "a")
    journal.close()
    return path.read_bytes()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    data = write_all(tmp_path / "journal.jsonl")
    assert data.count(b"\n") == len(EVENTS)
    entries = list(read_journal(tmp_path / "journal.jsonl"))
    assert [entry["event"]["kind"] for entry in entries] == [event.kind for event in EVENTS]
    assert entries[0]["peer"] == "a" and entries[0]["event"]["peer"] == "b"
    assert entries[1]["event"]["owners"] == [["a", 3], ["b", 4]]
    assert entries[2]["event"]["loss"] == 0.1 + 0.2
    assert entries[3]["time_seconds"] == 0.1 * 3


def test_the_format_is_pinned() -> None:
    """Byte-equal journals are how determinism is tested: the format may not drift unnoticed."""
    assert journal_line(Noted(what="w", detail="d"), 1.5, "p") == (
        '{"event":{"detail":"d","kind":"noted","what":"w"},"peer":"p","time_seconds":1.5}\n'
    )


def test_the_memory_journal_has_the_same_bytes(tmp_path: Path) -> None:
    memory = MemoryJournal()
    for index, event in enumerate(EVENTS):
        memory.write(event, 0.1 * index, "a")
    assert "".join(memory.lines).encode() == write_all(tmp_path / "journal.jsonl")


@settings(deadline=None)
@given(st.floats(), st.text(), st.floats())
def test_every_line_is_strict_json_and_exact(loss: float, detail: str, seconds: float) -> None:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    event = StepCommitted(1, loss, 2, 3.0, 4.0, 5.0, (), detail)
    line = journal_line(event, seconds, "p")
    assert line.count("\n") == 1 and line.endswith("\n")
    entry = json.loads(line, parse_constant=refuse)
    back = float(entry["event"]["loss"])
    assert back == loss or (math.isnan(back) and math.isnan(loss))
    assert entry["event"]["parameters_sha256"] == detail


def test_every_cut_reads_as_the_whole_lines_before_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.jsonl"
    data = write_all(path)
    for length_bytes in range(len(data) + 1):
        path.write_bytes(data[:length_bytes])
        caplog.clear()
        entries = list(read_journal(path))
        assert len(entries) == data[:length_bytes].count(b"\n")
        torn = length_bytes > 0 and data[length_bytes - 1 : length_bytes] != b"\n"
        assert bool(caplog.records) == torn


def test_a_torn_line_is_removed_when_the_journal_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    data = write_all(path)
    for length_bytes in (0, 5, len(data) - 1, len(data)):
        path.write_bytes(data[:length_bytes])
        journal = Journal(path)
        journal.write(EVENTS[3], 9.0, "c")
        journal.close()
        entries = list(read_journal(path))
        assert len(entries) == data[:length_bytes].count(b"\n") + 1
        assert entries[-1]["time_seconds"] == 9.0


def test_a_torn_line_longer_than_one_read_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.jsonl"
    data = write_all(path)
    path.write_bytes(data + b"x" * 200_000)
    with caplog.at_level(logging.WARNING):
        Journal(path).close()
    assert path.read_bytes() == data
    assert "200000 bytes" in caplog.text
    path.write_bytes(b"x" * 200_000)
    Journal(path).close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{\n",
        b"[]\n",
        b"7\n",
        b"\xff\n",
        b"[" * 100_000 + b"\n",
        b"{}\n",
        b'{"event":7,"peer":"a","time_seconds":1}\n',
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_a_damaged_line_is_refused_by_number(tmp_path: Path, line: bytes, last: bool) -> None:
    path = tmp_path / "journal.jsonl"
    lines = write_all(path).splitlines(keepends=True)
    lines.insert(len(lines) if last else 1, line)
    path.write_bytes(b"".join(lines))
    with pytest.raises(StateError, match=f"line {5 if last else 2} of"):
        list(read_journal(path))


def test_a_killed_process_loses_nothing_it_wrote(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from swarmtrain.core.events import Noted\n"
        "from swarmtrain.monitor.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for n in range(100): journal.write(Noted('n', str(n)), float(n), 'a')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "journal.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[2], timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list(read_journal(path))) == 100


@pytest.mark.parametrize("short", [True, False])
def test_a_full_disk_costs_one_line_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: bool
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.write(EVENTS[0], 0.0, "a")
    real_write = os.write

    def full(descriptor: int, data: bytes) -> int:
        written_bytes = real_write(descriptor, data[: len(data) // 2])
        if short:
            return written_bytes
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StateError, match="free space"):
            journal.write(EVENTS[1], 1.0, "a")
    journal.write(EVENTS[2], 2.0, "a")
    journal.close()
    assert [entry["time_seconds"] for entry in read_journal(path)] == [0.0, 2.0]


def test_a_journal_that_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="--out"):
        Journal(tmp_path / "nowhere" / "journal.jsonl")
