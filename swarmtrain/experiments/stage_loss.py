"""Losing whole stages of a trained model, in modelled time over the plain loop: CheckFree's comparison, made again.

The losses are real (real tensors, real recoveries), the seconds are a model: an iteration and the transfers of a
recovery cost what `Costs` says. Every policy meets the same seeded failures, drawn per stage and executed iteration,
before the iteration's first microbatch (as in arXiv 2506.15461; reliability_security.md, section 1.2).
"""

import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.core.neighbours import neighbour_stages
from swarmtrain.experiments.reference import Reference
from swarmtrain.recovery.neighbours import gradient_weight, neighbour_state

HOUR_SECONDS = 3600.0
ITERATION_SECONDS = 91.0
"""One iteration of checkpointing and of both CheckFree variants in the paper's 500M runs."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Modelled seconds of the paper's 500M model: iterations from its table 3, states of 83M parameters a stage.

    A stage's state is its fp32 parameters and both moments. It reaches the new replica over one link of
    `bytes_per_second`; when all stages roll back, each loads its own at the same time. Finding the failure, and
    writing snapshots and checkpoints behind the training, cost nothing here: alike for all policies.
    """

    iteration_seconds: float = ITERATION_SECONDS
    redundant_iteration_seconds: float = 151.0
    stage_bytes: float = 1e9
    bytes_per_second: float = 12.5e6

    @property
    def state_seconds(self) -> float:
        """One stage's whole state."""
        return self.stage_bytes / self.bytes_per_second

    def neighbours_seconds(self, neighbours: int) -> float:
        """The parameters, without moments, of `neighbours` stages to one receiver."""
        return neighbours * self.stage_bytes / 3 / self.bytes_per_second


@dataclass(frozen=True, slots=True)
class Failures:
    """Which stages are lost before which executed iteration; nothing is before the first. The edge never fails."""

    seed: int
    stages: int
    hourly_rate: float
    iteration_seconds: float = ITERATION_SECONDS

    @property
    def chance(self) -> float:
        """Of one stage in one iteration: the same as `hourly_rate` over an hour of iterations."""
        return float(1.0 - (1.0 - self.hourly_rate) ** (self.iteration_seconds / HOUR_SECONDS))

    def lost(self, iteration: int) -> tuple[int, ...]:
        """The same draws at every rate: what is lost at a low rate is lost at a higher one too."""
        draws = random.Random(f"stage loss {self.seed} {iteration}")
        stages = range(1, self.stages + 1) if iteration else ()
        return tuple(stage for stage in stages if draws.random() < self.chance)


@dataclass(frozen=True, slots=True)
class Policy:
    """How a lost stage comes back. `repair` is tried first, `rollback_steps` is the age to which all go back.

    rollback: the whole model returns to the last multiple of `rollback_steps`. stale: the lost stage alone, from its
    last snapshot, taken every `snapshot_steps`. neighbours: CheckFree, or CheckFree+ when the model was trained
    with `train.swap_ends`; where that is refused, a rollback.
    """

    repair: Literal["rollback", "stale", "neighbours"]
    rollback_steps: int = 100
    snapshot_steps: int = 10


@dataclass(frozen=True, slots=True)
class Point:
    """Held-out loss in nats a token after `steps` more steps, `seconds` into the run."""

    seconds: float
    steps: int
    loss: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """One loss of stages; `how` is stale, neighbours or why all went back. Losses are held-out ones."""

    iteration: int
    stages: tuple[int, ...]
    how: str
    redone_steps: int
    loss_before: float
    loss_after: float


@dataclass(slots=True)
class Outcome:
    """What a run under failures was."""

    points: list[Point] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    iterations: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Horizon:
    """How long a trial runs, in modelled time, and how often it is judged."""

    seconds: float
    judge_steps: int = 10


