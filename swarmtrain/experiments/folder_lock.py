"""An experiment's folder belongs to one command at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from swarmtrain.core.errors import ConfigError

LOCK = "experiment.lock"
"""Holds the number of the process that has the folder. The lock itself ends with that process."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make `folder` and hold it. Raises ConfigError when another process has it, or it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written", str(error), "choose another --out"
        ) from error
    try:
        _take(handle, folder)
        yield
    finally:
        os.close(handle)


def _take(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(handle, 20).decode("ascii", "replace").strip() or "another one"
        raise ConfigError(
            f"{folder} is in use by process {holder}",
            "two commands would overwrite each other's runs",
            "wait until it has ended, end it, or choose another --out",
        ) from None
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
