"""EXPERIMENT.toml: a question, a matrix of runs that answers it, and what the report shows.

title = "Islands over slow links"
question = "What do outer rounds cost in loss, and what do they save in time and bytes?"
claim = "What the paper says, with its number"     # left out: nothing is claimed
scenario = "../scenarios/calm.toml"   # the base, relative to this file; the tables of a SCENARIO.toml may
run = "../runs/equality.toml"         # follow here, instead of it or on top of it (its `set` is added to)
set = ["run.steps=40"]

[world]                               # ..., [charge], [[machine]], [faults], [[fault]]: see scenario.py
peers = 4

[matrix]                              # every combination is a run; see matrix.py for what may vary
seed = [1, 2, 3]                      # of the run; results are averaged over it
"world.latency_seconds" = [0.01, 0.1] # a list: values of this setting
[matrix.policy]                       # a table: named choices, each of any settings
synchronous = { "outer.inner_steps" = 0 }
diloco = { "outer.inner_steps" = 10, "outer.codec" = "int4" }

[report]                              # every key may be left out
target_loss = 3.0                     # of the score T = steps to this loss x steady step time
warm_steps = 2                        # first steps that the steady step time leaves out
window_steps = 5                      # a loss is the mean over so many steps: single ones stray
figures = ["replayed_keys"]           # more numbers of summary.json for the table

[quick]                               # what --quick changes
settings = { "run.steps" = 4 }
matrix = { seed = [1], policy = ["diloco"] }

Instead of a run an experiment may be about rebalancing on synthetic spot markets (market_trial.py): [market] and
[setup] in place of `run` and [world], and settings `market.*`, `setup.*`, `rule.name`, `rule.period_seconds`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from swarmtrain.core.errors import ConfigError
from swarmtrain.experiments import market_trial
from swarmtrain.experiments.matrix import (
    LISTS,
    SEED,
    TABLES,
    Axis,
    applied,
    axis_of,
    is_made_of,
    narrowed,
    product,
    run_name,
)
from swarmtrain.experiments.profiles import wrong_value
from swarmtrain.experiments.scenario import read_tables

MOST_RUNS = 10_000
World = Literal["virtual", "processes"]
WORLD_AXIS = "world"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ReportSection(_Table):
    """What the report shows beside what every report has."""

    target_loss: float | None = Field(None, gt=0)
    warm_steps: int = Field(2, ge=0)
    window_steps: int = Field(5, ge=1, le=10_000)
    figures: tuple[str, ...] = ()


class _Quick(_Table):
    settings: dict[str, Any] = Field(default_factory=dict)
    matrix: dict[str, list[Any]] = Field(default_factory=dict)


class _ExperimentFile(_Table):
    title: str = Field(min_length=1)
    question: str = Field(min_length=1)
    claim: str = ""
    scenario: str | None = None
    run: str | None = None
    set: tuple[str, ...] = ()
    world: dict[str, Any] | None = None
    charge: dict[str, Any] | None = None
    faults: dict[str, Any] | None = None
    machine: list[dict[str, Any]] | None = None
    fault: list[dict[str, Any]] | None = None
    market: dict[str, Any] | None = None
    setup: dict[str, Any] | None = None
    matrix: dict[str, Any] = Field(default_factory=dict)
    report: ReportSection = Field(default_factory=ReportSection)
    quick: _Quick = Field(default_factory=_Quick)

    @model_validator(mode="after")
    def _is_one_kind(self) -> "_ExperimentFile":
        is_run = self.run is not None or self.scenario is not None
        if is_run == (self.market is not None):
            raise ValueError("it needs either a run (`run` or `scenario`) or a [market]")
        unknown = [name for name in self.quick.matrix if name not in self.matrix]
        if unknown:
            raise ValueError(f"quick.matrix names {unknown[0]!r}, which is no axis of [matrix]")
        return self


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of the matrix: its folder's name, the label of each axis, and the merged tables of its scenario.

    Plain values, so that another process can be handed one. `home` is the file near which profiles are looked for: the
    base scenario, or the experiment itself.
    """

    name: str
    labels: dict[str, str]
    tables: dict[str, Any]
    home: Path
    world: World = "virtual"

    @property
    def is_market(self) -> bool:
        return "market" in self.tables


