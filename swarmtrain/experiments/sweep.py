"""One seed of a scenario judged, and ranges of seeds in parallel processes.

A seed is judged by its journal alone (`checker`), by whether it got anywhere, and in exact mode by the parameters:
they must be those of the plain loop, whatever happened on the way (I2).
"""

import contextlib
import logging
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

from swarmtrain.core.config import DataSection, RunConfig, config_from_json
from swarmtrain.data.stream import Corpus, load_corpus
from swarmtrain.experiments.checker import Violation, check, examine_folder, read_folder
from swarmtrain.experiments.curves import Point
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.own_code import trust_code
from swarmtrain.experiments.pool import ending_pool, hidden_from_interrupts
from swarmtrain.experiments.processes import ProcessRun
from swarmtrain.experiments.reference import Reference
from swarmtrain.experiments.round_progress import (
    behind,
    missing_rounds,
    of_journals,
    of_run,
    unfinished,
)
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualRun, simulate

Outcome = Literal["ok", "violation", "differs", "error", "stalled", "stopped", "halted"]
"""How a seed ended: `stopped` is a plan that should have been survived, `halted` one that need not be."""

GOOD: frozenset[Outcome] = frozenset(("ok", "halted"))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one seed; picklable, so that another process can say it."""

    seed: int
    outcome: Outcome
    reason: str
    steps: int
    faults: int
    recoveries: int
    violations: tuple[str, ...]
    parameters_sha256: str
    expected_sha256: str
    seconds: float
    plan: tuple[str, ...]


def judge(config: RunConfig, run: VirtualRun, corpus: Corpus, errors: Sequence[str]) -> Verdict:
    """The verdict on a run that ended; `errors` are what was logged as a failure of the program."""
    violations = check(run.journal.lines)
    expected = _expected(config, corpus)
    steps, sha = len(run.commits), run.commits[-1].parameters_sha256 if run.commits else ""
    outcome, reason = _outcome(config, run, violations, errors)
    if outcome == "ok" and expected and sha != expected:
        outcome, reason = "differs", "the parameters differ from those of the reference"
    return Verdict(
        seed=config.run.seed,
        outcome=outcome,
        reason=reason,
        steps=steps,
        faults=len(run.injected),
        recoveries=run.recoveries,
        violations=tuple(str(violation) for violation in violations),
        parameters_sha256=sha,
        expected_sha256=expected,
        seconds=run.seconds,
        plan=told(run.plan),
    )


def _outcome(
    config: RunConfig, run: VirtualRun, violations: list[Violation], errors: Sequence[str]
) -> tuple[Outcome, str]:
    if violations:
        return "violation", str(violations[0])
    if run.errors:
        name, error = next(iter(run.errors.items()))
        return "error", f"{name}: {error!r}"
    if errors:
        return "error", errors[0]
    # An island that follows its group leaves steps out.
    if config.outer.inner_steps and any(o.finished for o in run.outcomes.values()):
        lack = unfinished(run) or missing_rounds(config, of_run(run))
        return ("stalled", lack) if lack else ("ok", "")
    if len(run.commits) == config.run.steps and any(o.finished for o in run.outcomes.values()):
        return "ok", ""
    if run.stalled:
        return "stalled", run.stalled
    reasons = [f"{name}: {o.reason}" for name, o in run.outcomes.items() if not o.finished]
    reason = reasons[0] if reasons else "every peer is gone"
    return _ended_early(reason, run.risk)


def _ended_early(reason: str, risk: str) -> tuple[Outcome, str]:
    """Of a run that did not come to its last step, with what its faults may have cost it, if they may have."""
    return ("halted", f"{reason} ({risk})") if risk else ("stopped", reason)


def judge_processes(
    config: RunConfig, run: ProcessRun, points: Sequence[Point], corpus: Corpus, folder: Path
) -> Verdict:
    """The same on real processes, by all their journals below `folder`. Who was told to go may leave no journal."""
    violations = examine_folder(folder).violations
    expected, sha = _expected(config, corpus), run.state.parameters_sha256
    outcome: Outcome = "ok"
    reason = ""
    if violations:
        outcome, reason = "violation", str(violations[0])
    elif run.cut_short:
        outcome, reason = _ended_early(run.cut_short, run.risk)
    elif lack := _lack(config, run, folder):
        outcome, reason = "stalled", lack
    elif expected and sha != expected:
        outcome, reason = "differs", "the parameters differ from those of the reference"
    return Verdict(
        seed=config.run.seed,
        outcome=outcome,
        reason=reason,
        steps=len(points),
        faults=len(run.injected),
        recoveries=sum(at < run.last_commit_seconds for at in run.injected.values()),
        violations=tuple(map(str, violations)),
        parameters_sha256=sha,
        expected_sha256=expected,
        seconds=run.seconds,
        plan=told(run.plan),
    )


def _lack(config: RunConfig, run: ProcessRun, folder: Path) -> str:
    """Where some island of `run` did not get to, although no fault may keep it from there; empty when all did."""
    evidence, _ = read_folder(folder)
    progress = of_journals(evidence, run.islands, run.island_risks, run.plan)
    lack = behind(config, evidence, run.island_risks)
    return lack or (missing_rounds(config, progress) if config.outer.inner_steps else "")


def told(plan: Sequence[Fault]) -> tuple[str, ...]:
    """A fault plan in words."""
    return tuple(f"{fault.kind} {','.join(fault.peers)} at {fault.when}" for fault in plan)


def _expected(config: RunConfig, corpus: Corpus) -> str:
    """What the plain loop ends with; empty where equality to the bit is not promised.

    With outer rounds it is not: whose contributions a round counts depends on who is there.
    """
    is_exact = config.train.accumulation == "exact" and config.wire.codec == "none"
    if not is_exact or config.paths.visits == "planned" or config.outer.inner_steps:
        return ""
    loop = Reference(config, corpus, config.model.vocab_size or corpus.tokenizer.vocab_size)
    for _ in loop.train():
        pass
    return loop.parameters_sha256()


class _Failures(logging.Handler):
    """Collects what the program logs as its own failure: no fault may cause any. An exception that nobody waits for,
    as in a timer's callback, is logged by asyncio alone."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        loggers = [logging.getLogger(name) for name in ("swarmtrain", "asyncio")]
        for logger in loggers:
            logger.addHandler(self)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.found.append(record.getMessage() + (f": {error!r}" if error else ""))


