"""metrics.jsonl: one line a committed step, that is one a majority has acknowledged (R10)."""

from pathlib import Path

from swarmtrain.monitor.lines import LineFile, json_line


class MetricsFile:
    """Appends to metrics.jsonl; an existing file is continued."""

    def __init__(self, path: Path) -> None:
        self._lines = LineFile(path)

    def write(self, step: int, loss: float, tokens: int, seconds: float) -> None:
        """One step: mean loss in nats a token, tokens counted, seconds since the step before.

        Raises StateError when the line cannot be written.
        """
        self._lines.append(
            json_line({"step": step, "loss": loss, "tokens": tokens, "seconds": seconds})
        )

    def close(self) -> None:
        self._lines.close()
