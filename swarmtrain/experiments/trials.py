"""One run of an experiment in its folder: record, scenario, configuration, journal, metrics and summary.

record.json is there before the run begins, and completed at its end. summary.json is written last and whole: a folder
that has one holds a finished run. Nothing here reads a real clock; the processor seconds of the record come from the
`clock` of whoever calls.
"""

import gc
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
from swarmtrain.core.errors import ConfigError, CorpusError, Stopped
from swarmtrain.core.events import Restored
from swarmtrain.core.units import per_token
from swarmtrain.core.version import VERSION
from swarmtrain.data.stream import Corpus, load_corpus
from swarmtrain.experiments import market_trial
from swarmtrain.experiments.checker import JOURNAL, read_folder
from swarmtrain.experiments.curves import Point, points_of
from swarmtrain.experiments.experiment import PlannedRun
from swarmtrain.experiments.link_bytes import by_regions, sent_bytes, told_in
from swarmtrain.experiments.market_trial import MarketTrial
from swarmtrain.experiments.metered import MeteredStage
from swarmtrain.experiments.own_code import trust_code
from swarmtrain.experiments.peak_memory import peak_bytes, restart_peak
from swarmtrain.experiments.processes import run_processes
from swarmtrain.experiments.scenario import scenario_from
from swarmtrain.experiments.staging import check_expressible
from swarmtrain.experiments.sweep import GOOD, Verdict, judge_processes, run_seed
from swarmtrain.experiments.virtual import Scenario
from swarmtrain.experiments.work import Sources, Work, file_sha256
from swarmtrain.experiments.world_json import world_json
from swarmtrain.monitor.lines import json_line, plain
from swarmtrain.monitor.summary import write_summary

SUMMARY, RECORD, FAILURE = "summary.json", "record.json", "failure.json"
SCENARIO = "scenario.json"
JOURNAL_SHA256 = "journal_sha256"
"""In record.json: of the journal as the run left it. Records of older versions have none."""
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


def work_of(run: PlannedRun, sources: Sources) -> Work:
    """What the result of `run` follows from, as hashes. Raises ConfigError, or CorpusError for a missing corpus."""
    trial = prepared(run)
    if isinstance(trial, MarketTrial):
        return sources.work(repr(trial), None)
    settings = f"{run.world} {trial.config.to_json()} {trial.scenario!r}"
    return sources.work(settings, trial.config)


def carry_out(run: PlannedRun, work: Work, folder: Path, clock: Clock) -> dict[str, Any]:
    """Do `run` in its `folder` and return its summary.

    Raises SwarmError when it cannot be run, and Stopped when it ended otherwise than it may.
    """
    trial = prepared(run)
    record: dict[str, Any] = {"name": run.name, **work.entries(), **surroundings()}
    if isinstance(trial, MarketTrial):
        record["seed"] = trial.seed
    else:
        record |= {"seed": trial.config.run.seed, "world": run.world}
        _write_json(folder / SCENARIO, world_json(trial.scenario))
        gc.collect()  # what an earlier run left would count as memory of this one
    _write_json(folder / RECORD, record)
    restart_peak()
    begin, children = clock(), _children_seconds()
    if isinstance(trial, MarketTrial):
        summary = market_trial.write_trial(trial, folder)
        facts: dict[str, Any] = {}
    elif run.world == "processes":
        summary, facts = _run_for_real(trial, work, folder)
    else:
        summary, facts = _simulated(trial, work, folder)
    cpu_seconds = clock() - begin
    if "events" in facts:
        facts["events_per_cpu_second"] = facts["events"] / max(cpu_seconds, 1e-9)
    facts["cpu_seconds"] = cpu_seconds + _children_seconds() - children
    facts["peak_memory_bytes"] = peak_bytes() + facts.pop("peers_peak_bytes", 0)
    if not isinstance(trial, MarketTrial):
        facts[JOURNAL_SHA256] = file_sha256(folder / JOURNAL)
    _write_json(folder / RECORD, record | facts)
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


def _corpus_of(config: RunConfig, work: Work) -> Corpus:
    """Of a run whose configuration is a person's own, once this process may use its code. Raises CorpusError."""
    trust_code(config)
    torch.set_num_threads(config.limits.threads)
    return _corpus(config.data, work.corpus_sha256)


def _simulated(trial: RunTrial, work: Work, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summary and record of a virtual run. Raises Stopped."""
    config, scenario = trial.config, trial.scenario
    (folder / "config.toml").write_text(to_toml(config), encoding="utf-8")
    corpus = _corpus_of(config, work)
    scenes: list[MeteredStage] = []

    class Watched(MeteredStage):
        def __init__(self, config: RunConfig, scenario: Scenario, corpus: Corpus) -> None:
            super().__init__(config, scenario, corpus)
            scenes.append(self)

    run, verdict = run_seed(config, scenario, corpus, Watched)
    with open(folder / JOURNAL, "w", encoding="utf-8") as journal:
        journal.writelines(
            run.journal.lines
        )  # of thousands of peers it is gigabytes, and not doubled
    lines = [
        {"step": done.step, "loss": done.loss, "tokens": done.tokens, "seconds": done.seconds}
        for done in run.commits
    ]
    (folder / "metrics.jsonl").write_text("".join(map(json_line, lines)), encoding="utf-8")
    is_flagged = any(isinstance(event, Restored) and event.flagged for _, _, event in run.events)
    _raise_if_bad(verdict, is_flagged, f"{folder}/{JOURNAL}; the same seed repeats it to the byte")
    facts: dict[str, Any] = {"run_hash": config.hash}
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


def _run_for_real(
    trial: RunTrial, work: Work, folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summary and record of a run of processes. Raises Stopped."""
    corpus = _corpus_of(trial.config, work)
    run = run_processes(trial.config, trial.scenario, corpus, folder)
    points = points_of(run.lines)
    verdict = judge_processes(trial.config, run, points, corpus, folder)
    kinds = Counter(json.loads(line)["event"]["kind"] for line in run.lines)
    is_flagged = run.state.flagged_recoveries > 0
    _raise_if_bad(verdict, is_flagged, f"{folder}/{JOURNAL} and {folder}/logs")
    done = Done(steps_of(points), run.seconds, run.state.bytes_sent, kinds)
    facts = {"run_hash": trial.config.hash, "peers_peak_bytes": run.peers_peak_bytes}
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
def _corpus(data: DataSection, digest: str) -> Corpus:
    """The corpus that the experiment was planned with. Raises CorpusError when it is another one by now."""
    corpus = load_corpus(data, None)
    if corpus.digest != digest:
        raise CorpusError(
            f"the corpus {data.source!r} changed while the experiment ran",
            "its runs would not have learned from the same text",
            "repeat with --resume",
        )
    return corpus


def _write_json(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
