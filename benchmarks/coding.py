"""What it costs one core to code contributions to outer rounds that four islands reduce in slices.

    python -m benchmarks.coding [--codec int4] [--at-once 4]

A contribution is encoded and decoded again for what that lost, a quarter of all four is decoded and the mean of that
encoded, the means of all quarters are decoded, and the result is merged: 6.25 passes over a parameter, which take about
the same time each. With `--at-once` so many processes do it at the same time, on the cores that there are.
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from swarmtrain.core.rounds import Choice, Counted
from swarmtrain.outer.member import Fragment, FragmentMember, RoundSettings
from swarmtrain.outer.optimizer import OuterOptimizer, OuterState
from swarmtrain.outer.reduction import Reduction
from swarmtrain.outer.stage import member_name

ISLANDS = 4
LANE_PASSES = 3
BESIDE_PASSES = (ISLANDS + 1) / ISLANDS + 1
ELEMENTS = 64 * 65536
TIMES = 3


@dataclass(frozen=True, slots=True)
class Costs:
    """Nanoseconds that a round takes a parameter."""

    lane: float
    """On the compute lane, where steps wait for it: a contribution made, a result taken."""
    beside: float
    """In the thread beside it: a quarter of all contributions summed, the means decoded."""

    @property
    def pass_seconds(self) -> float:
        return 1e-9 * (self.lane + self.beside) / (LANE_PASSES + BESIDE_PASSES)


def costs(
    codec: str = "int4",
    elements: int = ELEMENTS,
    clock: Callable[[], float] = time.process_time,
) -> Costs:
    """The best of three. Grains are the real ones: nothing may have changed them."""
    found = [_costs_once(codec, elements, clock) for _ in range(TIMES)]
    return Costs(min(each.lane for each in found), min(each.beside for each in found))


def _costs_once(codec: str, elements: int, clock: Callable[[], float]) -> Costs:
    settings = RoundSettings(OuterOptimizer(), codec)
    before = torch.randn(elements) * 0.02
    local = before + torch.randn(elements) * 1e-3
    fragment = Fragment(1, 0, 0, elements, ((0, (elements,)),))
    state = OuterState.first(before, settings.optimizer)
    member = FragmentMember(member_name(0), fragment, state, settings)
    choice = Choice(tuple(Counted(island, 1, b"") for island in range(ISLANDS)), (), b"")
    times = [clock()]
    made = member.send(local, 1, 1, 1e-3)
    times.append(clock())
    assert made is not None
    of_round, quarter = member.sender.codec, len(made[1].sections) // ISLANDS
    reduction = Reduction(member.tag, elements, of_round, of_round, settings.zstd_level)
    sent = dict.fromkeys(range(ISLANDS), made[1].sections[:quarter])
    means = reduction.mean(choice, (0, quarter), sent) * ISLANDS
    result = reduction.of_means(choice, means)
    times.append(clock())
    member.merge(result.merged, local, 2)
    times.append(clock())
    send, reduce, merge = (1e9 * (end - start) / elements for start, end in pairwise(times))
    return Costs(send + merge, reduce)


def pass_seconds_at_once(codec: str, elements: int, processes: int) -> float:
    """Of one pass over one value where so many processes code at the same time: the median of them, by the clock."""
    context: Any = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=_measure, args=(codec, elements, barrier, found))
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    try:
        return statistics.median(found.get(timeout=120) for _ in workers)
    finally:
        for worker in workers:
            worker.join(timeout=10)
            worker.kill()


def _measure(codec: str, elements: int, barrier: Any, found: Any) -> None:
    torch.set_num_threads(1)
    _costs_once(codec, elements, time.perf_counter)
    barrier.wait(60)
    each = [_costs_once(codec, elements, time.perf_counter).pass_seconds for _ in range(2 * TIMES)]
    found.put(statistics.median(each))


def main() -> None:
    parser = argparse.ArgumentParser(description="What coding contributions costs one core")
    parser.add_argument("--codec", default="int4")
    parser.add_argument("--at-once", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.at_once > 1:
        seconds = pass_seconds_at_once(args.codec, ELEMENTS, args.at_once)
        print(f"{args.codec}, {args.at_once} processes at once: {1e9 * seconds:.1f} ns a pass")
        return
    found = costs(args.codec)
    print(
        f"{args.codec}: {found.lane:.1f} ns a parameter on the compute lane, {found.beside:.1f} beside it, "
        f"{1e9 * found.pass_seconds:.1f} a pass"
    )


if __name__ == "__main__":
    main()
