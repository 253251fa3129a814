"""Contributions to outer rounds over links, in many pieces: shared by siblings, from another peer when one fails."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from swarmtrain.core.errors import LinkClosed, StateError
from swarmtrain.core.rounds import Counted
from swarmtrain.core.types import PeerId
from swarmtrain.peer.payloads import PIECE_BYTES, Payloads, RoundKey, Sources
from swarmtrain.transport.link import Link, Message
from swarmtrain.transport.requests import RoundPieceReply, RoundPieceRequest, Status

KEY = RoundKey(1, 0, 3, b"base")
PAYLOAD = bytes(range(256)) * (PIECE_BYTES // 256) * 3 + b"the end"
MAKER, OTHER, ME, SIBLING = map(PeerId, ("maker", "other", "me", "sibling"))


class World:
    """Payloads by peer; `spoil` may change an answer, or raise."""

    def __init__(self) -> None:
        self.at: dict[PeerId, Payloads] = {}
        self.calls: list[tuple[PeerId, int]] = []
        self.spoil: Callable[[PeerId, int, Message], Message] = lambda peer, number, answer: answer
        for peer in (MAKER, OTHER, ME, SIBLING):
            self.at[peer] = Payloads(peer, self.link_to, 0.2)

    def link_to(self, peer: PeerId) -> Awaitable[Link]:
        async def link() -> Link:
            return _Link(self, peer)  # type: ignore[return-value]

        return link()


class _Link:
    def __init__(self, world: World, peer: PeerId) -> None:
        self._world, self._peer = world, peer

    async def call(self, method: str, message: Message, **_: Any) -> Message:
        request = RoundPieceRequest.decode(message.meta)
        number = request.offset_bytes // PIECE_BYTES
        self._world.calls.append((self._peer, number))
        answer = await self._world.at[self._peer].answer(request)
        return self._world.spoil(self._peer, number, answer)


def fetched(world: World, sources: Sources, most_bytes: int = len(PAYLOAD)) -> bytes:
    async def main() -> bytes:
        counted = Counted(7, 10, world.at[MAKER].put(KEY, 7, PAYLOAD))
        world.at[OTHER].put(KEY, 7, PAYLOAD)
        return await world.at[ME].fetch(KEY, counted, sources, most_bytes)

    return asyncio.run(main())


def test_a_contribution_of_many_pieces_comes_whole_and_each_piece_once() -> None:
    world = World()
    assert fetched(world, Sources((MAKER,), (ME,))) == PAYLOAD
    assert sorted(world.calls) == [(MAKER, number) for number in range(4)]
    assert world.at[ME].received_bytes[1, 0] == len(PAYLOAD)


def test_a_peer_that_fails_in_the_middle_is_made_up_for() -> None:
    world = World()

    def cut(peer: PeerId, number: int, answer: Message) -> Message:
        if peer == MAKER and number:
            raise LinkClosed("the other side died", "", "")
        return answer

    world.spoil = cut
    assert fetched(world, Sources((MAKER, OTHER), (ME,))) == PAYLOAD
    assert any(peer == OTHER for peer, _ in world.calls)


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_when_everybody_fails_that_is_an_error_and_no_more(damaged: int) -> None:
    """Several pieces fail at once: one error of this module's own must come out of it."""
    world = World()

    def cut(peer: PeerId, number: int, answer: Message) -> Message:
        if number >= damaged:
            raise LinkClosed("the other side died", "", "")
        return answer

    world.spoil = cut
    with pytest.raises(StateError, match="cannot be had"):
        fetched(world, Sources((MAKER, OTHER), (ME,)))


def test_a_sibling_that_has_nothing_is_gone_round() -> None:
    world = World()
    assert fetched(world, Sources((MAKER,), (ME, SIBLING))) == PAYLOAD
    assert (SIBLING, 1) in world.calls and (MAKER, 1) in world.calls


def test_a_damaged_piece_is_not_taken() -> None:
    world = World()

    def damage(peer: PeerId, number: int, answer: Message) -> Message:
        body = bytes(answer.body)
        return Message(answer.meta, body[:-1] + b"!") if peer == MAKER else answer

    world.spoil = damage
    assert fetched(world, Sources((MAKER, OTHER), (ME,))) == PAYLOAD


def test_a_size_beyond_the_codecs_is_refused_before_it_costs_memory() -> None:
    world = World()

    def boast(peer: PeerId, number: int, answer: Message) -> Message:
        reply = RoundPieceReply.decode(answer.meta)
        return Message(RoundPieceReply(Status.OK, 1 << 50, reply.digest).encode(), answer.body)

    world.spoil = boast
    with pytest.raises(StateError, match="too large"):
        fetched(world, Sources((MAKER,), (ME,)))
    assert len(world.calls) <= 2
