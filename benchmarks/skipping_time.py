"""Modelled seconds of a step on the 12-region network, for benchmarks/skipping.py: real losses over modelled time."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from swarmtrain.core.config import RunConfig
from swarmtrain.core.sequences import sequence_of, stage_sequences
from swarmtrain.experiments.profiles import NetworkProfile

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Costs:
    """SkipPipe's setting (1.5B model, skippipe.md section 1): what a stage and a boundary would take."""

    forward_seconds: float = 1.76
    backward_ratio: float = 1.5
    loss_ratio: float = 0.25
    boundary_bytes: int = 32 * MIB
    send_overhead_seconds: float = 0.35
    task_gap_seconds: float = 0.13
    replicas: int = 2
    judged_steps: int = 20


def step_seconds(config: RunConfig, network: NetworkProfile, costs: Costs) -> float:
    """Modelled seconds of a step: the longest microbatch, as its round trip and its wait at the busiest peer on it.

    Every stage has `replicas` peers, the regions are dealt to the peers in turn, and the visitors of a stage to its
    replicas in turn. No planner has a part in it: it is what skipping alone does. A mean over steps, because who skips
    what is drawn.
    """
    found = [_one_step_seconds(config, network, costs, step) for step in range(costs.judged_steps)]
    return sum(found) / len(found)


def _one_step_seconds(config: RunConfig, network: NetworkProfile, costs: Costs, step: int) -> float:
    visits: Counter[int] = Counter()
    tasks: Counter[int] = Counter()
    routes = []
    for key in range(config.train.microbatches):
        route = []
        for stage in (0, *sequence_of(stage_sequences(config, step), key)):
            peer = stage * costs.replicas + visits[stage] % costs.replicas
            visits[stage] += 1
            tasks[peer] += 1 if stage else 0
            route.append(peer)
        routes.append([*route, route[0]])
    task_seconds = costs.forward_seconds * (1 + costs.backward_ratio) + 2 * costs.task_gap_seconds
    longest = 0.0
    for route in routes:
        seconds = costs.forward_seconds * costs.loss_ratio + (len(route) - 2) * task_seconds
        seconds += sum(2 * _send_seconds(a, b, network, costs) for a, b in pairwise(route))
        waiting = max(tasks[peer] - 1 for peer in route[1:-1]) * task_seconds
        longest = max(longest, seconds + waiting)
    return longest


def _send_seconds(sender: int, receiver: int, network: NetworkProfile, costs: Costs) -> float:
    a, b = (peer % len(network.regions) for peer in (sender, receiver))
    transfer = costs.boundary_bytes / network.bytes_per_second[a][b]
    return network.one_way_latency_seconds[a][b] + transfer + costs.send_overhead_seconds
