"""A plan while it is searched: mutable, with what moves and limits need to know counted along."""

from collections.abc import Iterable
from dataclasses import dataclass

from swarmtrain.plan.paths.boards import Board, Measured, PlainBoard, compiled_board
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.routes import Plan, PlannedRoute

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

    def __init__(
        self, instance: Instance, routes: Iterable[PlannedRoute], other: Instance | None = None
    ) -> None:
        """`other` are costs that a good plan withstands too."""
        self.instance, self._other = instance, other
        self.routes = list(routes)
        self.last = 0  # the microbatch that ended last when the plan was measured last
        self.hosts = [list(hosts) for hosts in instance.hosts]
        self.visits = [0] * instance.stages
        self.quotas = [0] * len(instance.peers)
        for route in self.routes:
            self._count(route, 1)
        self._board: Board = self._filled(PlainBoard(instance, other))

    def measure(self, is_again: bool = False) -> Measured:
        """Execute the plan; `is_again` in the second way (`Board`)."""
        measured = self._board.measure(is_again)
        self.last = measured[2]
        return measured

    def hasten(self) -> None:
        """Execute faster from now on, where that is possible: worth its second before a search."""
        board = compiled_board(self.instance, self._other)
        if board is not None:
            self._board = self._filled(board)

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
            self._board.put(index, route.peers, self._begin_seconds(route))
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

    def _filled(self, board: Board) -> Board:
        for index, route in enumerate(self.routes):
            board.put(index, route.peers, self._begin_seconds(route))
        return board

    def _begin_seconds(self, route: PlannedRoute) -> float:
        return self.instance.begin_seconds(route.peers[0], route.release_seconds)
