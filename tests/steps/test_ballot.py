"""What a candidate may conclude from promises (R8)."""

from dataclasses import replace
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.messages import Commit, NewTerm, Open, Prepared, Promise
from swarmtrain.core.types import PeerId
from swarmtrain.steps.ballot import Candidate, Complete, Decided, Fresh, Reseal, next_term
from tests.steps.examples import (
    BASE,
    OPEN,
    ROSTER,
    STAGE_OF,
    A,
    B,
    C,
    D,
    E,
    commit_of,
    prepared,
    receivers,
    sum_of,
)

TERM = 5 << 16
OLD = 1 << 16


def candidate() -> Candidate:
    return Candidate(B, TERM, 0, BASE, ROSTER)


def promise(
    seal: int = 0,
    prepared: Prepared | None = None,
    opening: Open | None = OPEN,
    last: Commit | None = None,
    step: int = 0,
) -> Promise:
    return Promise(TERM, 0, step, BASE, seal, last, prepared, opening)


def promised(promises: dict[PeerId, Promise]) -> Candidate:
    standing = candidate()
    for peer, message in promises.items():
        standing.promised(peer, message)
    return standing


def all_prepared(seal: int = 1, term: int = OLD) -> dict[PeerId, Promise]:
    return {peer: promise(seal, prepared(stage, seal, term)) for peer, stage in STAGE_OF.items()}


@given(st.integers(0, 2**40), st.integers(0, 999), st.integers(0, 999))
def test_terms_rise_and_candidates_never_share_one(highest: int, rank: int, other: int) -> None:
    assert next_term(highest, rank) > highest
    assert (next_term(highest, rank) == next_term(highest, other)) == (rank == other)


def test_everybody_is_asked_and_the_silent_again() -> None:
    standing = candidate()
    assert receivers(standing.start(), NewTerm) == [A, B, C, D, E]
    standing.promised(C, promise())
    assert receivers(standing.start(), NewTerm) == [A, B, D, E]


def test_a_majority_of_the_last_roster_is_needed() -> None:
    standing = promised({A: promise(), B: promise()})
    assert not standing.has_majority
    standing.promised(C, promise())
    assert standing.has_majority and not standing.has_all


def test_promises_of_strangers_and_other_terms_do_not_count() -> None:
    standing = promised({PeerId("x"): promise(), A: replace(promise(), term=TERM + 1)})
    assert not standing.promises


def test_an_unopened_step_is_opened() -> None:
    assert promised({peer: promise(opening=None) for peer in (A, B, C)}).outcome() == Fresh()


def test_a_decision_that_anybody_saw_is_spread() -> None:
    seen = promise(last=commit_of(), step=1, opening=None)
    for order in permutations([A, B, C]):
        votes = dict.fromkeys(order, promise(1, prepared(0)))
        assert promised({**votes, D: seen}).outcome() == Decided(commit_of())


def test_the_latest_decision_counts() -> None:
    later = replace(commit_of(), step=1)
    votes = {A: promise(last=commit_of(), step=1), B: promise(last=later, step=2), C: promise()}
    assert promised(votes).outcome() == Decided(later)


def test_decisions_of_earlier_steps_are_no_news() -> None:
    standing = Candidate(B, TERM, 1, BASE, ROSTER)
    for peer in (A, B, C):
        standing.promised(peer, promise(last=commit_of(), step=1, opening=None))
    assert standing.outcome() == Fresh()


def test_what_everybody_prepared_is_completed_with_all_sums() -> None:
    standing = promised(all_prepared())
    outcome = standing.outcome()
    assert isinstance(outcome, Complete) and outcome.open == OPEN
    assert standing.merged(outcome.prepared).stages == tuple(sum_of(stage) for stage in range(3))


def test_an_unreachable_replica_does_not_hinder_completion() -> None:
    votes = all_prepared()
    del votes[D]
    assert isinstance(promised(votes).outcome(), Complete)


def test_one_reachable_member_that_has_not_prepared_means_a_new_seal() -> None:
    for peer in STAGE_OF:
        votes = {**all_prepared(), peer: promise(2)}
        assert promised(votes).outcome() == Reseal(OPEN, 2)


def test_a_stage_without_anybody_means_a_new_seal() -> None:
    """R10: its sum is out of reach, so the step is redone."""
    votes = all_prepared()
    del votes[E]
    assert promised(votes).outcome() == Reseal(OPEN, 1)


def test_only_the_highest_prepare_counts() -> None:
    votes = all_prepared()
    votes[A] = promise(1, prepared(0, 1, OLD + 1))
    assert isinstance(promised(votes).outcome(), Reseal)
    outcome = promised(all_prepared(2, OLD + 1)).outcome()
    assert isinstance(outcome, Complete) and (outcome.prepared.term, outcome.prepared.seal) == (
        OLD + 1,
        2,
    )


def test_members_that_were_sealed_out_need_not_have_prepared() -> None:
    small = ROSTER.without(D)
    votes = {
        peer: promise(1, prepared(stage, roster=small))
        for peer, stage in STAGE_OF.items()
        if peer != D
    }
    assert isinstance(promised({**votes, D: promise()}).outcome(), Complete)


def test_the_prepare_of_a_peer_that_is_behind_is_of_another_step() -> None:
    """Its (term, seal) may be the same, its sum is not."""
    standing = Candidate(B, TERM, 1, BASE, ROSTER)
    for peer, vote in all_prepared().items():
        standing.promised(
            peer, replace(vote, step=0 if peer == D else 1, open=replace(OPEN, step=1))
        )
    assert isinstance(standing.outcome(), Reseal)
    assert standing._sums(standing.promises[D], prepared(1)) == ()


def test_the_newest_opening_and_the_highest_seal_are_taken_over() -> None:
    newer = replace(OPEN, roster=ROSTER.without(D))
    votes = {A: promise(3), B: promise(1, opening=newer), C: promise(2, opening=None)}
    assert promised(votes).outcome() == Reseal(newer, 3)
