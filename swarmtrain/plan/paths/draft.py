"""A plan while it is searched: mutable, with what moves and limits need to know counted along."""

from collections.abc import Iterable
from dataclasses import dataclass

from swarmtrain.plan.paths.execution import Chain, Execution, Executor
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.routes import Plan, PlannedRoute

MOST_CHAINS = 100_000
"""Chains that are kept for reuse; beyond that all are forgotten (I8)."""

Entry = tuple[int, PlannedRoute]
"""A microbatch and the route it takes from now on."""

Move = tuple[int, int, int]
"""A peer, the stage it leaves and the stage it takes."""


@dataclass(frozen=True, slots=True)
class Change:
    """Routes and places that change together."""

    entries: tuple[Entry, ...] = ()
    moves: tuple[Move, ...] = ()


class Draft:
    """Routes by microbatch, hosts by stage, visits by stage, microbatches by edge peer."""

    def __init__(self, instance: Instance, routes: Iterable[PlannedRoute]) -> None:
        self.instance = instance
        self.executor = Executor(instance)
        self.routes = list(routes)
        self.hosts = [list(hosts) for hosts in instance.hosts]
        self.visits = [0] * instance.stages
        self.quotas = [0] * len(instance.peers)
        self._known: dict[tuple[int, ...], Chain] = {}
        for route in self.routes:
            self._count(route, 1)
        self._chains = [self._chain(route.peers) for route in self.routes]
        self._releases = [route.release_seconds for route in self.routes]

    def run(self) -> Execution:
        return self.executor.run(self._chains, self._releases)

    def run_rechained(self, rechained: "Rechained") -> Execution:
        """The same plan where equal priorities are told apart in another way."""
        return self.executor.run([rechained(chain) for chain in self._chains], self._releases)

    def apply(self, change: Change) -> Change:
        """Make the change; returns the one that takes it back."""
        before = tuple((index, self.routes[index]) for index, _ in change.entries)
        for peer, left, taken in change.moves:
            self.hosts[left].remove(peer)
            self.hosts[taken].append(peer)
        for index, route in change.entries:
            self._count(self.routes[index], -1)
            self._count(route, 1)
            self.routes[index] = route
            self._chains[index] = self._chain(route.peers)
            self._releases[index] = route.release_seconds
        back = tuple((peer, taken, left) for peer, left, taken in reversed(change.moves))
        return Change(before, back)

    def quota_limits(self) -> tuple[int, int]:
        return self.instance.quota_limits(len(self.hosts[0]))

    def placed(self) -> Instance:
        """The instance with every peer at its place of now."""
        stages: list[list[int]] = [[] for _ in self.instance.peers]
        for stage, hosts in enumerate(self.hosts):
            for peer in hosts:
                stages[peer].append(stage)
        return self.instance.placed(tuple(hosted) for hosted in stages)

    def plan(self, makespan_seconds: float, lower_bound_seconds: float, evaluations: int) -> Plan:
        routes = tuple(self.routes)
        return Plan(self.placed(), routes, makespan_seconds, lower_bound_seconds, evaluations)

    def _count(self, route: PlannedRoute, by: int) -> None:
        self.quotas[route.peers[0]] += by
        for stage in route.stages:
            self.visits[stage] += by

    def _chain(self, peers: tuple[int, ...]) -> Chain:
        chain = self._known.get(peers)
        if chain is None:
            if len(self._known) >= MOST_CHAINS:
                self._known.clear()
            chain = self._known[peers] = self.executor.chain(peers)
        return chain


class Rechained:
    """Chains whose remaining round trips are rounded, so that equal sums are equal."""

    DIGITS = 9

    def __call__(self, chain: Chain) -> Chain:
        return tuple((round(task[0], self.DIGITS), *task[1:]) for task in chain)
