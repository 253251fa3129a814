"""How busy a lane was lately: what a peer publishes of itself, and what rebalancing and planning go by."""

import math
import statistics
from collections import deque
from dataclasses import dataclass
from typing import Literal

Part = Literal["forward", "backward", "loss"]
"""What a task does for its microbatch. Every pass through a stage has one backward, at the head the loss is both."""

MEMORY_SECONDS = 30.0
"""What happened so long ago counts 1/e of what happens now."""

LEAST_PASSES = 3.0
"""Passes through a stage (decayed) before their mean says something."""

SMOOTHING = 0.125
"""Weight of the newest task in the mean of its kind, which lasts however long the steps are."""


RECENT_TASKS = 3
"""Of a kind, whose median says how fast the lane is now: two slow ones show, and a single one that strays does not."""


@dataclass(frozen=True, slots=True)
class LaneLoad:
    """`busy_share` of the time went into microbatches, `waiting_tasks` waited for the lane on average, and one
    microbatch took `pass_seconds` through one stage, forward and backward (None before enough of them). The means of
    the tasks by kind are 0 before the first one."""

    busy_share: float
    waiting_tasks: float
    pass_seconds: float | None
    forward_seconds: float = 0.0
    backward_seconds: float = 0.0
    loss_seconds: float = 0.0


class Meter:
    """Sums over what a lane did, decayed so that they follow the last half minute. One thread at a time."""

    def __init__(self, now_seconds: float) -> None:
        self._at_seconds = now_seconds
        self._span_seconds = self._busy_seconds = self._waited_seconds = self._passes = 0.0
        self._counts: dict[Part, int] = {"forward": 0, "backward": 0, "loss": 0}
        self._means: dict[Part, float] = {"forward": 0.0, "backward": 0.0, "loss": 0.0}
        self._recent: dict[Part, deque[float]] = {
            part: deque(maxlen=RECENT_TASKS) for part in self._counts
        }

    def add(
        self, busy_seconds: float, waited_seconds: float, part: Part, now_seconds: float
    ) -> None:
        """A task of a microbatch ended."""
        self._decay(now_seconds)
        self._busy_seconds += busy_seconds
        self._waited_seconds += waited_seconds
        self._passes += part == "backward"
        self._counts[part] += 1
        self._recent[part].append(busy_seconds)
        weight = max(SMOOTHING, 1 / self._counts[part])
        self._means[part] += weight * (busy_seconds - self._means[part])

    def recent_seconds(self, stages: int) -> float:
        """What a microbatch takes of the lane by its latest tasks, through `stages` stages; 0 before it had one."""
        forward, backward, loss = (
            statistics.median(self._recent[part]) if self._recent[part] else 0.0
            for part in ("forward", "backward", "loss")
        )
        return stages * (forward + backward) + loss if backward or loss else 0.0

    def load(self, now_seconds: float) -> LaneLoad:
        """The mean number of waiting tasks is the sum of their waits over the time (Little's law)."""
        self._decay(now_seconds)
        if not self._span_seconds:
            return LaneLoad(0.0, 0.0, None)
        passes = self._passes
        return LaneLoad(
            min(self._busy_seconds / self._span_seconds, 1.0),
            self._waited_seconds / self._span_seconds,
            self._busy_seconds / passes if passes >= LEAST_PASSES else None,
            *self._means.values(),
        )

    def _decay(self, now_seconds: float) -> None:
        left = math.exp((self._at_seconds - now_seconds) / MEMORY_SECONDS)
        self._at_seconds = now_seconds
        self._span_seconds = left * self._span_seconds + MEMORY_SECONDS * (1 - left)
        self._busy_seconds *= left
        self._waited_seconds *= left
        self._passes *= left
