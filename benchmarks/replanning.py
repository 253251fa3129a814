"""How long a new plan takes when a peer is lost, and how good it is: `python -m benchmarks.replanning`.

A plan of 10 CPU seconds loses the first replica of each middle stage in turn. `repair` gives the lost visits to others
and leaves the rest (what a running step gets); `replan` may change all of the routes that the lost peer was on (what
the next step gets when the roster changed after it was planned); `anew` plans everything again. Seconds are CPU
seconds; the makespan is that of the whole step with the new plan. What each costs a step that runs:
benchmarks/routes.py, row `lost`. The table is printed; `--out DIR` gets the picture.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from benchmarks.bars import bars
from benchmarks.paths import LARGE, SHAPES, arranged
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.planner import plan, replan
from swarmtrain.plan.paths.repair import repair
from swarmtrain.plan.paths.routes import Plan
from swarmtrain.plan.paths.search import Spent, by_evaluations

FIRST_CPU_SECONDS = 10.0
REPAIR_EVALUATIONS = 300
ANEW_CPU_SECONDS = 2.0

RESULTS = Path(__file__).parent / "results"

Planned = Callable[[Instance, Plan], Plan]


def within(seconds: float) -> Spent:
    begun = time.process_time()
    return lambda _: (time.process_time() - begun) / seconds


def repaired(left: Instance, before: Plan) -> Plan:
    names = [peer.name for peer in left.peers]
    edges = [names.index(before.instance.peers[route.peers[0]].name) for route in before.routes]
    return repair(left, before, edges, by_evaluations(REPAIR_EVALUATIONS), random.Random(1))


def replanned(left: Instance, before: Plan) -> Plan:
    return replan(left, before, by_evaluations(REPAIR_EVALUATIONS), random.Random(1))


def anew(left: Instance, before: Plan) -> Plan:
    return plan(left, within(ANEW_CPU_SECONDS), random.Random(1))


def changed_routes(before: Plan, after: Plan) -> int:
    """Routes on which some visit changed its peer or stage, the lost peer's visits included."""
    old, new = ([peer.name for peer in one.instance.peers] for one in (before, after))
    return sum(
        (was.stages, [old[p] for p in was.peers]) != (now.stages, [new[p] for p in now.peers])
        for was, now in zip(before.routes, after.routes, strict=True)
    )


@dataclass(frozen=True)
class Row:
    """Means over the peers that were lost; makespans of the whole step."""

    peers: str
    method: str
    cpu_seconds: float
    before_seconds: float
    after_seconds: float
    changed: float
    microbatches: int


def measured(name: str, instance: Instance) -> Iterator[Row]:
    before = plan(instance, within(FIRST_CPU_SECONDS), random.Random(1))
    lost = [before.instance.hosts[stage][0] for stage in range(1, instance.stages)]
    methods: dict[str, Planned] = {"repair": repaired, "replan": replanned, "anew": anew}
    for method, work in methods.items():
        seconds, makespans, changed = [], [], []
        for peer in lost:
            left = replace(before.instance.without([instance.peers[peer].name]), stage_sizes=None)
            begun = time.process_time()
            after = work(left, before)
            seconds.append(time.process_time() - begun)
            makespans.append(after.makespan_seconds)
            changed.append(changed_routes(before, after))
        means = statistics.mean(seconds), before.makespan_seconds, statistics.mean(makespans)
        yield Row(name, method, *means, statistics.mean(changed), instance.microbatches)


def line(row: Row) -> str:
    return (
        f"| {row.peers} | {row.method} | {1000 * row.cpu_seconds:,.0f} | {row.before_seconds:.1f} "
        f"| {row.after_seconds:.1f} | {row.changed:.0f} of {row.microbatches} |"
    )


def drawing(rows: Sequence[Row]) -> str:
    """Makespans of the whole step with each new plan over that before the loss; the line is no loss at all."""
    groups = [
        (peers, {row.method: row.after_seconds / row.before_seconds for row in group})
        for peers, group in groupby(rows, lambda row: row.peers)
    ]
    return bars("makespan after a loss over the one before", groups, level=1.0)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--out", type=Path, default=RESULTS, help="folder of replanning.svg")
    folder = options.parse_args().out
    print("| peers | method | CPU ms | makespan s before | after | routes changed |")
    print("|---|---|---|---|---|---|")
    work = [(f"N={count}", (*SHAPES[count], 6 * SHAPES[count][0][0])) for count in (16, 20, 42)]
    rows: list[Row] = []
    for name, shape in [*work, ("N=200", LARGE)]:
        for row in measured(name, arranged(*shape, seed=1)):
            rows.append(row)
            print(line(row), flush=True)
    (folder / "replanning.svg").write_text(drawing(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
