"""A peer's side of the protocol, rule by rule."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.closing import Closing
from swarmtrain.core.messages import (
    Ask,
    Decision,
    Done,
    Held,
    Hint,
    Nack,
    NewTerm,
    Promise,
    Ready,
    Redrive,
    Redriven,
    Reduced,
    Release,
    Reopen,
    StageDigest,
    Stop,
    Tell,
    pack_items,
    unpack_items,
)
from swarmtrain.core.types import Item, PeerId
from swarmtrain.steps.effects import (
    Advance,
    Apply,
    CancelReduce,
    Drive,
    Effect,
    End,
    Forget,
    Note,
    Reduce,
    Resync,
    Retract,
    Send,
)
from swarmtrain.steps.keys import next_base, unpack_keys
from swarmtrain.steps.member import StepMember
from tests.steps.examples import (
    BASE,
    HEAD,
    OPEN,
    ROSTER,
    SCALARS,
    STAGE_OF,
    TERM,
    A,
    B,
    C,
    D,
    acts,
    assign,
    commit_of,
    freeze,
    held,
    sent,
    sum_of,
)

DIGESTS = (StageDigest(1, b"parameters"),)


def opened(peer: PeerId = C) -> StepMember:
    member = StepMember(peer, (STAGE_OF[peer],), 0, BASE)
    member.handle(A, OPEN)
    return member


def frozen(*items: Item) -> StepMember:
    """Peer c, holding `items` of stage 1, at seal 1."""
    member = opened()
    for item in items:
        member.accumulated(item, None)
    member.handle(A, freeze(1))
    return member


def prepared_member() -> StepMember:
    member = frozen((1, 0))
    member.handle(A, assign(1, {C: [(1, 0)]}))
    member.reduced(TERM, 1, (sum_of(1),))
    return member


def applied_member() -> StepMember:
    member = prepared_member()
    member.handle(A, Decision(TERM, commit_of(), None))
    member.applied(commit_of(), DIGESTS)
    return member


# ---- admission (I1, R3, R5) -------------------------------------------------------------------------------------


def test_an_item_is_admitted_once() -> None:
    member = opened()
    assert member.admits((1, 0))
    member.accumulated((1, 0), None)
    assert not member.admits((1, 0))


def test_a_void_item_is_never_admitted() -> None:
    member = opened()
    assert member.voided((1, 0), "nan") and not member.voided((1, 0), "nan")
    assert not member.admits((1, 0))


def test_a_frozen_step_admits_only_what_was_reopened() -> None:
    member = frozen()
    assert not member.admits((1, 0))
    member.handle(A, Reopen(TERM, 0, 1, ROSTER, pack_items([(1, 0)])))
    assert member.admits((1, 0)) and not member.admits((1, 1))
    member.handle(A, freeze(2))
    assert not member.admits((1, 0))


@pytest.mark.parametrize(("term", "seal"), [(TERM, 2), (TERM, 0)])
def test_a_reopening_of_another_seal_opens_nothing(term: int, seal: int) -> None:
    member = frozen()
    member.handle(A, Reopen(term, 0, seal, ROSTER, pack_items([(1, 0)])))
    assert not member.admits((1, 0))


def test_assigning_closes_what_was_reopened() -> None:
    member = frozen((1, 1))
    member.handle(A, Reopen(TERM, 0, 1, ROSTER, pack_items([(1, 0)])))
    member.handle(A, assign(1, {C: [(1, 1)]}))
    assert not member.admits((1, 0))
    member.handle(A, Reopen(TERM, 0, 1, ROSTER, pack_items([(1, 0)])))
    assert not member.admits((1, 0)), "a repeat that comes late"


def test_a_retracted_item_may_be_accumulated_again() -> None:
    """R3: its owner may die, and then this peer is called for it again."""
    member = frozen((1, 0))
    assert Retract(((1, 0),)) in member.handle(A, assign(1, {D: [(1, 0)]}))
    member.handle(A, freeze(2))
    member.handle(A, Reopen(TERM, 0, 2, ROSTER, pack_items([(1, 0)])))
    assert member.admits((1, 0))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20))
def test_held_tells_exactly_what_was_accumulated(items: list[Item]) -> None:
    member = opened()
    for item in items:
        if member.admits(item):
            member.accumulated(item, None)
    [answer] = sent(member.handle(A, freeze(1)))
    assert isinstance(answer, Held) and set(unpack_items(answer.held)) == set(items)


def test_held_carries_losses_and_void_items() -> None:
    member = opened(B)
    member.accumulated((HEAD, 1), 2.5)
    member.voided((HEAD, 0), "nan")
    [answer] = sent(member.handle(A, freeze(1)))
    assert isinstance(answer, Held)
    assert [(loss.key, loss.loss_sum) for loss in answer.losses] == [(1, 2.5)]
    assert unpack_items(answer.void) == ((HEAD, 0),)


# ---- leading ----------------------------------------------------------------------------------------------------


def test_an_edge_leads_its_keys_once_and_reports_when_all_are_back() -> None:
    member = StepMember(A, (0,), 0, BASE)
    [drive] = member.handle(A, OPEN)
    assert drive == Drive(0, 0, 0, 0, ())
    assert acts(member.handle(A, OPEN)) == []
    [done] = sent(member.driven(drive))
    assert isinstance(done, Done) and unpack_keys(done.keys) == (0,)


def test_a_lost_done_is_repeated_with_the_opening() -> None:
    member = StepMember(A, (0,), 0, BASE)
    [drive] = member.handle(B, OPEN)
    assert isinstance(drive, Drive)
    lost = member.driven(drive)
    assert sent(member.handle(B, OPEN), B) == sent(lost, B) != []


def test_done_waits_for_keys_that_came_with_a_new_roster() -> None:
    member = StepMember(A, (0,), 0, BASE)
    [first] = member.handle(A, OPEN)
    alone = replace(
        OPEN,
        roster=ROSTER.without(B),
        leads=(replace(OPEN.leads[0], items=pack_items([(0, 0), (0, 1)])),),
    )
    [second] = member.handle(A, alone)
    assert isinstance(first, Drive) and isinstance(second, Drive) and second.key == 1
    assert member.driven(first) == []
    [done] = sent(member.driven(second))
    assert isinstance(done, Done) and unpack_keys(done.keys) == (0, 1)


def test_an_older_opening_changes_nothing() -> None:
    member = opened()
    newer = replace(OPEN, roster=ROSTER.without(D))
    member.handle(A, newer)
    member.handle(A, OPEN)
    assert member.ledger.open == newer


def test_a_freeze_brings_its_roster() -> None:
    """Calls go to whom the newest roster names, or an older one would be refused for ever (R1)."""
    member = opened()
    member.handle(A, freeze(1, roster=ROSTER.without(D)))
    assert member.roster == ROSTER.without(D)
    member.handle(A, freeze(2))
    assert member.roster == ROSTER.without(D)


def test_a_redrive_is_reported_for_its_own_seal() -> None:
    member = frozen((1, 0))
    hints = (Hint(HEAD, A),)
    [drive] = member.handle(A, Redrive(TERM, 0, 1, 0, 2, hints))
    assert drive == Drive(0, 0, 2, 1, hints)
    assert sent(member.driven(drive)) == [Redriven(0, 1, 0, 2)]
    member.handle(A, freeze(2))
    assert member.driven(drive) == []
    assert member.handle(A, Redrive(TERM, 0, 1, 0, 2, ())) == []


# ---- seals ------------------------------------------------------------------------------------------------------


def test_a_newer_freeze_supersedes_the_reduce_but_keeps_what_is_prepared() -> None:
    """R11: the one who freezes may not know of a decision, and nobody else has this peer's sum."""
    member = prepared_member()
    member.handle(B, replace(OPEN, term=TERM << 1))
    assert CancelReduce() in member.handle(B, freeze(2, term=TERM << 1))
    assert member.handle(A, Tell(commit_of())) == [Apply(commit_of())]


