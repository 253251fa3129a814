"""How a group agrees on outer rounds: the normal case, and each rule by itself."""

from dataclasses import replace

import pytest

from swarmtrain.core.rounds import (
    Accepted,
    Ballot,
    Choice,
    Collect,
    Collected,
    GroupMember,
    Measured,
    RoundAsk,
    RoundDecided,
    RoundOffer,
    RoundPromise,
    is_quorum,
)
from swarmtrain.core.types import PeerId
from swarmtrain.outer.effects import Chosen, Effect, Gather, Note, Seat
from swarmtrain.outer.group import RoundGroup
from swarmtrain.outer.roll import Roll, voted
from tests.outer.group_room import (
    BASE,
    HEAD,
    RESULT,
    WAITS,
    A,
    B,
    C,
    D,
    Room,
    alone,
    choice_of,
    decision,
    relist,
    to,
)
from tests.outer.group_world import signing_of

# ---- whole rounds -------------------------------------------------------------------------------------------------


def test_three_islands_agree_on_everything_that_was_offered() -> None:
    room = Room((A,), (B,), (C,))
    for peer in (C, B, A):
        room.offer(peer)
    wanted = Choice(choice_of(0, 1, 2).counted, room.members, RESULT)
    assert room.chosen == {A: wanted, B: wanted, C: wanted}
    # To oneself nothing is sent: two others are asked and answer, and the third learns with them.
    assert {name: room.sent[name] for name in room.sent if name != "RoundOffer"} == {
        "RoundAsk": 2,
        "RoundPromise": 2,
        "Collect": 2,
        "Collected": 2,
        "RoundDecided": 2,
    }


def test_nobody_waits_for_a_straggler_beyond_the_grace() -> None:
    room = Room((A,), (B,), (C,))
    room.offer(A)
    room.offer(B)
    room.tick(3.9)
    assert not room.chosen
    room.tick(0.2)
    assert [entry.island for entry in room.chosen[C].counted] == [0, 1]
    assert [member.island for member in room.chosen[C].members] == [0, 1, 2]


def test_stragglers_get_what_those_who_are_ready_can_spare() -> None:
    """The least of it, from when each was heard; the grace, of four seconds, is for those who do not say."""
    for slacks, seconds in (((2.0, 9.0), 2.0), ((9.0, 1.0), 1.5), ((7.0, 9.0), 7.0)):
        room = Room((A,), (B,), (C,))
        room.offer(A, slack_seconds=slacks[0])
        room.tick(0.5)
        room.offer(B, slack_seconds=slacks[1])
        assert room.groups[C].window_seconds(room.now) == seconds - 0.5
        room.tick(seconds - 0.5 - 0.01)
        assert not room.chosen and room.groups[A].asked_at is None
        room.tick(0.02)
        assert [entry.island for entry in room.chosen[C].counted] == [0, 1]
        assert room.groups[C].asked_at == room.now


def test_slack_ends_when_it_was_said_to_whenever_a_chair_hears_of_it() -> None:
    """Whose first offer was lost, who was in the round before by then, and who starts anew, hear of it late."""
    group = alone()
    group.offer(10, b"of 0", 0.0, slack_seconds=7.0)
    late = group.tick(5.0) + group.seen(B) + group.seen(D)
    said = {m.slack_seconds for peer in (B, D) for m in to(peer, late) if isinstance(m, RoundOffer)}
    assert said == {2.0}
    (over, *_) = to(B, group.tick(9.0))
    assert isinstance(over, RoundOffer) and over.slack_seconds == 0.0, "not that it does not say"
    other = RoundGroup((1, 0), Seat(B, 1, 1, (B,), signing_of(B)), WAITS, True)
    other.advance(0, BASE, group.members, 0.0)
    for seconds, slack_seconds in ((1.0, 7.0), (5.0, 2.0), (6.0, 2.0)):
        other.handle(A, RoundOffer(*HEAD, 0, 1, (A,), 10, b"of 0", 0.0, (), slack_seconds), seconds)
    assert other.window_seconds(6.0) == 1.0, "a repeat that was long under way adds nothing"
    other.handle(A, RoundOffer(1, 0, 1, b"next", 0, 1, (A,), 10, b"of 0", 0.0, (), 7.0), 7.0)
    other.advance(1, b"next", group.members, 10.0)
    assert other.window_seconds(10.0) == 4.0


