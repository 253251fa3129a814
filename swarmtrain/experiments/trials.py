"""One run of an experiment in its folder: config.toml, journal.jsonl, metrics.jsonl, record.json, summary.json.

summary.json is written last and whole: a folder that has one holds a finished run. Nothing here reads a real clock;
the processor seconds of the record come from the `clock` of whoever calls.
"""

import hashlib
import json
import platform
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from swarmtrain.core.config import DataSection, RunConfig, load_config, to_toml
from swarmtrain.core.errors import Stopped
from swarmtrain.core.events import Restored
from swarmtrain.core.version import VERSION
from swarmtrain.data.stream import Corpus, load_corpus
from swarmtrain.experiments import market_trial
from swarmtrain.experiments.experiment import PlannedRun
from swarmtrain.experiments.market_trial import MarketTrial
from swarmtrain.experiments.metered import MeteredStage
from swarmtrain.experiments.scenario import scenario_from
from swarmtrain.experiments.sweep import GOOD, Verdict, run_seed
from swarmtrain.experiments.virtual import Scenario, VirtualRun
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
    if run.is_market:
        return market_trial.trial_of(run.tables, run.home)
    file = scenario_from(run.tables, run.home)
    return RunTrial(load_config([file.run], file.overrides), file.scenario)


def work_sha256(run: PlannedRun) -> str:
    """What a run computes, and which version does, as a hash: a folder with another one holds another run.

    Raises ConfigError.
    """
    trial = prepared(run)
    if isinstance(trial, MarketTrial):
        said = repr(trial)
    else:
        said = trial.config.to_json() + repr(trial.scenario)
    return hashlib.sha256(f"{VERSION} {said}".encode()).hexdigest()


def carry_out(run: PlannedRun, folder: Path, clock: Clock) -> dict[str, Any]:
    """Do `run` in its `folder` and return its summary.

    Raises SwarmError when it cannot be run, and Stopped when it ended otherwise than it may.
    """
    trial = prepared(run)
    begin = clock()
    if isinstance(trial, MarketTrial):
        summary = market_trial.write_trial(trial, folder)
        facts: dict[str, Any] = {}
    else:
        summary, facts = _simulated(trial, folder)
    cpu_seconds = clock() - begin
    if "events" in facts:
        facts["events_per_cpu_second"] = facts["events"] / max(cpu_seconds, 1e-9)
    facts |= {
        "seed": summary["seed"],
        "work_sha256": work_sha256(run),
        "cpu_seconds": cpu_seconds,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    _write_json(folder / RECORD, facts | surroundings())
    if isinstance(trial, MarketTrial):
        _write_json(folder / SUMMARY, summary)
    else:
        write_summary(folder / SUMMARY, summary)
    return summary


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


def _simulated(trial: RunTrial, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summary and record of a virtual run. Raises Stopped."""
    config, scenario = trial.config, trial.scenario
    (folder / "config.toml").write_text(to_toml(config), encoding="utf-8")
    trust_family(config.model)
    trust_wiring(config.planner.wiring)
    torch.set_num_threads(config.limits.threads)
    corpus = _corpus(config.data)
    scenes: list[MeteredStage] = []

    class Watched(MeteredStage):
        def __init__(self, config: RunConfig, scenario: Scenario, corpus: Corpus) -> None:
            super().__init__(config, scenario, corpus)
            scenes.append(self)

    run, verdict = run_seed(config, scenario, corpus, Watched)
    (folder / "journal.jsonl").write_text("".join(run.journal.lines), encoding="utf-8")
    lines = [
        {"step": done.step, "loss": done.loss, "tokens": done.tokens, "seconds": done.seconds}
        for done in run.commits
    ]
    (folder / "metrics.jsonl").write_text("".join(map(json_line, lines)), encoding="utf-8")
    is_flagged = any(isinstance(event, Restored) and event.flagged for _, _, event in run.events)
    # A flagged recovery makes another model, as it says: no promise is broken by that.
    if verdict.outcome not in GOOD and not (verdict.outcome == "differs" and is_flagged):
        raise Stopped(
            f"the run ended as {verdict.outcome}",
            verdict.reason,
            f"see {folder}/journal.jsonl; the same seed repeats it to the byte",
        )
    facts = {"corpus_sha256": corpus.digest, "run_hash": config.hash}
    summary = _summary(trial, run, verdict)
    summary["bytes_by_regions"] = _by_regions(scenes[0])
    peer_steps = max(summary["steps"] * summary["peers"], 1)
    summary["control_bytes_per_peer_step"] = scenes[0].control_bytes / peer_steps
    return summary, facts | {"events": len(run.events)}


def _by_regions(stage: MeteredStage) -> dict[str, int]:
    """Bytes carried from region to region, as `"Iowa > Oregon"`; of worlds with regions only."""
    regions = {peer.name: peer.region for peer in stage.scenario.peers}
    total: dict[str, int] = {}
    for (sender, receiver), sent_bytes in sorted(stage.sent_bytes.items()):
        # A replacement is called after the machine that it replaces: `edge.1` after `edge`.
        ends = [
            regions.get(name) or regions.get(name.rpartition(".")[0], "")
            for name in (sender, receiver)
        ]
        if all(ends):
            pair = " > ".join(map(str, ends))
            total[pair] = total.get(pair, 0) + sent_bytes
    return total


def _summary(trial: RunTrial, run: VirtualRun, verdict: Verdict) -> dict[str, Any]:
    losses = [done.loss for done in run.commits]
    tokens = sum(done.tokens for done in run.commits)
    kinds = [event.kind for _, _, event in run.events]
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
        "peers": len(trial.scenario.peers),
        "faults": verdict.faults,
        "recoveries": verdict.recoveries,
        "replayed_keys": kinds.count("replayed"),
        "duplicate_keys_dropped": kinds.count("duplicate_dropped"),
        "rerouted_keys": kinds.count("rerouted"),
        "moves": kinds.count("moved"),
        "rounds_merged": kinds.count("round_merged"),
        "restored": kinds.count("restored"),
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
