"""Learning curves of finished runs, read from their journals alone, and what is read off them. Pure but for reading.

A point is a committed step: tokens and bytes until then, seconds since the first step opened. With islands the loss of
a step is the mean over the islands that took it, weighted by tokens, at the moment the last of them had committed it.
"""

import itertools
import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

KINDS = ("step_opened", "step_committed", "traffic", "peer_joined")
Axis = Literal["tokens", "seconds", "bytes"]


@dataclass(frozen=True, slots=True)
class Point:
    """`step` counts from 0; everything else is cumulative but for the loss, in nats a token."""

    step: int
    seconds: float
    tokens: int
    bytes: int
    loss: float


@dataclass(slots=True)
class _Reading:
    """What has been read of a journal so far."""

    opened_seconds: float | None = None
    island_of: dict[str, int] = field(default_factory=dict)
    commits: dict[int, dict[int, tuple[float, int, float]]] = field(default_factory=dict)
    """By step and island: seconds, tokens, loss."""
    sent: list[tuple[float, int]] = field(default_factory=list)

    def take(self, at: float, peer: str, event: dict[str, Any]) -> None:
        match event["kind"]:
            case "peer_joined":
                self.island_of[event["peer"]] = event.get("island", 0)
            case "step_opened" if self.opened_seconds is None:
                self.opened_seconds = at
            case "traffic" if peer == "world":
                self.sent.append((at, event["bytes_sent"]))
            case "step_committed":
                self._commit(at, self.island_of.get(peer, 0), event)

    def _commit(self, at: float, island: int, event: dict[str, Any]) -> None:
        step = event["step"]
        known = self.commits.setdefault(step, {})
        if island in known and not event["parameters_sha256"]:
            return  # a new conductor repeats what its predecessor had said
        # After a restore the island takes its steps again: what came of the first time is lost.
        for later in [number for number in self.commits if number > step]:
            self.commits[later].pop(island, None)
        known[island] = (at, event["tokens"], float(event["loss"]))

    def points(self) -> Iterator[Point]:
        begin, tokens, seconds = self.opened_seconds or 0.0, 0, 0.0
        sent = iter(self.sent)
        next_sent, carried = next(sent, None), 0
        for step in sorted(step for step, islands in self.commits.items() if islands):
            taken = list(self.commits[step].values())
            step_tokens = sum(count for _, count, _ in taken)
            tokens += step_tokens
            seconds = max(seconds, max(at for at, _, _ in taken) - begin)
            while next_sent is not None and next_sent[0] <= seconds + begin:
                carried, next_sent = next_sent[1], next(sent, None)
            loss = sum(count * loss for _, count, loss in taken) / max(step_tokens, 1)
            yield Point(step, seconds, tokens, carried, loss)


def points_of(lines: Iterable[str]) -> list[Point]:
    """The curve that the lines of a journal tell."""
    reading = _Reading()
    wanted = tuple(f'"kind":"{kind}"' for kind in KINDS)
    for line in lines:
        if any(kind in line for kind in wanted):
            entry = json.loads(line)
            reading.take(entry["time_seconds"], entry["peer"], entry["event"])
    return list(reading.points())


def read_points(journal: Path) -> list[Point]:
    """`points_of` the file; nothing where there is none."""
    if not journal.exists():
        return []
    with open(journal, encoding="utf-8") as lines:
        return points_of(lines)


def smoothed(points: Sequence[Point], window_steps: int) -> list[float]:
    """The mean of the last so many losses at every point."""
    losses = [point.loss for point in points]
    return [
        statistics.fmean(losses[max(0, end - window_steps) : end])
        for end in range(1, len(losses) + 1)
    ]


def loss_at(points: Sequence[Point], axis: Axis, place: float, window_steps: int) -> float | None:
    """The smoothed loss when so many tokens, seconds or bytes were spent, between points by straight lines."""
    losses = smoothed(points, window_steps)
    before: tuple[float, float] | None = None
    for point, loss in zip(points, losses, strict=True):
        here = float(getattr(point, axis))
        if here >= place:
            if before is None or here == place:
                return loss if here == place else None
            share = (place - before[0]) / (here - before[0])
            return before[1] + share * (loss - before[1])
        before = (here, loss)
    return None


def steps_to(points: Sequence[Point], target_loss: float, window_steps: int) -> int | None:
    """Steps until the smoothed loss first was down at the target; None if it never was."""
    for point, loss in zip(points, smoothed(points, window_steps), strict=True):
        if loss <= target_loss:
            return point.step + 1
    return None


def step_seconds(points: Sequence[Point]) -> list[float]:
    """What every step took, from one commit to the next."""
    ends = [0.0, *(point.seconds for point in points)]
    return [end - begin for begin, end in itertools.pairwise(ends)]


def steady_step_seconds(points: Sequence[Point], warm_steps: int) -> float | None:
    """The mean over all steps but the first `warm_steps`, so that rounds and pauses count; None where none are left."""
    return statistics.fmean(kept) if (kept := step_seconds(points)[warm_steps:]) else None
