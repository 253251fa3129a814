"""How long a new plan takes when a peer is lost or joins, and how good it is: `python -m benchmarks.replanning`.

A plan of 10 CPU seconds loses the first replica of each middle stage in turn; then that peer joins again, and the plan
before is the shortest of those made without it. `repair` changes a step that runs: it gives the lost visits to others
and leaves the rest, or gives the newcomer visits that nobody was asked for yet after a third of the step. `replan` is
for the next step when the roster changed after it was planned: it may change all of the routes that the lost peer was
on, or gives the newcomer visits of its stage. Both leave a plan as it is unless a newcomer shortens it by 2 %. `anew`
plans everything again. Seconds are CPU seconds; the makespan is that of the whole step, before: with the lost peer, or
without the newcomer, which is what doing nothing comes to. What a loss costs a step that runs: benchmarks/routes.py,
row `lost`. The table is printed; `--out DIR` gets the picture.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from benchmarks.bars import bars
from benchmarks.paths import LARGE, SHAPES, arranged
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.planner import plan
from swarmtrain.plan.paths.repair import repair
from swarmtrain.plan.paths.replanning import replan
from swarmtrain.plan.paths.routes import Plan
from swarmtrain.plan.paths.search import Spent, by_evaluations

FIRST_CPU_SECONDS = 10.0
REPAIR_EVALUATIONS = 300
ANEW_CPU_SECONDS = 2.0
ELAPSED_SHARE = 1 / 3
"""Of a step that runs, when a peer joins."""

RESULTS = Path(__file__).parent / "results"

Planned = Callable[[Instance, Plan], Plan]


def within(seconds: float) -> Spent:
    begun = time.process_time()
    return lambda _: (time.process_time() - begun) / seconds


def repaired(now: Instance, before: Plan) -> Plan:
    names = [peer.name for peer in now.peers]
    edges = [names.index(before.instance.peers[route.peers[0]].name) for route in before.routes]
    elapsed_seconds, budget = ELAPSED_SHARE * before.makespan_seconds, REPAIR_EVALUATIONS
    return repair(now, before, edges, elapsed_seconds, by_evaluations(budget), random.Random(1))


def replanned(now: Instance, before: Plan) -> Plan:
    return replan(now, before, by_evaluations(REPAIR_EVALUATIONS), random.Random(1))


def anew(now: Instance, before: Plan) -> Plan:
    return plan(now, within(ANEW_CPU_SECONDS), random.Random(1))


METHODS: Mapping[str, Planned] = {"repair": repaired, "replan": replanned, "anew": anew}


def changed_routes(before: Plan, after: Plan) -> int:
    """Routes on which some visit changed its peer or stage, a lost peer's visits included."""
    old, new = ([peer.name for peer in one.instance.peers] for one in (before, after))
    return sum(
        (was.stages, [old[p] for p in was.peers]) != (now.stages, [new[p] for p in now.peers])
        for was, now in zip(before.routes, after.routes, strict=True)
    )


@dataclass(frozen=True)
class Row:
    """Means over the peers that were lost or joined; makespans of the whole step."""

    peers: str
    change: str
    method: str
    cpu_seconds: float
    before_seconds: float
    after_seconds: float
    changed: float
    microbatches: int


@dataclass(frozen=True)
class Case:
    """One new plan."""

    cpu_seconds: float
    before: Plan
    after: Plan


def case_of(work: Planned, now: Instance, before: Plan) -> Case:
    begun = time.process_time()
    after = work(now, before)
    return Case(time.process_time() - begun, before, after)


def measured(name: str, instance: Instance) -> Iterator[Row]:
    whole = plan(instance, within(FIRST_CPU_SECONDS), random.Random(1))
    everybody = replace(whole.instance, stage_sizes=None)
    again = case_of(anew, everybody, whole)  # which is the same whoever joins
    losses: dict[str, list[Case]] = {method: [] for method in METHODS}
    joins: dict[str, list[Case]] = {method: [] for method in METHODS}
    for stage in range(1, instance.stages):
        left = everybody.without([everybody.peers[everybody.hosts[stage][0]].name])
        for method, work in METHODS.items():
            losses[method].append(case_of(work, left, whole))
        plans = [cases[-1].after for cases in losses.values()]
        without = min(plans, key=lambda found: found.makespan_seconds)
        for method, work in METHODS.items():
            if method == "anew":
                case = replace(again, before=without)
            else:
                case = case_of(work, everybody, without)
            joins[method].append(case)
    for change, found in (("loss", losses), ("join", joins)):
        for method, cases in found.items():
            yield row_of(name, change, method, cases)


def row_of(name: str, change: str, method: str, cases: Sequence[Case]) -> Row:
    return Row(
        name,
        change,
        method,
        cpu_seconds=statistics.mean(case.cpu_seconds for case in cases),
        before_seconds=statistics.mean(case.before.makespan_seconds for case in cases),
        after_seconds=statistics.mean(case.after.makespan_seconds for case in cases),
        changed=statistics.mean(changed_routes(case.before, case.after) for case in cases),
        microbatches=len(cases[0].after.routes),
    )


def line(row: Row) -> str:
    return (
        f"| {row.peers} | {row.change} | {row.method} | {1000 * row.cpu_seconds:,.0f} "
        f"| {row.before_seconds:.1f} | {row.after_seconds:.1f} "
        f"| {row.changed:.0f} of {row.microbatches} |"
    )


def drawing(rows: Sequence[Row]) -> str:
    """Makespans of the whole step with each new plan over that before the change; the line is no change at all."""
    groups = [
        (label, {row.method: row.after_seconds / row.before_seconds for row in group})
        for label, group in groupby(rows, lambda row: f"{row.peers}\n{row.change}")
    ]
    return bars("makespan after a loss or a join over the one before", groups, level=1.0)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--out", type=Path, default=RESULTS, help="folder of replanning.svg")
    folder = options.parse_args().out
    print("| peers | change | method | CPU ms | makespan s before | after | routes changed |")
    print("|---|---|---|---|---|---|---|")
    work = [(f"N={count}", (*SHAPES[count], 6 * SHAPES[count][0][0])) for count in (16, 20, 42)]
    rows: list[Row] = []
    for name, shape in [*work, ("N=200", LARGE)]:
        for row in measured(name, arranged(*shape, seed=1)):
            rows.append(row)
            print(line(row), flush=True)
    (folder / "replanning.svg").write_text(drawing(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
