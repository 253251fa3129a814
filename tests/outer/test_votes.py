"""Under which lists of its island a peer votes, and what goes wrong where it votes under others."""

import pytest

from swarmtrain.core.rounds import (
    Ballot,
    Choice,
    Collect,
    Collected,
    Counted,
    GroupMember,
    RoundAsk,
    RoundMessage,
    VotesAsk,
)
from swarmtrain.core.types import PeerId
from swarmtrain.outer.effects import Effect, Gather, Seat, SendRound, Waits
from swarmtrain.outer.group import RoundGroup
from swarmtrain.outer.votes import Votes
from tests.outer.group_world import signing_of

WAITS = Waits(patience=3.0, grace=4.0, gather=8.0)
HEAD = (1, 0, 0, b"base")
A, B, C, D = PeerId("a"), PeerId("b"), PeerId("c"), PeerId("d")
CHOICE = Choice((Counted(1, 10, b"of 1"),), (GroupMember(0, 1),), b"")
ASK, COLLECT = RoundAsk(*HEAD, Ballot(1, C, 1)), Collect(*HEAD, Ballot(1, C, 1), CHOICE, (C,))
LOST = VotesAsk(*HEAD, 1, 2, (C,), Ballot(5000, C, 2))


def group_of(*peers: PeerId, version: int = 1, is_first: bool = True) -> RoundGroup:
    """Peer `a` of island 0, among islands 0 to 2."""
    group = RoundGroup((1, 0), Seat(A, 0, version, peers, signing_of(A)), WAITS, is_first)
    group.advance(0, b"base", [GroupMember(island, 1) for island in range(3)], 0.0)
    return group


def told(effects: list[Effect]) -> list[RoundMessage]:
    return [e.message for e in effects if isinstance(e, SendRound) and e.to == C]


def votes(group: RoundGroup) -> list[bool]:
    """Whether it promises, gathers for a vote, and tells another island that lost its votes."""
    asked, collected = group.handle(C, ASK, 0.0), group.handle(C, COLLECT, 0.0)
    gathers = [effect for effect in collected if isinstance(effect, Gather)]
    return [bool(told(asked)), bool(gathers), bool(told(group.handle(C, LOST, 0.0)))]


ALL, NONE = [True] * 3, [False] * 3


@pytest.mark.parametrize(
    "lists",
    [[(A,)], [(A, B, D), (A, B)], [(A, B, D), (A, D)]],
    ids=["one of two", "one who came meanwhile", "one of two, with another one"],
)
def test_a_list_that_lacks_somebody_has_to_be_confirmed(lists: list[tuple[PeerId, ...]]) -> None:
    group = group_of(A, B)
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
    group = group_of(A, B)
    for version, peers in enumerate(lists, start=2):
        group.set_peers(version, peers)
    assert votes(group) == ALL


def test_who_came_or_came_back_cannot_tell_who_could_vote_before() -> None:
    newcomer, back = group_of(A, is_first=False), group_of(A)
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
    group = group_of(A, B)
    (gather,) = group.handle(C, COLLECT, 0.0)
    assert isinstance(gather, Gather)
    group.set_peers(2, (A,))
    assert group.collected(gather, b"result", (), 0.0) == [] and group.votes.accepted is None
    assert group.handle(C, COLLECT, 0.0) == []
    group.confirm(2)
    (gather,) = group.handle(C, COLLECT, 0.0)
    assert isinstance(gather, Gather)
    (vote,) = told(group.collected(gather, b"result", (), 0.0))
    assert isinstance(vote, Collected) and vote.result == b"result" and vote.version == 2


def test_a_vote_is_not_said_again_under_a_list_that_is_not_confirmed() -> None:
    group = group_of(A, B)
    (gather,) = group.handle(C, COLLECT, 0.0)
    assert isinstance(gather, Gather)
    assert told(group.collected(gather, b"result", (), 0.0))
    group.set_peers(2, (A,))
    assert group.handle(C, COLLECT, 0.0) == []
    group.confirm(2)
    assert told(group.handle(C, COLLECT, 0.0))


def test_results_are_held_for_others_all_the_same() -> None:
    """That is no vote."""
    group = group_of(A, B)
    group.set_peers(2, (A,))
    hold = Collect(*HEAD, Ballot(1, C, 1), CHOICE, (C,), True)
    assert any(isinstance(effect, Gather) for effect in group.handle(C, hold, 0.0))


def test_who_knows_still_tells_siblings_while_a_list_is_not_confirmed() -> None:
    """They may not vote with it either."""
    group = group_of(A, B)
    group.set_peers(2, (A, D))
    ask = VotesAsk(*HEAD, 0, 2, (A, D), Ballot(5000, D, 2))
    assert [e for e in group.handle(D, ask, 0.0) if isinstance(e, SendRound)]


def test_the_gate_is_what_holds_votes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Votes, "is_settled", True)
    group = group_of(A, B)
    group.set_peers(2, (A,))
    assert votes(group) == ALL
