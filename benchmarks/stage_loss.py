"""Losing whole stages of a trained model at 5, 10 and 16 % a stage and hour: CheckFree's comparison, made again.

    python benchmarks/stage_loss.py [--quick] [--base FOLDER] [--out FOLDER]

Trains two small Llamas on bytes, one of them with swapped ends, until they are trained; then goes on from there under
failures, once per policy, rate and seed. Losses are real, hours are modelled (swarmtrain.experiments.stage_loss). Exact
rollbacks need no training of their own: their parameters are the fault-free run's to the bit, which a test holds.
Writes stage_loss.json, .md and .svg.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.stage_loss_report import write_report
from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.checkpoint.store import latest, load, load_stage
from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.data.stream import Corpus, held_out_batches, load_corpus
from swarmtrain.experiments.reference import Reference
from swarmtrain.experiments.stage_loss import (
    HOUR_SECONDS,
    Costs,
    Failures,
    Horizon,
    Outcome,
    Point,
    Policy,
    Trial,
    loss_at,
    retimed,
    roll_back,
    seconds_to_loss,
    smoothed,
)
from swarmtrain.model.text import evaluate

COSTS = Costs()
FAULT_FREE, REDUNDANT = "fault-free", "redundant computation"
ROLLBACKS = {"snapshot, exact": 10, "checkpoint only": 100}
"""Policies that are arithmetic over the fault-free curve, and how many steps apart their copies are."""

TRAINED = {
    "stale snapshot": (False, Policy("stale")),
    "CheckFree": (False, Policy("neighbours")),
    "CheckFree+": (True, Policy("neighbours")),
}
"""Policies that make another model, with whether theirs was trained with swapped ends."""

TARGETS = (0.5, 0.8)
"""Shares of the fault-free run after which its loss is a target."""

TYPICAL_SEEDS = (32, 74)
"""Of seeds 1 to 100, two whose numbers of losses are nearest the expected ones at all rates; chosen before any run."""

GIVE_UP = 60
"""A rollback run may take this many times the fault-free run's iterations."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The model, how long it is trained first, and what is tried on it."""

    base_steps: int = 1400
    iterations: int = 500
    judge_steps: int = 10
    judge_batches: int = 6
    rates: tuple[float, ...] = (0.05, 0.10, 0.16)
    seeds: tuple[int, ...] = TYPICAL_SEEDS
    sequences: int = 200
    stages: int = 6
    width: int = 64
    microbatch_size: int = 8
    sequence_length: int = 64
    learning_rate: float = 4e-3
    min_learning_rate_ratio: float = 0.1

    @property
    def horizon(self) -> Horizon:
        return Horizon(self.iterations * COSTS.iteration_seconds, self.judge_steps)

    def config(self, swap_ends: bool) -> RunConfig:
        return load_config(
            (),
            [
                "run.seed=1",
                f"run.steps={self.base_steps + self.iterations}",
                f"model.stages={self.stages}",
                "model.blocks_per_stage=1",
                f"model.width={self.width}",
                "model.heads=4",
                "model.kv_heads=2",
                f"model.ffn_width={self.width * 11 // 4 // 8 * 8}",
                "train.microbatches=2",
                f"train.microbatch_size={self.microbatch_size}",
                f"train.sequence_length={self.sequence_length}",
                "train.accumulation=fast",
                f"train.swap_ends={str(swap_ends).lower()}",
                f"optimizer.learning_rate={self.learning_rate}",
                f"optimizer.min_learning_rate_ratio={self.min_learning_rate_ratio}",
                f"optimizer.warmup_steps={min(50, self.base_steps)}",
            ],
        )


QUICK = Setting(10, 16, 2, 1, (0.9,), (1,), 5, 6, 16, 1, 8)
"""Says nothing about recovery; shows that the benchmark works."""


class Bench:
    """One trained model, and trials that start from it. `base` is where its checkpoint is or shall be, if anywhere."""

    def __init__(
        self, setting: Setting, swap_ends: bool, corpus: Corpus, base: Path | None
    ) -> None:
        self.setting = setting
        config = setting.config(swap_ends)
        self._loop = Reference(config, corpus, corpus.tokenizer.vocab_size)
        every = islice(held_out_batches(corpus, 16, setting.sequence_length), 0, None, 30)
        self._held_out = list(islice(every, setting.judge_batches))
        self._train(None if base is None else base / f"{config.hash[:16]}")
        self._base: list[StageState] = [
            self._loop.state(stage) for stage in range(setting.stages + 1)
        ]
        self.fault_free = self.run(Policy("rollback"), Failures(0, setting.stages, 0.0))

    def _train(self, base: Path | None) -> None:
        """Train until the trials begin, or load what an earlier call trained."""
        if base is not None and latest(base) is not None:
            checkpoint = load(base)
            stages = range(self.setting.stages + 1)
            states = [load_stage(checkpoint.folder, stage) for stage in stages]
            self._loop.load(states, checkpoint.manifest.step)
            return
        while self._loop.step < self.setting.base_steps:
            self._loop.advance()
        if base is not None:
            self._loop.save(base)

    @property
    def parameters(self) -> int:
        return sum(replica.elements for replica in self._loop.stages)

    def run(self, policy: Policy, failures: Failures) -> Outcome:
        self._loop.load(self._base, self.setting.base_steps)
        return Trial(self._loop, policy, failures, COSTS, self._judge).run(self.setting.horizon)

    def _judge(self) -> float:
        """All stages in their usual order, also for a model that was trained with swapped ends."""
        stages = [self._loop.edge.module, *(compute.module for compute in self._loop.middle)]
        return evaluate(stages, self._held_out)


