"""What peers that joined take over of a plan that did not know them: visits at their stages, from other hosts, where
the step gets shorter by it. Everything else stays as it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from swarmtrain.plan.paths.freedom import REPLACE_PEER, Freedom
from swarmtrain.plan.paths.instance import Chance, Instance
from swarmtrain.plan.paths.routes import Plan, PlannedRoute
from swarmtrain.plan.paths.search import Annealer, Spent, nobody

WORTH = 0.02
"""Share of the makespan that newcomers have to save: steps stray from what was predicted by as much."""


def joined_hosts(instance: Instance, previous: Instance) -> set[tuple[int, int]]:
    """(stage, peer) of hosts that the stage did not have before; peers are matched by name."""
    known = {
        (stage, previous.peers[peer].name)
        for stage, hosts in enumerate(previous.hosts)
        for peer in hosts
    }
    return {
        (stage, peer)
        for stage, hosts in enumerate(instance.hosts)
        for peer in hosts
        if (stage, instance.peers[peer].name) not in known
    }


def undecided_visits(plan: Plan, elapsed_seconds: float) -> Iterator[tuple[int, int]]:
    """(microbatch, place on its route) of the middle visits that nobody was asked for by then, if all went as planned:
    those whose forward before has not ended."""
    starts, peers = plan.execution().starts, plan.instance.peers
    for index, route in enumerate(plan.routes):
        for at, before in enumerate(route.peers[:-1]):
            has_begun = at < len(starts[index])
            if not has_begun or (
                starts[index][at] + peers[before].forward_seconds > elapsed_seconds
            ):
                yield index, at + 1


def with_newcomers(
    kept: Plan, routes: Sequence[PlannedRoute], visits: Sequence[int], spent: Spent, chance: Chance
) -> Plan:
    """The best plan found from `routes` with other hosts for some of these visits (as in `Freedom`), if it is that much
    better than `kept`; else `kept`."""
    if not visits:
        return kept
    freedom = Freedom(frozenset({REPLACE_PEER}), visits, may_lengthen=True)
    annealer = Annealer(kept.instance, routes, freedom, chance, nobody)
    annealer.search(spent)
    evaluations = kept.evaluations + annealer.evaluations
    changed = annealer.plan(kept.lower_bound_seconds, evaluations)
    if changed.makespan_seconds <= (1 - WORTH) * kept.makespan_seconds:
        return changed
    return replace(kept, evaluations=evaluations)
