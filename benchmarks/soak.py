"""Share of the throughput that a virtual swarm keeps under continual faults, beside the same world without any.

    python benchmarks/soak.py [SCENARIO.toml] [--set section.key=value ...]

Prints the share of steps a second that is kept, which faults the rest went to, and what the checker and the comparison
with the plain loop found. Seconds are virtual: load on this machine changes none of them.
"""

import argparse
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.events import FaultInjected, StepCommitted
from swarmtrain.data.stream import Corpus, load_corpus
from swarmtrain.experiments.faults import Chances
from swarmtrain.experiments.scenario import read_scenario
from swarmtrain.experiments.sweep import Verdict, run_seed
from swarmtrain.experiments.virtual import Scenario, VirtualRun

SOAK = Path(__file__).parents[1] / "deploy" / "scenarios" / "soak.toml"
TWIN_STEPS = 12
"""Without faults all steps but the first take the same time."""


def fault_free(scenario: Scenario) -> Scenario:
    """The same machines and lines, and nothing happens to them."""
    peers = tuple(replace(peer, churn=None) for peer in scenario.peers)
    return replace(scenario, peers=peers, faults=(), chances=Chances())


def steps_by_fault(run: VirtualRun) -> dict[str, list[float]]:
    """Seconds of the steps in which faults of one kind were injected, "several" and "none" apart."""
    found: dict[str, list[float]] = {}
    kinds: list[str] = []
    for _, _, event in run.events:
        if isinstance(event, FaultInjected):
            kinds.append(event.fault)
        elif isinstance(event, StepCommitted) and event.step:
            name = "none" if not kinds else kinds[0] if len(kinds) == 1 else "several"
            found.setdefault(name, []).append(event.seconds)
            kinds = []
    return found


def describe(name: str, run: VirtualRun, cpu_seconds: float) -> None:
    kinds = Counter(event.kind for _, _, event in run.events)
    print(
        f"{name}: {len(run.commits)} steps, {run.seconds / 60:.1f} virtual minutes, "
        f"{len(run.injected)} faults, {run.recoveries} of them recovered from, {cpu_seconds:.0f} CPU s"
    )
    wanted = (
        "replayed",
        "duplicate_dropped",
        "rerouted",
        "hedged",
        "recovered",
        "restored",
        "lost",
    )
    print("   " + ", ".join(f"{kinds[kind]} {kind}" for kind in wanted))
    print(f"   faults: {dict(Counter(fault.kind for fault in run.plan))}", flush=True)


def one(
    name: str, config: RunConfig, scenario: Scenario, corpus: Corpus
) -> tuple[VirtualRun, Verdict]:
    begin = time.process_time()
    run, verdict = run_seed(config, scenario, corpus)
    describe(name, run, time.process_time() - begin)
    return run, verdict


def seconds_a_step(run: VirtualRun) -> float:
    """From the first acknowledged step to the last."""
    at = [at for at, _, event in run.events if isinstance(event, StepCommitted)]
    return (at[-1] - at[0]) / (len(run.commits) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="?", type=Path, default=SOAK)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = read_scenario(options.scenario)
    config = load_config([file.run], [*file.overrides, *options.overrides])
    corpus = load_corpus(config.data, None)
    short = config.model_copy(update={"run": config.run.model_copy(update={"steps": TWIN_STEPS})})
    twin, _ = one("fault-free", short, fault_free(file.scenario), corpus)
    run, verdict = one("with faults", config, file.scenario, corpus)
    print(f"outcome: {verdict.outcome} {verdict.reason}; violations: {len(verdict.violations)}")
    print(
        f"parameters equal the plain loop's: {verdict.parameters_sha256 == verdict.expected_sha256}"
    )
    usual = seconds_a_step(twin)
    print(f"throughput_kept: {100 * usual / seconds_a_step(run):.1f} %")
    print(f"\n{'fault in step':<14} steps  mean s over {usual:.2f} s   share of the time lost")
    found = steps_by_fault(run)
    lost = {name: sum(s - usual for s in seconds) for name, seconds in found.items()}
    for name in sorted(lost, key=lambda name: -lost[name]):
        count = len(found[name])
        share = 100 * lost[name] / sum(lost.values())
        print(f"{name:<14} {count:>5}  {lost[name] / count:>+8.2f}            {share:>6.1f} %")


if __name__ == "__main__":
    main()
