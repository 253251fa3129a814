"""A run's loss and speed over all its steps in a bounded number of points: the longer the run, the more steps a point
holds. Pure: every function returns a new curve."""

import math
from dataclasses import dataclass, replace

MOST_POINTS = 800
"""More than a screen has columns for; two curves of this length are some 60 KB of JSON."""


@dataclass(frozen=True, slots=True)
class Point:
    """Some steps in a row, from `step` on. Losses are nats a token; times are the coordinator's loop seconds.

    `bytes_sent` is what all peers' links had carried by then. `loss_steps` of the steps had a loss that is a number.
    """

    step: int
    steps: int
    at_seconds: float
    loss_sum: float
    loss_steps: int
    tokens: int
    seconds: float
    bytes_sent: int

    @property
    def loss(self) -> float | None:
        return self.loss_sum / self.loss_steps if self.loss_steps else None

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.seconds > 0 else None

    def with_next(self, after: "Point") -> "Point":
        """Both as one point."""
        return replace(
            after,
            step=self.step,
            steps=self.steps + after.steps,
            loss_sum=self.loss_sum + after.loss_sum,
            loss_steps=self.loss_steps + after.loss_steps,
            tokens=self.tokens + after.tokens,
            seconds=self.seconds + after.seconds,
        )


@dataclass(frozen=True, slots=True)
class Curve:
    """`points` ascend by step and hold `stride` steps each, the last one perhaps fewer.

    A reader that has seen the points of one `generation` needs only those from its last one on.
    """

    points: tuple[Point, ...] = ()
    stride: int = 1
    generation: int = 0

    def since(self, before: "Curve") -> tuple[Point, ...]:
        """What a reader of `before` lacks: the points from its last one on, or all."""
        if before.generation != self.generation or not before.points:
            return self.points
        last = before.points[-1].step
        index = len(self.points)
        while index and self.points[index - 1].step >= last:
            index -= 1
        return self.points[index:]


def point_of(step: int, at_seconds: float, loss: float, tokens: int, seconds: float) -> Point:
    """One step."""
    is_number = math.isfinite(loss)
    return Point(
        step, 1, at_seconds, loss if is_number else 0.0, int(is_number), tokens, seconds, 0
    )


def extended(curve: Curve, point: Point) -> Curve:
    """`curve` and one more step; a step that it has already takes the place of that one and all after it."""
    points = curve.points
    if points and point.step < points[-1].step + points[-1].steps:
        kept = tuple(p for p in points if p.step + p.steps <= point.step)
        return Curve((*kept, point), curve.stride, curve.generation + 1)
    if points and points[-1].steps < curve.stride:
        return replace(curve, points=(*points[:-1], points[-1].with_next(point)))
    points = (*points, point)
    if len(points) <= MOST_POINTS:
        return replace(curve, points=points)
    pairs = zip(points[::2], points[1::2], strict=False)
    merged = tuple(first.with_next(second) for first, second in pairs)
    rest = points[-1:] if len(points) % 2 else ()
    return Curve((*merged, *rest), 2 * curve.stride, curve.generation + 1)


@dataclass(frozen=True, slots=True)
class Pace:
    """How a run goes lately; None where too little was seen."""

    tokens_per_second: float | None = None
    seconds_per_step: float | None = None
    bytes_per_token: float | None = None


LATELY_SECONDS = 60.0
LEAST_POINTS = 2


def pace(curve: Curve) -> Pace:
    """Over the last minute, or the last two points where they are further apart."""
    points = curve.points
    if len(points) < LEAST_POINTS:
        return Pace()
    last = points[-1]
    recent = [p for p in points[:-1] if p.at_seconds >= last.at_seconds - LATELY_SECONDS]
    first = recent[0] if recent else points[-2]
    passed = [p for p in points if p.step > first.step]
    steps, tokens = sum(p.steps for p in passed), sum(p.tokens for p in passed)
    seconds, some_bytes = last.at_seconds - first.at_seconds, last.bytes_sent - first.bytes_sent
    if seconds <= 0:
        return Pace()
    per_token = some_bytes / tokens if some_bytes > 0 and tokens else None
    return Pace(tokens / seconds, seconds / steps, per_token)
