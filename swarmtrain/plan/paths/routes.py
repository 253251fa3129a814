"""A plan: who visits what, when it may start, what that comes to; and whether it keeps the rules of its instance."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from swarmtrain.plan.paths.execution import Execution, Executor
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.sequences import is_legal


@dataclass(frozen=True, slots=True)
class PlannedRoute:
    """What one microbatch visits: stage `stages[i]` at peer `peers[i]` (its index); both begin with the edge."""

    stages: tuple[int, ...]
    peers: tuple[int, ...]
    release_seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Routes of all microbatches, by index, on an instance in which every peer has its place.

    `gap` is the makespan over the lower bound: 1 is proven best.
    """

    instance: Instance
    routes: tuple[PlannedRoute, ...]
    makespan_seconds: float
    lower_bound_seconds: float
    evaluations: int = 0

    @property
    def gap(self) -> float:
        return self.makespan_seconds / self.lower_bound_seconds

    def execution(self) -> Execution:
        executor = Executor(self.instance)
        chains = [executor.chain(route.peers) for route in self.routes]
        begin = self.instance.begin_seconds
        return executor.run(chains, [begin(r.peers[0], r.release_seconds) for r in self.routes])

    def as_json(self) -> dict[str, Any]:
        """Issue 4's output. `peers` of a route are those of its middle visits in order, `edge` comes before and after;
        `stages` are the middle stages they serve."""
        names = [peer.name for peer in self.instance.peers]
        return {
            "makespan_seconds": self.makespan_seconds,
            "lower_bound_seconds": self.lower_bound_seconds,
            "gap": self.gap,
            "evaluations": self.evaluations,
            "placement": {peer.name: list(peer.stages or ()) for peer in self.instance.peers},
            "routes": [
                {
                    "microbatch": index,
                    "edge": names[route.peers[0]],
                    "peers": [names[peer] for peer in route.peers[1:]],
                    "stages": list(route.stages[1:]),
                    "release_seconds": route.release_seconds,
                }
                for index, route in enumerate(self.routes)
            ],
        }


def violations(plan: Plan) -> Iterator[str]:
    """Every rule of the instance that `plan` breaks, in words; nothing for a legal plan."""
    instance = plan.instance
    if instance.unplaced:
        yield f"peers without a place: {instance.unplaced}"
    if instance.stage_sizes and instance.stage_sizes != tuple(map(len, instance.hosts)):
        yield "the placement does not keep stage_sizes"
    if len(plan.routes) != instance.microbatches:
        yield f"{len(plan.routes)} routes for {instance.microbatches} microbatches"
    for index, route in enumerate(plan.routes):
        yield from (f"microbatch {index}: {broken}" for broken in _broken(route, instance))
    visits = Counter(stage for route in plan.routes for stage in route.stages)
    for stage, (least, most) in enumerate(instance.visit_limits):
        if not least <= visits[stage] <= most:
            yield f"stage {stage} has {visits[stage]} visits, not {least} to {most}"
    quotas = Counter(route.peers[0] for route in plan.routes)
    least, most = instance.quota_limits(len(instance.hosts[0]))
    for edge in instance.hosts[0]:
        if not least <= quotas[edge] <= most:
            yield f"edge {edge} has {quotas[edge]} microbatches, not {least} to {most}"


def _broken(route: PlannedRoute, instance: Instance) -> Iterator[str]:
    if len(route.stages) != instance.visits or len(route.peers) != instance.visits:
        yield f"visits {len(route.stages)} stages at {len(route.peers)} peers"
    if route.stages[0] != 0 or not is_legal(
        route.stages[1:], instance.max_swaps, instance.max_jump
    ):
        yield f"order {route.stages}"
    if not set(instance.protected_stages) <= set(route.stages):
        yield "leaves out a protected stage"
    if route.release_seconds < 0:
        yield "is released before the step"
    for stage, peer in zip(route.stages, route.peers, strict=False):
        if peer not in instance.hosts[stage]:
            yield f"peer {peer} does not host stage {stage}"


def changed_visits(before: Plan, after: Plan) -> int:
    """Visits whose peer is another one now."""
    old, new = before.instance.peers, after.instance.peers
    pairs = zip(before.routes, after.routes, strict=True)
    return sum(
        old[a].name != new[b].name
        for one, other in pairs
        for a, b in zip(one.peers, other.peers, strict=True)
    )
