"""A makespan that no plan of an instance can be under: the largest of two reasons.

1. critical path: some microbatch needs the cheapest round trip of its edge;
2. visits: microbatches are dealt to edges, and visits to the replicas of each stage, so that the longest time that a
   peer takes for its share at the least (`visits.span_seconds`) is shortest.

Where peers have no place yet, `anywhere` tells what they can serve within a makespan, and `trips` what the cheapest
round trip is.
"""

import math
from collections.abc import Callable, Mapping
from heapq import heapify, heapreplace

from swarmtrain.plan.paths.anywhere import SAFETY, Anywhere
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.visits import edge_spans, middle_spans
from swarmtrain.plan.paths.walks import Walks, cheapest_walks


def lower_bound_seconds(instance: Instance) -> float:
    """Seconds that every plan of `instance` takes at least, in any placement of peers that have no place yet."""
    walks = cheapest_walks(instance)
    bounds = [min(walks.round_trip.values())]
    if instance.unplaced:
        bounds.append(Anywhere(instance, walks).bound_seconds())
    else:
        bounds.append(_edges_seconds(instance, walks))
        for stage in range(1, instance.stages):
            bounds.append(_stage_seconds(instance, walks, stage))
    return max(bounds) * SAFETY


def better_bound_seconds(instance: Instance, bound_seconds: float, most_seconds: float) -> float:
    """`bound_seconds` raised by a closer look, which takes a while, or as it is; `most_seconds` are some plan's."""
    if not instance.unplaced or bound_seconds >= most_seconds:
        return bound_seconds
    better = Anywhere(instance, cheapest_walks(instance)).raised(bound_seconds, most_seconds)
    return max(bound_seconds, better * SAFETY)


def _edges_seconds(instance: Instance, walks: Walks) -> float:
    least, most = instance.quota_limits(len(instance.hosts[0]))
    start = dict.fromkeys(instance.hosts[0], least)
    return _dealt_seconds(start, instance.microbatches, most, edge_spans(instance, walks))


def _stage_seconds(instance: Instance, walks: Walks, stage: int) -> float:
    start, visits = dict.fromkeys(instance.hosts[stage], 0), instance.visit_limits[stage][0]
    return _dealt_seconds(start, visits, visits, middle_spans(instance, walks))


def _dealt_seconds(
    start: Mapping[int, int], total: int, most: int, seconds: Callable[[int, int], float]
) -> float:
    """The least possible largest `seconds(peer, visits)`, when `total` visits are dealt on top of `start`."""
    worst = max((seconds(peer, visits) for peer, visits in start.items() if visits), default=0.0)
    queue = [(seconds(p, visits + 1), p, visits + 1) for p, visits in start.items()]
    heapify(queue)
    for _ in range(total - sum(start.values())):
        cost, peer, visits = queue[0]
        worst = max(worst, cost)
        more = max(cost, seconds(peer, visits + 1)) if visits < most else math.inf
        heapreplace(queue, (more, peer, visits + 1))
    return worst
