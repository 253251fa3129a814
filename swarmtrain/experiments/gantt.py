"""What machines did in some steps of a run, for a Gantt chart: read from the `step_traced` lines of its journal.

Both worlds put those of `shown_steps` there; clocks are those of one world, so machines can be drawn side by side.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from swarmtrain.core.events import Event
from swarmtrain.core.live import StepTraced
from swarmtrain.core.types import PeerId
from swarmtrain.peer.vitals import StepSampler

STEPS_SHOWN = 2
MOST_MACHINES = 24
"""That are traced, and that a chart has rows for."""

DRAWN = ("forward", "backward", "loss", "reduce")


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that a machine did; seconds since the first bar of the run. `kind` is one of DRAWN."""

    machine: str
    step: int
    kind: str
    stage: int
    start_seconds: float
    seconds: float


def shown_steps(steps: int) -> range:
    """The steps in the middle of a run, which neither its beginning nor its end disturbs."""
    return range(steps // 2, min(steps // 2 + STEPS_SHOWN, steps))


def sampler_of(
    me: PeerId, steps: int, write: Callable[[Event], None], now: Callable[[], float]
) -> StepSampler:
    """Tells `write` what this peer did in the steps that are shown."""
    shown = shown_steps(steps)

    def send(event: Event) -> None:
        if isinstance(event, StepTraced) and event.step in shown:
            write(event)

    return StepSampler(me, send, now, least_seconds=0.0)


def bars_of(lines: Iterable[str]) -> list[Bar]:
    """Of the journal's lines, those of the first machines by name."""
    names: dict[str, str] = {}
    found: list[tuple[float, str, int, tuple[str, int, int, int, int, str]]] = []
    for line in lines:
        if '"kind":"peer_joined"' in line:
            event = json.loads(line)["event"]
            names[event["peer"]] = event["name"]
        elif '"kind":"step_traced"' in line:
            entry = json.loads(line)
            event = entry["event"]
            begin_seconds = entry["time_seconds"] - event["seconds"]
            for row in event["spans"]:
                found.append((begin_seconds, event["peer"], event["step"], tuple(row)))
    bars = [
        Bar(names.get(peer, peer), step, row[0], row[1], begin + 1e-6 * row[3], 1e-6 * row[4])
        for begin, peer, step, row in found
        if row[0] in DRAWN
    ]
    first_seconds = min((bar.start_seconds for bar in bars), default=0.0)
    kept = sorted({bar.machine for bar in bars})[:MOST_MACHINES]
    return [
        Bar(b.machine, b.step, b.kind, b.stage, b.start_seconds - first_seconds, b.seconds)
        for b in bars
        if b.machine in kept
    ]


def read_bars(journal: Path) -> list[Bar]:
    """`bars_of` the file; nothing where there is none."""
    if not journal.exists():
        return []
    with open(journal, encoding="utf-8") as lines:
        return bars_of(lines)
