"""What leaving stages out does to learning: the full pipeline against 25, 33 and 50 % skipping (SkipPipe's question).

    python benchmarks/skipping.py [--quick] [--tokens N] [--stages S] [--seeds A ...] [--base FOLDER]
    python benchmarks/skipping.py --retime

Trains one small Llama per share on bytes with the plain loop, which equals the swarm to the bit, at a constant
learning rate, so that its curve may be read at any point: first all to equal tokens, then those that skip go on until
they have used the virtual time of the full pipeline; one seed after the other. Losses are real; the seconds of a step
are modelled for the 12-region network (benchmarks.skipping_time). `--retime` trains nothing: it reads the curves of an
earlier call under the step seconds of today's planner. Writes skipping.json, .md and .svg as it goes.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.skipping_report import write_report
from benchmarks.skipping_time import Costs, planned_visits, step_seconds
from swarmtrain.checkpoint.store import latest, load, load_stage
from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.data.stream import Corpus, held_out_batches, load_corpus
from swarmtrain.experiments.partial_depth import measure
from swarmtrain.experiments.profiles import read_network
from swarmtrain.experiments.reference import Reference
from swarmtrain.model.text import evaluate


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to train: the share of the middle stages left out, whether the first and last always stay in, and
    whether the planner chooses who visits what."""

    name: str
    skip: float
    keeps_ends: bool = False
    is_planned: bool = False


Tables = dict[str, dict[str, float]]
"""Seconds of a step by variant, by what they are."""

FULL = "full"
VARIANTS = (
    Variant(FULL, 0.0),
    Variant("33 %", 0.33),
    Variant("50 %", 0.5),
    Variant("25 %", 0.25),
    Variant("33 % with ends kept", 0.33, keeps_ends=True),
    Variant("33 % planned", 0.33, is_planned=True),
    Variant("50 % planned", 0.5, is_planned=True),
)
"""In the order of training: what a run that is cut off is least without comes first."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The model, how long it is trained, and how it is judged."""

    tokens: int = 1_400_000
    stages: int = 12
    width: int = 64
    microbatches: int = 12
    microbatch_size: int = 2
    sequence_length: int = 128
    learning_rate: float = 3e-3
    warmup_steps: int = 40
    judge_steps: int = 20
    judge_batches: int = 4
    seeds: tuple[int, ...] = (1, 2)
    keep: tuple[float, ...] = (1.0, 0.75, 0.5)
    choices: int = 5
    timed_steps: int = 10
    plan_evaluations: int = 10_000

    @property
    def costs(self) -> Costs:
        return Costs(judged_steps=self.timed_steps, evaluations=self.plan_evaluations)

    @property
    def step_tokens(self) -> int:
        return self.microbatches * self.microbatch_size * self.sequence_length

    @property
    def steps(self) -> int:
        """Steps to the equal tokens, a whole number of judgements."""
        return max(1, round(self.tokens / self.step_tokens / self.judge_steps)) * self.judge_steps

    def config(self, variant: Variant, seed: int = 1) -> RunConfig:
        ends = [1, self.stages] if variant.keeps_ends else []
        return load_config(
            (),
            [
                f"run.seed={seed}",
                "run.steps=1000000",
                f"model.stages={self.stages}",
                "model.blocks_per_stage=1",
                f"model.width={self.width}",
                "model.heads=4",
                "model.kv_heads=2",
                f"model.ffn_width={self.width * 11 // 4 // 8 * 8}",
                f"train.microbatches={self.microbatches}",
                f"train.microbatch_size={self.microbatch_size}",
                f"train.sequence_length={self.sequence_length}",
                "train.accumulation=fast",
                f"paths.skip={variant.skip}",
                f"paths.protected={ends}",
                f"optimizer.learning_rate={self.learning_rate}",
                "optimizer.min_learning_rate_ratio=1.0",
                f"optimizer.warmup_steps={self.warmup_steps}",
            ],
        )


