"""A plan for another network: what the change does not touch stays, and newcomers serve where that is worth it."""

import math
import random
from dataclasses import replace

import pytest

from swarmtrain.core.errors import ConfigError
from swarmtrain.plan.paths.bounds import lower_bound_seconds
from swarmtrain.plan.paths.instance import Instance, PeerCosts
from swarmtrain.plan.paths.newcomers import WORTH
from swarmtrain.plan.paths.replanning import replan
from swarmtrain.plan.paths.routes import Plan, violations
from swarmtrain.plan.paths.search import by_evaluations
from tests.plan.paths.networks import joined_by, peer, random_instance
from tests.plan.paths.test_planner import makespan_seconds, planned, ring


def replanned(instance: Instance, before: Plan, evaluations: int = 500) -> Plan:
    return replan(instance, before, by_evaluations(evaluations), random.Random(2))


def test_a_lost_peer_moves_its_routes_and_no_others():
    before = planned(ring(), 1000)
    lost = before.routes[0].peers[1]
    changed = before.instance.without([before.instance.peers[lost].name])
    after = replan(changed, before, by_evaluations(500), random.Random(2))
    names = [own.name for own in changed.peers]
    old = [own.name for own in before.instance.peers]
    moved = 0
    for was, now in zip(before.routes, after.routes, strict=True):
        assert was.stages == now.stages
        if lost in was.peers:
            moved += 1
            assert all(p in changed.hosts[s] for s, p in zip(now.stages, now.peers, strict=True))
        else:
            assert [old[p] for p in was.peers] == [names[p] for p in now.peers]
            assert was.release_seconds == now.release_seconds
    assert 0 < moved < len(before.routes)
    assert after.makespan_seconds == after.execution().makespan_seconds < math.inf
    assert after.lower_bound_seconds == lower_bound_seconds(changed)


def test_a_lost_edge_gives_its_microbatches_to_the_others():
    before = planned(ring(), 500)
    after = replan(before.instance.without(["p0"]), before, by_evaluations(200), random.Random(2))
    quotas = [
        sum(route.peers[0] == edge for route in after.routes) for edge in after.instance.hosts[0]
    ]
    assert quotas == [6, 6]


def test_a_drifted_link_moves_the_routes_that_use_it():
    before = planned(ring(), 1000)
    a, b = before.routes[3].peers[:2]
    sends = [list(row) for row in before.instance.send_seconds]
    sends[a][b] = sends[b][a] = 30.0
    drifted = replace(before.instance, send_seconds=tuple(map(tuple, sends)))
    after = replan(drifted, before, by_evaluations(500), random.Random(2))
    assert after.makespan_seconds < makespan_seconds(drifted, before.routes)
    for was, now in zip(before.routes, after.routes, strict=True):
        hops = set(zip(was.peers, (*was.peers[1:], was.peers[0]), strict=True))
        if not {(a, b), (b, a)} & hops:
            assert was == now


def test_nothing_changed_keeps_the_plan():
    before = planned(ring(), 500)
    after = replan(before.instance, before, by_evaluations(500), random.Random(2))
    assert after.routes == before.routes and after.makespan_seconds == before.makespan_seconds


def test_a_stage_without_hosts_cannot_be_replanned():
    before = planned(ring(), 10)
    with pytest.raises(ConfigError, match="stage 1"):
        replan(
            before.instance.without(["p1", "p5", "p9"]),
            before,
            by_evaluations(10),
            random.Random(2),
        )


def test_a_loss_that_takes_longer_moves_the_microbatches_of_its_edge():
    before = planned(replace(ring(), quotas="free"), 500)
    slow = before.routes[0].peers[0]
    peers = list(before.instance.peers)
    peers[slow] = replace(peers[slow], loss_seconds=20.0)
    drifted = replace(before.instance, peers=tuple(peers))
    after = replanned(drifted, before)
    assert after.makespan_seconds < 0.8 * makespan_seconds(drifted, before.routes)
    for was, now in zip(before.routes, after.routes, strict=True):
        assert was.peers[0] == slow or was == now


# ---- newcomers ------------------------------------------------------------------------------------------------------


def uneven(quotas: str = "equal") -> Instance:
    """Two edges, and a slow peer that is alone at the second of two stages."""
    hosted = [(0,), (0,), (1,), (1,), (2,)]
    costs = [peer(f"p{index}", own, 4) for index, own in enumerate(hosted)]
    costs[4] = replace(costs[4], forward_seconds=2.0, backward_seconds=4.0)
    size = range(len(costs))
    return Instance(
        peers=tuple(costs),
        send_seconds=tuple(tuple(0.25 * (a != b) for b in size) for a in size),
        stages=3,
        microbatches=12,
        visits=3,
        quotas=quotas,  # type: ignore[arg-type]
    )


