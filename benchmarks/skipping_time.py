"""Seconds of a step on the 12-region network, for benchmarks/skipping.py: real losses over modelled time.

SkipPipe's setting (arXiv 2502.19913; 1.5B model): every stage has as many replicas, all peers are dealt over the
regions in turn, and the planner's execution model says what a step takes.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from swarmtrain.core.config import RunConfig
from swarmtrain.core.sequences import Sequences, sequence_of, stage_sequences, turns_of
from swarmtrain.experiments.profiles import NetworkProfile
from swarmtrain.plan.paths.execution import Executor
from swarmtrain.plan.paths.instance import Instance, PeerCosts
from swarmtrain.plan.paths.planner import plan
from swarmtrain.plan.paths.search import by_evaluations
from swarmtrain.plan.paths.stepwise import plan_step

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Costs:
    """What a stage and a boundary would take, and how hard the planner tries."""

    forward_seconds: float = 1.76
    backward_ratio: float = 1.5
    loss_ratio: float = 0.25
    boundary_bytes: int = 32 * MIB
    send_overhead_seconds: float = 0.35
    task_gap_seconds: float = 0.13
    memory_slots: int = 3
    replicas: int = 3
    judged_steps: int = 10
    evaluations: int = 10_000
    visits_evaluations: int = 500


def instance_of(config: RunConfig, network: NetworkProfile, costs: Costs) -> Instance:
    """A step of `config`: peer `stage * replicas + n` is replica n of the stage; the edge has as many."""
    stages = config.model.stages + 1
    forward = costs.forward_seconds
    seconds = forward, forward * costs.backward_ratio, forward * costs.loss_ratio
    peers = tuple(
        PeerCosts(f"stage {stage}, {n}", (stage,), *seconds, costs.memory_slots)
        for stage in range(stages)
        for n in range(costs.replicas)
    )
    count, regions = len(peers), len(network.regions)

    def send(a: int, b: int) -> float:
        x, y = a % regions, b % regions
        transfer = costs.boundary_bytes / network.bytes_per_second[x][y]
        return network.one_way_latency_seconds[x][y] + transfer + costs.send_overhead_seconds

    return Instance(
        peers=peers,
        send_seconds=tuple(
            tuple(0.0 if a == b else send(a, b) for b in range(count)) for a in range(count)
        ),
        stages=stages,
        microbatches=config.train.microbatches,
        visits=config.paths.visited(config.model.stages) + 1,
        max_jump=stages,
        max_swaps=0,
        task_gap_seconds=costs.task_gap_seconds,
        protected_stages=config.paths.protected,
    )


def step_seconds(
    config: RunConfig, network: NetworkProfile, costs: Costs, is_planned: bool
) -> tuple[float, float]:
    """(with visitors dealt to replicas in turn, with planned routes): means over steps, as who skips what is drawn.

    With `is_planned` the planner chooses who visits what too, and both are the same.
    """
    instance = instance_of(config, network, costs)
    dealt, planned = [], []
    for step in range(costs.judged_steps):
        budget, chance = by_evaluations(costs.evaluations), random.Random(step)
        if is_planned:
            planned.append(plan(instance, budget, chance).makespan_seconds)
            continue
        sequences = _each(config, stage_sequences(config, step))
        dealt.append(_dealt_seconds(instance, sequences))
        planned.append(plan_step(instance, sequences, budget, chance).makespan_seconds)
    planned_seconds = sum(planned) / len(planned)
    return (sum(dealt) / len(dealt) if dealt else planned_seconds), planned_seconds


def planned_visits(
    config: RunConfig, network: NetworkProfile, costs: Costs
) -> Callable[[int], Sequences]:
    """Who visits what as the planner chooses it, a new plan every step."""
    instance = instance_of(config, network, costs)

    # The plain loop asks once a microbatch.
    @lru_cache(maxsize=2)
    def sequences(step: int) -> Sequences:
        found = plan(instance, by_evaluations(costs.visits_evaluations), random.Random(step))
        return tuple(route.stages[1:] for route in found.routes)

    return sequences


def _each(config: RunConfig, sequences: Sequences) -> Sequences:
    """One entry per microbatch."""
    return tuple(sequence_of(sequences, key) for key in range(config.train.microbatches))


def _dealt_seconds(instance: Instance, sequences: Sequences) -> float:
    executor, hosts = Executor(instance), instance.hosts
    chains = []
    for key, (sequence, turns) in enumerate(zip(sequences, turns_of(sequences), strict=True)):
        pairs = zip(sequence, turns, strict=True)
        middle = (hosts[stage][turn % len(hosts[stage])] for stage, turn in pairs)
        chains.append(executor.chain((hosts[0][key % len(hosts[0])], *middle)))
    return executor.run(chains, [0.0] * len(chains)).makespan_seconds
