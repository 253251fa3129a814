"""Where the time of a step goes, from the peers' traces: `python benchmarks/timeline.py DIR/peer-1 DIR/peer-2`."""

import itertools
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Interval = tuple[float, float]
SKIPPED_STEPS = 2
"""Steps at the start of a trace that are left out: they warm up."""


def read_spans(folder: Path) -> dict[str, list[tuple[str, float, float]]]:
    """Spans by track as (name, start, end) in seconds."""
    spans: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    begun: dict[str, float] = {}
    content: dict[str, Any] = json.loads((folder / "trace.json").read_text(encoding="utf-8"))
    for event in content["traceEvents"]:
        name, at = event["name"], event.get("ts", 0.0) / 1e6
        if event["ph"] == "X":
            spans[event["cat"]].append((name, at, at + event["dur"] / 1e6))
        elif event["ph"] == "b":
            begun[event["id"]] = at
        elif event["ph"] == "e":
            spans[event["cat"]].append((name, begun[event["id"]], at))
    return spans


def busy_seconds(intervals: Sequence[Interval], window: Interval) -> float:
    """Seconds of `window` that any of the intervals covers."""
    total, reached = 0.0, window[0]
    for start, end in sorted(intervals):
        start, end = max(start, reached), min(end, window[1])
        if end > start:
            total, reached = total + end - start, end
    return total


def step_windows(lane: Sequence[tuple[str, float, float]]) -> list[Interval]:
    """From the end of one apply to the end of the next, over all stages of the peer."""
    stages = {name for name, _, _ in lane if name.startswith("apply")}
    ends = sorted(end for name, _, end in lane if name.startswith("apply"))
    ends = ends[len(stages) - 1 :: len(stages)][SKIPPED_STEPS:]
    return list(itertools.pairwise(ends))


def shares(folder: Path) -> dict[str, float]:
    """Median milliseconds a step of every kind of lane task, idle parts of the lane, and the step itself."""
    spans = read_spans(folder)
    lane = spans["lane"]
    rows: dict[str, list[float]] = defaultdict(list)
    for window in step_windows(lane):
        inside = [span for span in lane if span[1] >= window[0] and span[2] <= window[1]]
        for kind in {name.split()[0] for name, _, _ in lane}:
            mine = [(a, b) for name, a, b in inside if name.split()[0] == kind]
            rows[kind].append(busy_seconds(mine, window))
        last_work = max(b for name, _, b in inside if name.split()[0] in ("backward", "add"))
        every = [(a, b) for _, a, b in inside]
        rows["idle while keys run"].append(last_work - window[0] - _until(every, window, last_work))
        tail = (last_work, window[1])
        rows["idle at the step's end"].append(tail[1] - tail[0] - busy_seconds(every, tail))
        rows["step"].append(window[1] - window[0])
    return {kind: 1e3 * statistics.median(values) for kind, values in sorted(rows.items())}


def _until(intervals: Sequence[Interval], window: Interval, end: float) -> float:
    return busy_seconds(intervals, (window[0], end))


def main() -> None:
    columns = {Path(name).name: shares(Path(name)) for name in sys.argv[1:]}
    kinds = sorted({kind for column in columns.values() for kind in column})
    print("| milliseconds a step | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for kind in kinds:
        cells = " | ".join(f"{column.get(kind, 0.0):.1f}" for column in columns.values())
        print(f"| {kind} | {cells} |")


if __name__ == "__main__":
    main()
