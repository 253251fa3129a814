"""All runs of an experiment in folders of their own, in parallel processes; what fails is told and the rest go on.

DIR/experiment.json says what was planned; DIR/runs/NAME holds the run called NAME. A run whose folder holds the same
finished run already, of the same program on the same corpus (work.py), is not repeated.
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from swarmtrain.core.errors import ConfigError, Stopped, SwarmError
from swarmtrain.experiments.experiment import Experiment, PlannedRun
from swarmtrain.experiments.pool import ending_pool, hidden_from_interrupts
from swarmtrain.experiments.run_folders import journal_damage
from swarmtrain.experiments.trials import (
    FAILURE,
    RECORD,
    SUMMARY,
    Clock,
    carry_out,
    work_of,
)
from swarmtrain.experiments.work import Sources, Work, program_sha256

PLAN = "experiment.json"


Works = Mapping[str, Work]
"""What each run's result follows from, by the run's name."""


@dataclass(frozen=True, slots=True)
class Due:
    """A run to do; `why` it is done again, empty for the first time."""

    run: PlannedRun
    work: Work
    why: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """A run begins."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Ended:
    """One run that ended: `summary` of a good one, `failure` says why not."""

    name: str
    summary: dict[str, Any] | None
    failure: str = ""


def works_of(runs: Sequence[PlannedRun]) -> Works:
    """Every run is checked. Raises SwarmError naming the run."""
    sources, works = Sources(), dict[str, Work]()
    for run in runs:
        try:
            works[run.name] = work_of(run, sources)
        except SwarmError as error:
            raise type(error)(f"run {run.name}: {error.what}", error.why, error.remedy) from error
    return works


def write_plan(
    experiment: Experiment, works: Works, chosen: Collection[str], out: Path, resume: bool
) -> None:
    """Write DIR/experiment.json; the runs named `chosen` are about to be done, or are finished.

    Raises ConfigError for a folder that holds an experiment, unless this one goes on with it in the same form.
    """
    before, form = _read(out / PLAN), "quick" if experiment.is_quick else "whole"
    if (out / PLAN).exists():
        _check_goes_on(before, form, out, resume)
    known = before.get("work")
    plan = {
        "form": form,
        "title": experiment.title,
        "question": experiment.question,
        "claim": experiment.claim,
        "report": experiment.report.model_dump(),
        "axes": list(experiment.axes),
        "runs": [{"name": run.name, "labels": run.labels} for run in experiment.runs],
        "work": {
            name: work.sha256
            if name in chosen or not isinstance(known, dict)
            else _kept(work, known.get(name), out / "runs" / name)
            for name, work in works.items()
        },
    }
    try:
        (out / PLAN).write_text(json.dumps(plan, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written", str(error), "choose another --out") from error


def _check_goes_on(before: Mapping[str, Any], form: str, out: Path, resume: bool) -> None:
    """Whether this form of an experiment may go on in `out`, whose plan `before` is. Raises ConfigError."""
    if not resume:
        raise ConfigError(
            f"{out} already holds an experiment",
            "its runs would be mixed with the new ones",
            "choose another --out, or go on with it by --resume",
        )
    there = before.get("form", form)  # older plans do not say
    if there != form:
        raise ConfigError(
            f"{out} holds the {there} form of an experiment, and this would be the {form} one",
            "results of the one would be replaced by those of the other, or stand beside them",
            f"choose another --out, or {'leave --quick out' if form == 'quick' else 'add --quick'}",
        )


def _kept(work: Work, known: object, folder: Path) -> str:
    """Of a run that is left as it is: what was done of it counts while nothing but the program is another."""
    record = _read(folder / RECORD)
    done = str(record.get("work_sha256"))
    return done if done == known and work.changes(record) == ["program changed"] else work.sha256


def split(
    runs: Sequence[PlannedRun], works: Works, out: Path
) -> tuple[list[PlannedRun], list[Due]]:
    """Those that are finished in `out` already, and those to do."""
    finished: list[PlannedRun] = []
    left: list[Due] = []
    for run in runs:
        why = _why_again(works[run.name], out / "runs" / run.name)
        if why is None:
            finished.append(run)
        else:
            left.append(Due(run, works[run.name], why))
    return finished, left


def _why_again(work: Work, folder: Path) -> str | None:
    """Empty where `folder` holds nothing yet, None where it holds the finished run."""
    if not folder.exists():
        return ""
    record = _read(folder / RECORD)
    if record and _read(folder / SUMMARY):
        damage = journal_damage(folder, record)
        return ", ".join([*work.changes(record), *([damage] if damage else [])]) or None
    return "it failed before" if (folder / FAILURE).exists() else "it was not finished"


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def execute(
    left: Sequence[Due], out: Path, jobs: int, clock: Clock
) -> Generator[Started | Ended, None, None]:
    """Do what is `left`, `jobs` at a time, and tell when each starts and ends; one at a time is done in this process.

    `clock` gives processor seconds and must be a function of a module, since other processes are handed it.
    """
    if jobs == 1:
        for due in left:
            yield Started(due.run.name, due.why)
            yield _one(due, out / "runs" / due.run.name, clock)
        return
    waiting = list(reversed(left))
    while waiting:
        yield from _in_a_pool(waiting, out, jobs, clock)


def _in_a_pool(waiting: list[Due], out: Path, jobs: int, clock: Clock) -> Iterator[Started | Ended]:
    """Takes runs from the end of `waiting` until it is empty or a process died: what was under way then has failed."""
    # A process a run: so its memory is its own, and nothing is left of the run before.
    with ending_pool(jobs, _quiet, tasks=1) as pool:
        under_way: dict[Future[Ended], PlannedRun] = {}
        is_broken = False
        while under_way or (waiting and not is_broken):
            while waiting and len(under_way) < jobs and not is_broken:
                due = waiting.pop()
                with hidden_from_interrupts():
                    future = pool.submit(_one_apart, due, out / "runs" / due.run.name, clock)
                under_way[future] = due.run
                yield Started(due.run.name, due.why)
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                run = under_way.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    is_broken = True
                    yield _failed(run, out / "runs" / run.name, DIED)


DIED = "its process, or one beside it, was ended from outside (memory?); try again with --resume --jobs 1"


def _one_apart(due: Due, folder: Path, clock: Clock) -> Ended:
    """In a process that has just read the program anew."""
    if program_sha256() != due.work.program_sha256:
        error = Stopped(
            "the program changed while the experiment ran",
            "this run would be another program's than those before it",
            "repeat with --resume",
        )
        return _failed(due.run, folder, str(error))
    return _one(due, folder, clock)


def _one(due: Due, folder: Path, clock: Clock) -> Ended:
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return Ended(due.run.name, carry_out(due.run, due.work, folder, clock))
    except SwarmError as error:
        return _failed(due.run, folder, str(error))
    except (
        Exception
    ) as error:  # a bug in one run must not cost the others; it is told, with its place
        logging.getLogger(__name__).exception("run %s failed", due.run.name)
        return _failed(due.run, folder, repr(error))


def _failed(run: PlannedRun, folder: Path, why: str) -> Ended:
    # Where nothing can be written, that it failed is told all the same.
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILURE).write_text(json.dumps({"name": run.name, "why": why}, indent=2) + "\n")
    return Ended(run.name, None, why)


def _quiet() -> None:
    """In a process of the pool: what is logged as the program's own failure is part of a run's outcome."""
    torch.set_num_threads(1)
    logging.getLogger("swarmtrain").propagate = False