def run_seed(
    config: RunConfig, scenario: Scenario, corpus: Corpus, stage: type[Stage] | None = None
) -> tuple[VirtualRun, Verdict]:
    """Simulate and judge the seed that `config` has."""
    failures = _Failures()
    with failures.listening():
        run = simulate(config, scenario, corpus, stage)
    return run, judge(config, run, corpus, failures.found)


@dataclass(frozen=True, slots=True)
class Range:
    """Seeds `first`..`last - 1` of one scenario. `config_json` because processes take plain values; it is a person's
    own, and the code that it names is imported."""

    first: int
    last: int
    config_json: str
    scenario: Scenario

    def run(self, processes: int | None = None) -> Generator[Verdict]:
        """Verdicts in the order of the seeds."""
        count = processes or os.cpu_count() or 1
        work = [(self.config_json, self.scenario, s) for s in range(self.first, self.last)]
        with ending_pool(count) as pool:
            with hidden_from_interrupts():
                verdicts = pool.map(_run_one, work, chunksize=4)
            yield from verdicts


def _run_one(work: tuple[str, Scenario, int]) -> Verdict:
    config_json, scenario, seed = work
    config = config_from_json(config_json)
    config = config.model_copy(update={"run": config.run.model_copy(update={"seed": seed})})
    trust_code(config)
    torch.set_num_threads(1)
    logging.getLogger("swarmtrain").propagate = False
    return run_seed(config, scenario, _corpus(config.data))[1]


@lru_cache(maxsize=1)
def _corpus(data: DataSection) -> Corpus:
    return load_corpus(data, None)