class Trial:
    """One run of `loop` from where it stands, under `failures`. `judge` gives the held-out loss of the loop's model."""

    def __init__(
        self,
        loop: Reference,
        policy: Policy,
        failures: Failures,
        costs: Costs,
        judge: Callable[[], float],
    ) -> None:
        self.loop, self._policy, self._failures, self._costs = loop, policy, failures, costs
        self._judge = judge
        self._begin_step = loop.step
        self._all: tuple[int, list[StageState]] = (loop.step, [])
        self._snapshot: list[StageState] = []
        self._outcome = Outcome()

    def run(self, horizon: Horizon) -> Outcome:
        """Train and recover for `horizon.seconds`."""
        outcome = self._outcome
        outcome.points.append(Point(0.0, 0, self._judge()))
        while outcome.seconds < horizon.seconds:
            self._keep()
            lost = self._failures.lost(outcome.iterations)
            if lost:
                self._recover(lost)
            self.loop.advance()
            outcome.iterations += 1
            outcome.seconds += self._costs.iteration_seconds
            if self._steps % horizon.judge_steps == 0:
                outcome.points.append(Point(outcome.seconds, self._steps, self._judge()))
        return outcome

    @property
    def _steps(self) -> int:
        return self.loop.step - self._begin_step

    def _keep(self) -> None:
        """Copies in memory at the steps where the policy takes them."""
        if self._steps % self._policy.rollback_steps == 0:
            self._all = (self.loop.step, self._states())
        if self._policy.repair == "stale" and self._steps % self._policy.snapshot_steps == 0:
            self._snapshot = self._states()

    def _states(self) -> list[StageState]:
        return [self.loop.state(stage) for stage in range(len(self.loop.stages))]

    def _recover(self, lost: tuple[int, ...]) -> None:
        before, step = self._judge(), self.loop.step
        how = self._repair(lost)
        self._outcome.recoveries.append(
            Recovery(
                iteration=self._outcome.iterations,
                stages=lost,
                how=how,
                redone_steps=step - self.loop.step,
                loss_before=before,
                loss_after=self._judge(),
            )
        )

    def _repair(self, lost: tuple[int, ...]) -> str:
        """Bring the lost stages back, charging the time; says how."""
        if self._policy.repair == "stale":
            for stage in lost:
                self.loop.replace(self._snapshot[stage])
            self._outcome.seconds += self._costs.state_seconds
            return "stale"
        refused = "rollback"
        if self._policy.repair == "neighbours":
            refused = self._average(lost)
            if not refused:
                return "neighbours"
        step, states = self._all
        self.loop.load(states, step)
        self._outcome.seconds += self._costs.state_seconds
        return refused

    def _average(self, lost: tuple[int, ...]) -> str:
        """Make every lost stage from its neighbours, or say why not."""
        config = self.loop.config
        made: list[StageState] = []
        most = 0
        for stage in lost:
            near = neighbour_stages(stage, lost, config.model.stages, config.train.swap_ends)
            if isinstance(near, str):
                return near
            states = [(self.loop.state(n), gradient_weight(self.loop.sums[n])) for n in near]
            made.append(neighbour_state(stage, states))
            most = max(most, len(near))
        for state in made:
            self.loop.replace(state)
        self._outcome.seconds += self._costs.neighbours_seconds(most)
        return ""


@dataclass(frozen=True, slots=True)
class Progress:
    """A rollback run as arithmetic: `first_seconds[s]` is when `s` steps were done for the first time."""

    first_seconds: list[float]
    failures: int
    iterations: int
    redone_steps: int


def roll_back(
    failures: Failures, rollback_steps: int, costs: Costs, steps: int, most_iterations: int
) -> Progress:
    """What a policy that only rolls back needs for `steps` steps; the run gives up after `most_iterations`.

    The parameters after s steps are those of the fault-free run to the bit (I2), so its curve serves: only time passes.
    """
    first_seconds = [0.0]
    step = iteration = hits = redone = 0
    seconds = 0.0
    while len(first_seconds) <= steps and iteration < most_iterations:
        if failures.lost(iteration):
            hits += 1
            redone += step % rollback_steps
            step -= step % rollback_steps
            seconds += costs.state_seconds
        step, iteration = step + 1, iteration + 1
        seconds += costs.iteration_seconds
        if step == len(first_seconds):
            first_seconds.append(seconds)
    return Progress(first_seconds, hits, iteration, redone)


def retimed(points: Sequence[Point], first_seconds: Sequence[float]) -> list[Point]:
    """The points that were reached, each at the time its step was first reached."""
    return [
        Point(first_seconds[point.steps], point.steps, point.loss)
        for point in points
        if point.steps < len(first_seconds)
    ]


def smoothed(points: Sequence[Point], window: int = 5) -> list[Point]:
    """Each loss as the mean of the last `window` ones: single evaluations stray by more than a run gains in one."""
    losses = [point.loss for point in points]
    return [
        Point(point.seconds, point.steps, sum(recent) / len(recent))
        for end, point in enumerate(points, start=1)
        if (recent := losses[max(0, end - window) : end])
    ]


def seconds_to_loss(points: Sequence[Point], target: float) -> float | None:
    """When the loss first came down to `target`, between points by straight lines; None if it never did."""
    for before, after in pairwise(points):
        if after.loss <= target:
            gained, needed = before.loss - after.loss, before.loss - target
            share = needed / gained if gained > 0.0 else 0.0
            return before.seconds + max(0.0, share) * (after.seconds - before.seconds)
    return None


def loss_at(points: Sequence[Point], seconds: float) -> float:
    """The last loss that was known at `seconds`."""
    place = bisect_left([point.seconds for point in points], seconds + 1e-6)
    return points[max(0, place - 1)].loss