def test_a_repeated_freeze_is_the_same_question() -> None:
    member = prepared_member()
    effects = member.handle(A, freeze(1))
    assert acts(effects) == [] and member.ledger.prepared is not None
    assert isinstance(sent(effects)[0], Held)


def test_an_older_freeze_is_ignored() -> None:
    member = frozen()
    member.handle(A, freeze(3))
    assert member.handle(A, freeze(2)) == []


@pytest.mark.parametrize("seal", [1, 2, 5])
def test_any_seal_of_a_new_conductor_supersedes_those_before(seal: int) -> None:
    """R1: it may not know how far the one before had counted."""
    member = prepared_member()
    member.handle(A, freeze(5))
    later = TERM << 1
    assert member.handle(B, freeze(seal, term=later)) == []  # not without its opening
    member.handle(B, replace(OPEN, term=later))
    effects = member.handle(B, freeze(seal, term=later))
    assert sent(effects, B) == [held(seal, [(1, 0)])]
    assert CancelReduce() in effects
    assert any(isinstance(e, Reduce) for e in member.handle(B, assign(seal, {C: [(1, 0)]}, later)))


def test_without_the_opening_there_is_nothing_to_freeze() -> None:
    member = StepMember(C, (1,), 0, BASE)
    assert member.handle(A, freeze(1)) == []
    member.handle(A, OPEN)
    assert member.admits((1, 0))


