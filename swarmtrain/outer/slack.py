"""For how long an island can spare a round's result: the window that its group waits for stragglers (arXiv 2604.21428).

A result has `delay_steps` to come in; of these, what the rest of the round takes is spoken for:

    slack = delay steps x a step  -  from a chair's first question to the result  -  a heartbeat

at which chairs look at the time. All of it is measured here, so that no step waits for stragglers. Where that is less
than a step, as with a delay of one, and in the last round of every run, there is no overlap to wait in: then they get a
fixed time, and a step may wait for them. So they do until a round of the place was measured: for all that is known then
it may take the whole delay.
"""

import statistics
from collections import deque

from swarmtrain.core.config import RunConfig
from swarmtrain.outer.director import Place
from swarmtrain.outer.rounds import Rhythm

RESULT_SECONDS = 10.0
"""For how long an island waits for a result where no grace is configured; half of it are for stragglers where there is
no slack, and for newcomers to have the result."""

STEPS_KEPT, ROUNDS_KEPT = 8, 4
FEWEST_STEPS = 3
"""Of fewer the median may be one that waited."""


def rhythm_of(config: RunConfig) -> Rhythm:
    """When rounds send and merge in this run."""
    outer = config.outer
    return Rhythm(
        config.run.steps,
        config.model.stages,
        outer.inner_steps,
        outer.fragments,
        outer.delay_steps,
        outer.staggered,
    )


class Slack:
    """What one peer measures of its steps and rounds; times are seconds of one clock."""

    def __init__(self, config: RunConfig) -> None:
        self._is_configured = config.outer.grace_seconds > 0.0
        self._rhythm, self._heartbeat_seconds = rhythm_of(config), config.links.heartbeat_seconds
        self._steps: deque[float] = deque(maxlen=STEPS_KEPT)
        self._stepped_at: float | None = None
        self._took: dict[Place, deque[float]] = {}
        self._last: dict[Place, int] = {}
        self._told: dict[Place, str] = {}

    def stepped(self, now_seconds: float) -> None:
        """An inner step was applied."""
        if self._stepped_at is not None:
            self._steps.append(now_seconds - self._stepped_at)
        self._stepped_at = now_seconds

    def came(self, place: Place, number: int, took_seconds: float) -> None:
        """What round `number` was decided to come to is here, so long after a chair first asked; later tellings of it
        change nothing."""
        if self._last.get(place, -1) < number:
            self._last[place] = number
            self._took.setdefault(place, deque(maxlen=ROUNDS_KEPT)).append(took_seconds)

    def seconds(self, place: Place, number: int) -> float:
        """The slack of round `number` from now on; below 0 where there is none, or a grace is configured."""
        if not self._is_known(place):
            return -1.0
        delay_steps = self._rhythm.merge_step(*place, number) - self._rhythm.send_step(
            *place, number
        )
        step_seconds = statistics.median(self._steps)
        rest_seconds = max(self._took[place]) + self._heartbeat_seconds
        slack_seconds = delay_steps * step_seconds - rest_seconds
        return slack_seconds if slack_seconds >= step_seconds else -1.0

    def news(self, place: Place, slack_seconds: float) -> str:
        """How long stragglers get, where the slack has become another by more than its first digit; "" where not."""
        said = f"{slack_seconds:.1g} s" if slack_seconds >= 0.0 else ""
        if not self._is_known(place) or self._told.get(place) == said:
            return ""
        self._told[place] = said
        where = f"stage {place[0]}, fragment {place[1]}"
        if not said:
            return (
                f"{where}: {RESULT_SECONDS / 2:g} s, as the delay leaves less than a step of time"
            )
        return f"{where}: {said}, which the delay leaves beside the rest of the round"

    def _is_known(self, place: Place) -> bool:
        """Whether the slack is measured here, and asked for. A round that took nobody knows how long leaves none."""
        is_measured = len(self._steps) >= FEWEST_STEPS and place in self._took
        return is_measured and not self._is_configured
