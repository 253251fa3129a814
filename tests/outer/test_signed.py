"""Signed votes: what counts as a vote, which decisions are believed, and what becomes of all others."""

from dataclasses import replace

import pytest

from swarmtrain.core.errors import WireError
from swarmtrain.core.events import Noted
from swarmtrain.core.rounds import (
    Ballot,
    Collect,
    Collected,
    RoundAsk,
    RoundDecided,
    RoundMessage,
    RoundOffer,
    RoundPromise,
    SignedVote,
)
from swarmtrain.core.types import PeerId
from swarmtrain.outer.effects import Chosen, Effect, Note
from swarmtrain.outer.group import RoundGroup
from swarmtrain.outer.roll import ReplicaList
from swarmtrain.outer.signed import Signing, flaw, vote_text
from swarmtrain.swarm.identity import Identity, peer_id_of, verify
from swarmtrain.transport.messages import decode_round, encode_round
from tests.outer.group_room import HEAD, RESULT, A, B, C, D, Room, alone, choice_of, decision, to
from tests.outer.group_world import signing_of

UNPROVEN = "a decision that its votes do not prove"
UNSIGNED = "a vote that its voter did not sign"


def noted(effects: list[Effect]) -> list[str]:
    events = [effect.event for effect in effects if isinstance(effect, Note)]
    return [event.what for event in events if isinstance(event, Noted)]


def reader() -> RoundGroup:
    """Peer `a` of island 0, alone in it, which has heard of islands 1 and 2, of two peers and one."""
    group = alone()
    group.handle(B, RoundOffer(*HEAD, 1, 1, (B, D), 0, b""), 0.0)
    group.handle(C, RoundOffer(*HEAD, 2, 1, (C,), 0, b""), 0.0)
    return group


PROVEN = decision({1: (B, D), 2: (C,)})


def told_by(votes: tuple[SignedVote, ...]) -> RoundDecided:
    return replace(PROVEN, votes=votes)


def test_a_decision_that_a_quorum_signed_is_believed_whoever_tells_it() -> None:
    """The votes themselves say who gave them; a link may be anybody's."""
    for sender in (B, C, PeerId("nobody known")):
        assert reader().handle(sender, PROVEN, 0.0) == [Chosen(PROVEN.choice, (A,))]


def with_vote(place: int, **changes: object) -> RoundDecided:
    votes = list(PROVEN.votes)
    votes[place] = replace(votes[place], **changes)  # type: ignore[arg-type]
    return told_by(tuple(votes))


