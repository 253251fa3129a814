"""Moves keep a draft legal and all counts right, and can be taken back."""

import random
from dataclasses import replace

from swarmtrain.plan.paths.construct import first_routes
from swarmtrain.plan.paths.draft import (
    Draft,
    copy,
    count_all,
    draft_of,
    exchange,
    placed_by,
    routes_of,
    same,
    trial_of,
)
from swarmtrain.plan.paths.freedom import (
    ANYTHING,
    MOVE_PEER,
    RELEASE,
    REPLACE_PEER,
    SAME_STAGES,
    SWAP_PLACES,
    Freedom,
    chances,
    visits_of,
)
from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.moves import propose, relocate
from swarmtrain.plan.paths.routes import Plan, violations
from tests.plan.paths.networks import random_instance
from tests.plan.paths.test_planner import ring


def state_of(draft: Draft) -> tuple[list[float], ...]:
    counted = draft.visits_S, draft.quota_P
    return tuple(map(list, (draft.stage_MV, draft.peer_MV, draft.release_M, *counted)))


def is_legal(instance: Instance, draft: Draft) -> bool:
    return not list(violations(Plan(placed_by(draft, instance), tuple(routes_of(draft)), 1.0, 1.0)))


def test_moves_keep_every_count_and_can_be_taken_back():
    kept = 0
    for seed in range(40):
        instance, chance = random_instance(seed), random.Random(seed)
        freedom = Freedom(ANYTHING, visits_of(instance))
        draft = draft_of(instance, first_routes(instance), freedom, chance, 10.0)
        count_all(draft)
        trial = trial_of(draft)
        for _ in range(60):
            before = state_of(draft)
            used = propose(draft, trial)
            if not used:
                continue
            exchange(draft, trial, used)
            assert is_legal(instance, draft)
            counted = state_of(draft)
            count_all(draft)
            assert state_of(draft) == counted != before
            if chance.random() < 0.5:
                exchange(draft, trial, used)
                assert state_of(draft) == before
            else:
                kept += 1
    assert kept > 300


def test_moves_of_peers_keep_the_plan_legal_and_can_be_taken_back():
    instance, chance = replace(ring(), quotas="free"), random.Random(3)
    freedom = Freedom(ANYTHING, visits_of(instance), range(12))
    draft = draft_of(instance, first_routes(instance), freedom, chance)
    count_all(draft)
    before, sizes = same(draft), set()
    for turn in range(300):
        copy(draft, before)
        whole = state_of(draft)
        if relocate(draft, MOVE_PEER if turn % 2 else SWAP_PLACES):
            assert is_legal(instance, draft)
            sizes.add(tuple(draft.hosts_S))
            if chance.random() < 0.5:
                copy(before, draft)
                count_all(draft)
                assert state_of(draft) == whole
    assert len(sizes) > 3


def test_only_what_is_asked_for_and_possible_is_tried():
    instance = ring()
    of = {
        "anything": chances(instance, Freedom(ANYTHING, ())),
        "kept": chances(instance, Freedom(SAME_STAGES, ())),
        "waiting": chances(replace(instance, may_wait=False), Freedom(ANYTHING, ())),
    }
    steps = {
        name: {kind for kind in ANYTHING if found[kind] > (found[kind - 1] if kind else 0.0)}
        for name, found in of.items()
    }
    assert steps["anything"] - steps["waiting"] == {RELEASE}
    assert steps["kept"] == steps["anything"] & SAME_STAGES
    assert not steps["anything"] & {SWAP_PLACES, MOVE_PEER}
    assert chances(instance, Freedom(frozenset({REPLACE_PEER}), ()))[REPLACE_PEER] == 1.0


def test_visits_that_are_not_free_stay():
    """Both places of a route at once are never drawn where one of them is asked for."""
    instance = ring()
    freedom = Freedom(frozenset({REPLACE_PEER}), [3 * instance.visits + 1])
    draft = draft_of(instance, first_routes(instance), freedom, random.Random(1))
    trial, changed = trial_of(draft), set()
    for _ in range(50):
        before = list(draft.peer_MV)
        exchange(draft, trial, propose(draft, trial))
        changed |= {at for at, peer in enumerate(before) if peer != draft.peer_MV[at]}
    assert changed == {3 * instance.visits + 1}
