"""How a peer gives its share of its island's vote, and under which lists of its siblings."""

from dataclasses import replace

import pytest

from swarmtrain.core.rounds import (
    Accepted,
    Ballot,
    Choice,
    Collect,
    Collected,
    Counted,
    GroupMember,
    RoundAsk,
    RoundNack,
    RoundPromise,
    VotesAsk,
)
from swarmtrain.core.types import PeerId
from swarmtrain.outer.effects import Gather, Seat, SendRound
from swarmtrain.outer.group import RoundGroup
from swarmtrain.outer.votes import Votes
from tests.outer.group_room import (
    BASE,
    HEAD,
    RESULT,
    WAITS,
    A,
    B,
    C,
    D,
    alone,
    choice_of,
    relist,
    to,
)
from tests.outer.group_world import signing_of


def test_a_promise_made_while_gathering_keeps_the_vote_back() -> None:
    group, low, high = alone(), Ballot(1, B, 1), Ballot(2, C, 1)
    (gather,) = group.handle(B, Collect(*HEAD, low, choice_of(0, 1), ()), 0.0)
    assert isinstance(gather, Gather)
    (promise,) = to(C, group.handle(C, RoundAsk(*HEAD, high), 0.0))
    assert isinstance(promise, RoundPromise) and promise.accepted is None
    assert to(B, group.collected(gather, RESULT, (), 0.0)) == [RoundNack(*HEAD, low, high)]
    assert group.votes.accepted is None


def test_lower_ballots_are_refused() -> None:
    group, low, high = alone(), Ballot(1, B, 1), Ballot(1, C, 1)
    group.handle(C, RoundAsk(*HEAD, high), 0.0)
    for message in (RoundAsk(*HEAD, low), Collect(*HEAD, low, choice_of(0, 1), ())):
        assert to(B, group.handle(B, message, 0.0)) == [RoundNack(*HEAD, low, high)]


def test_a_vote_is_told_again_when_the_question_is_repeated() -> None:
    group, ballot = alone(), Ballot(1, B, 1)
    question = Collect(*HEAD, ballot, choice_of(0, 1), ())
    (gather,) = group.handle(B, question, 0.0)
    assert isinstance(gather, Gather) and group.handle(B, question, 0.0) == []
    answer = to(B, group.collected(gather, RESULT, (), 0.0))
    assert isinstance(answer[0], Collected) and answer[0].signature
    unsigned = replace(answer[0], public_key=b"", signature=b"")
    assert unsigned == Collected(*HEAD, ballot, 0, 1, (A,), RESULT, ())
    assert to(B, group.handle(B, question, 0.0)) == answer


def test_another_result_than_the_chosen_one_is_not_accepted() -> None:
    group, ballot = alone(), Ballot(1, B, 1)
    wanted = replace(choice_of(0, 1), result=b"theirs")
    (gather,) = group.handle(B, Collect(*HEAD, ballot, wanted, (B,)), 0.0)
    assert isinstance(gather, Gather)
    assert to(B, group.collected(gather, RESULT, (), 0.0)) == [
        Collected(*HEAD, ballot, 0, 1, (A,), b"", ())
    ]
    assert group.votes.accepted is None


def test_a_gathering_of_the_last_round_is_not_taken_for_this_one() -> None:
    group, ballot = alone(), Ballot(1, B, 1)
    (gather,) = group.handle(B, Collect(*HEAD, ballot, choice_of(0, 1), ()), 0.0)
    assert isinstance(gather, Gather)
    group.advance(1, b"next", group.members, 1.0)
    group.handle(B, Collect(1, 0, 1, b"next", ballot, choice_of(0, 1), ()), 1.0)
    assert group.collected(gather, RESULT, (), 1.0) == [] and group.votes.accepted is None


