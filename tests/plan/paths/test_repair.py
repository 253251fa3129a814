"""A plan after a loss in the middle of its step: only what was lost changes."""

import random

import pytest

from swarmtrain.core.errors import ConfigError
from swarmtrain.plan.paths.planner import plan
from swarmtrain.plan.paths.repair import repair
from swarmtrain.plan.paths.routes import Plan, violations
from swarmtrain.plan.paths.search import by_evaluations
from tests.plan.paths.networks import random_instance


def lost_cases():
    """(plan, name of a middle peer that serves in it and is not the last of its stage) of random networks."""
    for seed in range(60):
        found = plan(random_instance(seed), by_evaluations(150), random.Random(seed))
        hosts = found.instance.hosts
        for stage in range(1, found.instance.stages):
            for peer in hosts[stage]:
                own = found.instance.peers[peer].stages
                alone = 0 in own or any(hosts[stage] == (peer,) for stage in own)
                served = any(peer in route.peers for route in found.routes)
                if served and not alone:
                    yield found, found.instance.peers[peer].name
                    break


def repaired(before: Plan, name: str, evaluations: int = 60) -> Plan:
    left = before.instance.without([name])
    names = [peer.name for peer in left.peers]
    edges = [names.index(before.instance.peers[route.peers[0]].name) for route in before.routes]
    return repair(left, before, edges, by_evaluations(evaluations), random.Random(1))


def test_only_lost_visits_get_another_peer():
    cases = 0
    for before, name in lost_cases():
        after = repaired(before, name)
        cases += 1
        assert not [broken for broken in violations(after) if "edge" not in broken]
        old = [peer.name for peer in before.instance.peers]
        new = [peer.name for peer in after.instance.peers]
        for was, now in zip(before.routes, after.routes, strict=True):
            assert was.stages == now.stages and was.release_seconds == now.release_seconds
            for one, other in zip(was.peers, now.peers, strict=True):
                assert new[other] != name
                assert old[one] == name or old[one] == new[other]
        assert after.makespan_seconds == after.execution().makespan_seconds
        assert after.lower_bound_seconds <= after.makespan_seconds
    assert cases > 20


def test_searching_beats_the_nearest_substitutes():
    """Without a search some plans stay longer than they need to be, and with one none gets longer."""
    better = 0
    for before, name in lost_cases():
        first, searched = repaired(before, name, 1), repaired(before, name, 200)
        assert searched.makespan_seconds <= first.makespan_seconds
        better += searched.makespan_seconds < first.makespan_seconds
    assert better > 3


def test_nothing_lost_is_the_same_plan():
    before = plan(random_instance(5), by_evaluations(100), random.Random(5))
    edges = [route.peers[0] for route in before.routes]
    after = repair(before.instance, before, edges, by_evaluations(100), random.Random(1))
    assert after.routes == before.routes and after.makespan_seconds == before.makespan_seconds


def test_the_last_host_of_a_stage_cannot_be_replaced():
    before = plan(random_instance(5), by_evaluations(100), random.Random(5))
    stage = before.routes[0].stages[1]
    gone = [before.instance.peers[peer].name for peer in before.instance.hosts[stage]]
    left = before.instance.without(gone)
    edges = [0] * len(before.routes)
    with pytest.raises(ConfigError, match=f"nobody hosts stage {stage}"):
        repair(left, before, edges, by_evaluations(10), random.Random(1))
