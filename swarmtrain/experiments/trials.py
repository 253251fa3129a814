"""One run of an experiment in its folder: config.toml, journal.jsonl, metrics.jsonl, record.json, summary.json.

summary.json is written last and whole: a folder that has one holds a finished run. Nothing here reads a real clock;
the processor seconds of the record come from the `clock` of whoever calls.
"""

import hashlib
import json
import platform
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from swarmtrain.core.carried import LinksCarried
from swarmtrain.core.config import DataSection, RunConfig, load_config, to_toml
from swarmtrain.core.errors import ConfigError, Stopped
from swarmtrain.core.events import Restored
from swarmtrain.core.units import per_token
from swarmtrain.core.version import VERSION
from swarmtrain.data.stream import Corpus, load_corpus
from swarmtrain.experiments import market_trial
from swarmtrain.experiments.checker import read_folder
from swarmtrain.experiments.curves import Point, points_of
from swarmtrain.experiments.experiment import PlannedRun
from swarmtrain.experiments.link_bytes import by_regions, sent_bytes, told_in
from swarmtrain.experiments.market_trial import MarketTrial
from swarmtrain.experiments.metered import MeteredStage
from swarmtrain.experiments.processes import run_processes
from swarmtrain.experiments.scenario import scenario_from
from swarmtrain.experiments.staging import check_expressible
from swarmtrain.experiments.sweep import GOOD, Verdict, judge_processes, run_seed
from swarmtrain.experiments.virtual import Scenario
from swarmtrain.model.registry import trust_family
from swarmtrain.monitor.lines import json_line, plain
from swarmtrain.monitor.summary import write_summary
from swarmtrain.plan.wiring_rules import trust_wiring

SUMMARY, RECORD, FAILURE = "summary.json", "record.json", "failure.json"
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class RunTrial:
    """A run in its world, checked."""

    config: RunConfig
    scenario: Scenario


def prepared(run: PlannedRun) -> RunTrial | MarketTrial:
    """What `run` is, every key checked. Raises ConfigError."""
    if run.is_market and run.world == "processes":
        raise ConfigError(
            "--world processes cannot have a spot market",
            "a [market] is arithmetic on machines that are not there",
            "use --world virtual",
        )
    if run.is_market:
        return market_trial.trial_of(run.tables, run.home)
    file = scenario_from(run.tables, run.home)
    trial = RunTrial(load_config([file.run], file.overrides), file.scenario)
    if run.world == "processes":
        check_expressible(trial.scenario)
    return trial


def work_sha256(run: PlannedRun) -> str:
    """What a run computes, and which version does, as a hash: a folder with another one holds another run.

    Raises ConfigError.
    """
    trial = prepared(run)
    if isinstance(trial, MarketTrial):
        said = repr(trial)
    else:
        said = trial.config.to_json() + repr(trial.scenario)
    where = "" if run.world == "virtual" else f"{run.world} "
    return hashlib.sha256(f"{VERSION} {where}{said}".encode()).hexdigest()