@pytest.mark.parametrize("slacks", [(-1.0, 100.0), (100.0, -1.0)])
def test_who_cannot_say_what_it_can_spare_waits_no_longer_than_the_grace(
    slacks: tuple[float, float],
) -> None:
    """Whatever others can spare: a delay that leaves it no time does so in every round."""
    room = Room((A,), (B,), (C,))
    room.offer(A, slack_seconds=slacks[0])
    room.offer(B, slack_seconds=slacks[1])
    assert room.groups[C].window_seconds(room.now) == WAITS.grace
    room.tick(WAITS.grace - 0.1)
    assert not room.chosen
    room.tick(0.2)
    assert [entry.island for entry in room.chosen[C].counted] == [0, 1]


def test_whatever_those_who_are_ready_say_stragglers_get_no_more_than_payloads_do() -> None:
    room = Room((A,), (B,), (C,))
    room.offer(A, slack_seconds=1e12)
    room.offer(B, slack_seconds=1e12)
    assert room.groups[C].window_seconds(room.now) == WAITS.gather
    room.tick(WAITS.gather - 0.1)
    assert not room.chosen
    room.tick(0.2)
    assert set(room.chosen) == {A, B, C}


def test_a_round_chooses_in_what_the_next_one_sends_from_what_its_members_measured() -> None:
    def measured(int4_error: float) -> tuple[Measured, ...]:
        return (Measured("int8", 7.5, 1e-4), Measured("int4", 3.3, int4_error))

    for error, codec in ((0.01, "int4"), (0.05, "int8")):
        room = Room((A,), (B,), (C,), distortion=0.02)
        room.offer(A, measured(0.01))
        room.offer(B, measured(0.01))
        room.offer(C, measured(error))
        assert {choice.codec for choice in room.chosen.values()} == {codec}
        assert room.noted.count("what a round is sent in") == 1
    told_nothing = Room((A,), (B,), distortion=0.02)
    unasked = Room((A,), (B,))
    for room, given in ((told_nothing, ()), (unasked, measured(0.01))):
        room.offer(A, given)
        room.offer(B, given)
        assert room.chosen[B].codec == "" and not room.noted


def test_what_was_accepted_keeps_its_codec_whoever_chairs_next() -> None:
    group = RoundGroup((1, 0), Seat(A, 0, 1, (A,), signing_of(A)), WAITS, True, distortion=0.02)
    group.advance(0, BASE, [GroupMember(island, 1) for island in range(3)], 0.0)
    group.offer(10, b"of 0", 0.0, measured=(Measured("int8", 7.5, 1e-4),))
    head = *HEAD, 1, 1, (B,)
    effects = group.handle(B, RoundOffer(*head, 10, b"of 1"), 0.0) + group.tick(20.0)
    ballot = next(m.ballot for m in to(B, effects) if isinstance(m, RoundAsk))
    before = replace(choice_of(0, 1), result=RESULT, codec="ternary")
    promise = RoundPromise(*HEAD, ballot, 1, 1, (B,), Accepted(Ballot(1, C, 1), before))
    proposed = [m for m in to(B, group.handle(B, promise, 20.0)) if isinstance(m, Collect)]
    assert [message.choice for message in proposed] == [before]


def test_of_two_islands_the_second_may_die() -> None:
    room = Room((A,), (B,))
    room.die(B)
    room.offer(A)
    assert room.chosen[A].members == (GroupMember(0, 1),)


def test_of_two_islands_the_second_does_not_decide_alone() -> None:
    room = Room((A,), (B,))
    room.die(A)
    room.offer(B)
    for _ in range(20):
        room.tick(2.0)
    assert not room.chosen


