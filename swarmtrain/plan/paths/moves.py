"""Small changes of a draft that keep it legal; which of them helps, the execution model decides.

Each proposal changes one or two routes: another replica, two replicas traded, another order, two stages traded (shares
stay), one stage for another (where shares allow), two edges traded, another edge (where quotas allow), another release.
Chance may also propose what is not possible: then it is None.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from swarmtrain.plan.paths.draft import Change, Draft
from swarmtrain.plan.paths.instance import Chance
from swarmtrain.plan.paths.routes import PlannedRoute
from swarmtrain.plan.paths.sequences import Order, orders

T = TypeVar("T")

Proposal = Callable[[], Change | None]

LATE = 0.4
"""Share of the proposals that change a microbatch of the edge peer that is through last."""

RELEASED_AT_ONCE = 0.5
"""Chance that a changed release is none."""

LATEST_RELEASE = 0.6
"""Releases are drawn from this share of the makespan of now."""


class Moves:
    """Proposals for the microbatches in `who`; with `keep_stages` their stages and order stay (rule R14)."""

    def __init__(
        self, draft: Draft, chance: Chance, who: Sequence[int], keep_stages: bool = False
    ) -> None:
        self._draft, self._chance, self._who = draft, chance, who
        self.horizon_seconds = 0.0
        weighted: list[tuple[float, Proposal]] = [
            (0.30, self.replace_peer),
            (0.15, self.trade_peers),
        ]
        if draft.instance.may_wait:
            weighted.append((0.04, self.release))
        if len(draft.hosts[0]) > 1:
            weighted.append((0.20, self.trade_edges))
            if draft.quota_limits()[0] < draft.quota_limits()[1]:
                weighted.append((0.10, self.change_edge))
        if not keep_stages:
            weighted += [(0.15, self.reorder), (0.20, self.trade_stages)]
            if any(least < most for least, most in draft.instance.visit_limits):
                weighted.append((0.10, self.replace_stage))
        total, self._weighted = 0.0, []
        for weight, proposal in weighted:
            total += weight
            self._weighted.append((total, proposal))
        self._total = total

    def propose(self) -> Change | None:
        drawn = self._chance.random() * self._total
        for bound, proposal in self._weighted:
            if drawn < bound:
                return proposal()
        return None

    def replace_peer(self) -> Change | None:
        index, route, at = self._visit()
        peer = self._one_of(self._draft.hosts[route.stages[at]])
        if peer == route.peers[at]:
            return None
        return Change(((index, _with_peer(route, at, peer)),))

    def trade_peers(self) -> Change | None:
        """Two microbatches trade the replicas of a stage that both visit: loads stay."""
        one, first, at = self._visit()
        other = self._one_of(self._who)
        second = self._draft.routes[other]
        stage = first.stages[at]
        if stage not in second.stages:
            return None
        place = second.stages.index(stage)
        if first.peers[at] == second.peers[place]:
            return None
        return Change(
            (
                (one, _with_peer(first, at, second.peers[place])),
                (other, _with_peer(second, place, first.peers[at])),
            )
        )

    def reorder(self) -> Change | None:
        index = self._drawn()
        route = self._draft.routes[index]
        changed = self._ordered(route, dict(zip(route.stages[1:], route.peers[1:], strict=True)))
        return None if changed is None or changed == route else Change(((index, changed),))

    def trade_stages(self) -> Change | None:
        """One microbatch visits a stage in the other's place, and the other way round."""
        one, other = self._drawn(), self._one_of(self._who)
        first, second = self._draft.routes[one], self._draft.routes[other]
        protected = self._draft.instance.protected_stages
        given = [s for s in first.stages if s not in second.stages and s not in protected]
        taken = [s for s in second.stages if s not in first.stages and s not in protected]
        if not given or not taken:
            return None
        gone, come = self._one_of(given), self._one_of(taken)
        changed = (
            self._exchanged(first, gone, come, second.peers[second.stages.index(come)]),
            self._exchanged(second, come, gone, first.peers[first.stages.index(gone)]),
        )
        if changed[0] is None or changed[1] is None:
            return None
        return Change(((one, changed[0]), (other, changed[1])))

    def replace_stage(self) -> Change | None:
        index, route, at = self._visit()
        draft, limits = self._draft, self._draft.instance.visit_limits
        gone, come = route.stages[at], 1 + int(self._chance.random() * (len(draft.hosts) - 1))
        if come in route.stages or gone in draft.instance.protected_stages:
            return None
        if draft.visits[gone] <= limits[gone][0] or draft.visits[come] >= limits[come][1]:
            return None
        changed = self._exchanged(route, gone, come, self._one_of(draft.hosts[come]))
        return None if changed is None else Change(((index, changed),))

    def trade_edges(self) -> Change | None:
        one, other = self._drawn(), self._one_of(self._who)
        first, second = self._draft.routes[one], self._draft.routes[other]
        if first.peers[0] == second.peers[0]:
            return None
        return Change(
            (
                (one, _with_peer(first, 0, second.peers[0])),
                (other, _with_peer(second, 0, first.peers[0])),
            )
        )

    def change_edge(self) -> Change | None:
        index = self._drawn()
        route, edge = self._draft.routes[index], self._one_of(self._draft.hosts[0])
        least, most = self._draft.quota_limits()
        quotas = self._draft.quotas
        if edge == route.peers[0] or quotas[edge] >= most or quotas[route.peers[0]] <= least:
            return None
        return Change(((index, _with_peer(route, 0, edge)),))

    def release(self) -> Change | None:
        index = self._drawn()
        route, released = self._draft.routes[index], 0.0
        if self._chance.random() >= RELEASED_AT_ONCE:
            # Whole milliseconds: a plan is read by people too.
            drawn = self._chance.random() * LATEST_RELEASE * self.horizon_seconds
            released = round(drawn, 3)
        if released == route.release_seconds:
            return None
        return Change(((index, PlannedRoute(route.stages, route.peers, released)),))

    def _drawn(self) -> int:
        """Any microbatch, but often one of the edge peer whose last one ends last."""
        draft, index = self._draft, self._one_of(self._who)
        if self._chance.random() >= LATE:
            return index
        edge = draft.routes[draft.last].peers[0]
        for _ in range(2 * len(draft.hosts[0])):
            if draft.routes[index].peers[0] == edge:
                break
            index = self._one_of(self._who)
        return index

    def _visit(self) -> tuple[int, PlannedRoute, int]:
        """A microbatch, its route, and the place of a middle visit on it."""
        index = self._drawn()
        route = self._draft.routes[index]
        return index, route, 1 + int(self._chance.random() * (len(route.stages) - 1))

    def _exchanged(
        self, route: PlannedRoute, gone: int, come: int, peer: int
    ) -> PlannedRoute | None:
        """`route` with stage `come` at `peer`, or another replica of it, in the place of stage `gone`."""
        visits = dict(zip(route.stages[1:], route.peers[1:], strict=True))
        del visits[gone]
        visits[come] = (
            peer if self._chance.random() < 0.5 else self._one_of(self._draft.hosts[come])
        )
        return self._ordered(route, visits)

    def _ordered(self, route: PlannedRoute, visits: dict[int, int]) -> PlannedRoute | None:
        """`route` with these middle visits (peer by stage) in some legal order."""
        rules = self._draft.instance
        options = orders(tuple(sorted(visits)), rules.max_swaps, rules.max_jump)
        if not options:
            return None
        order: Order = self._one_of(options)
        peers = (route.peers[0], *(visits[stage] for stage in order))
        return PlannedRoute((0, *order), peers, route.release_seconds)

    def _one_of(self, options: Sequence[T]) -> T:
        return options[int(self._chance.random() * len(options))]


def _with_peer(route: PlannedRoute, at: int, peer: int) -> PlannedRoute:
    peers = (*route.peers[:at], peer, *route.peers[at + 1 :])
    return PlannedRoute(route.stages, peers, route.release_seconds)
