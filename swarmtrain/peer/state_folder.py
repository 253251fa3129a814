"""What a peer keeps beside the run, for its volunteer alone: what it moved today, what it does, what it is asked to do.

One running peer owns a folder, by a lock that the system drops when the process ends. Another terminal writes `request`
and reads `status.json`; only the owner of the folder may enter it.
"""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, get_args

from swarmtrain.core.errors import StateError
from swarmtrain.plan.terms import Request

REQUESTS: tuple[str, ...] = get_args(Request)


@dataclass(frozen=True, slots=True)
class Status:
    """What a peer tells its volunteer; `request` is the last one it has seen, `doing` is for people."""

    process: int
    peer: str
    name: str
    request: Request
    doing: str
    reason: str
    resumes: str
    step: int
    day: str
    transfer_bytes: int


class _Owned(StateError):
    """A running peer has the folder."""


class StateFolder:
    """The folder of a running peer. Raises StateError when another one has it, or when it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _locked(path)
        self._status: Status | None = None
        self._moved = _read_moved(path / "transfer.json")
        self._saved = self._moved
        (path / "request").unlink(missing_ok=True)

    def close(self) -> None:
        """Let others have the folder."""
        for name in ("status.json", "request"):
            (self.path / name).unlink(missing_ok=True)
        self._lock.close()

    def request(self) -> Request:
        """What the volunteer asked for last; to serve, as long as nothing was."""
        text = _read(self.path / "request").strip()
        return text if text in REQUESTS else "serve"  # type: ignore[return-value]

    def moved_bytes(self, day: str) -> int:
        """What was sent and received on `day`, also by this peer's earlier processes."""
        known_day, count_bytes = self._moved
        return count_bytes if known_day == day else 0

    def add_moved(self, day: str, count_bytes: int) -> None:
        """Count `count_bytes` more; they survive this process once `save` returns."""
        self._moved = (day, self.moved_bytes(day) + count_bytes)

    def save(self, status: Status) -> None:
        """Write what changed."""
        if self._moved != self._saved:
            day, count_bytes = self._saved = self._moved
            _write(self.path / "transfer.json", {"day": day, "bytes": count_bytes})
        if status != self._status:
            self._status = status
            _write(self.path / "status.json", asdict(status))


def open_state_folder(path: Path | None, default: Path) -> StateFolder:
    """The folder at `path`; without one the first of `default`, `default`-2, ... that no running peer has."""
    if path is not None:
        return StateFolder(path)
    folder, number = default, 1
    while True:
        try:
            return StateFolder(folder)
        except _Owned:  # taken, not asked for before: of two that start at once one would fail
            number += 1
            folder = default.with_name(f"peer-{number}")


def is_owned(path: Path) -> bool:
    """Whether a running peer has this folder."""
    try:
        with open(path / "lock", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def ask_for(path: Path, request: Request) -> None:
    """From another process: ask the peer whose folder this is. Raises StateError."""
    try:
        _replace(path / "request", request)
    except OSError as error:
        raise _unusable(path, error) from error


def read_status(path: Path) -> Status | None:
    """What the peer whose folder this is says of itself; None before it said anything."""
    try:
        return Status(**json.loads(_read(path / "status.json")))
    except (ValueError, TypeError):
        return None


def _locked(path: Path) -> IO[bytes]:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = open(path / "lock", "ab")  # noqa: SIM115 (held as long as the peer runs)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise _Owned(
            f"another peer keeps its state in {path}",
            "two peers would count each other's traffic and take each other's requests",
            "give each its own --state",
        ) from error
    for name in ("request", "status.json", "transfer.json"):
        if (path / name).exists():
            (path / name).chmod(0o600)
    return lock


def _unusable(path: Path, error: OSError) -> StateError:
    return StateError(
        f"the peer's folder {path} cannot be used", str(error), "give another --state"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _read_moved(path: Path) -> tuple[str, int]:
    """A count that cannot be read is none: the cap then holds from now on."""
    try:
        entry = json.loads(_read(path))
        return str(entry["day"]), int(entry["bytes"])
    except (ValueError, TypeError, KeyError):
        return "", 0


def _write(path: Path, content: object) -> None:
    try:
        _replace(path, json.dumps(content))
    except OSError as error:
        raise _unusable(path.parent, error) from error


def _replace(path: Path, text: str) -> None:
    """Whole or not at all, readable by its owner only."""
    partial = path.with_suffix(".part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(partial, path)