def test_the_next_peer_chairs_when_the_first_is_silent() -> None:
    room = Room((A,), (B,), (C,))
    room.silent.add(A)
    room.offer(B)
    room.offer(C)
    room.tick(4.5)
    assert not room.chosen
    room.tick(3.0)
    assert set(room.chosen) == {B, C}


def test_an_island_votes_with_all_its_replicas() -> None:
    other = PeerId("a2")
    room = Room((A, other), (B,), (C,))
    room.silent |= {C, other}
    room.offer(A)
    room.offer(B)
    room.tick(5.0)
    assert not room.chosen
    relist(room.groups[A], 2, (A,))
    room.tick(2.0)
    assert set(room.chosen) == {A, B}


def test_a_payload_that_a_voter_cannot_have_is_left_out() -> None:
    room = Room((A,), (B,), (C,))
    room.lacking[A] = room.lacking[B] = (2,)
    room.offer(C)
    room.silent.add(C)
    for peer in (A, B):
        room.offer(peer)
    room.tick(5.0)
    assert [entry.island for entry in room.chosen[A].counted] == [0, 1]


def test_a_payload_that_only_a_newcomer_cannot_have_is_counted_at_once() -> None:
    room = Room((A,), (B,), (C,), voters=1)
    room.lacking[B] = (2,)
    for peer in (B, C, A):
        room.offer(peer)
    assert [entry.island for entry in room.chosen[C].counted] == [0, 1, 2]
    assert room.groups[A].votes.promised.attempt == 1


def test_nobody_waits_for_a_newcomer_to_hold_the_first_result_beyond_the_grace() -> None:
    for missing in ((0,), (0, 1)):
        room = Room((A,), (B,), voters=1)
        room.lacking[B] = missing
        for peer in (B, A):
            room.offer(peer)
        room.tick(3.9)
        assert not room.chosen
        room.tick(0.2)
        assert [entry.island for entry in room.chosen[B].counted] == [0, 1]


def test_who_asks_late_for_a_contribution_whose_maker_is_gone_learns_who_has_it() -> None:
    group = alone(islands=1)
    group.offer(10, b"of 0", 0.0)
    for island, peer in ((1, B), (2, C)):
        group.handle(peer, RoundOffer(*HEAD, island, 1, (peer,), 10, b"of %d" % island), 0.0)
    effects = group.tick(20.0)
    (first,) = [m for m in to(B, effects) if isinstance(m, Collect)]
    assert first.holders == ()
    (gather,) = [e for e in effects if isinstance(e, Gather)]
    group.collected(gather, RESULT, (), 20.0)
    group.handle(B, Collected(*HEAD, first.ballot, 1, 1, (B,), b"", (2,)), 20.5)
    (again,) = [m for m in to(B, group.tick(21.0)) if isinstance(m, Collect)]
    assert (again.ballot, again.choice, again.holders) == (first.ballot, first.choice, (A,))


def test_newcomers_that_never_hold_the_first_result_do_not_vote_behind_it() -> None:
    """Two of three in the next round: without them it could not be decided."""
    for is_dead, limit_seconds, times in ((False, WAITS.gather, 4), (True, WAITS.grace, 1)):
        room = Room((A,), (B,), (C,), voters=1)
        room.lacking = {B: (0,), C: (0,)}
        for peer in (B, C, A):
            room.offer(peer)
        if is_dead:
            room.die(B)
            room.die(C)
        for _ in range(times):
            room.tick(limit_seconds - 0.1)
            assert not room.chosen
            room.tick(0.2)
        assert room.chosen[A].members == (GroupMember(0, 1),)
        counted = [entry.island for entry in room.chosen[A].counted]
        assert counted == ([0] if is_dead else [0, 1, 2])


