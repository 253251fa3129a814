"""A soak with real processes: many minutes of training under one random fault about every 20 seconds (F27).

    python -m benchmarks.real_soak --minutes 30 --peers 12 --seed 7 --every 20 [-o json]

Then a fifth as many steps without faults, with the same peers, to compare. It fails (exit code 1) when parameters
differ from the plain loop's, the journals of all peers show a violation, or a process, port or file is left.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from swarmtrain.coordinator.state import RunState
from swarmtrain.core.config import load_config
from swarmtrain.experiments.checker import check_folder
from swarmtrain.experiments.injections import Trial, reference_sha256
from swarmtrain.experiments.soak import Footprint, Soak, soak_plan, stages_of

MIB = 1 << 20
EQUALITY = Path(__file__).parents[1] / "deploy" / "runs" / "equality.toml"


@dataclass(frozen=True, slots=True)
class Result:
    """What a soak showed; `kept` is its throughput over that without faults."""

    seconds: float
    steps: int
    faults: dict[str, int]
    late_seconds: float
    replayed: int
    terms: int
    longest_step_seconds: float
    kept: float
    equal: bool
    violations: tuple[str, ...]
    left: tuple[str, ...]
    largest_rss_bytes: int
    growth_rss_bytes: int

    @property
    def is_good(self) -> bool:
        return self.equal and not self.violations and not self.left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--peers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between faults")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--keep", type=Path, help="keep the run folders here")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="soak-"))
    # What the processes leave in the temporary folder is seen there.
    (place / "tmp").mkdir()
    os.environ["TMPDIR"] = str(place / "tmp")
    try:
        result = soak(options, options.keep or place)
        print(json.dumps(asdict(result)) if options.output == "json" else _text(result))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    sys.exit(0 if result.is_good else 1)


def soak(options: argparse.Namespace, place: Path) -> Result:
    """The run with faults, the run without, and the accounts."""
    config = load_config([EQUALITY], ["run.steps=1000000", *options.set])
    stages = stages_of(options.peers, config.model.stages)
    plan = soak_plan(
        60 * options.minutes, options.every, options.peers, random.Random(options.seed)
    )
    trouble, footprint = Soak(plan), Footprint()
    trial = Trial(config, place / "faults", stages)
    state = asyncio.run(_watched(trial, trouble.script, footprint))
    left = [*footprint.left(), *(path.name for path in (place / "tmp").glob("*"))]
    calm = Trial(config, place / "calm", stages)
    asyncio.run(calm.play(lambda trial: trial.until_steps(max(state.step // 5, 2), 7200.0)))
    longest_seconds = max(after - before for before, after in pairwise(_commits(trial)))
    return Result(
        seconds=_commits(trial)[-1] - _commits(trial)[0],
        steps=state.step,
        faults=dict(trouble.done),
        late_seconds=trouble.late_seconds,
        replayed=state.replayed_keys,
        terms=len(trial.seen("term_started")),
        longest_step_seconds=longest_seconds,
        kept=_pace(trial) / _pace(calm),
        equal=state.parameters_sha256 == reference_sha256(config, state.step),
        violations=tuple(map(str, check_folder(place / "faults"))),
        left=tuple(left),
        largest_rss_bytes=footprint.largest_bytes,
        growth_rss_bytes=footprint.growth_bytes,
    )


async def _watched(
    trial: Trial, script: Callable[[Trial], Awaitable[None]], footprint: Footprint
) -> RunState:
    watching = asyncio.create_task(footprint.watch())
    try:
        return await trial.play(script)
    finally:
        watching.cancel()


def _commits(trial: Trial) -> list[float]:
    """When steps were acknowledged, each once."""
    first: dict[int, float] = {}
    for entry in trial.seen("step_committed"):
        first.setdefault(entry.event["step"], entry.at_seconds)
    return [first[step] for step in sorted(first)]


def _pace(trial: Trial) -> float:
    """Steps a second from the first commit to the last."""
    commits = _commits(trial)
    return (len(commits) - 1) / (commits[-1] - commits[0])


def _text(result: Result) -> str:
    faults = ", ".join(f"{count} {kind}" for kind, count in sorted(result.faults.items()))
    lines = [
        f"{result.steps} steps in {result.seconds:.0f} s under {sum(result.faults.values())} faults ({faults})",
        f"longest pause between commits {result.longest_step_seconds:.1f} s, {result.terms} terms, "
        f"{result.replayed} runs of positions replayed; faults waited {result.late_seconds:.0f} s to be survivable",
        f"{100 * result.kept:.1f} % of the throughput without faults",
        f"parameters {'equal' if result.equal else 'DIFFER FROM'} those of the plain loop",
        f"largest process {result.largest_rss_bytes / MIB:.0f} MiB, grew by {result.growth_rss_bytes / MIB:.0f} MiB",
        f"violations: {len(result.violations)}; left behind: {', '.join(result.left) or 'nothing'}",
    ]
    return "\n".join([*lines, *result.violations[:10]])


if __name__ == "__main__":
    main()
