"""What a peer does with messages that name rosters: found, put together, asked for in bounded asks, or dropped."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from swarmtrain.core.errors import LinkClosed, Refused, WireError
from swarmtrain.core.events import BadMessage, Event, Noted
from swarmtrain.core.messages import Ask, Done, Freeze, StepMessage
from swarmtrain.core.rosters import WHOLE_MEMBERS, name_of
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.peer.rosters import (
    MOST_ASKS,
    MOST_KEPT,
    MOST_WAITING,
    Rosters,
)
from swarmtrain.peer.session import Session
from swarmtrain.proto import step_pb2
from swarmtrain.transport.link import Message
from swarmtrain.transport.messages import fill
from swarmtrain.transport.requests import RosterRequest
from swarmtrain.transport.step_messages import encode_roster, encode_step

BASE = Roster.of(1, [Member(PeerId(f"{n:032x}"), (n % 3,), f"{n}:1") for n in range(60)])
NEXT = BASE.without(BASE.peers[5])


def frozen(roster: Roster, seal: int = 1) -> Freeze:
    return Freeze(1, 2, seal, roster)


Answer = Callable[[RosterRequest], Awaitable[Message]]


@dataclass
class Sender:
    """The link to a peer that names rosters; `answer` is what it says when it is asked for one."""

    peer: str
    answer: Answer
    asked: int = 0
    closed: str = ""

    @property
    def remote(self) -> Any:
        return SimpleNamespace(peer=self.peer)

    async def call(self, method: str, request: Message, **bounds: float) -> Message:
        assert method == "roster" and bounds["deadline_seconds"] < 100
        self.asked += 1
        await asyncio.sleep(0)
        return await self.answer(RosterRequest.decode(request.meta))

    async def close(self, reason: str = "") -> None:
        self.closed = reason


@dataclass
class World:
    """One peer's rosters, and what came of the messages it took."""

    heard: list[tuple[str, StepMessage]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        failed: Callable[[BaseException], None] = lambda error: pytest.fail(repr(error))  # noqa: E731
        deliver = lambda sender, message: self.heard.append((sender, message))  # noqa: E731
        self.rosters = Rosters(deliver, self.events.append, 10.0, failed)

    def take(self, sender: Sender, message: StepMessage, base: Roster | None = None) -> None:
        self.rosters.take(sender, encode_step(message, base))  # type: ignore[arg-type]

    def know(self, roster: Roster) -> None:
        self.rosters.encode(frozen(roster), None)


def world(script: Callable[[World], Awaitable[None]]) -> World:
    async def play() -> World:
        made = World()
        await script(made)
        return made

    return asyncio.run(play())


async def whole(request: RosterRequest) -> Message:
    known = {roster.digest: roster for roster in (BASE, NEXT)}
    return Message(b"", encode_roster(known[request.digest]))


async def settle() -> None:
    for _ in range(40):
        await asyncio.sleep(0)


def test_a_difference_to_a_known_roster_needs_no_question() -> None:
    async def script(here: World) -> None:
        here.know(BASE)
        sender = Sender("a", whole)
        here.take(sender, frozen(NEXT), BASE)
        assert here.heard == [("a", frozen(NEXT))] and sender.asked == 0
        here.take(sender, frozen(NEXT, 2), NEXT)
        assert here.heard[1:] == [("a", frozen(NEXT, 2))] and sender.asked == 0

    world(script)


def test_who_lacks_the_base_asks_once_and_hears_everything_in_order() -> None:
    async def script(here: World) -> None:
        sender, other = Sender("a", whole), Sender("b", whole)
        here.take(sender, frozen(NEXT), BASE)
        here.take(sender, Ask(3))
        here.take(other, frozen(NEXT, 2), BASE)
        here.take(other, Ask(4))
        assert here.heard == []
        await settle()
        assert here.heard == [
            ("a", frozen(NEXT)),
            ("a", Ask(3)),
            ("b", frozen(NEXT, 2)),
            ("b", Ask(4)),
        ]
        assert (sender.asked, other.asked) == (1, 0), "one question serves all senders"
        here.take(sender, frozen(NEXT, 3), BASE)
        assert len(here.heard) == 5 and sender.asked == 1

    world(script)


async def base_only(request: RosterRequest) -> Message:
    if request.digest != BASE.digest:
        raise Refused("that roster is not known here")
    return await whole(request)


async def next_only(request: RosterRequest) -> Message:
    if request.digest == BASE.digest:
        raise Refused("that roster is not known here")
    return await whole(request)


def test_who_lacks_the_base_asks_for_it_and_for_nothing_that_is_told_by_it() -> None:
    async def script(here: World) -> None:
        sender = Sender("a", base_only)
        for seal, peer in enumerate(BASE.peers[1:7]):
            here.take(sender, frozen(BASE.without(peer), seal), BASE)
            await settle()
        assert len(here.heard) == 6 and sender.asked == 1

    world(script)


def test_where_the_base_is_refused_the_roster_itself_is_asked_for() -> None:
    async def script(here: World) -> None:
        sender = Sender("a", next_only)
        here.take(sender, frozen(NEXT), BASE)
        await settle()
        assert here.heard == [("a", frozen(NEXT))] and sender.asked == 2

    world(script)


def test_a_base_that_a_difference_was_told_to_can_be_asked_for() -> None:
    async def script(here: World) -> None:
        here.rosters.encode(frozen(NEXT), BASE)
        for roster in (BASE, NEXT):
            answer = here.rosters.answer(RosterRequest(roster.digest))
            assert answer.body == encode_roster(roster)

    world(script)


def test_who_had_a_roster_whole_needs_no_question_when_the_island_grows_past_it() -> None:
    """From one member more than travel whole on a roster is named."""
    last_whole = Roster.of(1, BASE.members[:WHOLE_MEMBERS])
    grown = last_whole.with_member(BASE.members[WHOLE_MEMBERS])

    async def script(here: World) -> None:
        sender = Sender("a", whole)
        here.take(sender, frozen(last_whole))
        here.take(sender, frozen(grown, 2), last_whole)
        assert here.heard[1:] == [("a", frozen(grown, 2))] and sender.asked == 0

    world(script)


def test_a_first_roster_that_follows_from_the_directory_is_not_asked_for() -> None:
    async def script(here: World) -> None:
        sender = Sender("a", whole)
        here.rosters.expected = lambda: BASE
        here.take(sender, frozen(BASE))
        assert here.heard == [("a", frozen(BASE))] and sender.asked == 0
        here.take(sender, frozen(NEXT))
        assert len(here.heard) == 1, "another one is"
        await settle()
        assert here.heard[1:] == [("a", frozen(NEXT))] and sender.asked == 1

    world(script)


async def gone(request: RosterRequest) -> Message:
    raise LinkClosed("the link broke")


async def unknown(request: RosterRequest) -> Message:
    raise Refused("that roster is not known here")


async def another(request: RosterRequest) -> Message:
    return Message(b"", encode_roster(BASE.without(BASE.peers[0])))


async def nonsense(request: RosterRequest) -> Message:
    return Message(b"", b"\xff" * 100)


async def endless(request: RosterRequest) -> Message:
    return Message(b"", bytes((16 << 20) + 1))


@pytest.mark.parametrize("answer", [gone, unknown, another, nonsense, endless])
def test_a_message_whose_roster_nobody_gives_is_dropped_with_a_reason_and_comes_again(
    answer: Answer,
) -> None:
    """A roster of another digest is never taken: this fails if the answer's digest is not looked at."""

    async def script(here: World) -> None:
        sender = Sender("a", answer)
        here.take(sender, frozen(NEXT), BASE)
        here.take(sender, Ask(3))
        await settle()
        assert here.heard == [("a", Ask(3))]
        assert sender.asked == (2 if answer is unknown else 1) and not sender.closed
        event = here.events[-1]
        assert len(here.events) == sender.asked
        assert isinstance(event, BadMessage if answer in (another, nonsense, endless) else Noted)
        sender.answer = whole
        here.take(sender, frozen(NEXT), BASE)
        await settle()
        assert here.heard[1:] == [("a", frozen(NEXT))]

    world(script)


def test_a_sender_that_does_not_answer_costs_others_nothing() -> None:
    async def script(here: World) -> None:
        dead, living = Sender("a", gone), Sender("b", whole)
        here.take(dead, frozen(NEXT), BASE)
        here.take(living, frozen(NEXT), BASE)
        await settle()
        assert here.heard == [("b", frozen(NEXT))] and (dead.asked, living.asked) == (1, 1)

    world(script)


def wrong() -> bytes:
    """NEXT, told as a difference that comes to another roster."""
    name = name_of(NEXT, BASE)
    envelope = step_pb2.StepEnvelope.FromString(encode_step(frozen(NEXT), BASE))
    del envelope.rosters[:]
    fill(envelope.rosters.add(), replace(name, left=BASE.peers[7:8]))
    data: bytes = envelope.SerializeToString()
    return data


def test_a_wrong_difference_costs_its_sender_the_link() -> None:
    async def script(here: World) -> None:
        here.know(BASE)
        with pytest.raises(WireError, match="not what its name says"):
            here.rosters.take(Sender("a", whole), wrong())  # type: ignore[arg-type]
        assert here.heard == []

    world(script)


def test_so_does_one_that_waits_behind_others() -> None:
    async def script(here: World) -> None:
        sender = Sender("a", whole)
        here.take(sender, frozen(BASE))
        here.rosters.take(sender, wrong())  # type: ignore[arg-type]
        await settle()
        assert here.heard == [("a", frozen(BASE))]
        assert "not what its name says" in sender.closed
        [_, event] = here.events
        assert isinstance(event, BadMessage)

    world(script)


@dataclass
class Held:
    """An answer that waits for `may_go`, and then is `answer`'s."""

    answer: Answer = whole
    may_go: asyncio.Event = field(default_factory=asyncio.Event)
    now: int = 0
    most_at_once: int = 0

    async def __call__(self, request: RosterRequest) -> Message:
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        await self.may_go.wait()
        await asyncio.sleep(0)
        self.now -= 1
        return await self.answer(request)


def test_what_waits_is_bounded() -> None:
    async def script(here: World) -> None:
        held = Held()
        sender = Sender("a", held)
        here.take(sender, frozen(BASE))
        for number in range(MOST_WAITING + 10):
            here.take(sender, Ask(number))
        await settle()
        [event] = here.events
        assert isinstance(event, Noted) and "dropped" in event.what
        held.may_go.set()
        await settle()
        assert len(here.heard) == MOST_WAITING

    world(script)


def test_so_are_its_bytes_by_sender_and_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    long = Done(1, b"", bytes(500))
    one_bytes, first_bytes = len(encode_step(long, None)), len(encode_step(frozen(BASE), None))
    most, most_of_all = 4 * one_bytes + first_bytes, 20 * one_bytes + 10 * first_bytes
    monkeypatch.setattr("swarmtrain.peer.rosters.MOST_WAITING_BYTES", most)
    monkeypatch.setattr("swarmtrain.peer.rosters.MOST_WAITING_BYTES_OF_ALL", most_of_all)

    async def script(here: World) -> None:
        held = Held()
        for n in range(10):
            here.take(Sender(f"{n}", held), frozen(BASE))
        for n in range(10):
            for _ in range(6):
                here.take(Sender(f"{n}", held), long)
        assert len(here.events) == 10, "a sender's overflow is told once"
        held.may_go.set()
        await settle()
        waited = [sender for sender, message in here.heard if message == long]
        assert waited.count("0") == 4, "one sender's bytes are bounded"
        assert len(waited) == 20, "and those of all"
        here.heard.clear()
        here.take(Sender("0", held), long)
        assert here.heard == [("0", long)], "nothing waits any more"
        assert here.rosters._waiting_bytes == 0

    world(script)


def test_a_fault_in_what_a_message_causes_costs_that_message_only() -> None:
    """A peer ended by a KeyError of its own, if the message had to wait: this fails without the guard."""

    async def script(here: World) -> None:
        heard = here.rosters._deliver

        def deliver(sender: PeerId, message: StepMessage) -> None:
            if isinstance(message, Freeze):
                raise KeyError("a bug")
            heard(sender, message)

        here.rosters._deliver = deliver
        sender = Sender("a", whole)
        here.take(sender, frozen(NEXT), BASE)
        here.take(sender, Ask(3))
        await settle()
        assert here.heard == [("a", Ask(3))] and not sender.closed
        assert [e.what for e in here.events if isinstance(e, Noted)][-1] == "internal error"

    world(script)


def test_what_comes_over_a_new_link_is_asked_for_over_that_one() -> None:
    async def script(here: World) -> None:
        held = Held(gone)
        old, new = Sender("a", held), Sender("a", whole)
        here.take(old, frozen(NEXT), BASE)
        await settle()
        here.take(new, frozen(NEXT, 2), BASE)
        here.take(new, Ask(3))
        held.may_go.set()
        await settle()
        assert here.heard == [("a", frozen(NEXT, 2)), ("a", Ask(3))]
        assert (old.asked, new.asked) == (1, 1)

    world(script)


def test_what_waits_ends_with_its_link() -> None:
    async def script(here: World) -> None:
        held = Held()
        old, new = Sender("a", held), Sender("a", held)
        here.take(old, frozen(NEXT), BASE)
        here.take(old, Ask(1))
        await settle()
        here.take(new, Ask(2))
        here.rosters.closed(old)  # type: ignore[arg-type]
        here.take(new, Ask(3))
        held.may_go.set()
        await settle()
        assert here.heard == [("a", Ask(2)), ("a", Ask(3))]

    world(script)


@pytest.mark.parametrize("is_lost", [True, False], ids=["its sender is lost", "all is forgotten"])
def test_what_waits_does_not_outlive(is_lost: bool) -> None:
    async def script(here: World) -> None:
        held = Held()
        senders = Sender("a", held), Sender("b", held)
        for sender in senders:
            here.take(sender, frozen(NEXT), BASE)
            here.take(sender, Ask(1))
        await settle()
        if is_lost:
            here.rosters.lost(PeerId("a"))
        else:
            here.rosters.forget_waiting()
        held.may_go.set()
        await settle()
        assert here.heard == ([("b", frozen(NEXT)), ("b", Ask(1))] if is_lost else [])
        here.take(senders[0], Ask(2))
        assert here.heard[-1] == ("a", Ask(2)), "what it says then is heard"

    world(script)


def test_what_comes_while_a_wrong_sender_s_link_closes_is_not_lost() -> None:
    async def script(here: World) -> None:
        old, new = Sender("a", whole), Sender("a", whole)
        here.take(old, frozen(BASE))
        here.rosters.take(old, wrong())  # type: ignore[arg-type]
        here.take(old, Ask(1))
        here.take(new, Ask(2))
        await settle()
        assert "not what its name says" in old.closed and not new.closed
        assert here.heard == [("a", frozen(BASE)), ("a", Ask(2))]

    world(script)


def test_nothing_starts_behind_the_end() -> None:
    async def script(here: World) -> None:
        sender = Sender("a", Held())
        here.take(sender, frozen(NEXT), BASE)
        await here.rosters.close()
        here.take(sender, frozen(NEXT), BASE)
        await settle()
        assert here.heard == [] and not here.rosters._tasks._running

    world(script)


def test_a_lost_peer_s_and_a_left_island_s_messages_are_forgotten() -> None:
    async def script(here: World) -> None:
        async def is_lost(peer: PeerId) -> bool:
            return True

        session: Any = SimpleNamespace(
            rosters=here.rosters,
            runtime=None,
            service=SimpleNamespace(),
            _confirming=SimpleNamespace(is_lost=is_lost),
            _locking=None,
            _queued=[],
            _new_placing=lambda: None,
        )
        held = Held()
        for peer in ("a", "b"):
            here.take(Sender(peer, held), frozen(NEXT), BASE)
        await Session._confirm_lost(session, PeerId("a"), "silent")
        assert list(here.rosters._waiting) == ["b"]
        await Session._leave_island(session)
        assert not here.rosters._waiting

    world(script)


def test_a_question_that_fails_does_not_make_all_who_wait_ask_at_once() -> None:
    async def script(here: World) -> None:
        first, slow = Held(gone), Held()
        senders = [Sender("a", first), *(Sender(f"b{n}", slow) for n in range(50))]
        for sender in senders:
            here.take(sender, frozen(NEXT), BASE)
        await settle()
        first.may_go.set()
        await settle()
        slow.may_go.set()
        await settle()
        assert slow.most_at_once == MOST_ASKS == sum(sender.asked for sender in senders[1:])
        assert sorted(sender for sender, _ in here.heard) == sorted(s.peer for s in senders[1:])

    world(script)


def test_what_was_named_can_be_asked_for_and_the_newest_are_kept() -> None:
    async def script(here: World) -> None:
        rosters = [BASE]
        for peer in BASE.peers[1 : MOST_KEPT + 1]:
            rosters.append(rosters[-1].without(peer))
        for roster in rosters:
            here.know(roster)
        for roster in rosters[1:]:
            answer = here.rosters.answer(RosterRequest(roster.digest))
            assert answer.body == encode_roster(roster)
        with pytest.raises(Refused, match="not known here"):
            here.rosters.answer(RosterRequest(BASE.digest))

    world(script)


def test_a_base_that_differences_are_told_to_is_not_forgotten() -> None:
    async def script(here: World) -> None:
        sender = Sender("a", whole)
        here.know(BASE)
        for peer in BASE.peers[1 : 2 * MOST_KEPT]:
            here.take(sender, frozen(BASE.without(peer)), BASE)
        assert len(here.heard) == 2 * MOST_KEPT - 1 and sender.asked == 0

    world(script)