def visits_at(plan: Plan, name: str) -> int:
    names = [own.name for own in plan.instance.peers]
    return sum(names[one] == name for route in plan.routes for one in route.peers)


def test_a_newcomer_takes_visits_of_its_stage_and_nothing_else_changes():
    before = planned(uneven())
    after = replanned(
        joined_by(before.instance, PeerCosts("new", (2,), 1.0, 2.0, 0.5, 4), 0.25), before
    )
    assert after.makespan_seconds == after.execution().makespan_seconds
    assert after.makespan_seconds < 0.7 * before.makespan_seconds
    assert after.lower_bound_seconds == lower_bound_seconds(after.instance)
    assert not list(violations(after)) and visits_at(after, "new") >= 6
    for was, now in zip(before.routes, after.routes, strict=True):
        assert was.stages == now.stages and was.peers[0] == now.peers[0]
        assert [a for a, stage in zip(was.peers, was.stages, strict=True) if stage == 1] == [
            b for b, stage in zip(now.peers, now.stages, strict=True) if stage == 1
        ]


def test_a_peer_that_came_to_another_stage_is_a_newcomer_there():
    instance = joined_by(uneven(), PeerCosts("mover", (1,), 1.0, 2.0, 0.5, 4), 0.25)
    before = planned(instance)
    peers = (*instance.peers[:-1], replace(instance.peers[-1], stages=(2,)))
    after = replanned(replace(before.instance, peers=peers), before)
    assert not list(violations(after)) and visits_at(after, "mover") >= 6


def test_for_a_newcomer_that_saves_next_to_nothing_the_plan_stays():
    """A slow peer, and one where nobody is busy."""
    before = planned(uneven(), 1000)
    for costs in (
        PeerCosts("new", (2,), 60.0, 60.0, 0.5, 4),
        PeerCosts("new", (1,), 1.0, 2.0, 0.5, 4),
    ):
        after = replanned(joined_by(before.instance, costs, 0.25), before)
        assert after.routes == before.routes
        assert after.makespan_seconds == before.makespan_seconds


def test_a_newcomer_at_the_edge_leads_its_quota():
    before = planned(uneven())
    after = replanned(joined_by(before.instance, peer("new", (0,), 4), 0.25), before)
    assert not list(violations(after)) and visits_at(after, "new") == 4
    assert (
        sum(
            was.peers[0] == now.peers[0]
            for was, now in zip(before.routes, after.routes, strict=True)
        )
        == 8
    )


def test_where_quotas_are_free_a_newcomer_at_the_edge_leads_what_is_worth_it():
    busy = [replace(own, loss_seconds=8.0 if 0 in own.stages else 0.5) for own in uneven().peers]  # type: ignore[operator]
    before = planned(replace(uneven("free"), peers=tuple(busy)))
    quick = replanned(joined_by(before.instance, peer("new", (0,), 4, loss=8.0), 0.25), before)
    assert not list(violations(quick)) and visits_at(quick, "new") >= 2
    assert quick.makespan_seconds <= (1 - WORTH) * before.makespan_seconds
    slow = replanned(joined_by(before.instance, peer("new", (0,), 4, loss=90.0), 0.25), before)
    assert not visits_at(slow, "new") and slow.makespan_seconds <= before.makespan_seconds


def test_whoever_joins_or_is_lost_the_plan_is_legal():
    """Every peer of random networks comes back to a plan made without it, and is lost from one made with it."""
    joins = losses = 0
    for seed in range(60):
        whole = random_instance(seed)
        for own in whole.peers:
            left = whole.without([own.name])
            if any(not hosts for hosts in left.hosts):
                continue
            try:
                without, with_it = planned(left, 60), planned(whole, 60)
            except ConfigError:
                continue  # slots hold no whole route
            for before, instance in ((without, whole), (with_it, left)):
                after = replanned(instance, before, 60)
                if math.isinf(after.makespan_seconds):
                    continue  # the search found no way out of a lock, which `Pathing` is told
                assert not list(violations(after)), (seed, own.name)
                assert after.makespan_seconds == after.execution().makespan_seconds
                joins, losses = joins + (instance is whole), losses + (instance is left)
            break
    assert joins > 30 and losses > 30
