"""Step messages that name their rosters: they round-trip, are short, and never mean another roster."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from swarmtrain.core import closing
from swarmtrain.core import messages as core
from swarmtrain.core.errors import WireError
from swarmtrain.core.rosters import WHOLE_MEMBERS, rebuilt, rosters_in
from swarmtrain.core.types import MOST_MEMBERS, Member, PeerId, Roster
from swarmtrain.proto import step_pb2
from swarmtrain.transport.messages import fill
from swarmtrain.transport.step_messages import encode_roster, encode_step, read_step
from tests.transport.test_messages import OPEN, ROSTERS, STEP_KINDS, values


def large(count: int, version: int = 1) -> Roster:
    members = [
        Member(PeerId(f"{number:032x}"), (number % 17,), f"{number}.example.org:31330", "north")
        for number in range(count)
    ]
    return Roster.of(version, members)


def commit_of(roster: Roster) -> core.Commit:
    done = closing.Closing(closing.Scalars(1e-3, 0.1, 0.2), 3)
    return core.Commit(1, 2, 3, b"", roster, (), done, 4, 1.0, b"")


def received(data: bytes, *known: Roster) -> core.StepMessage:
    """What a peer makes of `data` that has the rosters `known`, and asks for those that are told as no difference."""
    unread, found = read_step(data), {roster.digest: roster for roster in known}
    for name in unread.names:
        if name.digest not in found:
            found[name.digest] = rebuilt(name, found[name.base])
    return unread.whole(*(found[name.digest] for name in unread.names))


@pytest.mark.parametrize("kind", STEP_KINDS, ids=lambda kind: kind.__name__)
def test_every_message_round_trips_by_name(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarmtrain.transport.step_messages.WHOLE_MEMBERS", 2)

    @settings(max_examples=40, deadline=None)
    @given(values(kind), ROSTERS)
    def check(message: Any, base: Roster) -> None:
        data = encode_step(message, base)
        # repr, because a loss may be NaN, which is not equal to itself.
        assert repr(received(data, base, *rosters_in(message))) == repr(message)

    check()


def test_who_has_the_last_decisions_roster_needs_no_other() -> None:
    base = large(100)
    sealed = base.without(base.peers[7])
    following = sealed.with_member(Member(PeerId("f" * 32), (3,), "new:1"))
    commit, opening = commit_of(sealed), replace(OPEN, roster=following)
    for message in (
        core.Freeze(1, 2, 3, sealed),
        core.Decision(1, commit, opening),
        core.Promise(1, 0, 2, b"", 0, commit, None, opening),
        core.Tell(commit),
    ):
        assert received(encode_step(message, base), base) == message
        with pytest.raises(KeyError):
            received(encode_step(message, base))


def test_a_decision_names_the_roster_of_the_next_step_once() -> None:
    roster = large(1000)
    commit = commit_of(roster)
    for message in (
        core.Decision(1, commit, None),
        core.Decision(1, commit, replace(OPEN, roster=roster)),
    ):
        data = encode_step(message, roster)
        assert len(read_step(data).names) == 1 and received(data, roster) == message
    small = large(WHOLE_MEMBERS)
    both = core.Decision(1, commit_of(small), replace(OPEN, roster=small))
    alone = encode_step(core.Decision(1, commit_of(small), None), None)
    assert received(encode_step(both, None)) == both
    assert len(encode_step(both, None)) < len(alone) + 200


def test_small_rosters_travel_as_they_always_did() -> None:
    """Nobody in a small island ever has to ask for one, and its messages are what they would be without names."""
    message = core.Freeze(1, 2, 3, large(WHOLE_MEMBERS))
    envelope = step_pb2.StepEnvelope()
    fill(envelope.freeze, message)
    assert encode_step(message, large(40)) == envelope.SerializeToString()


def test_messages_of_the_largest_island_are_short() -> None:
    base = large(MOST_MEMBERS)
    roster = base.without(base.peers[7])
    for message in (
        core.Freeze(1, 2, 3, roster),
        core.Decision(1, commit_of(base), replace(OPEN, roster=roster)),
        core.Promise(1, 0, 2, b"", 0, commit_of(base), None, replace(OPEN, roster=roster)),
    ):
        assert len(encode_step(message, base)) < 700
    assert len(encode_roster(base)) < 1 << 20


def test_more_or_fewer_names_than_rosters_are_refused() -> None:
    base = large(40)
    envelope = step_pb2.StepEnvelope.FromString(encode_step(core.Freeze(1, 2, 3, base), None))
    envelope.rosters.add(version=1, digest=bytes(32))
    with pytest.raises(WireError, match="1 are to be named, 2 are"):
        read_step(envelope.SerializeToString())
    del envelope.rosters[:]
    with pytest.raises(WireError, match="roster is missing"):
        read_step(envelope.SerializeToString())
    ask = step_pb2.StepEnvelope(ask=step_pb2.Ask(step=1))
    ask.rosters.add(version=1, digest=bytes(32))
    with pytest.raises(WireError, match="0 are to be named"):
        read_step(ask.SerializeToString())
