"""What a peer did when, as Chrome trace JSON: open it at https://ui.perfetto.dev or in chrome://tracing.

Times are loop seconds. On one machine they are the same clock in every process, so the events of several peers'
files can be put into one list.
"""

import json
from collections import deque
from pathlib import Path
from typing import Any

from swarmtrain.core.errors import StateError

KEPT_STEPS = 16
SPANS_PER_STEP = 20_000


class Trace:
    """Spans of the last `kept_steps` steps on named tracks. Spans of one track may overlap."""

    def __init__(self, process: str, process_number: int, kept_steps: int = KEPT_STEPS) -> None:
        self._process, self._number = process, process_number
        self._steps: deque[list[dict[str, Any]]] = deque([[]], maxlen=kept_steps)
        self._tracks: dict[str, int] = {}
        self._spans = 0
        self.dropped_spans = 0

    def span(
        self, track: str, name: str, start_seconds: float, end_seconds: float, **details: Any
    ) -> None:
        """Something that took from start to end; beyond SPANS_PER_STEP in a step it is only counted."""
        if len(self._steps[-1]) >= SPANS_PER_STEP:
            self.dropped_spans += 1
            return
        common = {
            "pid": self._number,
            "tid": self._tracks.setdefault(track, len(self._tracks) + 1),
            "name": name,
            "cat": track,
        }
        microseconds = (1e6 * start_seconds, 1e6 * end_seconds)
        if track == "lane":
            start, end = microseconds
            self._steps[-1].append(
                common | {"ph": "X", "ts": start, "dur": end - start, "args": details}
            )
            return
        # Overlapping spans of one track are only drawn right as begin and end of one id.
        self._spans += 1
        shared = common | {"id": f"{self._number:x}.{self._spans:x}"}
        for phase, at in zip("be", microseconds, strict=True):
            self._steps[-1].append(shared | {"ph": phase, "ts": at, "args": details})

    def next_step(self) -> None:
        """What comes from here on belongs to another step; the oldest step goes when there are too many."""
        self._steps.append([])

    def events(self) -> list[dict[str, Any]]:
        """The names of process and tracks, then all spans kept, in order of recording."""
        names = [self._name("process_name", 0, self._process)]
        names += [self._name("thread_name", number, name) for name, number in self._tracks.items()]
        return names + [event for step in self._steps for event in step]

    def write(self, path: Path) -> None:
        """Write the file. Raises StateError."""
        content = {"traceEvents": self.events(), "displayTimeUnit": "ms"}
        try:
            path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        except OSError as error:
            raise StateError(
                f"the trace {path} cannot be written", str(error), "free space, or leave --out out"
            ) from error

    def _name(self, kind: str, track_number: int, name: str) -> dict[str, Any]:
        return {
            "ph": "M",
            "pid": self._number,
            "tid": track_number,
            "name": kind,
            "args": {"name": name},
        }