def test_who_came_in_votes_when_a_sibling_has_told_and_the_result_is_here() -> None:
    peers, ballot = (A, B), Ballot(3, C, 1)
    knowing = RoundGroup((1, 0), Seat(B, 0, 1, (B,), signing_of(B)), WAITS, True)
    knowing.advance(0, BASE, [GroupMember(island, 1) for island in range(3)], 0.0)
    (gather,) = knowing.handle(C, Collect(*HEAD, ballot, choice_of(1, 2), ()), 0.0)
    assert isinstance(gather, Gather)
    knowing.collected(gather, RESULT, (), 0.0)
    fresh = alone(peers, version=2, is_first=False)
    assert fresh.handle(C, RoundAsk(*HEAD, ballot), 0.0) == []
    ask = next(m for m in to(B, fresh.tick(1.0)) if isinstance(m, VotesAsk))
    assert to(A, knowing.handle(A, ask, 1.0)) == []  # it could still vote without the asker
    relist(knowing, 2, peers)
    (tell,) = to(A, knowing.handle(A, ask, 1.0))
    (fetch,) = fresh.handle(B, tell, 1.0)
    assert isinstance(fetch, Gather) and fetch.holders == (B,)
    assert not fresh.votes.may_vote
    fresh.collected(fetch, RESULT, (), 1.0)
    assert fresh.votes.may_vote and fresh.votes.accepted == knowing.votes.accepted


def test_who_came_in_without_siblings_votes_once_a_choice_knows_of_it() -> None:
    group = alone(version=5, is_first=False)
    assert not group.votes.may_vote
    group.advance(1, b"next", [GroupMember(0, 4), GroupMember(1, 1)], 1.0)
    assert not group.votes.may_vote
    group.advance(2, b"after", [GroupMember(0, 5), GroupMember(1, 1)], 1.0)
    assert group.votes.may_vote


def test_who_was_out_of_the_list_does_not_know_its_votes() -> None:
    group = alone((A, B))
    relist(group, 2, (B,))
    assert not group.votes.may_vote
    relist(group, 3, (A, B))
    assert not group.votes.may_vote
    away = alone((A, B))
    relist(away, 3, (A, B), since=3)
    assert not away.votes.may_vote
    there = alone((A, B))
    relist(there, 3, (A, B), since=1)
    assert there.votes.may_vote


@pytest.mark.parametrize("has_sibling_voted", [True, False])
def test_what_was_held_outside_the_list_is_still_fetched_for_the_vote(
    has_sibling_voted: bool,
) -> None:
    """Who is out of the list may only hold a result; back in it, the same one is its vote to learn, or to give."""
    peers, ballot = (A, B), Ballot(3, C, 1)
    question = Collect(*HEAD, ballot, replace(choice_of(1, 2), result=RESULT), (C,))
    group = alone(peers)
    sibling = RoundGroup((1, 0), Seat(B, 0, 1, peers, signing_of(B)), WAITS, True)
    sibling.advance(0, BASE, group.members, 0.0)
    for either in (group, sibling):
        relist(either, 2, (B,))
    (hold,) = group.handle(C, question, 0.0)
    assert isinstance(hold, Gather)
    (held,) = to(C, group.collected(hold, RESULT, (), 0.0))
    assert isinstance(held, Collected) and held.only_hold
    (gather,) = sibling.handle(C, question, 0.0)
    assert isinstance(gather, Gather)
    if has_sibling_voted:
        sibling.collected(gather, RESULT, (), 0.0)
    for either in (group, sibling):
        relist(either, 3, peers)
    ask = next(m for m in to(B, group.tick(1.0)) if isinstance(m, VotesAsk))
    (tell,) = to(A, sibling.handle(A, ask, 1.0))
    learned = group.handle(B, tell, 1.0)
    assert len(learned) == has_sibling_voted
    for fetch in learned or group.handle(C, question, 1.0):
        assert isinstance(fetch, Gather)
        group.collected(fetch, RESULT, (), 1.0)
    assert group.votes.may_vote and group.votes.accepted == Accepted(ballot, question.choice)
    (vote,) = to(C, group.handle(C, question, 2.0))
    assert isinstance(vote, Collected) and not vote.only_hold and vote.signature


# ---- lists --------------------------------------------------------------------------------------------------------

CHOICE = Choice((Counted(1, 10, b"of 1"),), (GroupMember(0, 1),), b"")
ASK, COLLECT = RoundAsk(*HEAD, Ballot(1, C, 1)), Collect(*HEAD, Ballot(1, C, 1), CHOICE, (C,))
LOST = VotesAsk(*HEAD, 1, 2, (C,), Ballot(5000, C, 2))


