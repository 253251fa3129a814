"""Mean time to repair with real processes: SIGKILL of a stage peer and of the conductor, SIGSTOP of a stage peer.

    python -m benchmarks.recovery [--injections 20] [--seed 7] [-o json]

Each kind has a run of its own, in which every victim comes back before the next fault: killed peers as new processes
under the same identity. Prints p50 and p95 of seconds from the fault to its detection (first event that names the
victim), to the roster without it, to the first commit after that; and from the restart or SIGCONT until the victim
is counted in again. Every run must end with the parameters of the plain loop.
"""

import argparse
import asyncio
import json
import random
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path

from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.experiments.injections import Trial, reference_sha256
from swarmtrain.experiments.recoveries import (
    Recovery,
    detection_bound_seconds,
    percentile,
    recovery_from,
)

STAGES = ("0:2", "0:2", "0:2", "1:2", "1:2", "1:2")
"""Three edges, and six replicas of each middle stage."""
MARKS = ("detect", "reassign", "first commit", "resync")
KINDS = {"kill a stage peer": "kill", "kill the conductor": "kill", "freeze a stage peer": "freeze"}
EQUALITY = Path(__file__).parents[1] / "deploy" / "runs" / "equality.toml"


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of fault: p50 and p95 of each mark, the run's usual seconds a step, and whether it ended right."""

    kind: str
    injections: int
    p50_seconds: tuple[float, ...]
    p95_seconds: tuple[float, ...]
    step_seconds: float
    equal: bool


def measured(kind: str, config: RunConfig, injections: int, seed: int, folder: Path) -> Row:
    """One run with that many faults of one kind."""
    chance, found = random.Random(seed), list[Recovery]()
    trial = Trial(config, folder, STAGES)

    async def script(trial: Trial) -> None:
        for _ in range(injections):
            await trial.until_steps(chance.randint(3, 12))
            victim = trial.conductor if "conductor" in kind else chance.randint(3, len(STAGES) - 1)
            found.append(await recovery_from(trial, KINDS[kind], victim))

    state = asyncio.run(trial.play(script))
    figures = list(zip(*(astuple(entry)[1:] for entry in found), strict=True))
    commits = [entry.event["seconds"] for entry in trial.seen("step_committed")]
    return Row(
        kind,
        len(found),
        tuple(percentile(values, 50) for values in figures),
        tuple(percentile(values, 95) for values in figures),
        percentile(commits, 50),
        state.parameters_sha256 == reference_sha256(trial.config, state.step),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--injections", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--kind", choices=[*KINDS, "all"], default="all")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    overrides = ["run.steps=1000000", "train.sequence_length=32", *options.set]
    config = load_config([EQUALITY], overrides)
    rows = []
    for kind in KINDS if options.kind == "all" else [options.kind]:
        with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
            row = measured(kind, config, options.injections, options.seed, Path(folder) / "run")
        rows.append(row)
        if options.output == "text":
            _print(row, len(rows) == 1)
    if options.output == "json":
        facts = [dict(zip(Row.__slots__, astuple(row), strict=True)) for row in rows]
        print(json.dumps({"bound_seconds": detection_bound_seconds(config.links), "rows": facts}))
    else:
        print(
            f"\nfrozen peers are out of the roster within {detection_bound_seconds(config.links):g} s"
        )


def _print(row: Row, is_first: bool) -> None:
    if is_first:
        print(
            "| fault | n | "
            + " | ".join(f"{mark} p50 / p95" for mark in MARKS)
            + " | step | equal |"
        )
        print("|---" * (len(MARKS) + 4) + "|")
    pairs = zip(row.p50_seconds, row.p95_seconds, strict=True)
    figures = " | ".join(f"{p50:.2f} / {p95:.2f} s" for p50, p95 in pairs)
    equal = "yes" if row.equal else "NO"
    print(
        f"| {row.kind} | {row.injections} | {figures} | {row.step_seconds:.2f} s | {equal} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