def test_a_new_conductors_opening_ends_the_freeze_of_the_one_before() -> None:
    member = frozen()
    member.handle(B, replace(OPEN, term=TERM << 1))
    assert member.admits((1, 0))


def test_a_late_opening_of_the_same_conductor_does_not() -> None:
    member = frozen()
    member.handle(A, OPEN)
    assert not member.admits((1, 0))


# ---- assigning and reducing (R2, R5, R8) ------------------------------------------------------------------------


def test_surplus_is_retracted_and_the_rest_reduced() -> None:
    member = frozen((1, 0), (1, 1))
    effects = acts(member.handle(A, assign(1, {C: [(1, 1)], D: [(1, 0)]})))
    assert effects == [Retract(((1, 0),)), Reduce(0, TERM, 1, ROSTER, 16)]
    assert member.ledger.held == {(1, 1)}


def test_what_is_owned_but_not_held_cannot_be_served() -> None:
    member = frozen((1, 0))
    effects = member.handle(A, assign(1, {C: [(1, 0), (1, 1)]}))
    assert sent(effects) == [Reduced(TERM, 0, 1, ())] and acts(effects) == []


def test_items_of_void_keys_are_retracted() -> None:
    member = frozen((1, 0), (1, 1))
    effects = member.handle(A, assign(1, {C: [(1, 1)]}, void=(0,)))
    assert Retract(((1, 0),)) in effects


def test_an_assignment_of_another_seal_is_ignored() -> None:
    member = frozen((1, 0))
    assert member.handle(A, assign(2, {C: [(1, 0)]})) == []


def test_a_repeated_assignment_repeats_the_report_but_not_the_reduce() -> None:
    member = frozen((1, 0))
    member.handle(A, assign(1, {C: [(1, 0)]}))
    assert member.handle(A, assign(1, {C: [(1, 0)]})) == []
    report = sent(member.reduced(TERM, 1, (sum_of(1),)))
    assert (
        sent(member.handle(A, assign(1, {C: [(1, 0)]})))
        == report
        == [Reduced(TERM, 0, 1, (sum_of(1),))]
    )


@pytest.mark.parametrize(("term", "seal"), [(TERM, 2), (TERM + 1, 1)])
def test_the_end_of_another_reduce_prepares_nothing(term: int, seal: int) -> None:
    member = frozen((1, 0))
    member.handle(A, assign(1, {C: [(1, 0)]}))
    assert member.reduced(term, seal, (sum_of(1),)) == []
    assert member.ledger.prepared is None


def test_a_failed_reduce_prepares_nothing_and_says_so() -> None:
    member = frozen((1, 0))
    member.handle(A, assign(1, {C: [(1, 0)]}))
    assert sent(member.reduced(TERM, 1, ())) == [Reduced(TERM, 0, 1, ())]
    assert member.ledger.prepared is None


# ---- terms (R8) -------------------------------------------------------------------------------------------------


def test_a_promise_ends_the_reduce_of_a_lower_term() -> None:
    member = frozen((1, 0))
    member.handle(A, assign(1, {C: [(1, 0)]}))
    member.handle(B, NewTerm(TERM << 1, 0, BASE, ROSTER))
    assert member.reduced(TERM, 1, (sum_of(1),)) == []
    assert member.ledger.prepared is None