def votes(group: RoundGroup) -> list[bool]:
    """Whether it promises, gathers for a vote, and tells another island that lost its votes."""
    asked, collected = group.handle(C, ASK, 0.0), group.handle(C, COLLECT, 0.0)
    gathers = [effect for effect in collected if isinstance(effect, Gather)]
    return [bool(to(C, asked)), bool(gathers), bool(to(C, group.handle(C, LOST, 0.0)))]


ALL, NONE = [True] * 3, [False] * 3


@pytest.mark.parametrize(
    "lists",
    [[(A,)], [(A, B, D), (A, B)], [(A, B, D), (A, D)]],
    ids=["one of two", "one who came meanwhile", "one of two, with another one"],
)
def test_a_list_that_lacks_somebody_has_to_be_confirmed(lists: list[tuple[PeerId, ...]]) -> None:
    group = alone((A, B))
    for version, peers in enumerate(lists, start=2):
        group.set_peers(version, peers)
    assert votes(group) == NONE
    group.confirm(len(lists))
    assert votes(group) == NONE  # the one before is
    group.confirm(len(lists) + 1)
    assert votes(group) == ALL


@pytest.mark.parametrize(
    "lists",
    [[], [(A, B)], [(A, B, D)], [(A, B, D), (A, B, C, D)]],
    ids=["the first", "the same", "a newcomer", "two newcomers"],
)
def test_a_list_with_everybody_does_not(lists: list[tuple[PeerId, ...]]) -> None:
    group = alone((A, B))
    for version, peers in enumerate(lists, start=2):
        group.set_peers(version, peers)
    assert votes(group) == ALL


def test_who_came_or_came_back_cannot_tell_who_could_vote_before() -> None:
    newcomer, back = alone(is_first=False), alone()
    newcomer.advance(1, b"next", [GroupMember(0, 1)], 1.0)
    assert newcomer.votes.may_vote and not newcomer.votes.is_settled
    back.set_peers(2, (A,), since=2)
    back.advance(1, b"next", [GroupMember(0, 2)], 1.0)
    assert back.votes.may_vote and not back.votes.is_settled
    newcomer.confirm(1)
    back.confirm(2)
    assert newcomer.votes.is_settled and back.votes.is_settled


def test_what_was_gathered_under_another_list_is_asked_for_again() -> None:
    """Its vote would be one under the list that is not confirmed yet."""
    group = alone((A, B))
    (gather,) = group.handle(C, COLLECT, 0.0)
    assert isinstance(gather, Gather)
    group.set_peers(2, (A,))
    assert group.collected(gather, b"result", (), 0.0) == [] and group.votes.accepted is None
    assert group.handle(C, COLLECT, 0.0) == []
    group.confirm(2)
    (gather,) = group.handle(C, COLLECT, 0.0)
    assert isinstance(gather, Gather)
    (vote,) = to(C, group.collected(gather, b"result", (), 0.0))
    assert isinstance(vote, Collected) and vote.result == b"result" and vote.version == 2


def test_a_vote_is_not_said_again_under_a_list_that_is_not_confirmed() -> None:
    group = alone((A, B))
    (gather,) = group.handle(C, COLLECT, 0.0)
    assert isinstance(gather, Gather)
    assert to(C, group.collected(gather, b"result", (), 0.0))
    group.set_peers(2, (A,))
    assert group.handle(C, COLLECT, 0.0) == []
    group.confirm(2)
    assert to(C, group.handle(C, COLLECT, 0.0))


def test_results_are_held_for_others_all_the_same() -> None:
    """That is no vote."""
    group = alone((A, B))
    group.set_peers(2, (A,))
    hold = Collect(*HEAD, Ballot(1, C, 1), CHOICE, (C,), True)
    assert any(isinstance(effect, Gather) for effect in group.handle(C, hold, 0.0))


def test_who_knows_still_tells_siblings_while_a_list_is_not_confirmed() -> None:
    """They may not vote with it either."""
    group = alone((A, B))
    group.set_peers(2, (A, D))
    ask = VotesAsk(*HEAD, 0, 2, (A, D), Ballot(5000, D, 2))
    assert [e for e in group.handle(D, ask, 0.0) if isinstance(e, SendRound)]


def test_the_gate_is_what_holds_votes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Votes, "is_settled", True)
    group = alone((A, B))
    group.set_peers(2, (A,))
    assert votes(group) == ALL
