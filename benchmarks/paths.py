"""The planner in the setting of the published scheduler, and at scale: `python -m benchmarks.paths`.

Twelve regions cycled over N peers, 32 MiB between stages, 0.35 s of overhead a send, forward 1.76 s, backward 1.5 times
that, loss a quarter, 3 memory slots, 0.13 s between tasks (SkipPipe, arXiv 2502.19913). Budgets are CPU seconds of this
process, so that other work on the machine has no part in the figures. Results are written after every row.
"""

import argparse
import json
import random
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.paths_report import HEAD, line, write_report
from swarmtrain.plan.paths.instance import Instance, PeerCosts
from swarmtrain.plan.paths.planner import plan
from swarmtrain.plan.paths.reading import read_instance
from swarmtrain.plan.paths.routes import violations

ROOT = Path(__file__).parents[1]
DATA = ROOT / "benchmarks" / "data"
RESULTS = ROOT / "benchmarks" / "results"
TENSOR_BYTES = 32 * 2**20
OVERHEAD_SECONDS = 0.35
FORWARD_SECONDS, BACKWARD_SECONDS, LOSS_SECONDS = 1.76, 2.64, 0.44

SHAPES: dict[int, tuple[tuple[int, ...], int]] = {
    12: ((4, 2, 2, 2, 2), 3),
    16: ((4, 3, 3, 3, 3), 4),
    20: ((5, 3, 3, 3, 3, 3), 4),
    26: ((6, 4, 4, 4, 4, 4), 4),
    42: ((7, 5, 5, 5, 5, 5, 5, 5), 6),
}
"""Peers of each stage and visits, by number of peers; every edge peer has six microbatches."""

LARGE = ((50, 30, 30, 30, 30, 30), 4, 1000)
"""The large case: peers of each stage, visits, microbatches."""

MODES = ("given", "placed", "sized")
"""Places given and equal quotas; places chosen (sizes given) and free quotas; sizes chosen too."""

EARLY_SECONDS = (0.05, 2.0)


@dataclass(frozen=True)
class Row:
    """One instance planned once; makespans in seconds, by CPU seconds spent."""

    case: str
    mode: str
    published_seconds: float | None
    first_seconds: float
    first_cpu_seconds: float
    early_seconds: tuple[float, ...]
    budget_seconds: float
    makespan_seconds: float
    bound_seconds: float
    evaluations_per_second: float
    sizes: tuple[int, ...]


def send_matrix(peers: int) -> tuple[tuple[float, ...], ...]:
    """Seconds of a send between peers whose regions are cycled; none from a peer to itself."""
    network = tomllib.loads((ROOT / "peers" / "networks" / "gcp12.toml").read_text())
    latency, rate = network["one_way_latency_seconds"], network["bytes_per_second"]
    regions = len(network["regions"])

    def send(a: int, b: int) -> float:
        x, y = a % regions, b % regions
        return latency[x][y] + TENSOR_BYTES / rate[x][y] + OVERHEAD_SECONDS

    return tuple(tuple(0.0 if a == b else send(a, b) for b in range(peers)) for a in range(peers))


def arranged(sizes: tuple[int, ...], visits: int, microbatches: int, seed: int) -> Instance:
    """Peers dealt to stages at random."""
    count = sum(sizes)
    stages = [stage for stage, size in enumerate(sizes) for _ in range(size)]
    random.Random(seed).shuffle(stages)
    seconds = FORWARD_SECONDS, BACKWARD_SECONDS, LOSS_SECONDS
    return Instance(
        peers=tuple(PeerCosts(f"n{i}", (stages[i],), *seconds, 3) for i in range(count)),
        send_seconds=send_matrix(count),
        stages=len(sizes),
        microbatches=microbatches,
        visits=visits,
        task_gap_seconds=0.13,
        stage_sizes=sizes,
    )


def cases(nodes: list[int], seeds: int) -> Iterator[tuple[str, Instance, float | None, int]]:
    """(name, instance, the published scheduler's best where there is one, seed of arrangement and search)."""
    for count in nodes:
        file = DATA / f"skippipe_n{count}.json"
        if file.exists():
            text = file.read_text()
            published = json.loads(text)["published_seconds"]
            best = min(published[key] for key in ("no_TC2", "TC2") if key in published)
            yield f"N={count} published", read_instance(text), best, 1
        sizes, visits = SHAPES[count]
        for seed in range(1, seeds + 1):
            instance = arranged(sizes, visits, 6 * sizes[0], seed)
            yield f"N={count} seed {seed}", instance, None, seed


def measured(
    case: str,
    mode: str,
    instance: Instance,
    published: float | None,
    seed: int,
    budget_seconds: float,
) -> Row:
    if mode != "given":
        nowhere = tuple(replace(peer, stages=None) for peer in instance.peers)
        sizes = instance.stage_sizes if mode == "placed" else None
        instance = replace(instance, peers=nowhere, stage_sizes=sizes, quotas="free")
    begun = time.process_time()
    told: list[tuple[float, float]] = []

    def spent(_: int) -> float:
        return (time.process_time() - begun) / budget_seconds

    found = plan(
        instance,
        spent,
        random.Random(seed),
        lambda _, seconds: told.append((time.process_time() - begun, seconds)),
    )
    used = time.process_time() - begun
    broken = list(violations(found))
    assert not broken and found.execution().makespan_seconds == found.makespan_seconds, broken
    first_cpu, first = _first(instance)
    early = tuple(
        min((value for at, value in told if at <= limit), default=first) for limit in EARLY_SECONDS
    )
    return Row(
        case,
        mode,
        published,
        first,
        first_cpu,
        early,
        budget_seconds,
        found.makespan_seconds,
        found.lower_bound_seconds,
        found.evaluations / used,
        tuple(map(len, found.instance.hosts)),
    )


def _first(instance: Instance) -> tuple[float, float]:
    """CPU seconds until the first plan with its bound, and its makespan."""
    begun = time.process_time()
    found = plan(instance, lambda _: 1.0, random.Random(1))
    return time.process_time() - begun, found.makespan_seconds


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--nodes", type=int, nargs="*", default=sorted(SHAPES))
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=60.0, help="CPU seconds a plan")
    options.add_argument("--modes", nargs="*", default=list(MODES), choices=MODES)
    options.add_argument("--large", action="store_true", help="200 peers, 1,000 microbatches too")
    options.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    chosen = options.parse_args()
    work = [
        (name, mode, instance, published, seed)
        for name, instance, published, seed in cases(chosen.nodes, chosen.seeds)
        for mode in chosen.modes
    ]
    if chosen.large:
        work += [("N=200, 1,000 microbatches", "given", arranged(*LARGE, seed=1), None, 1)]
    rows: list[Row] = []
    print(HEAD, flush=True)
    for name, mode, instance, published, seed in work:
        rows.append(measured(name, mode, instance, published, seed, chosen.seconds))
        print(line(asdict(rows[-1])), flush=True)
        command = "python -m benchmarks.paths " + " ".join(sys.argv[1:])
        write_report([asdict(row) for row in rows], command.strip(), chosen.out)


if __name__ == "__main__":
    main()
