"""Calls that come twice, come late, or lose their answer: each only when armed, and each with its outcome told."""

import asyncio
from collections.abc import Iterator

import pytest

from swarmtrain.core.errors import WireError
from swarmtrain.core.events import Event, Noted
from swarmtrain.core.faultpoints import arm, parse_fault
from swarmtrain.core.tensors import TensorHeader
from swarmtrain.peer.meddling import Meddling
from swarmtrain.transport.link import Link, Message
from swarmtrain.transport.requests import ProcessReply, ProcessRequest, Status


class Wire:
    """A link that only notes how it was closed."""

    closed = ""

    async def close(self, reason: str = "") -> None:
        self.closed = reason


class Peer:
    """Answers calls of its own step and fences earlier ones; `calls` are (step, key) in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.events: list[Event] = []
        self.meddling = Meddling(self.answer, self.events.append)
        self.wire, self.step = Wire(), 0

    async def answer(self, link: Link, method: str, request: Message) -> Message:
        hop = ProcessRequest.decode(request.meta)
        assert method == "process" and bytes(request.body) == bytes([hop.key])
        self.calls.append((hop.step, hop.key))
        self.step = max(self.step, hop.step)
        status = Status.OK if hop.step == self.step else Status.FENCED
        return Message(ProcessReply(status, "", self.step, None).encode(), b"answer")

    def call(self, *steps_keys: tuple[int, int]) -> list[bytes]:
        """The answers to calls one after the other, and time for what they set off."""

        async def run() -> list[bytes]:
            found = []
            for step, key in steps_keys:
                tensor = TensorHeader("float32", (1, 1, 1), "none", "none", 4, 4, bytes(32))
                hop = ProcessRequest(step, bytes(32), 1, key, 1, (), 0, tensor)
                request = Message(hop.encode(), bytearray([key]))
                answer = await self.meddling.call(self.wire, request)  # type: ignore[arg-type]
                found.append(bytes(answer.body))
                request.body[:] = b"\xff"  # type: ignore[index]
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            return found

        return asyncio.run(run())

    @property
    def repeats(self) -> list[str]:
        return [event.detail for event in self.events if isinstance(event, Noted)]


@pytest.fixture
def peer() -> Iterator[Peer]:
    yield Peer()
    arm((), lambda what: None)


def test_without_faults_calls_pass(peer: Peer) -> None:
    assert peer.call((0, 1), (0, 2)) == [b"answer", b"answer"]
    assert peer.calls == [(0, 1), (0, 2)] and not peer.events and not peer.wire.closed


@pytest.mark.parametrize("point", ["process.received", "process.answered"])
def test_a_duplicate_is_the_same_call_again_with_bytes_of_its_own(peer: Peer, point: str) -> None:
    arm([parse_fault(f"{point}:duplicate:2")], lambda what: None)
    assert peer.call((0, 1), (0, 2), (0, 3)) == [b"answer"] * 3
    assert peer.calls.count((0, 2)) == 2 and len(peer.calls) == 4
    assert peer.repeats == ["step 0 key 2 position 1: OK"]


def test_a_replay_comes_when_a_later_step_was_answered_and_is_fenced(peer: Peer) -> None:
    arm([parse_fault("process.answered:replay:1")], lambda what: None)
    peer.call((0, 1), (0, 2), (1, 3))
    assert peer.calls == [(0, 1), (0, 2), (1, 3), (0, 1)]
    assert peer.repeats == ["step 0 key 1 position 1: FENCED"]


def test_a_dropped_answer_goes_down_with_its_link_after_the_work(peer: Peer) -> None:
    arm([parse_fault("process.answered:drop:2")], lambda what: None)
    peer.call((0, 1))
    assert not peer.wire.closed
    peer.call((0, 2))
    assert peer.wire.closed == "the answer was lost on purpose"
    assert peer.calls == [(0, 1), (0, 2)]


def test_a_repeat_that_is_refused_is_told_too(peer: Peer) -> None:
    async def refuse(link: Link, method: str, request: Message) -> Message:
        raise WireError("no sense")

    meddling = Meddling(refuse, peer.events.append)

    async def run() -> None:
        arm([parse_fault("process.received:duplicate:1")], lambda what: None)
        tensor = TensorHeader("float32", (1, 1, 1), "none", "none", 4, 4, bytes(32))
        hop = ProcessRequest(0, bytes(32), 1, 5, 1, (), 0, tensor)
        with pytest.raises(WireError):
            await meddling.call(peer.wire, Message(hop.encode(), b""))  # type: ignore[arg-type]
        await asyncio.sleep(0)

    asyncio.run(run())
    assert peer.repeats == ["step 0 key 5 position 1: no sense"]
