"""A finished experiment as read from its folder: runs in groups that differ in their seeds only, and their figures."""

import json
import logging
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from swarmtrain.core.errors import ConfigError
from swarmtrain.experiments.curves import (
    Axis,
    loss_at,
    steady_step_seconds,
    step_seconds,
    steps_to,
)
from swarmtrain.experiments.execute import PLAN
from swarmtrain.experiments.experiment import ReportSection
from swarmtrain.experiments.matrix import SEED
from swarmtrain.experiments.noise import Estimate, Sample, estimate
from swarmtrain.experiments.run_folders import Fate, LeftOut, Result, read_run

AXES: tuple[Axis, ...] = ("tokens", "seconds", "bytes")
TOLD: tuple[Fate, ...] = ("halted", "failed")
"""What is said of runs beside how many there are; every other one is just not there yet."""


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ in their seeds only: those that are whole, and those that are left out of every mean."""

    name: str
    labels: dict[str, str]
    results: tuple[Result, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def planned(self) -> int:
        return len(self.results) + len(self.left_out)

    def count(self, fate: Fate) -> int:
        return sum(run.fate == fate for run in self.left_out)

    @property
    def runs(self) -> str:
        """In words: `1 of 2, 1 halted`."""
        others = [f"{count} {fate}" for fate in TOLD if (count := self.count(fate))]
        return ", ".join([f"{len(self.results)} of {self.planned}", *others])


@dataclass(frozen=True, slots=True)
class Study:
    """An experiment's folder. `ends` are the tokens, seconds and bytes that every run with a curve reached."""

    title: str
    question: str
    claim: str
    report: ReportSection
    axes: tuple[str, ...]
    groups: tuple[Group, ...]
    ends: dict[Axis, float] = field(default_factory=dict)

    @property
    def results(self) -> list[Result]:
        return [result for group in self.groups for result in group.results]

    @property
    def left_out(self) -> list[LeftOut]:
        return [run for group in self.groups for run in group.left_out]

    @property
    def has_curves(self) -> bool:
        return any(result.points for result in self.results)

    def sample(self, group: Group, figure: str) -> Sample:
        """Figure `figure` of every run of the group that has it."""
        found = {r.labels.get(SEED, ""): self._figure(r, figure) for r in group.results}
        by_seed = {seed: value for seed, value in found.items() if value is not None}
        return Sample(by_seed, self._grain(group, figure, by_seed))

    def estimate(self, group: Group, figure: str) -> Estimate | None:
        """Over the runs of the group; None where not all have it: who reached a target cannot stand for who did not.

        Raises SwarmError when scipy is missing.
        """
        values = list(self.sample(group, figure).by_seed.values())
        return estimate(values) if values and len(values) == len(group.results) else None

    def reached(self, group: Group, figure: str) -> str:
        """How many of the group's runs have the figure, in words."""
        return f"{len(self.sample(group, figure).by_seed)} of {len(group.results)}"

    def _figure(self, result: Result, figure: str) -> float | None:
        if figure in FIGURES:
            return FIGURES[figure](self, result)
        value = result.summary.get(figure)
        return value if isinstance(value, (int, float)) else None

    def _grain(self, group: Group, figure: str, by_seed: Mapping[str, float]) -> float:
        """What the figure counts in: 1 for whole numbers; T is whole steps times what a step takes."""
        if figure == "T":
            seconds = self.sample(group, "steady_step_seconds").by_seed.values()
            return statistics.fmean(seconds) if seconds else 0.0
        return 1.0 if by_seed and all(isinstance(v, int) for v in by_seed.values()) else 0.0


def _loss(axis: Axis) -> Callable[[Study, Result], float | None]:
    def figure(study: Study, result: Result) -> float | None:
        if axis not in study.ends:
            return None
        return loss_at(result.points, axis, study.ends[axis], study.report.window_steps)

    return figure


def _steady(study: Study, result: Result) -> float | None:
    return steady_step_seconds(result.points, study.report.warm_steps)


def _longest(study: Study, result: Result) -> float | None:
    return max(step_seconds(result.points)[study.report.warm_steps :], default=None)


def _steps_to_target(study: Study, result: Result) -> float | None:
    target = study.report.target_loss
    return None if target is None else steps_to(result.points, target, study.report.window_steps)


