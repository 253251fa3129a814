"""The folder of a run: its journal, metrics and checkpoints, written by one process at a time."""

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path

from swarmtrain.core.errors import ConfigError
from swarmtrain.monitor.journal import Journal
from swarmtrain.monitor.metrics import MetricsFile


@dataclass(slots=True)
class RunFolder:
    """Where a coordinator writes: journal, metrics, checkpoint. `write(line)` keeps a journal entry."""

    path: Path
    journal: Journal = field(init=False)
    metrics: MetricsFile = field(init=False)
    _lock: int = field(init=False)

    def __post_init__(self) -> None:
        self._lock = _locked(self.path)
        self.journal = Journal(self.path / "journal.jsonl")
        self.metrics = MetricsFile(self.path / "metrics.jsonl")

    def close(self) -> None:
        self.journal.close()
        self.metrics.close()
        os.close(self._lock)


def _locked(folder: Path) -> int:
    """A lock on `folder` until it is closed, or its process ends. Raises ConfigError when another process has it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise ConfigError(
            f"another process writes the run folder {folder}",
            "two runs would mix their journals and checkpoints",
            "stop that process first, or choose another --out",
        ) from None
    return handle