@dataclass(frozen=True, slots=True)
class Experiment:
    """An EXPERIMENT.toml as read, its matrix expanded; `is_quick`: in a quick form that is not the whole one."""

    title: str
    question: str
    claim: str
    report: ReportSection
    axes: tuple[str, ...]
    runs: tuple[PlannedRun, ...]
    is_quick: bool = False

    def only(self, name: str) -> tuple[PlannedRun, ...]:
        """The runs that `name` chooses: whole parts of a run's name (`policy=planned,seed=1`), or, where no run is
        made of these, any piece of it. Raises ConfigError when there is none."""
        whole = tuple(run for run in self.runs if is_made_of(name, run.labels))
        chosen = whole or tuple(run for run in self.runs if name in run.name)
        if not chosen:
            names = "\n       ".join(run.name for run in self.runs)
            raise ConfigError(
                f"--only {name!r} chooses no run",
                f"the runs are\n       {names}",
                "name some of these",
            )
        return chosen


def in_worlds(experiment: Experiment, worlds: Sequence[World]) -> Experiment:
    """The runs of `experiment` in these worlds. With several, the world is one more axis of its matrix."""
    if len(worlds) == 1:
        runs = tuple(replace(run, world=worlds[0]) for run in experiment.runs)
        return replace(experiment, runs=runs)
    runs = tuple(
        replace(
            run,
            world=world,
            name=f"{run.name},{WORLD_AXIS}={world}",
            labels={**run.labels, WORLD_AXIS: world},
        )
        for world in worlds
        for run in experiment.runs
    )
    return replace(experiment, runs=runs, axes=(*experiment.axes, WORLD_AXIS))


def read_experiment(path: Path, quick: bool = False) -> Experiment:
    """The experiment at `path`, `quick` or whole. Raises ConfigError naming key, value and remedy."""
    tables = read_tables(path)
    try:
        file = _ExperimentFile.model_validate(tables)
    except ValidationError as error:
        raise wrong_value(path, error, f"see {__name__} for every key") from None
    axes = [axis_of(name, values) for name, values in file.matrix.items()]
    if quick:
        wanted = file.quick.matrix
        axes = [narrowed(axis, wanted[axis.name]) if axis.name in wanted else axis for axis in axes]
    base = _base_of(file, path)
    # Quick settings come last: an axis must not undo them.
    last = file.quick.settings if quick else {}
    home = path if file.scenario is None else path.parent / file.scenario
    runs = _expanded(base, axes, last, home)
    said = (file.title, file.question, file.claim, file.report)
    is_quick = quick and file.quick != _Quick()
    return Experiment(*said, tuple(axis.name for axis in axes), runs, is_quick)


def _base_of(file: _ExperimentFile, path: Path) -> dict[str, Any]:
    """The tables of the scenario before the matrix changes them."""
    if file.market is not None:
        return {"market": file.market, "setup": file.setup or {}, "rule": {}, SEED: 0}
    base: dict[str, Any] = {}
    if file.scenario is not None:
        below = path.parent / file.scenario
        base = read_tables(below)
        base["run"] = str((below.parent / str(base.get("run", ""))).resolve())
    if file.run is not None:
        base["run"] = str((path.parent / file.run).resolve())
    base["set"] = [*base.get("set", ()), *file.set]
    for name in TABLES:
        if (own := getattr(file, name)) is not None:
            base[name] = {**base.get(name, {}), **own}
    for name in LISTS:
        if (own := getattr(file, name)) is not None:
            base[name] = own
    return base


def _expanded(
    base: dict[str, Any], axes: Sequence[Axis], last: dict[str, Any], home: Path
) -> tuple[PlannedRun, ...]:
    """Raises ConfigError for a setting that is none, and for runs that could not be told apart."""
    change = market_trial.applied if "market" in base else applied
    combinations = product(axes)
    if len(combinations) > MOST_RUNS:
        raise ConfigError(
            f"the matrix has {len(combinations)} runs",
            f"at most {MOST_RUNS} are allowed",
            "vary less",
        )
    runs = []
    for combination in combinations:
        tables = base
        for choice in combination:
            tables = change(tables, choice.settings)
        labels = {axis.name: choice.label for axis, choice in zip(axes, combination, strict=True)}
        name = run_name(axes, combination)
        runs.append(PlannedRun(name, labels, change(tables, last), home))
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ConfigError(
            "two runs of the matrix have the same name",
            "labels that differ only in special characters give one folder",
            "give the choices of an axis names of letters and digits",
        )
    return tuple(runs)