def _score(study: Study, result: Result) -> float | None:
    steps, seconds = _steps_to_target(study, result), _steady(study, result)
    return None if steps is None or seconds is None else steps * seconds


def _throughput(study: Study, result: Result) -> float | None:
    last = result.points[-1] if result.points else None
    return last.tokens / last.seconds if last is not None and last.seconds else None


FIGURES: dict[str, Callable[[Study, Result], float | None]] = {
    "T": _score,
    "steps_to_target": _steps_to_target,
    "steady_step_seconds": _steady,
    "longest_step_seconds": _longest,
    "tokens_per_second": _throughput,
    "loss_at_equal_tokens": _loss("tokens"),
    "loss_at_equal_seconds": _loss("seconds"),
    "loss_at_equal_bytes": _loss("bytes"),
}
"""What is read off curves; every other figure is a key of summary.json or record.json."""


def read_study(folder: Path) -> Study:
    """The experiment in `folder`; what cannot be used of it is left out and told by a warning.

    Raises ConfigError when there is none, nothing of it is finished, or [report] asks for a figure that no run has.
    """
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        report = ReportSection.model_validate(plan["report"])
        said = (plan["title"], plan["question"], plan["claim"], report, tuple(plan["axes"]))
        members = _members(plan["axes"], plan["runs"])
        work = {run["name"]: plan.get("work", {}).get(run["name"]) for run in plan["runs"]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{folder} holds no experiment",
            f"{PLAN} cannot be read: {error}",
            "pass the --out of a `swarmtrain experiment run`",
        ) from error
    groups = tuple(_group(folder, labels, runs, work) for labels, runs in members)
    study = Study(*said, groups, _ends([r for group in groups for r in group.results]))
    _tell(folder, study)
    _check_figures(study)
    return study


Runs = Sequence[Mapping[str, Any]]


def _members(axes: Sequence[str], runs: Runs) -> list[tuple[dict[str, str], Runs]]:
    """Planned runs by their labels, but for the seed's."""
    kept = [axis for axis in axes if axis != SEED]
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        found.setdefault(tuple(run["labels"][axis] for axis in kept), []).append(run)
    return [(dict(zip(kept, labels, strict=True)), runs) for labels, runs in found.items()]


def _group(
    folder: Path, labels: dict[str, str], runs: Runs, work: Mapping[str, str | None]
) -> Group:
    read = [read_run(folder, run, work[run["name"]]) for run in runs]
    name = ", ".join(f"{axis.rpartition('.')[2]}={label}" for axis, label in labels.items())
    results = tuple(run for run in read if isinstance(run, Result))
    return Group(
        name or "all", labels, results, tuple(run for run in read if isinstance(run, LeftOut))
    )


def _tell(folder: Path, study: Study) -> None:
    """Warn of folders that hold something else than they should. Raises ConfigError when no run is whole."""
    for run in study.left_out:
        if run.fate in ("damaged", "another"):
            logger = logging.getLogger(__name__)
            logger.warning("%s/runs/%s is left out: %s", folder, run.name, run.why)
    if not study.results:
        fates = Counter(run.fate for run in study.left_out)
        raise ConfigError(
            f"no run of {folder} is finished",
            "there is nothing to report on: "
            + ", ".join(f"{count} {fate}" for fate, count in sorted(fates.items())),
            "run the experiment again with --resume",
        )


def _check_figures(study: Study) -> None:
    """Raises ConfigError for a name in `[report] figures` that is no number of any run."""
    numbers = {
        key
        for result in study.results
        for key, value in result.summary.items()
        if value is None or isinstance(value, (int, float))
    }
    known = sorted(numbers | set(FIGURES))
    for figure in study.report.figures:
        if figure not in known:
            near = get_close_matches(figure, known, n=1)
            raise ConfigError(
                f"[report] figures names {figure!r}",
                f"no run has it; known are {', '.join(known)}",
                (f"did you mean {near[0]}? " if near else "")
                + "correct it and repeat the run with --resume: nothing is computed again",
            )


def _ends(results: Sequence[Result]) -> dict[Axis, float]:
    """Where all curves still are: the least of their last points; an axis on which nothing moved has none."""
    lasts = [result.points[-1] for result in results if result.points]
    ends = {axis: float(min(getattr(p, axis) for p in lasts)) for axis in AXES} if lasts else {}
    return {axis: end for axis, end in ends.items() if end > 0}
