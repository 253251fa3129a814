"""A plan for a step that has not begun, after its network changed: `replan`. `repair` is for a step that runs."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from swarmtrain.plan.paths.bounds import lower_bound_seconds
from swarmtrain.plan.paths.builder import Builder
from swarmtrain.plan.paths.execution import Executor
from swarmtrain.plan.paths.freedom import SAME_STAGES, Freedom, visits_of
from swarmtrain.plan.paths.instance import Chance, Instance
from swarmtrain.plan.paths.newcomers import joined_hosts, with_newcomers
from swarmtrain.plan.paths.repair import stand_in
from swarmtrain.plan.paths.routes import Plan, PlannedRoute
from swarmtrain.plan.paths.search import Annealer, Spent, nobody, part_of

DRIFTED = 0.1
"""Costs that changed by less than this share are the same: they are measured, and measurements stray."""

FIRST_SHARE = 0.5
"""Of an equal share, how many microbatches an edge peer that joined is tried with where quotas are free."""


def replan(instance: Instance, previous: Plan, spent: Spent, chance: Chance) -> Plan:
    """`previous` changed for the network as it is now: routes that the change does not touch stay as they are.

    `instance` has a place for everybody; peers are matched by name, so one without the lost peers tells of a loss, one
    with more peers of a join, one with other costs of a drift. Touched are routes with a lost peer, a peer that left
    the stage, an edge that may not lead so many any more, or a round trip that takes over a tenth longer. They keep
    their stages and their order (rule R14) and get other peers: first the cheapest ones, then what the search finds.
    Then newcomers get visits at their stages, if the step becomes shorter by enough.

    Raises:
        ConfigError: a stage of some route is hosted by nobody any more.
    """
    routes, touched = _mended_routes(instance, previous)
    joined = joined_hosts(instance, previous.instance)
    freedom = Freedom(SAME_STAGES, visits_of(instance, touched), may_lengthen=True)
    annealer = Annealer(instance, routes, freedom, chance, nobody)
    if touched:
        annealer.search(part_of(spent, 0, 0.0, 0.5 if joined else 1.0))
    plan = annealer.plan(lower_bound_seconds(instance), annealer.evaluations)
    if not joined:
        return plan
    least = dict.fromkeys(instance.hosts[0], 0)
    share = math.floor(FIRST_SHARE * instance.microbatches / len(least))
    least.update({peer: share for stage, peer in joined if stage == 0})
    routes, moved = _dealt(instance, plan.routes, least, instance.microbatches)
    stages = {stage for stage, _ in joined}
    visits = set(visits_of(instance, moved)) | {
        index * instance.visits + at
        for index, route in enumerate(routes)
        for at, stage in enumerate(route.stages)
        if stage in stages
    }
    rest = part_of(spent, plan.evaluations, spent(plan.evaluations), 1.0)
    return with_newcomers(plan, routes, sorted(visits), rest, chance)


def _mended_routes(instance: Instance, previous: Plan) -> tuple[list[PlannedRoute], list[int]]:
    """Legal routes as near to those of `previous` as can be, and which microbatches are touched by the change."""
    index_of = {peer.name: index for index, peer in enumerate(instance.peers)}
    before, now = Executor(previous.instance), Executor(instance)
    routes: list[PlannedRoute] = []
    touched, used = set[int](), Counter[int | None]()
    for index, route in enumerate(previous.routes):
        kept = [index_of.get(previous.instance.peers[peer].name) for peer in route.peers]
        mended = _mended(instance, route, kept, used)
        limit_seconds = (1 + DRIFTED) * before.round_trip_seconds(route.peers)
        if mended.peers != tuple(kept) or now.round_trip_seconds(mended.peers) > limit_seconds:
            touched.add(index)
        routes.append(mended)
        used.update(mended.peers)
    least, most = instance.quota_limits(len(instance.hosts[0]))
    routes, moved = _dealt(instance, routes, dict.fromkeys(instance.hosts[0], least), most)
    return routes, sorted(touched.union(moved))


def _mended(
    instance: Instance,
    route: PlannedRoute,
    kept: Sequence[int | None],
    used: Counter[int | None],
) -> PlannedRoute:
    """The route with a host for every stage: those it had, else a near one that is little used so far."""
    peers: list[int] = []
    for stage, peer in zip(route.stages, kept, strict=True):
        if peer is None or peer not in instance.hosts[stage]:
            peer = stand_in(instance, stage, peers[-1] if peers else None, used)
        peers.append(peer)
    return PlannedRoute(route.stages, tuple(peers), route.release_seconds)


def _dealt(
    instance: Instance, routes: Sequence[PlannedRoute], least: Mapping[int, int], most: int
) -> tuple[list[PlannedRoute], list[int]]:
    """Microbatches given to other edges until each leads `least` and `most` of them, and which; they keep their stages
    and go to the cheapest peers from there."""
    led = Counter(route.peers[0] for route in routes)
    takers: dict[int, int] = {}

    def load(edge: int) -> float:
        return led[edge] / instance.peers[edge].memory_slots

    while True:
        over = [edge for edge in least if led[edge] > most]
        short = [edge for edge in least if led[edge] < least[edge]]
        if not over and not short:
            break
        giver = max(over or [edge for edge in least if led[edge] > least[edge]], key=load)
        taker = min(short or [edge for edge in least if led[edge] < most], key=load)
        own = (at for at, route in enumerate(routes) if route.peers[0] == giver)
        takers[max(at for at in own if at not in takers)] = taker
        led[giver], led[taker] = led[giver] - 1, led[taker] + 1
    builder, dealt = Builder(instance), list(routes)
    for index, route in enumerate(routes):
        if index not in takers:
            builder.count(route.peers[1:])
    for index, taker in takers.items():
        along = builder.along(taker, (routes[index].stages[1:],))
        dealt[index] = replace(along, release_seconds=routes[index].release_seconds)
    return dealt, sorted(takers)