@pytest.mark.parametrize("is_known", [True, False])
def test_a_chair_that_dies_while_newcomers_are_gone_for_good_binds_nobody(is_known: bool) -> None:
    """They had offered, so it proposed that they vote next; it and its sibling have the result, and they have not."""
    room = Room((A, D), (B,), (C,), voters=1)
    room.silent |= {B, C}
    for island, peer in ((1, B), (2, C)):
        offer = RoundOffer(*HEAD, island, 1, (peer,), 10, b"of %d" % island)
        for first in (A, D):
            room.carry(first, room.groups[first].handle(peer, offer, 0.0))
    room.offer(A)
    room.offer(D)
    assert room.gathered == {A, D} and not room.chosen
    room.die(A)
    relist(room.groups[D], 2, (D,))
    if is_known:
        room.die(B)
        room.die(C)
    for _ in range(40):
        room.tick(2.0)
    assert room.chosen[D].members == (GroupMember(0, 2),)
    assert [entry.island for entry in room.chosen[D].counted] == [0] if is_known else [0, 1, 2]


def test_what_was_put_to_the_vote_needs_no_newcomer_any_more() -> None:
    """Whoever finds it accepted knows that enough of them have the result."""
    room = Room((A, D), (B,), (C,), voters=1)
    everybody = tuple(GroupMember(island, 1) for island in range(3))
    whole = Choice(choice_of(0, 1, 2).counted, everybody, RESULT)
    group = room.groups[D]
    room.carry(D, group.offer(10, b"of 0", 0.0))
    put_to_vote = Collect(*HEAD, Ballot(1, A, 1), whole, (A, B, C))
    room.carry(D, group.handle(A, put_to_vote, 0.0))
    assert group.votes.accepted is not None and not room.chosen
    for peer in (A, B, C):
        room.die(peer)
    relist(group, 2, (D,))
    for _ in range(20):
        room.tick(2.0)
    assert room.chosen == {D: whole}


def test_what_is_to_be_held_first_and_comes_after_the_vote_does_not_end_it() -> None:
    """Messages overtake each other; a later Gather replaces the one for the vote."""
    room, ballot = Room((A,), (B,), voters=2), Ballot(1, A, 1)
    group, first = room.groups[B], replace(choice_of(0, 1), members=room.members)
    put_to_vote = Collect(*HEAD, ballot, replace(first, result=RESULT), (A,))
    (gather,) = group.handle(A, put_to_vote, 0.0)
    assert isinstance(gather, Gather)
    hold = Collect(*HEAD, ballot, first, (), only_hold=True)
    assert group.handle(A, hold, 0.5) == []
    (vote,) = to(A, group.collected(gather, RESULT, (), 1.0))
    assert isinstance(vote, Collected) and not vote.only_hold and vote.result == RESULT
    assert group.handle(A, hold, 1.5) == []
    assert to(A, group.handle(A, put_to_vote, 2.0)) == [vote]


def test_an_island_begun_anew_does_not_know_what_its_number_has_voted() -> None:
    """Its own first round is another one than that which the group is at."""
    group = alone(version=9)
    assert group.votes.may_vote
    group.advance(4, b"of the group", [GroupMember(0, 5), GroupMember(1, 1)], 1.0)
    assert group.votes.is_member and not group.votes.may_vote


def test_who_is_missing_for_a_quorum_is_known() -> None:
    room = Room((A,), (B,), (C,))
    assert [room.groups[peer].absent for peer in (A, B, C)] == [()] * 3
    room.die(C)
    assert room.groups[A].absent == ()
    room.die(B)
    assert room.groups[A].absent == (1, 2)
    newcomer = RoundGroup((1, 0), Seat(B, 1, 1, (B,), signing_of(B)), WAITS, True)
    newcomer.advance(0, BASE, [GroupMember(0, 0)], 0.0)
    assert newcomer.absent == (0,), "who was never heard of decides nothing"


