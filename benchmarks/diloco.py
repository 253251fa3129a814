"""What outer rounds do to learning: synchronous training, 1 to 8 islands, rounds of 10 to 100 steps, every codec.

    python -m benchmarks.diloco [--quick] [--groups A,B] [--only REGEX] [--steps N] [--shard I/N] [--cpu-seconds S]
                               [--out DIR]
    python -m benchmarks.diloco --list

All rows of a seed start from the same synchronously warmed-up model and see the same samples in every step: the
microbatches of a step are shared out over the islands, so all but the rows of events use equal tokens. Losses are
real, on held-out text, of the outer parameters. Every finished row is appended to DIR/diloco*.jsonl at once and not
trained again by a later call with the same setting; DIR/diloco.md is the table of what is there, and its
first line says what is not. Parts of the work
may go to several processes as --shard 0/4 to 3/4.
"""

import argparse
import json
import math
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.diloco_report import Found, report
from benchmarks.diloco_rows import Grid, Row
from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.compute import replica
from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.data.stream import Corpus, held_out_batches, load_corpus
from swarmtrain.experiments.islands import Islands
from swarmtrain.experiments.reference import Reference
from swarmtrain.model.text import evaluate

JUDGED_ROWS = 16
"""Rows of text in one held-out batch."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The model, how long it is trained, and how it is judged."""

    steps: int = 1000
    """After the warm-up; 100 rounds of 10."""
    warm_steps: int = 100
    stages: int = 4
    width: int = 256
    microbatches: int = 8
    """Of all islands together, in a step."""
    microbatch_size: int = 1
    sequence_length: int = 128
    learning_rate: float = 2e-3
    judge_steps: int = 100
    judge_batches: int = 4
    final_batches: int = 32

    @property
    def step_tokens(self) -> int:
        return self.microbatches * self.microbatch_size * self.sequence_length

    def config(self, seed: int, islands: int, learning_rate: float | None = None) -> RunConfig:
        """Of one island of so many; 1 for all microbatches in one. `learning_rate`: instead of the setting's."""
        return load_config(
            (),
            [
                f"run.seed={seed}",
                f"run.steps={self.warm_steps + self.steps}",
                f"model.stages={self.stages}",
                f"model.width={self.width}",
                "model.heads=8",
                "model.kv_heads=4",
                f"model.ffn_width={self.width * 11 // 4 // 16 * 16}",
                f"train.microbatches={self.microbatches // islands}",
                f"train.microbatch_size={self.microbatch_size}",
                f"train.sequence_length={self.sequence_length}",
                # Nothing is compared bit for bit here, and exact sums take a third more.
                "train.accumulation=fast",
                f"optimizer.learning_rate={learning_rate or self.learning_rate}",
                f"optimizer.warmup_steps={self.warm_steps // 2}",
            ],
        )

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "step_tokens": self.step_tokens, "accumulation": "fast"}


QUICK = Setting(
    steps=8, warm_steps=4, stages=2, width=32, microbatches=4, sequence_length=16,
    judge_steps=4, judge_batches=1, final_batches=1,
)  # fmt: skip
QUICK_GRID = Grid((1,), (1, 2), (2, 4), ("int4", "ternary", "rank8", "top64"), (1e-3,))
"""They say nothing about learning; they show that the benchmark works."""


