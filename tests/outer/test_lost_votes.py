"""How an island whose peers all lost its votes comes to vote again (`outer.recovery`)."""

from dataclasses import replace

from swarmtrain.core.rounds import (
    NO_BALLOT,
    Accepted,
    Ballot,
    Collect,
    RoundNack,
    RoundOffer,
    VotesAsk,
    VotesTell,
)
from swarmtrain.core.types import PeerId
from swarmtrain.outer.effects import Seat
from swarmtrain.outer.group import RoundGroup
from tests.outer.group_room import (
    BASE,
    HEAD,
    RESULT,
    WAITS,
    A,
    B,
    C,
    Room,
    alone,
    choice_of,
    decision,
    to,
)
from tests.outer.group_world import signing_of


def restarted(room: Room, island: int, peers: tuple[PeerId, ...], version: int = 2) -> None:
    """All replicas of an island start again with nothing of what they knew."""
    for peer in peers:
        group = RoundGroup((1, 0), Seat(peer, island, version, peers, signing_of(peer)), WAITS)
        group.confirm(version)
        room.groups[peer] = group
        room.silent.discard(peer)
        for other in room.groups:
            group.seen(other)
        room.carry(peer, group.advance(0, BASE, room.members, room.now))


def test_the_lower_of_two_islands_goes_on_after_it_lost_its_votes() -> None:
    other = PeerId("a2")
    room = Room((A, other), (B,))
    restarted(room, 0, (A, other))
    room.offer(A)
    room.offer(B)
    room.tick(1.0)
    assert not room.groups[A].votes.may_vote
    room.tick(WAITS.patience)
    assert room.groups[A].votes.may_vote
    room.tick(1.0)
    assert room.groups[other].votes.may_vote
    for _ in range(8):
        room.tick(2.0)
    assert set(room.chosen) == {A, other, B} and len(set(room.chosen.values())) == 1


def test_a_lone_island_goes_on_after_it_lost_its_votes() -> None:
    room = Room((A,))
    restarted(room, 0, (A,))
    room.offer(A)
    for _ in range(8):
        room.tick(2.0)
    assert set(room.chosen) == {A}


def test_two_islands_that_both_lost_their_votes_go_on() -> None:
    room = Room((A,), (B,))
    restarted(room, 0, (A,))
    restarted(room, 1, (B,))
    room.offer(A)
    room.offer(B)
    for _ in range(12):
        room.tick(2.0)
    assert set(room.chosen) == {A, B} and room.chosen[A] == room.chosen[B]


def test_lost_votes_are_not_given_anew_while_another_member_is_silent() -> None:
    room = Room((A,), (B,), (C,))
    room.silent.add(C)
    restarted(room, 0, (A,))
    for peer in (A, B):
        room.offer(peer)
    for _ in range(12):
        room.tick(2.0)
    assert not room.groups[A].votes.may_vote and not room.chosen
    room.silent.clear()
    for _ in range(12):
        room.tick(2.0)
    assert set(room.chosen) == {A, B, C}


def test_what_others_accepted_binds_who_lost_its_votes() -> None:
    room, ballot = Room((A,), (B,)), Ballot(1, A, 1)
    taken = replace(choice_of(0, 1), members=room.members)
    room.carry(B, room.groups[B].handle(A, Collect(*HEAD, ballot, taken, ()), 0.0))
    restarted(room, 0, (A,))
    for _ in range(3):
        room.tick(WAITS.patience)
    votes = room.groups[A].votes
    assert votes.accepted == Accepted(ballot, replace(taken, result=RESULT))
    assert votes.promised > ballot and room.groups[B].votes.promised == votes.promised


def test_what_the_lost_votes_took_part_in_is_refused_from_then_on() -> None:
    room, old = Room((A,), (B,)), Ballot(400, B, 1)
    restarted(room, 0, (A,))
    for _ in range(3):
        room.tick(WAITS.patience)
    late = Collect(*HEAD, old, choice_of(0, 1), ())
    (nack,) = to(B, room.groups[A].handle(B, late, room.now))
    assert isinstance(nack, RoundNack) and nack.promised > old
    assert room.groups[B].handle(B, late, room.now) == []
    decided = decision({0: (A,)})
    assert room.groups[B].handle(A, decided, room.now) == []
    assert room.groups[B].handle(A, replace(decided, version=2), room.now) != []


def test_a_promise_to_another_that_lost_its_votes_is_kept_when_voting_again() -> None:
    group, asked = alone(version=2, is_first=False, islands=2), Ballot(5000, B, 3)
    group.confirm(2)
    group.tick(1.0)
    ask = VotesAsk(*HEAD, 1, 3, (B,), asked)
    (tell,) = to(B, group.handle(B, ask, 1.0))
    assert isinstance(tell, VotesTell) and not tell.knows and tell.promised == asked
    answer = VotesTell(*HEAD, 1, 3, (B,), False, 3, NO_BALLOT, None)
    group.handle(B, answer, 2.0)
    (again,) = [m for m in to(B, group.tick(9.0)) if isinstance(m, VotesAsk)]
    group.handle(B, replace(answer, promised=again.ballot), 9.0)
    group.tick(9.0 + WAITS.patience)
    assert group.votes.may_vote and group.votes.promised >= asked


def test_who_was_ahead_and_went_back_is_not_waited_for() -> None:
    group = alone()
    for peer in (B, C):
        far = RoundOffer(1, 0, 7, b"far", 1 if peer == B else 2, 1, (peer,), 0, b"")
        group.handle(peer, far, 0.0)
    assert group.behind is not None and group.behind.peer == B
    group.lost(B)
    assert group.behind is None
    group.handle(C, far, 0.0)
    group.handle(C, replace(far, round=0, base=BASE), 0.0)
    assert group.behind is None