def test_a_result_is_coming_where_a_quorum_that_is_there_has_offered_or_somebody_has_it() -> None:
    room = Room((A, D), (B,), (C,))
    a, b = room.groups[A], room.groups[B]
    room.lacking = {D: (0, 1)}  # nothing is accepted yet
    room.offer(A)
    assert not a.is_coming
    room.offer(B)
    assert a.is_coming and b.is_coming
    room.die(D)
    assert a.is_coming, "the others can vote on it"
    room.die(C)
    assert not a.is_coming, "of the first island D would have to vote as well"
    relist(a, 2, (A,))
    assert a.is_coming


def test_earlier_decisions_are_told_where_somebody_catches_up() -> None:
    """By whom it names first: what the round was made of may be kept there alone."""
    room = Room((A,), (B,), (C,))
    for number in range(3):
        room.groups[B].kept_from = 1
        for peer in (A, B, C):
            room.offer(peer)
        choice = room.chosen[A]
        for peer, group in room.groups.items():
            room.carry(peer, group.advance(number + 1, b"%d" % number, choice.members, room.now))
    for number, tells in ((0, set()), (1, {B}), (2, {A, B, C})):
        base = b"%d" % (number - 1) if number else BASE
        question = RoundOffer(1, 0, number, base, 3, 1, (D,), 10, b"of 3")
        told = {
            peer: [
                m for m in to(D, group.handle(D, question, room.now)) if isinstance(m, RoundDecided)
            ]
            for peer, group in room.groups.items()
        }
        assert {peer for peer, messages in told.items() if messages} == tells
        if number == 1:
            assert told[B][0].round == 1 and told[B][0].holders[0] == B


def test_a_decided_result_is_coming_while_anybody_who_has_it_is_there() -> None:
    room = Room((A,), (B,), (C,))
    for peer in (A, B, C):
        room.offer(peer)
    learner = room.groups[C]
    assert learner.choice is not None and learner.is_coming
    learner.lost(A)
    assert learner.is_coming
    learner.lost(B)
    assert not learner.is_coming


def test_who_does_not_know_what_its_island_voted_needs_all_others() -> None:
    """Island 1 is begun anew in the sixth round and asks all what its number voted; 2 does not come back."""
    room, members = Room((A,)), tuple(GroupMember(island, 0) for island in range(3))
    first, anew = (
        RoundGroup((1, 0), Seat(p, i, 7, (p,), signing_of(p)), WAITS, True)
        for i, p in enumerate((A, B))
    )
    room.groups = {A: first, B: anew}
    room.carry(A, first.advance(5, BASE, members, 0.0))
    room.carry(B, anew.advance(0, b"its own", members, 0.0))
    for peer, other in ((A, B), (B, A)):
        room.carry(peer, room.groups[peer].seen(other))
    assert anew.behind
    room.carry(B, anew.advance(5, BASE, members, room.now))
    for peer in (A, B):
        room.offer(peer)
    for _ in range(100):
        room.tick(1.0)
    assert not room.chosen and not anew.votes.may_vote
    assert anew.absent == (2,), "the run's owner is told what rounds wait for"


def test_missing_payloads_that_nobody_asked_for_begin_no_new_attempt() -> None:
    group = alone()
    group.offer(10, b"of 0", 0.0)
    group.handle(B, RoundOffer(*HEAD, 1, 1, (B,), 10, b"of 1"), 0.0)
    (ask,) = [m for m in to(B, group.tick(20.0)) if isinstance(m, RoundAsk)]
    promise = RoundPromise(*HEAD, ask.ballot, 1, 1, (B,), None)
    assert any(isinstance(m, Collect) for m in to(B, group.handle(B, promise, 20.0)))
    for island, peer, missing in ((1, B, 77), (7, C, 0)):
        answer = Collected(*HEAD, ask.ballot, island, 1, (peer,), b"", (missing,))
        assert group.handle(peer, answer, 20.0) == []
    assert group.handle(B, replace(answer, island=1, peers=(B,)), 20.0) != []


