"""Tokens a second of a two-stage swarm beside torch's own pipelining and beside one plain process.

    python benchmarks/pipeline.py [--quick] [--rounds 3] [--out FILE.json]

Every round runs each contender once, one after the other, as processes of their own with one torch thread; the
first steps of every run are left out. Ratios are within a round, so that a load that comes and goes spoils one
round and not the comparison.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.shapes import QUICK_SHAPES, SHAPES, Shape
from benchmarks.swarm import run_swarm

CONTENDERS = ("swarm, fast", "swarm, exact", "torch 1F1B", "plain")
BASE = "torch 1F1B"
WARM_UP_STEPS = 2
CONTENDER_SECONDS = 300


@dataclass(slots=True)
class Result:
    """Seconds of every contender's steps after warm-up, by round."""

    shape: Shape
    steps: int
    seconds: dict[str, list[list[float]]] = field(
        default_factory=lambda: {name: [] for name in CONTENDERS}
    )
    load: list[float] = field(default_factory=list)

    def rates(self, name: str) -> list[float]:
        """Tokens a second by round, from the median step."""
        tokens = self.shape.tokens_per_step()
        return [tokens / statistics.median(steps) for steps in self.seconds[name]]

    def best(self, name: str) -> float:
        """Tokens a second of the fastest step of all rounds: the one that other load disturbed least."""
        return self.shape.tokens_per_step() / min(min(steps) for steps in self.seconds[name])

    def ratios(self, name: str) -> list[float]:
        mine, base = self.rates(name), self.rates(BASE)
        return [one / other for one, other in zip(mine, base, strict=True)]


def run_others(kind: str, shape: Shape, steps: int, folder: Path) -> list[float]:
    """Seconds of every step of torch's 1F1B (the first process's) or of the plain process."""
    path = folder / "config.json"
    path.write_text(shape.config(steps).to_json(), encoding="utf-8")
    script = [sys.executable, str(Path(__file__).with_name("contenders.py"))]
    ranks = 2 if kind == BASE else 1
    arguments = [
        ["1f1b", str(path), str(rank), str(folder / "store")]
        if ranks == 2
        else ["plain", str(path)]
        for rank in range(ranks)
    ]
    processes = [
        subprocess.Popen([*script, *one], stdout=subprocess.PIPE, text=True) for one in arguments
    ]
    try:
        outputs = [process.communicate(timeout=CONTENDER_SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{kind} ended with {[process.returncode for process in processes]}")
    seconds: list[float] = json.loads(outputs[0].splitlines()[-1])
    return seconds


def run_one(name: str, shape: Shape, steps: int, folder: Path) -> list[float]:
    """Seconds of the steps after warm-up."""
    if name.startswith("swarm"):
        config = shape.config(steps, accumulation=name.split(", ")[1])
        seconds = asyncio.run(run_swarm(config, folder)).seconds
    else:
        seconds = run_others(name, shape, steps, folder)
    return seconds[WARM_UP_STEPS:]


def measure(shape: Shape, steps: int, rounds: int) -> Result:
    result = Result(shape, steps)
    for index in range(rounds):
        # The order turns from round to round, so that none always follows the same one.
        turned = CONTENDERS[index % len(CONTENDERS) :] + CONTENDERS[: index % len(CONTENDERS)]
        for name in turned:
            with tempfile.TemporaryDirectory(prefix="pipeline-") as folder:
                result.seconds[name].append(run_one(name, shape, steps, Path(folder)))
            rate = result.rates(name)[-1]
            print(f"width {shape.width} round {index + 1} {name}: {rate:.0f} tokens/s", flush=True)
        result.load.append(os.getloadavg()[0])
    return result


def spread(values: list[float], digits: int) -> str:
    """Median and, in brackets, smallest and largest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table(results: list[Result]) -> str:
    lines = ["| width | contender | tokens/s | to torch 1F1B | fastest step | to torch 1F1B |"]
    lines.append("|---|---|---|---|---|---|")
    for result in results:
        for name in CONTENDERS:
            rates, ratio = spread(result.rates(name), 0), spread(result.ratios(name), 2)
            best = result.best(name)
            cells = [str(result.shape.width), name, rates, ratio, f"{best:.0f}"]
            lines.append(f"| {' | '.join(cells)} | {best / result.best(BASE):.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Two-stage swarm beside torch's pipelining")
    parser.add_argument(
        "--quick", action="store_true", help="small shapes, one round, under a minute"
    )
    parser.add_argument("--rounds", type=int, default=0, help="alternating rounds (3; quick: 1)")
    parser.add_argument("--width", type=int, action="append", help="only this width; may repeat")
    parser.add_argument("--out", type=Path, help="write all figures to this JSON file")
    options = parser.parse_args()
    shapes, steps, rounds = (QUICK_SHAPES, 5, 1) if options.quick else (SHAPES, 5, 3)
    widths = options.width or sorted(shapes)
    results = [measure(shapes[width], steps, options.rounds or rounds) for width in widths]
    print(table(results))
    if options.out:
        machine = {"cores": os.cpu_count(), "torch": torch.__version__}
        content = {"machine": machine, "results": [asdict(result) for result in results]}
        options.out.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
