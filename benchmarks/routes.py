"""Routes through the running peer code, in virtual time: keys dealt in turn, SWARM wiring, and planned.

    python benchmarks/routes.py [--steps 8] [--evaluations 3000]

A published arrangement of 20 machines in twelve cloud regions (benchmarks/data): latency between two machines is what
sending 32 MiB between them takes, and lines are wide, so that sends do not contend, as in the planner's model. Rows:
full pipelines with equal machines, with machines up to 10 times slower, and with a machine lost in the middle of a
step. A makespan counts from the opening of a step to the last contribution that enters a sum. Predicted is what the
planner said before the step opened.
"""

import argparse
import json
import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import swarmtrain.peer.pathing as pathing
from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.events import PathsPlanned, StepOpened, SumChanged
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.profiles import NetworkProfile
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, VirtualRun, simulate
from swarmtrain.plan.wiring import Wiring

FOLDER = Path(__file__).parent
RUN = FOLDER.parent / "deploy" / "runs" / "equality.toml"
WARM_STEPS = 3
"""Steps before the figures count: peers measure each other first."""


def config_of(stages: int, microbatches: int, steps: int, use_planner: bool) -> RunConfig:
    return load_config(
        [RUN],
        [
            f"run.steps={steps}", "optimizer.warmup_steps=1", f"model.stages={stages}",
            "model.family=vector", "model.width=16", "model.heads=2", "model.kv_heads=1",
            f"train.microbatches={microbatches}", "train.microbatch_size=1", "train.sequence_length=4",
            "limits.in_flight=64", "limits.slots_shared=64", "limits.queue=256", "limits.hedge=false",
            "links.heartbeat_seconds=20", "links.silence_seconds=300", "links.connect_seconds=60",
            "swarm.announce_seconds=30", "recovery.snapshot_steps=0",
            f"planner.use={str(use_planner).lower()}",
        ],
    )  # fmt: skip


def scenario_of(network: dict, slowness: list[float], faults: tuple[Fault, ...]) -> Scenario:
    """The arrangement: each machine a region of its own, its sends their latencies."""
    names = tuple(peer["name"] for peer in network["peers"])
    size = len(names)
    lines = NetworkProfile(
        description="sends as latencies", source="benchmarks/data", regions=names,
        one_way_latency_seconds=tuple(map(tuple, network["send_seconds"])),
        bytes_per_second=((1e13,) * size,) * size,
    )  # fmt: skip
    peers = tuple(
        VirtualPeer(peer["name"], tuple(peer["stages"]), slowness=slow, region=peer["name"])
        for peer, slow in zip(network["peers"], slowness, strict=True)
    )
    first = network["peers"][0]
    return Scenario(
        peers, forward_seconds=first["forward_seconds"],
        backward_seconds=first["backward_seconds"], network=lines, faults=faults,
        stall_seconds=36000.0,
    )  # fmt: skip


def makespans(run: VirtualRun) -> dict[int, float]:
    """Seconds of each step from its first opening to the last contribution."""
    opened: dict[int, float] = {}
    last: dict[int, float] = {}
    for at, _, event in run.events:
        if isinstance(event, StepOpened):
            opened.setdefault(event.step, at)
        elif isinstance(event, SumChanged):
            last[event.step] = at
    return {step: last[step] - opened[step] for step in opened if step in last}


@contextmanager
def dealt_in_turn() -> Iterator[None]:
    """Wiring without measurements: every caller follows the deal."""
    choose = Wiring.choose
    Wiring.choose = lambda self, step, stage, replicas, dealt: dealt  # type: ignore[method-assign]
    try:
        yield
    finally:
        Wiring.choose = choose  # type: ignore[method-assign]


@contextmanager
def as_it_is() -> Iterator[None]:
    yield


def row(
    network: dict, policy: str, slowness: list[float], faults: tuple[Fault, ...], steps: int
) -> tuple[float, float, float]:
    """(mean makespan, mean step seconds, mean simulated over predicted) of the steps that count."""
    config = config_of(network["stages"] - 1, network["microbatches"], steps, policy == "planned")
    corpus = load_corpus(config.data, None)
    mode: Callable = dealt_in_turn if policy == "dealt in turn" else as_it_is
    with mode():
        run = simulate(config, scenario_of(network, slowness, faults), corpus)
    found = {step: seconds for step, seconds in makespans(run).items() if step >= WARM_STEPS}
    planned = {e.step: e.makespan_seconds for _, _, e in run.events if isinstance(e, PathsPlanned)}
    ratios = [found[step] / planned[step] for step in found if step in planned]
    seconds = [commit.seconds for commit in run.commits if commit.step >= WARM_STEPS]
    if not found:
        raise SystemExit(f"the run went wrong: {run.stalled} {run.errors}")
    ratio = statistics.mean(ratios) if ratios else float("nan")
    return statistics.mean(found.values()), statistics.mean(seconds), ratio


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=3000, help="of the planner, a step")
    parser.add_argument("--network", default="skippipe_n20.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pathing.MODELLED_EVALUATIONS = options.evaluations
    network = json.loads((FOLDER / "data" / options.network).read_text())
    size = len(network["peers"])
    equal = [1.0] * size
    chance = random.Random(1)
    uneven = [float(chance.choice((0.5, 1.0, 2.0, 5.0))) for _ in range(size)]
    victim = next(p["name"] for p in network["peers"] if p["stages"] == [2])
    lost = (Fault("kill", (victim,), at_seconds=400.0),)
    print("| machines | policy | makespan s | step s | simulated / predicted |")
    print("|---|---|---|---|---|")
    for name, slowness, faults in (
        ("equal", equal, ()),
        ("up to 10x apart", uneven, ()),
        ("equal, one lost", equal, lost),
    ):
        for policy in ("dealt in turn", "wired", "planned"):
            makespan, step, ratio = row(network, policy, slowness, faults, options.steps)
            told = "" if ratio != ratio else f"{ratio:.3f}"
            print(f"| {name} | {policy} | {makespan:.1f} | {step:.1f} | {told} |", flush=True)


if __name__ == "__main__":
    main()