OF_ALL = decision({0: (A,), 1: (B, D), 2: (C,)})
FORGED = {
    "no votes": told_by(()),
    "one island": told_by(PROVEN.votes[2:]),
    "one island twice": told_by(PROVEN.votes[2:] * 2),
    "a replica less": told_by(PROVEN.votes[1:]),
    "a vote twice": told_by((*PROVEN.votes, PROVEN.votes[2])),
    "another island's replica": told_by((*PROVEN.votes, replace(PROVEN.votes[2], island=1))),
    "an island that does not vote": told_by((*PROVEN.votes, replace(PROVEN.votes[2], island=7))),
    "another result": replace(PROVEN, choice=replace(PROVEN.choice, result=b"another")),
    "another choice": replace(PROVEN, choice=replace(PROVEN.choice, counted=())),
    "another codec": replace(PROVEN, choice=replace(PROVEN.choice, codec="int8")),
    "another ballot": replace(PROVEN, ballot=Ballot(2, A, 1)),
    "another list": with_vote(2, version=2),
    "an older list": decision({1: (B, D), 2: (C,)}, version=0),
    "another's key": with_vote(2, public_key=signing_of(B).public_key),
    "no signature": with_vote(2, signature=b""),
    "a wrong signature": with_vote(0, signature=bytes(32)),
    "one's own keys for all": decision({1: (PeerId("x"),), 2: (PeerId("y"),)}),
    "one's own list of an island": replace(
        decision({0: (PeerId("x"),), 2: (C,)}), peers=(PeerId("x"),), version=9
    ),
    "a wrong vote beside a quorum": told_by(
        (replace(OF_ALL.votes[0], signature=b"x"), *OF_ALL.votes[1:])
    ),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_any_other_decision_is_refused_with_an_event_and_changes_nothing(
    forged: RoundDecided,
) -> None:
    group = reader()
    lists = dict(group._roll.lists)
    effects = group.handle(C, forged, 0.0)
    assert noted(effects) == [UNPROVEN] and len(effects) == 1
    assert group.handle(C, forged, 1.0) == [], "said once"
    assert group.choice is None and group._roll.lists == lists
    assert group.handle(C, PROVEN, 2.0) == [Chosen(PROVEN.choice, (A,))]


def test_votes_for_another_place_round_base_or_run_prove_nothing() -> None:
    for changed in ({"stage": 2}, {"fragment": 1}, {"round": 1}, {"base": b"another"}):
        elsewhere = replace(PROVEN, **changed)
        assert flaw(signing_of(A), elsewhere, reader().members, reader()._roll.lists)
    other_run = replace(signing_of(A), run="another")
    assert flaw(other_run, PROVEN, reader().members, reader()._roll.lists)
    assert not flaw(signing_of(A), PROVEN, reader().members, reader()._roll.lists)


def test_who_does_not_know_the_voters_yet_believes_them_later() -> None:
    group = alone()
    assert noted(group.handle(C, PROVEN, 0.0)) == [UNPROVEN]
    group.handle(B, RoundOffer(*HEAD, 1, 1, (B, D), 0, b""), 0.0)
    group.handle(C, RoundOffer(*HEAD, 2, 1, (C,), 0, b""), 0.0)
    assert group.handle(C, PROVEN, 0.0) == [Chosen(PROVEN.choice, (A,))]


def test_a_newer_list_is_believed_with_a_voter_that_is_known() -> None:
    """Somebody came into island 1 meanwhile."""
    joined = decision({1: (B, D, PeerId("e")), 2: (C,)}, version=2)
    assert reader().handle(C, joined, 0.0) == [Chosen(joined.choice, (A,))]


# ---- single votes -----------------------------------------------------------------------------------------------


def vote(sender: PeerId, ballot: Ballot, island: int, *peers: PeerId) -> Collected:
    """The vote of `sender` as it makes it itself."""
    key, whole = signing_of(sender), replace(choice_of(0, 1, 2), result=RESULT)
    whole = replace(whole, members=PROPOSED)
    text = vote_text("run", HEAD, ballot, island, ReplicaList(1, peers), whole)
    unsigned = Collected(*HEAD, ballot, island, 1, peers, RESULT, ())
    return replace(unsigned, public_key=key.public_key, signature=key.sign(text))


PROPOSED = alone().members


def voting_chair() -> tuple[RoundGroup, Ballot]:
    """Peer `a`, alone in island 0 of three, when it collects the votes of the others and has given its own."""
    group = alone()
    group.offer(10, b"of 0", 0.0)
    for island, peer in ((1, B), (2, C)):
        group.handle(peer, RoundOffer(*HEAD, island, 1, (peer,), 10, b"of %d" % island), 0.0)
    (ask,) = [m for m in to(B, group.tick(20.0)) if isinstance(m, RoundAsk)]
    promise = RoundPromise(*HEAD, ask.ballot, 1, 1, (B,), None)
    (asked,) = [m for m in to(B, group.handle(B, promise, 20.0)) if isinstance(m, Collect)]
    assert asked.choice == replace(choice_of(0, 1, 2), members=PROPOSED) and not asked.only_hold
    return group, ask.ballot


def decided_by(effects: list[Effect]) -> list[RoundMessage]:
    return [message for message in to(B, effects) if isinstance(message, RoundDecided)]


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": b""},
        {"signature": bytes(32)},
        {"public_key": b""},
        {"public_key": signing_of(C).public_key},
        {"result": b"another"},
    ],
    ids=str,
)
def test_a_vote_that_its_voter_did_not_sign_is_not_counted(changes: dict[str, bytes]) -> None:
    group, ballot = voting_chair()
    honest = {B: vote(B, ballot, 1, B), C: vote(C, ballot, 2, C)}
    forged = replace(honest[B], **changes)  # type: ignore[arg-type]
    assert noted(group.handle(B, forged, 20.0)) == [UNSIGNED]
    assert group.handle(B, forged, 21.0) == [], "said once"
    assert group.handle(C, honest[C], 21.0) == []
    decided = decided_by(group.handle(B, honest[B], 21.0))
    assert len(decided) == 1 and group.choice is not None


