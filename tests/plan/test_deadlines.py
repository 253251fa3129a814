"""Deadlines from measured times: late only against a known replica, a budget, and replicas that are avoided."""

import pytest

from swarmtrain.core.types import PeerId
from swarmtrain.plan.deadlines import AVOIDED_FACTOR, LEAST_SAMPLES, Deadlines, Times

A, B, C = PeerId("a"), PeerId("b"), PeerId("c")
ALL = (A, B, C)


def taught(seconds: float = 1.0, peer: PeerId = B) -> Deadlines:
    deadlines = Deadlines()
    for _ in range(LEAST_SAMPLES):
        deadlines.answered(1, peer, seconds, seconds)
    return deadlines


def test_nothing_is_late_before_another_replica_is_known_at_this_position():
    deadlines = Deadlines()
    for _ in range(LEAST_SAMPLES - 1):
        deadlines.answered(1, B, 1.0, 1.0)
    assert deadlines.late(1, A, ALL, 0, 0.0) is None
    deadlines.answered(1, B, 1.0, 1.0)
    assert deadlines.late(1, A, ALL, 0, 0.0) == (2.0, B)
    assert deadlines.late(2, A, ALL, 0, 0.0) is None
    assert deadlines.late(1, B, ALL, 0, 0.0) is None, "a replica is no measure of itself"
    assert deadlines.late(1, A, (A, C), 0, 0.0) is None


def test_the_middle_one_of_the_others_says_when_and_one_of_the_quicker_is_called():
    """Of many replicas the nearest is far quicker than the rest: by its measure they would always be late."""
    deadlines = taught(peer=B)
    others = [PeerId(f"far-{index}") for index in range(3)]
    for _ in range(LEAST_SAMPLES):
        for other in others:
            deadlines.answered(1, other, 5.0, 5.0)
    replicas = (A, B, *others)
    assert deadlines.late(1, A, replicas, 0, 0.0) == (10.0, B)
    called = {deadlines.late(1, A, replicas, key, 0.0) for key in range(30)}
    assert called == {(10.0, B), (10.0, others[0]), (10.0, others[1])}


def test_one_that_lost_is_late_when_others_usually_have_answered():
    deadlines = taught(1.0)
    assert deadlines.late(1, A, ALL, 0, 0.0) == (2.0, B)
    deadlines.lost(1, A, 3.0, 0.0)
    assert deadlines.late(1, A, ALL, 0, 1.0) == (1.0, B)


def test_the_last_of_a_queue_is_not_late():
    """In every step alike keys wait for a lane: the last one's time is four times the first one's."""
    times = Times()
    for number in range(40):
        times.add(0.2 * (1 + number % 4) ** 2)
    assert times.late_seconds > 1.2 * 3.2
    for _ in range(100):
        times.add(0.2)
    assert times.late_seconds < 0.6, "what is long past is forgotten"


def test_late_is_twice_the_mean_or_four_deviations_above():
    steady, shaky = Times(), Times()
    for number in range(40):
        steady.add(1.0)
        shaky.add(0.5 if number % 2 else 1.5)
    assert steady.late_seconds == 2.0
    assert 2.5 < shaky.late_seconds < 3.5


def test_one_hedge_a_step_or_a_twentieth_of_the_calls():
    deadlines = Deadlines()
    allowed = 0
    for _ in range(100):
        deadlines.begin(A, step=1)
        if deadlines.allows_hedge(A, 0.0):
            deadlines.hedged()
            allowed += 1
    assert allowed == 5
    deadlines.begin(A, step=2)
    assert deadlines.allows_hedge(A, 0.0)
    deadlines.hedged()
    assert not deadlines.allows_hedge(A, 0.0)


def test_a_loser_is_avoided_and_its_other_calls_may_be_hedged():
    deadlines = taught()
    deadlines.begin(A, 1)
    deadlines.hedged()
    assert not deadlines.is_avoided(A, 0.0) and not deadlines.allows_hedge(A, 0.0)
    assert deadlines.lost(1, A, 3.0, now=0.0) == 3.0 * AVOIDED_FACTOR
    assert deadlines.is_avoided(A, 1.0) and deadlines.allows_hedge(A, 1.0)
    assert deadlines.lost(1, A, 3.0, now=1.0) is None, "one spell counts once"


def test_avoided_twice_as_long_every_time_with_one_call_between_and_forgiven():
    deadlines = taught()
    first = deadlines.lost(1, A, 1.0, now=0.0)
    assert first is not None and not deadlines.is_avoided(A, first)
    deadlines.begin(A, 1)
    assert deadlines.is_avoided(A, first), "one call at a time"
    deadlines.end(A)
    second = deadlines.lost(1, A, 1.0, now=first)
    assert second == 2 * first
    for _ in range(2):
        deadlines.answered(1, A, 1.0, limit_seconds=2.0)
    deadlines.begin(A, 2)
    assert not deadlines.is_avoided(A, first + second)
    assert deadlines.lost(1, A, 1.0, now=1e6) == first


def test_an_answer_that_was_late_forgives_nothing():
    deadlines = taught()
    first = deadlines.lost(1, A, 1.0, now=0.0)
    deadlines.answered(1, A, 9.0, limit_seconds=2.0)
    deadlines.begin(A, 1)
    assert first is not None and deadlines.is_avoided(A, first + 1)


@pytest.mark.parametrize("avoided", [True, False])
def test_nobody_is_compared_with_a_replica_that_is_avoided(avoided: bool):
    deadlines = taught(peer=B)
    if avoided:
        deadlines.lost(1, B, 1.0, now=0.0)
    assert (deadlines.late(1, A, ALL, 0, 0.5) is None) == avoided