def test_a_promise_tells_all_it_knows_and_is_idempotent() -> None:
    member = prepared_member()
    first = sent(member.handle(B, NewTerm(TERM << 1, 0, BASE, ROSTER)))
    assert first == sent(member.handle(B, NewTerm(TERM << 1, 0, BASE, ROSTER)))
    [promise] = first
    assert isinstance(promise, Promise) and promise.prepared == member.ledger.prepared
    assert (promise.step, promise.base, promise.seal, promise.open) == (0, BASE, 1, OPEN)


def test_messages_of_a_lower_term_are_refused() -> None:
    member = prepared_member()
    member.handle(B, NewTerm(TERM << 1, 0, BASE, ROSTER))
    for message in (
        OPEN, freeze(9), assign(1, {C: [(1, 0)]}), Decision(TERM, commit_of(), None),
        Redrive(TERM, 0, 1, 0, 1, ()), Reopen(TERM, 0, 1, ROSTER, ()), Stop(TERM, 0, False, "old"),
        Release(TERM, 0, ()), NewTerm(TERM, 0, BASE, ROSTER),
    ):  # fmt: skip
        assert member.handle(A, message) == _nack(A, TERM << 1)
    assert member.step == 0 and member.ledger.applying is None


def _nack(to: PeerId, term: int) -> list[Effect]:
    return [Send(to, Nack(term))]


def test_a_term_is_promised_to_one_candidate_only() -> None:
    member = opened()
    effects = member.handle(B, NewTerm(TERM, 0, BASE, ROSTER))
    assert effects == _nack(B, TERM + 1)
    assert member.conductor == A


# ---- decisions (I3, R8, R9, R10) --------------------------------------------------------------------------------


def newcomer() -> StepMember:
    return StepMember(PeerId("new"), (1,), 0, BASE)


def test_a_newcomer_applies_a_decision_by_the_sums_that_it_learnt() -> None:
    member, commit = newcomer(), commit_of()
    effects = member.learned(commit, (sum_of(1),))
    assert Apply(commit) in effects and member.is_busy
    member.applied(commit, DIGESTS)
    assert (member.step, member.base) == (1, next_base(commit)) and not member.is_busy


def test_sums_that_were_not_decided_are_not_applied() -> None:
    member = newcomer()
    effects = member.learned(commit_of(), (sum_of(1, "forged"),))
    assert not [effect for effect in effects if isinstance(effect, Apply)]
    assert member.step == 0


def test_sums_of_another_history_or_of_an_open_step_are_not_taken() -> None:
    member = newcomer()
    assert member.learned(replace(commit_of(), base=b"another"), (sum_of(1),)) == []
    assert member.learned(replace(commit_of(), step=1), (sum_of(1),)) == []
    assert opened().learned(commit_of(), (sum_of(1),)) == [], "its own sums count there"


def test_a_prepared_decision_is_applied() -> None:
    member = prepared_member()
    assert member.handle(A, Decision(TERM, commit_of(), None)) == [Apply(commit_of())]
    assert not member.admits((1, 1))
    effects = member.applied(commit_of(), DIGESTS)
    base = next_base(commit_of())
    assert [e.event.kind for e in effects if isinstance(e, Note)] == ["state_applied"]
    assert effects[1] == Advance(1, base)
    assert sent(effects) == [Ready(1, base, DIGESTS)]
    assert (member.step, member.base) == (1, base) and member.admits((1, 0))


def test_a_decision_is_applied_once() -> None:
    member = prepared_member()
    member.handle(A, Decision(TERM, commit_of(), None))
    assert member.handle(A, Decision(TERM, commit_of(), None)) == []


def test_sums_that_were_not_prepared_come_from_a_sibling() -> None:
    [effect] = frozen((1, 0)).handle(A, Decision(TERM, commit_of(), None))
    assert isinstance(effect, Resync) and effect.step == 1


def test_other_sums_than_the_prepared_ones_come_from_a_sibling() -> None:
    other = replace(commit_of(), stages=tuple(sum_of(stage, "other") for stage in range(3)))
    [effect] = prepared_member().handle(A, Decision(TERM, other, None))
    assert isinstance(effect, Resync)