@dataclass
class Bench:
    """Trains rows of one setting; keeps corpus, held-out text and warmed-up models."""

    setting: Setting
    _warm: dict[tuple[int, float | None], list[StageState]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.corpus: Corpus = load_corpus(self.setting.config(1, 1).data, None)
        self.vocab_size = self.corpus.tokenizer.vocab_size
        length = self.setting.sequence_length
        available = len(range(0, self.corpus.held_out_tokens, length * JUDGED_ROWS))
        every = max(1, available // self.setting.final_batches)
        batches = islice(held_out_batches(self.corpus, JUDGED_ROWS, length), 0, None, every)
        self.held_out: list[np.ndarray] = list(batches)[: self.setting.final_batches]

    def run(self, row: Row) -> Found:
        """Train one row and say what came of it."""
        begin = time.process_time()
        trained = self._synchronous(row) if row.is_synchronous else self._islands(row)
        curve, outcome = [], {}
        for step, loss, told in trained:
            curve.append((step, _finite(loss)))
            outcome = told
        return {
            "row": asdict(row),
            "what": row.what,
            "setting": self.setting.as_json(),
            "loss": curve[-1][1],
            "curve": curve,
            **outcome,
            "cpu_seconds": round(time.process_time() - begin, 1),
        }

    def _warmed_up(self, row: Row) -> list[StageState]:
        chosen = row.seed, row.learning_rate
        if chosen not in self._warm:
            loop = self._loop(row)
            for _ in range(self.setting.warm_steps):
                loop.advance()
            self._warm[chosen] = [loop.state(stage) for stage in range(self.setting.stages + 1)]
        return self._warm[chosen]

    def _loop(self, row: Row) -> Reference:
        config = self.setting.config(row.seed, 1, row.learning_rate)
        return Reference(config, self.corpus, self.vocab_size)

    def _synchronous(self, row: Row) -> Iterator[tuple[int, float, Found]]:
        loop = self._loop(row)
        loop.load(self._warmed_up(row), self.setting.warm_steps)
        modules = [loop.edge.module, *(middle.module for middle in loop.middle)]
        parameters = sum(replica.elements for replica in loop.stages)
        tokens = 0
        for done in loop.train():
            tokens += done.tokens
            if batches := self._batches(done.step + 1):
                told = {"parameters": parameters, "tokens": tokens, "rounds": 0}
                told |= {"bytes_up": 0.0, "bytes_back": 0.0}
                yield done.step + 1, evaluate(modules, batches), told

    def _islands(self, row: Row) -> Iterator[tuple[int, float, Found]]:
        warm_steps, all_steps = (
            self.setting.warm_steps,
            self.setting.warm_steps + self.setting.steps,
        )
        run = Islands(
            self.setting.config(row.seed, row.islands, row.learning_rate),
            self.corpus,
            self.vocab_size,
            row.setting(all_steps // row.inner_steps),
        )
        run.load(self._warmed_up(row), warm_steps)
        parameters = sum(replica.elements for replica in run.active[0].stages)
        tokens = 0
        for done in run.train():
            tokens += done.tokens
            if batches := self._batches(done.step + 1):
                sent = sum(record.payloads * record.elements for record in run.records)
                merged = sum(record.elements for record in run.records)
                told = {
                    "parameters": parameters,
                    "tokens": tokens,
                    "rounds": len({record.due.round for record in run.records}),
                    "bytes_up": sum(r.payload_bytes for r in run.records) / max(1, sent),
                    "bytes_back": sum(r.answer_bytes for r in run.records) / max(1, merged),
                }
                yield done.step + 1, run.evaluate(batches), told

    def _batches(self, step: int) -> list[np.ndarray]:
        """What to judge on after `step` steps: few batches now and then, all of them at the end."""
        if step == self.setting.warm_steps + self.setting.steps:
            return self.held_out
        judged = (step - self.setting.warm_steps) % self.setting.judge_steps == 0
        return self.held_out[: self.setting.judge_batches] if judged else []


def _finite(loss: float) -> float | None:
    """None for what JSON has no number for: the run diverged."""
    return loss if math.isfinite(loss) else None


def finished(out: Path, setting: Setting) -> list[Found]:
    """The rows that are there already, of this setting."""
    found = []
    for path in sorted(out.glob("diloco*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry["setting"] == setting.as_json():
                found.append(entry)
    return found


def benchmark(
    setting: Setting,
    rows: Sequence[Row],
    out: Path,
    name: str,
    limit_seconds: float,
    wanted: Sequence[Row],
) -> None:
    """Train all rows that are not there yet, one after the other; writes after each.

    `wanted` are those that the table is to have at last, of which `rows` may be a part.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_table(setting, out, name, wanted)
    known = [entry["row"] for entry in finished(out, setting)]
    missing = [row for row in rows if asdict(row) not in known]
    print(f"{len(rows)} rows, {len(rows) - len(missing)} of them done before", flush=True)
    bench, begin = Bench(setting), time.process_time()
    for number, row in enumerate(missing):
        spent = time.process_time() - begin
        if spent > limit_seconds:
            print(f"{spent:.0f} s are spent, {len(missing) - number} rows are left")
            break
        left = f"{spent / number * (len(missing) - number):.0f} s left" if number else "beginning"
        place = f"{spent:8.1f} s  {number + 1}/{len(missing)}, {left}"
        print(f"{place}: {row.what}, seed {row.seed}", flush=True)
        found = bench.run(row)
        with open(out / f"{name}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        write_table(setting, out, name, wanted)
        loss = "diverged" if found["loss"] is None else f"{found['loss']:.4f}"
        print(f"{' ' * 12}{loss} after {found['cpu_seconds']} s, "
              f"{found['bytes_up']:.4f} bytes a parameter", flush=True)  # fmt: skip


def write_table(setting: Setting, out: Path, name: str, wanted: Sequence[Row]) -> None:
    page = report(finished(out, setting), wanted) + "\n"
    (out / f"{name}.md").write_text(page, encoding="utf-8")


def _without_step_digests() -> None:
    """Steps of a plain loop are compared with nobody's: their digests are a tenth of its time. Rounds keep theirs."""
    replica.flat_digest = lambda flat: bytes(32)


def _line(row: Row) -> str:
    return f"{row.group}: {row.what}, seed {row.seed}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Learning with outer rounds.")
    parser.add_argument("--quick", action="store_true", help="tiny and untrained: a smoke test")
    parser.add_argument("--groups", help="only these groups of rows, with commas")
    parser.add_argument(
        "--only", default="", help="only rows in whose line of --list this is found"
    )
    parser.add_argument("--steps", type=int, default=Setting().steps, help="after the warm-up")
    parser.add_argument("--shard", default="0/1", help="I/N: every N-th row from the I-th on")
    parser.add_argument("--list", action="store_true", help="say what would be trained")
    parser.add_argument(
        "--cpu-seconds", type=float, default=float("inf"), help="begin no row after these"
    )
    parser.add_argument("--out", type=Path, help="default: benchmarks/results; quick: a new folder")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    _without_step_digests()
    setting, grid = (QUICK, QUICK_GRID) if chosen.quick else (Setting(chosen.steps), Grid())
    rows = wanted_rows = grid.rows()
    if chosen.groups:
        wanted = [group.strip() for group in chosen.groups.split(",")]
        rows = [row for row in rows if row.group in wanted]
    rows = [row for row in rows if re.search(chosen.only, _line(row))]
    index, shards = (int(part) for part in chosen.shard.split("/"))
    rows = rows[index::shards]
    if chosen.list:
        print("\n".join(map(_line, rows)))
        return
    name = "diloco" if shards == 1 else f"diloco-{index}-of-{shards}"
    out = chosen.out or (
        Path(tempfile.mkdtemp(prefix="diloco-"))
        if chosen.quick
        else Path(__file__).parent / "results"
    )
    benchmark(setting, rows, out, name, chosen.cpu_seconds, wanted_rows)
    print(f"table: {out / f'{name}.md'}")


if __name__ == "__main__":
    main()
