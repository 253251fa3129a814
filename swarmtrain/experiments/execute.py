"""All runs of an experiment in folders of their own, in parallel processes; what fails is told and the rest go on.

DIR/experiment.json says what was planned; DIR/runs/NAME holds the run called NAME. A run whose folder holds the same
finished run already is not repeated.
"""

import json
import logging
import shutil
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from swarmtrain.core.errors import ConfigError, SwarmError
from swarmtrain.experiments.experiment import Experiment, PlannedRun
from swarmtrain.experiments.pool import ending_pool, hidden_from_interrupts
from swarmtrain.experiments.trials import (
    FAILURE,
    RECORD,
    SUMMARY,
    Clock,
    carry_out,
    work_sha256,
)

PLAN = "experiment.json"


@dataclass(frozen=True, slots=True)
class Ended:
    """One run that ended: `summary` of a good one, `failure` says why not."""

    name: str
    summary: dict[str, Any] | None
    failure: str = ""


def write_plan(experiment: Experiment, out: Path, resume: bool) -> None:
    """Write DIR/experiment.json. Raises ConfigError for a folder that holds an experiment, unless it goes on."""
    if (out / PLAN).exists() and not resume:
        raise ConfigError(
            f"{out} already holds an experiment",
            "its runs would be mixed with the new ones",
            "choose another --out, or go on with it by --resume",
        )
    plan = {
        "title": experiment.title,
        "question": experiment.question,
        "claim": experiment.claim,
        "report": experiment.report.model_dump(),
        "axes": list(experiment.axes),
        "runs": [{"name": run.name, "labels": run.labels} for run in experiment.runs],
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / PLAN).write_text(json.dumps(plan, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written", str(error), "choose another --out") from error


def split(runs: Sequence[PlannedRun], out: Path) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """Those that are finished in `out` already, and those to do. Every run is checked. Raises ConfigError."""
    finished: list[PlannedRun] = []
    left: list[PlannedRun] = []
    for run in runs:
        try:
            (finished if _is_finished(run, out / "runs" / run.name) else left).append(run)
        except ConfigError as error:
            raise ConfigError(f"run {run.name}: {error.what}", error.why, error.remedy) from error
    return finished, left


def _is_finished(run: PlannedRun, folder: Path) -> bool:
    sha256 = work_sha256(run)
    try:
        json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("work_sha256") == sha256


def execute(
    runs: Sequence[PlannedRun], out: Path, jobs: int, clock: Clock
) -> Generator[Ended, None, None]:
    """Do `runs`, `jobs` at a time, and yield each as it ends; with one job they are done in this process, in order.

    `clock` gives processor seconds and must be a function of a module, since other processes are handed it.
    """
    if jobs == 1:
        for run in runs:
            yield _one(run, out / "runs" / run.name, clock)
        return
    waiting = list(reversed(runs))
    while waiting:
        yield from _in_a_pool(waiting, out, jobs, clock)


def _in_a_pool(waiting: list[PlannedRun], out: Path, jobs: int, clock: Clock) -> Iterator[Ended]:
    """Takes runs from the end of `waiting` until it is empty or a process died: what was under way then has failed."""
    # A process a run: so its memory is its own, and nothing is left of the run before.
    with ending_pool(jobs, _quiet, tasks=1) as pool:
        under_way: dict[Future[Ended], PlannedRun] = {}
        is_broken = False
        while under_way or (waiting and not is_broken):
            while waiting and len(under_way) < jobs and not is_broken:
                run = waiting.pop()
                with hidden_from_interrupts():
                    future = pool.submit(_one, run, out / "runs" / run.name, clock)
                under_way[future] = run
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                run = under_way.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    is_broken = True
                    yield _failed(run, out / "runs" / run.name, DIED)


DIED = "its process, or one beside it, was ended from outside (memory?); try again with --resume --jobs 1"


def _one(run: PlannedRun, folder: Path, clock: Clock) -> Ended:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        return Ended(run.name, carry_out(run, folder, clock))
    except SwarmError as error:
        return _failed(run, folder, str(error))
    except (
        Exception
    ) as error:  # a bug in one run must not cost the others; it is told, with its place
        logging.getLogger(__name__).exception("run %s failed", run.name)
        return _failed(run, folder, repr(error))


def _failed(run: PlannedRun, folder: Path, why: str) -> Ended:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILURE).write_text(json.dumps({"name": run.name, "why": why}, indent=2) + "\n")
    return Ended(run.name, None, why)


def _quiet() -> None:
    """In a process of the pool: what is logged as the program's own failure is part of a run's outcome."""
    torch.set_num_threads(1)
    logging.getLogger("swarmtrain").propagate = False
