"""A plan after a loss or a join in the middle of its step: only what was lost changes, and what did not begin."""

import math
import random

import pytest

from swarmtrain.core.errors import ConfigError
from swarmtrain.plan.paths.instance import PeerCosts
from swarmtrain.plan.paths.planner import plan
from swarmtrain.plan.paths.repair import repair
from swarmtrain.plan.paths.routes import Plan, violations
from swarmtrain.plan.paths.search import by_evaluations
from tests.plan.paths.networks import joined_by, random_instance
from tests.plan.paths.test_replanning import uneven


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
    return repair(left, before, edges, 0.0, by_evaluations(evaluations), random.Random(1))


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
    after = repair(before.instance, before, edges, 0.0, by_evaluations(100), random.Random(1))
    assert after.routes == before.routes and after.makespan_seconds == before.makespan_seconds


def test_the_last_host_of_a_stage_cannot_be_replaced():
    before = plan(random_instance(5), by_evaluations(100), random.Random(5))
    stage = before.routes[0].stages[1]
    gone = [before.instance.peers[peer].name for peer in before.instance.hosts[stage]]
    left = before.instance.without(gone)
    edges = [0] * len(before.routes)
    with pytest.raises(ConfigError, match=f"nobody hosts stage {stage}"):
        repair(left, before, edges, 0.0, by_evaluations(10), random.Random(1))


# ---- newcomers ------------------------------------------------------------------------------------------------------


def joined(before: Plan, elapsed_seconds: float) -> Plan:
    more = joined_by(before.instance, PeerCosts("new", (2,), 1.0, 2.0, 0.5, 4), 0.25)
    edges = [route.peers[0] for route in before.routes]
    return repair(more, before, edges, elapsed_seconds, by_evaluations(300), random.Random(1))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_a_newcomer_takes_visits_that_nobody_was_asked_for_yet(share: float):
    before = plan(uneven(), by_evaluations(300), random.Random(1))
    elapsed_seconds = share * before.makespan_seconds
    after, starts = joined(before, elapsed_seconds), before.execution().starts
    newcomer, taken = len(before.instance.peers), 0
    for index, (was, now) in enumerate(zip(before.routes, after.routes, strict=True)):
        assert was.stages == now.stages and was.release_seconds == now.release_seconds
        for at in range(1, len(was.peers)):
            forward_seconds = before.instance.peers[was.peers[at - 1]].forward_seconds
            if now.peers[at] != was.peers[at]:
                assert now.peers[at] == newcomer and was.stages[at] == 2
                assert starts[index][at - 1] + forward_seconds > elapsed_seconds
                taken += 1
    assert taken >= 2
    assert after.makespan_seconds <= 0.98 * before.makespan_seconds
    assert after.makespan_seconds == after.execution().makespan_seconds
    assert after.lower_bound_seconds <= after.makespan_seconds


def test_the_later_a_newcomer_comes_the_less_it_takes_until_nothing_changes():
    before = plan(uneven(), by_evaluations(300), random.Random(1))
    makespans = [
        joined(before, share * before.makespan_seconds).makespan_seconds
        for share in (0.0, 0.3, 0.6)
    ]
    assert makespans == sorted(makespans) and makespans[0] < makespans[-1]
    assert joined(before, math.inf).routes == before.routes