QUICK = Setting(
    600, 6, 16, 12, 1, 8, judge_steps=2, judge_batches=1, choices=2, warmup_steps=2,
    timed_steps=1, plan_evaluations=100, seeds=(1,),
)  # fmt: skip
"""Says nothing about learning; shows that the benchmark works."""


def step_tables(setting: Setting) -> dict[str, dict[str, float]]:
    """Seconds of a step by variant: with planned routes, and with visitors dealt to replicas in turn."""
    network = read_network("gcp12", Path(__file__).parent)
    both = {
        v.name: step_seconds(setting.config(v), network, setting.costs, v.is_planned)
        for v in VARIANTS
    }
    return {
        "step_seconds": {name: planned for name, (_, planned) in both.items()},
        "dealt_seconds": {name: dealt for name, (dealt, _) in both.items()},
    }


# ---- training -------------------------------------------------------------------------------------------------------


@dataclass
class Trained:
    """One variant's model, its curve of (steps, held-out loss at full depth), and its losses at parts of the depth."""

    setting: Setting
    variant: Variant
    seed: int
    corpus: Corpus
    base: Path | None
    curve: list[tuple[int, float]] = field(default_factory=list)
    depths: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = self.setting.config(self.variant, self.seed)
        network = read_network("gcp12", Path(__file__).parent)
        sequences = (
            planned_visits(config, network, self.setting.costs) if self.variant.is_planned else None
        )
        self.loop = Reference(config, self.corpus, self.corpus.tokenizer.vocab_size, sequences)
        every = islice(held_out_batches(self.corpus, 16, self.setting.sequence_length), 0, None, 30)
        self._held_out = list(islice(every, self.setting.judge_batches))
        if self.base is not None:
            self.base = self.base / (config.hash[:16] + ("-planned" if sequences else ""))
            if latest(self.base) is not None:
                checkpoint = load(self.base)
                stages = range(self.setting.stages + 1)
                states = [load_stage(checkpoint.folder, stage) for stage in stages]
                self.loop.load(states, checkpoint.manifest.step)
                kept = json.loads((self.base / "curve.json").read_text(encoding="utf-8"))
                self.curve = [(int(step), float(loss)) for step, loss in kept["curve"]]
                self.depths = kept["depths"]

    def advance_to(self, steps: int, judged: Callable[[], None]) -> None:
        """Train on, judging every so often; an earlier call's training counts."""
        while self.loop.step < steps:
            self.loop.advance()
            if self.loop.step % self.setting.judge_steps == 0:
                whole = tuple(range(1, self.setting.stages + 1))
                self.curve.append((self.loop.step, self.loss(whole)))
                judged()

    def measure_depths(self, when: str) -> None:
        """Losses with stages left out, now, under the name `when`; and keep what is trained."""
        if when in self.depths:
            return
        # The same stages are left out of every model, whatever it was trained with: so they can be compared.
        config, setting = self.loop.config, self.setting
        for kind, protected in (("any", ()), ("ends kept", (1, setting.stages))):
            paths = config.paths.model_copy(update={"protected": protected})
            judged = config.model_copy(update={"paths": paths})
            found = measure(judged, setting.keep, setting.choices, self.loss)
            self.depths.setdefault(when, {})[kind] = [depth.as_json() for depth in found]
        if self.base is not None:
            self.loop.save(self.base)
            kept = {"curve": self.curve, "depths": self.depths}
            (self.base / "curve.json").write_text(json.dumps(kept), encoding="utf-8")

    def loss(self, middle: tuple[int, ...]) -> float:
        """Held-out nats per token with these middle stages, in this order."""
        stages = [self.loop.middle[stage - 1].module for stage in middle]
        return evaluate([self.loop.edge.module, *stages], self._held_out)

    def as_json(self) -> dict[str, Any]:
        visited = self.loop.config.paths.visited(self.setting.stages)
        return {
            "name": self.variant.name,
            "skip": self.variant.skip,
            "visited": visited,
            "curve": self.curve,
            "depths": self.depths,
        }


