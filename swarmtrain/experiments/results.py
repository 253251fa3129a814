"""A finished experiment as read from its folder: runs in groups that differ in their seeds only, and their figures."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarmtrain.core.errors import ConfigError
from swarmtrain.experiments.curves import (
    Axis,
    Point,
    loss_at,
    read_points,
    steady_step_seconds,
    step_seconds,
    steps_to,
)
from swarmtrain.experiments.execute import PLAN
from swarmtrain.experiments.experiment import ReportSection
from swarmtrain.experiments.gantt import Bar, read_bars
from swarmtrain.experiments.matrix import SEED
from swarmtrain.experiments.trials import RECORD, SUMMARY

AXES: tuple[Axis, ...] = ("tokens", "seconds", "bytes")


@dataclass(frozen=True, slots=True)
class Result:
    """One finished run."""

    name: str
    labels: dict[str, str]
    points: list[Point]
    bars: list[Bar]
    summary: dict[str, Any]
    """Of summary.json, with what record.json has beside it."""


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ in their seeds only; `planned` is how many there should be."""

    name: str
    labels: dict[str, str]
    planned: int
    results: tuple[Result, ...]


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
    def has_curves(self) -> bool:
        return any(result.points for result in self.results)

    def values(self, group: Group, figure: str) -> list[float]:
        """Figure `figure` of every run of the group that has it."""
        found = (self._figure(result, figure) for result in group.results)
        return [float(value) for value in found if value is not None]

    def _figure(self, result: Result, figure: str) -> float | None:
        if figure in FIGURES:
            return FIGURES[figure](self, result)
        value = result.summary.get(figure)
        return float(value) if isinstance(value, (int, float)) else None


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
    """The experiment in `folder`. Raises ConfigError when there is none, or nothing of it is finished."""
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        report = ReportSection.model_validate(plan["report"])
        groups = _groups(folder, plan["axes"], plan["runs"])
        said = (plan["title"], plan["question"], plan["claim"], report, tuple(plan["axes"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder} holds no experiment",
            f"{PLAN} cannot be read: {error}",
            "pass the --out of a `swarmtrain experiment run`",
        ) from error
    if not any(group.results for group in groups):
        raise ConfigError(
            f"no run of {folder} is finished",
            "there is nothing to report on",
            "run the experiment again with --resume",
        )
    return Study(*said, groups, _ends([r for group in groups for r in group.results]))


def _groups(folder: Path, axes: Sequence[str], runs: Sequence[dict[str, Any]]) -> tuple[Group, ...]:
    kept = [axis for axis in axes if axis != SEED]
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in runs:
        found.setdefault(tuple(run["labels"][axis] for axis in kept), []).append(run)
    groups = []
    for labels, members in found.items():
        results = [read for run in members if (read := _result(folder, run)) is not None]
        name = ", ".join(f"{a.rpartition('.')[2]}={v}" for a, v in zip(kept, labels, strict=True))
        by_axis = dict(zip(kept, labels, strict=True))
        groups.append(Group(name or "all", by_axis, len(members), tuple(results)))
    return tuple(groups)


def _result(folder: Path, run: dict[str, Any]) -> Result | None:
    home = folder / "runs" / run["name"]
    if not (home / SUMMARY).exists():
        return None
    summary = {
        **json.loads((home / RECORD).read_text(encoding="utf-8")),
        **json.loads((home / SUMMARY).read_text(encoding="utf-8")),
    }
    journal = home / "journal.jsonl"
    return Result(run["name"], run["labels"], read_points(journal), read_bars(journal), summary)


def _ends(results: Sequence[Result]) -> dict[Axis, float]:
    """Where all curves still are: the least of their last points; an axis on which nothing moved has none."""
    lasts = [result.points[-1] for result in results if result.points]
    ends = {axis: float(min(getattr(p, axis) for p in lasts)) for axis in AXES} if lasts else {}
    return {axis: end for axis, end in ends.items() if end > 0}
