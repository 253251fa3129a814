"""metrics.jsonl: one line a committed step, that is one a majority has acknowledged (R10)."""

from pathlib import Path
from typing import Any

from swarmtrain.monitor.lines import LineFile, json_line, read_lines


class MetricsFile:
    """Appends to metrics.jsonl; an existing file is continued."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = LineFile(path)

    def write(self, step: int, loss: float, tokens: int, seconds: float) -> None:
        """One step: mean loss in nats a token, tokens counted, seconds since the step before.

        Raises StateError when the line cannot be written.
        """
        self._lines.append(
            json_line({"step": step, "loss": loss, "tokens": tokens, "seconds": seconds})
        )

    def before(self, step: int) -> list[dict[str, Any]]:
        """The entries of the steps before `step`."""
        return [entry for entry in read_lines(self._path) if entry["step"] < step]

    def rewind(self, step: int) -> None:
        """Remove the steps from `step` on, which a resumed run trains again."""
        self._lines.keep_first(len(self.before(step)))

    def close(self) -> None:
        self._lines.close()
