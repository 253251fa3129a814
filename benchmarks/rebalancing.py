"""Rebalancing policies on synthetic spot-market traces: the table of SWARM's section 4.4, with ours beside theirs.

    python benchmarks/rebalancing.py [--seeds 20] [--hours 32] [-o json]

Percent of the throughput of the best assignment at every instant: overall, in the first and in the last hour; mean and
standard deviation over seeds. Published for T = 60 s: 97.6, 99.8, 91.7. Everything is virtual: no figure depends on the
machine that runs this.
"""

import argparse
import json
import random
import statistics
from dataclasses import asdict, dataclass, replace

from swarmtrain.experiments.market import HOUR_SECONDS, Market, market_trace
from swarmtrain.experiments.preemption import (
    LOOK_SECONDS,
    Rule,
    Setup,
    no_rebalancing,
    our_rebalancing,
    play,
    swarm_rebalancing,
)
from swarmtrain.plan.rebalance import Policy

MARKET = Market()
SETUP = Setup()

CASES: dict[str, tuple[Market, Setup]] = {
    "newcomers go anywhere": (MARKET, SETUP),
    "newcomers go to the slowest stage": (MARKET, replace(SETUP, blind=False)),
    "calmer: a quarter of the unrest": (replace(MARKET, unrest=(0.025, 5.0)), SETUP),
    "harsher: three times the unrest": (replace(MARKET, unrest=(0.3, 60.0)), SETUP),
    "moves cost nothing": (MARKET, replace(SETUP, transfer_seconds=0.0)),
    "moves cost 120 s": (MARKET, replace(SETUP, transfer_seconds=120.0)),
    "figures off by 10 %": (MARKET, replace(SETUP, noise=0.1)),
    "machines of unequal speed (bound)": (replace(MARKET, speed_spread=0.3), SETUP),
}
"""The first is the comparison; of unequal machines the best is a bound that no assignment reaches."""


@dataclass(frozen=True, slots=True)
class Row:
    """Mean and deviation of the shares overall, in the first and in the last hour, and moves an hour."""

    case: str
    policy: str
    overall: tuple[float, float]
    first_hour: tuple[float, float]
    last_hour: tuple[float, float]
    moves_per_hour: float


def policies() -> dict[str, tuple[Rule, float]]:
    """Rules and their periods in seconds; ours remembers its last look, so that every run gets a new one."""
    return {
        "none": (no_rebalancing, 300.0),
        "SWARM T=300 s": (swarm_rebalancing, 300.0),
        "SWARM T=60 s": (swarm_rebalancing, 60.0),
        "swarmtrain": (our_rebalancing(Policy()), LOOK_SECONDS),
    }


def measure(case: str, policy: str, seeds: int, hours: float) -> Row:
    market, setup = CASES[case]
    market = replace(market, hours=hours)
    results = []
    for seed in range(seeds):
        rule, period_seconds = policies()[policy]
        changes = market_trace(market, random.Random(f"trace {seed}"))
        results.append(play(changes, setup, rule, period_seconds, hours))
    overall, first, last = (
        (statistics.fmean(shares), statistics.pstdev(shares))
        for shares in zip(*(result.shares for result in results), strict=True)
    )
    moves = statistics.fmean(result.moves for result in results) / hours
    return Row(case, policy, overall, first, last, moves)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebalancing policies on synthetic spot markets")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--hours", type=float, default=MARKET.hours)
    parser.add_argument("-o", choices=("text", "json"), default="text")
    options = parser.parse_args()
    names = list(policies())
    if options.o == "text":
        life_hours = MARKET.life_seconds / HOUR_SECONDS
        print(
            f"{options.seeds} traces of {options.hours:g} hours, 4 stages, {MARKET.first} machines at the start "
            f"and {MARKET.last} at the end, which live {life_hours:g} hours at unrest 1\n"
        )
        print("| trace | policy | overall % | first hour % | last hour % | moves an hour |")
        print("|---|---|---|---|---|---|")
    for case in CASES:
        for name in names:
            row = measure(case, name, options.seeds, options.hours)
            if options.o == "json":
                print(json.dumps(asdict(row)), flush=True)
                continue
            shares = (row.overall, row.first_hour, row.last_hour)
            cells = " | ".join(f"{mean:.2f} +- {spread:.2f}" for mean, spread in shares)
            print(f"| {case} | {name} | {cells} | {row.moves_per_hour:.1f} |", flush=True)


if __name__ == "__main__":
    main()