@dataclass
class Bench:
    """All variants of all seeds under one budget of processor seconds; writes after every judgement."""

    setting: Setting
    tables: Tables
    base: Path | None
    out: Path
    limit_seconds: float
    done: list[Trained] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._begin = time.process_time()
        self._corpus = load_corpus(self.setting.config(VARIANTS[0]).data, None)

    def train_all(self) -> None:
        """Of each seed all variants to equal tokens, then those that skip to equal time."""
        for seed in self.setting.seeds:
            mine = [self._start(variant, seed) for variant in VARIANTS if self._has_time()]
            for trained in mine[1:]:
                self._train(trained, self._equal_time_steps(trained.variant), "equal time")

    def _start(self, variant: Variant, seed: int) -> Trained:
        trained = Trained(self.setting, variant, seed, self._corpus, self.base)
        self.done.append(trained)
        self._train(trained, self.setting.steps, "equal tokens")
        return trained

    def _train(self, trained: Trained, steps: int, when: str) -> None:
        if self._has_time():
            trained.advance_to(steps, lambda: self._write(trained))
            trained.measure_depths(when)
            self._write(trained)

    def _equal_time_steps(self, variant: Variant) -> int:
        """A whole number of judgements in which the full pipeline's time is used up."""
        seconds, every = self.tables["step_seconds"], self.setting.judge_steps
        longer = self.setting.steps * seconds[FULL] / seconds[variant.name]
        return int(longer / every + 1) * every

    def _has_time(self) -> bool:
        return self._spent_seconds() < self.limit_seconds

    def _spent_seconds(self) -> float:
        return time.process_time() - self._begin

    def _write(self, trained: Trained) -> None:
        write_figures(
            figures_of(self.setting, self.tables, self.done, self._spent_seconds()), self.out
        )
        step, loss = trained.curve[-1]
        print(
            f"{self._spent_seconds():7.1f} s  {trained.variant.name}, seed {trained.seed}: "
            f"step {step}, loss {loss:.4f}",
            flush=True,
        )


def figures_of(
    setting: Setting, tables: Tables, done: Sequence[Trained], cpu_seconds: float
) -> dict[str, Any]:
    """`seeds` has the variants of each seed, in the order of training."""
    seeds: dict[str, list[dict[str, Any]]] = {}
    for trained in done:
        if trained.curve:
            seeds.setdefault(str(trained.seed), []).append(trained.as_json())
    return {
        "setting": {**asdict(setting), "steps": setting.steps, "step_tokens": setting.step_tokens},
        "costs": asdict(setting.costs),
        "parameters": sum(replica.elements for replica in done[0].loop.stages),
        **tables,
        "cpu_seconds": round(cpu_seconds, 1),
        "seeds": seeds,
    }


def write_figures(figures: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "skipping.json").write_text(json.dumps(figures) + "\n", encoding="utf-8")
    write_report(figures, out)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Learning with stages left out.")
    parser.add_argument("--quick", action="store_true", help="tiny and untrained: a smoke test")
    parser.add_argument("--tokens", type=int, default=Setting().tokens, help="the equal tokens")
    parser.add_argument("--stages", type=int, default=Setting().stages, help="middle stages")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(Setting().seeds))
    parser.add_argument("--base", type=Path, help="keep trained models here, and go on from them")
    parser.add_argument("--retime", action="store_true", help="train nothing, time anew")
    parser.add_argument(
        "--cpu-seconds", type=float, default=float("inf"), help="begin no training after these"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    setting = (
        QUICK if chosen.quick else Setting(chosen.tokens, chosen.stages, seeds=tuple(chosen.seeds))
    )
    if chosen.retime:
        figures = json.loads((chosen.out / "skipping.json").read_text(encoding="utf-8"))
        kept = {name: figures["setting"][name] for name in asdict(setting)}
        write_figures({**figures, **step_tables(Setting(**kept))}, chosen.out)
        return
    tables = step_tables(setting)
    Bench(setting, tables, chosen.base, chosen.out, chosen.cpu_seconds).train_all()


if __name__ == "__main__":
    main()
