"""How busy a lane was lately: what a peer publishes of itself, and what rebalancing goes by."""

import math
from dataclasses import dataclass

MEMORY_SECONDS = 30.0
"""What happened so long ago counts 1/e of what happens now."""

LEAST_PASSES = 3.0
"""Passes through a stage (decayed) before their mean says something."""


@dataclass(frozen=True, slots=True)
class LaneLoad:
    """`busy_share` of the time went into microbatches, `waiting_tasks` waited for the lane on average, and one
    microbatch took `pass_seconds` through one stage, forward and backward (None before enough of them)."""

    busy_share: float
    waiting_tasks: float
    pass_seconds: float | None


class Meter:
    """Sums over what a lane did, decayed so that they follow the last half minute. One thread at a time."""

    def __init__(self, now_seconds: float) -> None:
        self._at_seconds = now_seconds
        self._span_seconds = self._busy_seconds = self._waited_seconds = self._passes = 0.0

    def add(
        self, busy_seconds: float, waited_seconds: float, is_pass_end: bool, now_seconds: float
    ) -> None:
        """A task of a microbatch ended. Every pass through a stage ends with one task, its backward."""
        self._decay(now_seconds)
        self._busy_seconds += busy_seconds
        self._waited_seconds += waited_seconds
        self._passes += is_pass_end

    def load(self, now_seconds: float) -> LaneLoad:
        """The mean number of waiting tasks is the sum of their waits over the time (Little's law)."""
        self._decay(now_seconds)
        if not self._span_seconds:
            return LaneLoad(0.0, 0.0, None)
        has_passes = self._passes >= LEAST_PASSES
        return LaneLoad(
            min(self._busy_seconds / self._span_seconds, 1.0),
            self._waited_seconds / self._span_seconds,
            self._busy_seconds / self._passes if has_passes else None,
        )

    def _decay(self, now_seconds: float) -> None:
        left = math.exp((self._at_seconds - now_seconds) / MEMORY_SECONDS)
        self._at_seconds = now_seconds
        self._span_seconds = left * self._span_seconds + MEMORY_SECONDS * (1 - left)
        self._busy_seconds *= left
        self._waited_seconds *= left
        self._passes *= left