def test_nobody_votes_under_the_name_of_another() -> None:
    """A link may claim to be any peer's; a key cannot."""
    group, ballot = voting_chair()
    assert noted(group.handle(B, vote(C, ballot, 1, B), 20.0)) == [UNSIGNED]


def test_a_vote_for_a_list_of_ones_own_is_not_counted() -> None:
    """As the decision would then prove nothing to the others."""
    group, ballot = voting_chair()
    mine = replace(vote(B, ballot, 1, B, D), peers=(B, D))
    assert noted(group.handle(B, mine, 20.0)) == [UNSIGNED]


def test_what_a_chair_tells_is_proven_and_stays_so_when_passed_on() -> None:
    room = Room((A, B), (C,), (D,))
    said: list[RoundDecided] = []
    for peer, group in room.groups.items():
        real = group.handle

        def handle(
            sender: PeerId, message: RoundMessage, now_seconds: float, real: object = real
        ) -> list[Effect]:
            if isinstance(message, RoundDecided):
                said.append(message)
            return real(sender, message, now_seconds)  # type: ignore[operator]

        group.handle = handle  # type: ignore[method-assign]
        del peer
    for peer in (A, B, C, D):
        room.offer(peer)
    assert len(said) >= 3 and not room.noted
    for message in said:
        assert not flaw(signing_of(D), message, room.members, room.groups[D]._roll.lists)
        islands = {vote.island for vote in message.votes}
        assert len(islands) >= 2 and all(len(vote.signature) == 32 for vote in message.votes)
    greeting = RoundOffer(*HEAD, 2, 1, (D,), 0, b"")
    (passed,) = to(D, room.groups[C].handle(D, greeting, room.now))
    assert isinstance(passed, RoundDecided)
    assert passed.island == 1 and passed.votes == said[0].votes


# ---- real keys, and the wire --------------------------------------------------------------------------------------


def real_decision() -> tuple[Signing, RoundDecided, dict[int, ReplicaList]]:
    keys = {island: Identity.from_seed(bytes([island]) * 32) for island in (0, 1, 2)}
    lists = {island: ReplicaList(1, (key.peer_id,)) for island, key in keys.items()}
    choice, ballot = replace(choice_of(0), result=RESULT), Ballot(1, keys[0].peer_id, 1)
    votes = tuple(
        SignedVote(i, 1, k.public_key, k.sign(vote_text("run", HEAD, ballot, i, lists[i], choice)))
        for i, k in keys.items()
    )
    peers = lists[0].peers
    decided = RoundDecided(*HEAD, 0, 1, peers, choice, peers, ballot, votes)
    return Signing("run", b"", keys[0].sign, peer_id_of, verify), decided, lists


def test_real_keys_over_the_wire() -> None:
    signing, decided, lists = real_decision()
    arrived = decode_round(encode_round(decided))
    assert arrived == decided and isinstance(arrived, RoundDecided)
    assert not flaw(signing, arrived, alone().members, lists)


def test_bad_bytes_in_a_vote_are_refused_like_any_wrong_signature() -> None:
    """The wire bounds them; what length they are below that is for the check of signatures."""
    signing, decided, lists = real_decision()
    for name in ("public_key", "signature"):
        for length in (0, 1, 31, 33, 63, 64):
            bad = replace(decided.votes[0], **{name: bytes(length)})  # type: ignore[arg-type]
            forged = replace(decided, votes=(bad, *decided.votes[1:]))
            arrived = decode_round(encode_round(forged))
            assert isinstance(arrived, RoundDecided)
            assert flaw(signing, arrived, alone().members, lists)
        long = replace(decided.votes[0], **{name: bytes(65)})  # type: ignore[arg-type]
        with pytest.raises(WireError):
            decode_round(encode_round(replace(decided, votes=(long,))))
