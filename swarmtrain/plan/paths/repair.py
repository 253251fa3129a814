"""A plan whose peers change in the middle of its step: others take the visits of those that were lost, newcomers take
some that nobody was asked for yet, and nothing else changes.

What ran stays where it ran, and so do stages, orders and edges (rule R14): a microbatch that had passed the lost peer
is done again there only. How far the step is follows from the plan and the seconds since it began; the search knows the
whole step, and what has run already weighs as if it came.
"""

from collections import Counter
from collections.abc import Sequence

from swarmtrain.core.errors import ConfigError
from swarmtrain.plan.paths.bounds import lower_bound_seconds
from swarmtrain.plan.paths.freedom import REPLACE_PEER, Freedom
from swarmtrain.plan.paths.instance import Chance, Instance
from swarmtrain.plan.paths.newcomers import joined_hosts, undecided_visits, with_newcomers
from swarmtrain.plan.paths.routes import Plan, PlannedRoute
from swarmtrain.plan.paths.search import Annealer, Spent, nobody, part_of


def repair(
    instance: Instance,
    previous: Plan,
    edges: Sequence[int],
    elapsed_seconds: float,
    spent: Spent,
    chance: Chance,
) -> Plan:
    """`previous` for the peers of `instance`, found by name, `elapsed_seconds` after the step began; `edges` are the
    edge peers by microbatch now.

    The bound is that of `previous`, with which no plan of fewer peers is shorter, or with newcomers that of `instance`.

    Raises:
        ConfigError: nobody hosts a lost peer's stage any more.
    """
    index_of = {peer.name: index for index, peer in enumerate(instance.peers)}
    names = [peer.name for peer in previous.instance.peers]
    used = Counter(index_of.get(names[peer]) for route in previous.routes for peer in route.peers)
    routes: list[PlannedRoute] = []
    lost: list[int] = []
    for index, route in enumerate(previous.routes):
        peers = [edges[index]]
        for at in range(1, len(route.peers)):
            peer = index_of.get(names[route.peers[at]])
            if peer is None or peer not in instance.hosts[route.stages[at]]:
                peer = stand_in(instance, route.stages[at], peers[-1], used)
                used[peer] += 1
                lost.append(index * instance.visits + at)
            peers.append(peer)
        routes.append(PlannedRoute(route.stages, tuple(peers), route.release_seconds))
    freedom = Freedom(frozenset({REPLACE_PEER}), lost, may_lengthen=True)
    annealer = Annealer(instance, routes, freedom, chance, nobody)
    joined = joined_hosts(instance, previous.instance)
    if lost:
        annealer.search(part_of(spent, 0, 0.0, 0.5 if joined else 1.0))
    if not joined:
        return annealer.plan(previous.lower_bound_seconds, annealer.evaluations)
    plan = annealer.plan(lower_bound_seconds(instance), annealer.evaluations)
    stages = {stage for stage, _ in joined}
    visits = [
        index * instance.visits + at
        for index, at in undecided_visits(previous, elapsed_seconds)
        if plan.routes[index].stages[at] in stages
    ]
    rest = part_of(spent, plan.evaluations, spent(plan.evaluations), 1.0)
    return with_newcomers(plan, plan.routes, visits, rest, chance)


def stand_in(instance: Instance, stage: int, before: int | None, used: Counter[int | None]) -> int:
    """A host of `stage` that has less to do than others; of those the nearest to the peer `before`, if there is one.

    Raises:
        ConfigError: nobody hosts the stage any more.
    """
    hosts = instance.hosts[stage]
    if not hosts:
        raise ConfigError(
            f"nobody hosts stage {stage} any more",
            "its last peer was lost",
            "let a peer take the stage before planning again",
        )
    hop = [0.0] * len(instance.peers) if before is None else instance.send_seconds[before]
    return min(hosts, key=lambda host: (used[host] // 3, hop[host], host))