def test_quorums() -> None:
    assert is_quorum([1, 2], [0, 1, 2]) and not is_quorum([1], [0, 1, 2])
    assert is_quorum([0], [0, 1]) and not is_quorum([1], [0, 1])
    assert is_quorum([0, 3], [0, 1, 2, 3]) and not is_quorum([1, 2], [0, 1, 2, 3])
    assert not is_quorum([], []) and not is_quorum([7, 8, 9], [0, 1, 2])


def test_only_answers_under_the_newest_list_make_a_vote() -> None:
    """One under an older list may be of a process that has died since, and came back without its votes."""
    roll, members, ballot = Roll(), [GroupMember(0, 2)], Ballot(1, C, 1)
    answers = {p: RoundPromise(*HEAD, ballot, 0, 2, (A, B), None) for p in (A, B)}
    roll.hear(0, 2, (A, B))
    assert voted(roll, members, answers) == (0,)
    assert voted(roll, [GroupMember(0, 3)], answers) == ()
    roll.hear(0, 3, (A, B))
    answers[B] = replace(answers[B], version=3)
    assert voted(roll, members, answers) == ()
    answers[A] = replace(answers[A], version=3)
    assert voted(roll, members, answers) == (0,)


def test_a_process_that_starts_again_makes_other_ballots() -> None:
    ballots = []
    for version in (1, 2):
        group = alone(version=version)
        for island, peer in ((1, B), (2, C)):
            group.handle(peer, RoundOffer(*HEAD, island, 1, (peer,), 10, b"of it"), 0.0)
        ballots += [m.ballot for m in to(B, group.tick(20.0)) if isinstance(m, RoundAsk)]
    assert ballots == [Ballot(1, A, 1), Ballot(1, A, 2)]


# ---- rounds and bases ---------------------------------------------------------------------------------------------


def test_another_base_is_refused_and_noted_once() -> None:
    group = alone()
    stray = RoundOffer(1, 0, 0, b"another", 1, 1, (B,), 10, b"of 1")
    assert [type(effect) for effect in group.handle(B, stray, 0.0)] == [Note]
    assert group.handle(B, stray, 0.0) == []
    assert group.wrong_bases == 2 and group.offered == ()


def test_who_is_behind_is_told_and_who_is_ahead_is_noted() -> None:
    group = alone()
    group.handle(B, RoundOffer(*HEAD, 1, 1, (B,), 0, b""), 0.0)
    decided = decision({0: (A,), 1: (B,)})
    assert group.handle(B, decided, 0.0) == [Chosen(decided.choice, (A,))]
    early = RoundOffer(1, 0, 1, b"next", 1, 1, (B,), 10, b"of 1")
    assert group.handle(B, early, 0.0) == []
    group.advance(1, b"next", group.members, 1.0)
    assert group.offered == (1,)
    greeting = RoundOffer(*HEAD, 2, 1, (C,), 0, b"")
    assert to(C, group.handle(C, greeting, 1.0)) == [decided]
    group.handle(C, RoundOffer(1, 0, 7, b"far", 2, 1, (C,), 0, b""), 1.0)
    assert group.behind is not None and (group.behind.round, group.behind.peer) == (7, C)


def test_unequal_results_of_equal_payloads_are_noted_and_not_chosen_between() -> None:
    group, old = alone(islands=5), Ballot(1, C, 1)
    group.offer(10, b"of 0", 0.0)
    for island, peer in ((1, B), (2, C)):
        group.handle(peer, RoundOffer(*HEAD, island, 1, (peer,), 10, b"of %d" % island), 0.0)
    group.tick(1.0)
    ballot = next(m.ballot for m in to(B, group.tick(20.0)) if isinstance(m, RoundAsk))
    effects: list[Effect] = []
    for island, peer, result in ((1, B, b"one"), (2, C, b"two")):
        vote = Accepted(old, replace(choice_of(1, 2), result=result))
        promise = RoundPromise(*HEAD, ballot, island, 1, (peer,), vote)
        effects += group.handle(peer, promise, 20.0)
    assert any(isinstance(effect, Note) for effect in effects)
    assert not any(isinstance(message, Collect) for message in to(B, effects) + to(C, effects))