def rollback_runs(setting: Setting, curve: Sequence[Point]) -> list[dict[str, Any]]:
    """Every rate and seed of the policies that only roll back, and of redundant computation."""
    runs = []
    for rate in setting.rates:
        for name, rollback_steps in ROLLBACKS.items():
            for seed in range(1, setting.sequences + 1):
                progress = roll_back(
                    Failures(seed, setting.stages, rate),
                    rollback_steps,
                    COSTS,
                    setting.iterations,
                    GIVE_UP * setting.iterations,
                )
                points = retimed(curve, progress.first_seconds)
                runs.append(run_record(name, rate, seed, points))
        slower = COSTS.redundant_iteration_seconds
        points = retimed(curve, [slower * step for step in range(setting.iterations + 1)])
        runs += [run_record(REDUNDANT, rate, seed, points) for seed in setting.seeds]
    return runs


def trained_runs(
    setting: Setting, benches: dict[bool, Bench], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Every rate and seed of the policies that make another model."""
    runs = []
    for rate in setting.rates:
        for seed in setting.seeds:
            for name, (swap_ends, policy) in TRAINED.items():
                outcome = benches[swap_ends].run(policy, Failures(seed, setting.stages, rate))
                record = run_record(name, rate, seed, smoothed(outcome.points))
                record["recoveries"] = [asdict(recovery) for recovery in outcome.recoveries]
                runs.append(record)
                say(
                    f"{name} at {rate:.0%}, seed {seed}: {len(outcome.recoveries)} losses, "
                    f"loss {outcome.points[-1].loss:.3f}"
                )
    return runs


def run_record(name: str, rate: float, seed: int, points: Sequence[Point]) -> dict[str, Any]:
    """One run as JSON; `curve` is [hours, smoothed loss]."""
    curve = [[point.seconds / HOUR_SECONDS, point.loss] for point in points]
    return {"policy": name, "rate": rate, "seed": seed, "curve": curve}


def measured(setting: Setting, run: dict[str, Any], targets: Sequence[float]) -> dict[str, Any]:
    """Adds hours to each target and the loss at the horizon; drops the curve of a seed that only counts in means."""
    points = [Point(hours * HOUR_SECONDS, 0, loss) for hours, loss in run["curve"]]
    seconds = [seconds_to_loss(points, target) for target in targets]
    found = {
        **run,
        "hours_to_targets": [None if s is None else s / HOUR_SECONDS for s in seconds],
        "loss_at_horizon": loss_at(points, setting.horizon.seconds),
        "curve": [[round(hours, 4), round(loss, 5)] for hours, loss in run["curve"]],
    }
    return found if run["seed"] in setting.seeds else {**found, "curve": []}


def benchmark(setting: Setting, base: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """All runs; the figures of every one as JSON."""
    begin = time.process_time()
    torch.set_num_threads(1)
    config = setting.config(False)
    corpus = load_corpus(config.data, None)
    benches = {}
    for swap_ends in (False, True):
        bench = benches[swap_ends] = Bench(setting, swap_ends, corpus, base)
        first, last = bench.fault_free.points[0], bench.fault_free.points[-1]
        kind = "swapped ends" if swap_ends else "plain"
        say(f"{kind}: held-out loss {first.loss:.3f} when trained, {last.loss:.3f} without faults")
    curve = smoothed(benches[False].fault_free.points)
    targets = [loss_at(curve, share * setting.horizon.seconds) for share in TARGETS]
    runs = [run_record(FAULT_FREE, 0.0, setting.seeds[0], curve)]
    swapped_curve = smoothed(benches[True].fault_free.points)
    runs.append(run_record("fault-free, swapped ends", 0.0, setting.seeds[0], swapped_curve))
    runs += rollback_runs(setting, curve) + trained_runs(setting, benches, say)
    return {
        "setting": asdict(setting),
        "costs": asdict(COSTS),
        "parameters": benches[False].parameters,
        "trained_loss": {
            "plain": benches[False].fault_free.points[0].loss,
            "swapped": benches[True].fault_free.points[0].loss,
        },
        "expected_failures": [
            setting.stages * setting.iterations * Failures(1, setting.stages, rate).chance
            for rate in setting.rates
        ],
        "failures": [
            [count_failures(setting, rate, seed) for seed in setting.seeds]
            for rate in setting.rates
        ],
        "horizon_hours": setting.horizon.seconds / HOUR_SECONDS,
        "target_shares": TARGETS,
        "targets": targets,
        "runs": [measured(setting, run, targets) for run in runs],
        "cpu_seconds": round(time.process_time() - begin, 1),
    }


def count_failures(setting: Setting, rate: float, seed: int) -> int:
    """Iterations of a run without rollbacks before which something is lost."""
    failures = Failures(seed, setting.stages, rate)
    return sum(bool(failures.lost(iteration)) for iteration in range(setting.iterations))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Stage losses on a trained model.")
    parser.add_argument("--quick", action="store_true", help="tiny and untrained: a smoke test")
    parser.add_argument(
        "--base", type=Path, help="keep the trained models here, and use them again"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args(arguments)
    begin = time.process_time()

    def say(line: str) -> None:
        print(f"{time.process_time() - begin:7.1f} s  {line}", flush=True)

    figures = benchmark(QUICK if chosen.quick else Setting(), chosen.base, say)
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / "stage_loss.json"
    path.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    write_report(figures, chosen.out)
    say(f"wrote {path.with_suffix('')}.json, .md and .svg")


if __name__ == "__main__":
    main()
