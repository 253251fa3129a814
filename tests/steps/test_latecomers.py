"""A peer that came to the step after it was asked is asked again when it reports READY, not at the next tick."""

from dataclasses import replace

from swarmtrain.core.messages import Freeze, NewTerm, Open, Promise
from swarmtrain.core.types import Digest
from swarmtrain.steps.conductor import StepConductor
from swarmtrain.steps.keys import next_base
from tests.steps.examples import BASE, OPEN, PLAN, ROSTER, TERM, A, B, C, commit_of, ready, sent

COMMIT = commit_of()
AFTER = next_base(COMMIT)


def resuming() -> StepConductor:
    """A new conductor, ahead of some: it freezes step 1 and spreads the decision of step 0."""
    conductor = StepConductor(A, PLAN, TERM + 1, 1, AFTER, ROSTER)
    conductor.resume(replace(OPEN, step=1, base=AFTER), 0)
    conductor._recalled(COMMIT)
    return conductor


def promise(step: int, base: Digest) -> Promise:
    """A peer at that step that has heard of nothing."""
    return Promise(TERM + 1, 0, step, base, 0, None, None, None)


def test_whoever_was_behind_hears_opening_and_freeze_again_with_its_ready() -> None:
    conductor = resuming()
    for peer in (B, C):
        messages = sent(conductor.handle(peer, ready(peer, 1, AFTER)), to=peer)
        assert [type(message) for message in messages][:2] == [Open, Freeze]


def test_a_ready_beyond_the_majority_is_asked_as_well() -> None:
    conductor = resuming()
    asked = [sent(conductor.handle(peer, ready(peer, 1, AFTER)), to=peer) for peer in ROSTER.peers]
    assert all(any(isinstance(message, Freeze) for message in messages) for messages in asked)


def test_a_promise_from_before_the_decision_is_asked_for_again() -> None:
    conductor = StepConductor(A, PLAN, TERM + 1, 0, BASE, ROSTER)
    conductor.spread(COMMIT)
    early = promise(0, BASE)
    assert not sent(conductor.handle(B, early))
    messages = sent(conductor.handle(B, ready(B, 1, AFTER)), to=B)
    assert [message.step for message in messages if isinstance(message, NewTerm)] == [1]
    conductor.handle(B, promise(1, AFTER))
    again = sent(conductor.handle(B, ready(B, 1, AFTER)), to=B)
    assert not any(isinstance(message, NewTerm) for message in again), "it has answered"