def carry_out(run: PlannedRun, folder: Path, clock: Clock) -> dict[str, Any]:
    """Do `run` in its `folder` and return its summary.

    Raises SwarmError when it cannot be run, and Stopped when it ended otherwise than it may.
    """
    trial = prepared(run)
    begin, children = clock(), _children_seconds()
    if isinstance(trial, MarketTrial):
        summary = market_trial.write_trial(trial, folder)
        facts: dict[str, Any] = {}
    elif run.world == "processes":
        summary, facts = _run_for_real(trial, folder)
    else:
        summary, facts = _simulated(trial, folder)
    cpu_seconds = clock() - begin
    if "events" in facts:
        facts["events_per_cpu_second"] = facts["events"] / max(cpu_seconds, 1e-9)
    facts |= {
        "seed": summary["seed"],
        "work_sha256": work_sha256(run),
        "cpu_seconds": cpu_seconds + _children_seconds() - children,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    _write_json(folder / RECORD, facts | surroundings())
    if isinstance(trial, MarketTrial):
        _write_json(folder / SUMMARY, summary)
    else:
        write_summary(folder / SUMMARY, summary)
    return summary


def _children_seconds() -> float:
    """Processor seconds of the processes that this one started and saw end: real peers are such."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def surroundings() -> dict[str, Any]:
    """Versions and machine."""
    return {
        "swarmtrain": VERSION,
        "python": sys.version.split()[0],
        "packages": {name: version(name) for name in ("torch", "numpy", "pydantic")},
        "machine": platform.machine(),
        "system": platform.platform(),
        "processors": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def _corpus_of(config: RunConfig) -> Corpus:
    """Of a run whose configuration is a person's own, once this process may use its code."""
    trust_family(config.model)
    trust_wiring(config.planner.wiring)
    torch.set_num_threads(config.limits.threads)
    return _corpus(config.data)


def _simulated(trial: RunTrial, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summary and record of a virtual run. Raises Stopped."""
    config, scenario = trial.config, trial.scenario
    (folder / "config.toml").write_text(to_toml(config), encoding="utf-8")
    corpus = _corpus_of(config)
    scenes: list[MeteredStage] = []

    class Watched(MeteredStage):
        def __init__(self, config: RunConfig, scenario: Scenario, corpus: Corpus) -> None:
            super().__init__(config, scenario, corpus)
            scenes.append(self)

    run, verdict = run_seed(config, scenario, corpus, Watched)
    with open(folder / "journal.jsonl", "w", encoding="utf-8") as journal:
        journal.writelines(
            run.journal.lines
        )  # of thousands of peers it is gigabytes, and not doubled
    lines = [
        {"step": done.step, "loss": done.loss, "tokens": done.tokens, "seconds": done.seconds}
        for done in run.commits
    ]
    (folder / "metrics.jsonl").write_text("".join(map(json_line, lines)), encoding="utf-8")
    is_flagged = any(isinstance(event, Restored) and event.flagged for _, _, event in run.events)
    _raise_if_bad(
        verdict, is_flagged, f"{folder}/journal.jsonl; the same seed repeats it to the byte"
    )
    facts = {"corpus_sha256": corpus.digest, "run_hash": config.hash}
    kinds = Counter(event.kind for _, _, event in run.events)
    points = points_of(run.journal.lines)
    done = Done(steps_of(points), run.seconds, run.bytes_sent, kinds)
    summary = _summary(trial, done, verdict)
    regions = _regions(scenario, scenes[0].names)
    summary["bytes_by_regions"] = by_regions(scenes[0].sent_bytes, regions)
    peer_steps = max(summary["steps"] * summary["peers"], 1)
    summary["control_bytes_per_peer_step"] = scenes[0].control_bytes / peer_steps
    return summary, facts | {"events": len(run.events)}


def _raise_if_bad(verdict: Verdict, is_flagged: bool, where: str) -> None:
    """A flagged recovery makes another model, as it says: no promise is broken by that. Raises Stopped."""
    if verdict.outcome not in GOOD and not (verdict.outcome == "differs" and is_flagged):
        raise Stopped(f"the run ended as {verdict.outcome}", verdict.reason, f"see {where}")


def _run_for_real(trial: RunTrial, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summary and record of a run of processes. Raises Stopped."""
    corpus = _corpus_of(trial.config)
    run = run_processes(trial.config, trial.scenario, corpus, folder)
    points = points_of(run.lines)
    verdict = judge_processes(trial.config, run, points, corpus, folder)
    kinds = Counter(json.loads(line)["event"]["kind"] for line in run.lines)
    is_flagged = run.state.flagged_recoveries > 0
    _raise_if_bad(verdict, is_flagged, f"{folder}/journal.jsonl and {folder}/logs")
    done = Done(steps_of(points), run.seconds, run.state.bytes_sent, kinds)
    facts = {"corpus_sha256": corpus.digest, "run_hash": trial.config.hash, "world": "processes"}
    summary = _summary(trial, done, verdict)
    regions = _regions(trial.scenario, run.names)
    evidence, _ = read_folder(folder / "peers")
    pairs = sent_bytes(told_in(evidence.of(LinksCarried.kind_of())))
    summary["bytes_by_regions"] = by_regions(pairs, {run.names[n]: r for n, r in regions.items()})
    return summary, facts | {"events": len(run.lines)}


def _regions(scenario: Scenario, names: Iterable[str]) -> dict[str, str]:
    """Of machines that were there from the beginning, and of those that came for one: `edge.1` came for `edge`."""
    first = {peer.name: peer.region for peer in scenario.peers}
    return {name: first.get(name) or first.get(name.rpartition(".")[0], "") for name in names}


@dataclass(frozen=True, slots=True)
class Done:
    """What a run came to in either world: of each step its loss and tokens, and how many events of each kind."""

    steps: list[tuple[float, int]]
    seconds: float
    bytes_sent: int
    kinds: Counter[str]


def steps_of(points: Sequence[Point]) -> list[tuple[float, int]]:
    """Loss and tokens of every step, all islands together."""
    tokens = [0, *(point.tokens for point in points)]
    return [(p.loss, p.tokens - before) for p, before in zip(points, tokens, strict=False)]


def _summary(trial: RunTrial, run: Done, verdict: Verdict) -> dict[str, Any]:
    losses = [loss for loss, _ in run.steps]
    tokens, kinds = sum(count for _, count in run.steps), run.kinds
    equal = verdict.parameters_sha256 == verdict.expected_sha256
    return {
        "seed": trial.config.run.seed,
        "steps": len(losses),
        "tokens": tokens,
        "seconds": run.seconds,
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
        "eval_loss": None,
        "tokens_per_second": tokens / run.seconds if run.seconds else 0.0,
        "bytes_sent": run.bytes_sent,
        "bytes_per_token": per_token(run.bytes_sent, tokens),
        "peers": len(trial.scenario.peers),
        "faults": verdict.faults,
        "recoveries": verdict.recoveries,
        "replayed_keys": kinds["replayed"],
        "duplicate_keys_dropped": kinds["duplicate_dropped"],
        "rerouted_keys": kinds["rerouted"],
        "moves": kinds["moved"],
        "rounds_merged": kinds["round_merged"],
        "restored": kinds["restored"],
        "parameters_sha256": verdict.parameters_sha256,
        "reference_sha256": verdict.expected_sha256,
        "equal_to_reference": int(equal) if verdict.expected_sha256 else None,
        "outcome": verdict.outcome,
        "outcome_reason": verdict.reason,
        "violations": len(verdict.violations),
    }


@lru_cache(maxsize=1)
def _corpus(data: DataSection) -> Corpus:
    return load_corpus(data, None)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
