"""What a peer says of committed steps when it conducts: each step once, with the time since the step before.

A conductor may die with an acknowledgement that nobody heard. The next one has applied that step, and says so first.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from swarmtrain.core.events import StepCommitted
from swarmtrain.core.layout import parameters_sha256
from swarmtrain.core.messages import Commit, StageDigest
from swarmtrain.core.schedule import gradient_norm
from swarmtrain.steps.keys import unpack_keys


@dataclass(slots=True)
class Acknowledgements:
    """`now_seconds` of all calls is one clock; `begin_seconds` is when the first step could begin."""

    begin_seconds: float
    _acknowledged_step: int = -1
    # A step may be applied here before the one before it is acknowledged, never two (R10).
    _applied: deque[tuple[Commit, float]] = field(default_factory=lambda: deque(maxlen=2))

    def applied(self, commit: Commit, now_seconds: float) -> None:
        """This peer has applied `commit`, whoever acknowledges it."""
        if len(self._applied) == self._applied.maxlen:
            self.begin_seconds = max(self.begin_seconds, self._applied[0][1])
        self._applied.append((commit, now_seconds))

    def restored(self) -> None:
        """The island went back: what was applied is another history."""
        self._applied.clear()

    def acknowledged(
        self, commit: Commit, stages: Sequence[StageDigest], now_seconds: float
    ) -> list[StepCommitted]:
        """The events for `commit`, which a majority has applied; behind that of a step this peer never told.

        The digest of an earlier step is left empty: only its conductor knew those of all stages.
        """
        events = []
        for earlier, applied_seconds in self._applied:
            if self._acknowledged_step < earlier.step < commit.step:
                events.append(self._event(earlier, "", applied_seconds))
        digest = parameters_sha256([entry.digest for entry in stages])
        events.append(self._event(commit, digest, now_seconds))
        self._acknowledged_step = commit.step
        return events

    def _event(self, commit: Commit, digest: str, now_seconds: float) -> StepCommitted:
        seconds, self.begin_seconds = now_seconds - self.begin_seconds, now_seconds
        return StepCommitted(
            step=commit.step,
            loss=commit.loss,
            tokens=commit.tokens,
            seconds=seconds,
            learning_rate=commit.scalars.learning_rate,
            gradient_norm=gradient_norm(commit.stages),
            void=unpack_keys(commit.void),
            parameters_sha256=digest,
            next_step=commit.next_step,
        )