def test_a_decision_on_another_base_is_not_applied() -> None:
    other = replace(commit_of(), base=b"another base".ljust(32))
    [effect] = prepared_member().handle(A, Decision(TERM, other, None))
    assert isinstance(effect, Resync)


def test_an_opening_on_another_base_is_not_served() -> None:
    member = StepMember(C, (1,), 0, BASE)
    [effect] = member.handle(A, replace(OPEN, base=b"another base".ljust(32)))
    assert isinstance(effect, Resync) and member.ledger.open is None


def test_the_next_opening_rides_on_the_decision() -> None:
    member = prepared_member()
    following = replace(OPEN, step=1, base=next_base(commit_of()))
    member.handle(A, Decision(TERM, commit_of(), following))
    member.applied(commit_of(), DIGESTS)
    assert member.ledger.open == following


def test_an_opening_that_comes_while_applying_is_kept() -> None:
    member = prepared_member()
    member.handle(A, Decision(TERM, commit_of(), None))
    following = replace(OPEN, step=1, base=next_base(commit_of()))
    assert member.handle(A, following) == []
    member.applied(commit_of(), DIGESTS)
    assert member.ledger.open == following


def test_a_repeated_decision_is_answered_with_ready_and_its_opening_taken() -> None:
    """R10: a READY or a decision's second half may have been lost."""
    member = applied_member()
    following = replace(OPEN, step=1, base=member.base)
    assert sent(member.handle(A, Decision(TERM, commit_of(), following)), A) == [member.ready]
    assert member.ledger.open == following


def test_a_peer_that_is_behind_asks() -> None:
    member = prepared_member()
    for message in (
        replace(OPEN, step=1),
        freeze(1, step=1),
        Decision(TERM, replace(commit_of(), step=1), None),
    ):
        assert sent(member.handle(A, message)) == [Ask(0)]
    promise, question = sent(member.handle(A, NewTerm(TERM, 1, BASE, ROSTER)))
    assert isinstance(promise, Promise) and question == Ask(0)


def test_the_answer_brings_a_prepared_peer_forward() -> None:
    """R9: one step behind with the decided sums prepared: it rolls forward from its own buffer."""
    assert prepared_member().handle(A, Tell(commit_of())) == [Apply(commit_of())]


def test_a_peer_two_steps_behind_fetches_its_state() -> None:
    [effect] = prepared_member().handle(
        A, Tell(replace(commit_of(), step=1, closing=Closing(SCALARS, 2)))
    )
    assert isinstance(effect, Resync) and effect.step == 2


def test_whoever_is_behind_is_told_the_last_decision() -> None:
    member = applied_member()
    assert sent(member.handle(D, Ask(0)), D) == [Tell(commit_of())]
    assert member.handle(D, Ask(1)) == []
    member.step, member.last = 2, replace(commit_of(), step=1, closing=Closing(SCALARS, 2))
    assert sent(member.handle(D, Ask(0)), D) == [Tell(member.last)]


@pytest.mark.parametrize("behind", [OPEN, freeze(1), assign(1, {})])
def test_a_conductor_that_is_behind_is_told(behind: object) -> None:
    assert sent(applied_member().handle(A, behind)) == [Tell(commit_of())]  # type: ignore[arg-type]


def test_a_release_lets_go_and_compares_parameters() -> None:
    member = applied_member()
    assert member.handle(A, Release(TERM, 1, DIGESTS)) == [Forget(1)]
    [effect] = member.handle(A, Release(TERM, 1, (StageDigest(1, b"others"),)))
    assert isinstance(effect, Resync), "I3: unequal replicas never go on"
    assert member.handle(A, Release(TERM, 2, ())) == [], "not there yet"


def test_the_end_waits_for_the_decision_being_applied() -> None:
    member = prepared_member()
    member.handle(A, Decision(TERM, commit_of(), None))
    assert member.handle(A, Stop(TERM, 1, True, "last step")) == []
    assert End(True, "last step") in member.applied(commit_of(), DIGESTS)


def test_the_end_otherwise_comes_at_once() -> None:
    assert opened().handle(A, Stop(TERM, 0, False, "no majority")) == [End(False, "no majority")]
