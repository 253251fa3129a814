"""Parcels of outer rounds over links, in many pieces: shared by siblings, from another peer when one fails."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from swarmtrain.core.errors import LinkClosed, StateError
from swarmtrain.core.types import PeerId
from swarmtrain.outer.parcel import Bounds, Buffer, Table
from swarmtrain.peer.payloads import PIECE_BYTES, Payloads, RoundKey, Sources, Wanted
from swarmtrain.transport.link import Link, Message
from swarmtrain.transport.requests import RoundPieceReply, RoundPieceRequest, Status

KEY = RoundKey(1, 0, 3, b"base")
SECTION_BYTES = PIECE_BYTES // 2
SECTIONS = tuple(bytes([number]) * SECTION_BYTES for number in range(6)) + (b"the end",)
"""Four pieces: the last is short."""
PAYLOAD_BYTES = sum(map(len, SECTIONS))
BOUNDS = Bounds(len(SECTIONS), SECTION_BYTES)
MAKER, OTHER, ME, SIBLING = map(PeerId, ("maker", "other", "me", "sibling"))
TABLE = (0, 0)


class World:
    """Payloads by peer; `spoil` may change an answer, or raise."""

    def __init__(self) -> None:
        self.at: dict[PeerId, Payloads] = {}
        self.calls: list[tuple[PeerId, tuple[int, int]]] = []
        self.failures: list[BaseException] = []
        self.gate: asyncio.Event | None = None
        self.spoil: Callable[[PeerId, int, Message], Message] = lambda peer, first, answer: answer
        for peer in (MAKER, OTHER, ME, SIBLING):
            self.at[peer] = Payloads(peer, self.link_to, 0.2, 5.0, self.failures.append)

    def link_to(self, peer: PeerId) -> Awaitable[Link]:
        async def link() -> Link:
            return _Link(self, peer)  # type: ignore[return-value]

        return link()


def piece_bytes(piece: tuple[int, int]) -> int:
    """What an answer with this piece of a contribution, or with its table, has in its body."""
    first, count = piece
    if piece == TABLE:
        return Table.of(SECTIONS).total_bytes - PAYLOAD_BYTES
    return sum(map(len, SECTIONS[first : first + count]))


class _Link:
    def __init__(self, world: World, peer: PeerId) -> None:
        self._world, self._peer = world, peer

    async def call(self, method: str, message: Message, **_: Any) -> Message:
        request = RoundPieceRequest.decode(message.meta)
        self._world.calls.append((self._peer, (request.first, request.sections)))
        answer = await self._world.at[self._peer].answer(request)
        if self._world.gate is not None:
            await self._world.gate.wait()
        is_table = request.sections == 0
        return self._world.spoil(self._peer, -1 if is_table else request.first, answer)


def fetched(
    world: World,
    sources: Sources,
    sections: tuple[int, int] | None = None,
    bounds: Bounds = BOUNDS,
) -> tuple[Buffer, ...]:
    async def main() -> tuple[Buffer, ...]:
        name = world.at[MAKER].put(KEY, SECTIONS)
        world.at[OTHER].put(KEY, SECTIONS)
        return await world.at[ME].fetch(KEY, Wanted(name, bounds, sections), sources)

    return asyncio.run(main())


def test_a_contribution_of_many_pieces_comes_whole_and_each_piece_once() -> None:
    world = World()
    assert fetched(world, Sources((MAKER,), (ME,))) == SECTIONS
    pieces = [TABLE, (0, 2), (2, 2), (4, 2), (6, 1)]
    assert sorted(world.calls) == [(MAKER, piece) for piece in pieces]
    assert world.at[ME].received_bytes[1, 0] == Table.of(SECTIONS).total_bytes
    assert world.at[MAKER].served_bytes[1, 0] == Table.of(SECTIONS).total_bytes


def test_a_slice_of_a_contribution_costs_its_own_bytes_and_the_table() -> None:
    world = World()
    assert fetched(world, Sources((MAKER,)), (2, 5)) == SECTIONS[2:5]
    table_bytes = Table.of(SECTIONS).total_bytes - PAYLOAD_BYTES
    assert world.at[ME].received_bytes[1, 0] == 3 * SECTION_BYTES + table_bytes


def test_what_is_here_is_not_fetched_again() -> None:
    world = World()
    sources = Sources((MAKER,))

    async def main() -> None:
        name = world.at[MAKER].put(KEY, SECTIONS)
        assert await world.at[ME].fetch(KEY, Wanted(name, BOUNDS, (0, 4)), sources) == SECTIONS[:4]
        before = len(world.calls)
        assert await world.at[ME].fetch(KEY, Wanted(name, BOUNDS), sources) == SECTIONS
        assert [piece for _, piece in world.calls[before:]] == [(4, 2), (6, 1)]
        assert world.at[ME].held(KEY, name) == SECTIONS

    asyncio.run(main())


def test_who_gives_up_and_begins_again_is_sent_nothing_twice() -> None:
    """As a round's driver does when the round is decided while it gathers."""
    world = World()

    async def main() -> None:
        name, me = world.at[MAKER].put(KEY, SECTIONS), world.at[ME]
        wanted, sources = Wanted(name, BOUNDS), Sources((MAKER,))
        await me.fetch(KEY, Wanted(name, BOUNDS, (0, 0)), sources)
        world.gate = asyncio.Event()
        work = asyncio.ensure_future(me.fetch(KEY, wanted, sources))
        await asyncio.sleep(0.05)
        work.cancel()
        again = asyncio.ensure_future(me.fetch(KEY, wanted, sources))
        await asyncio.sleep(0.05)
        world.gate.set()
        assert await again == SECTIONS

    asyncio.run(main())
    assert len(world.calls) == 5 and not world.failures


def test_a_peer_that_fails_in_the_middle_is_made_up_for() -> None:
    world = World()

    def cut(peer: PeerId, first: int, answer: Message) -> Message:
        if peer == MAKER and first > 0:
            raise LinkClosed("the other side died", "", "")
        return answer

    world.spoil = cut
    assert fetched(world, Sources((MAKER, OTHER), (ME,))) == SECTIONS
    assert any(peer == OTHER for peer, _ in world.calls)
    lost = [piece for peer, piece in world.calls if peer == MAKER and piece[0] > 0]
    assert lost and world.at[ME].received_bytes[1, 0] == Table.of(SECTIONS).total_bytes
    served = sum(world.at[peer].served_bytes[1, 0] for peer in (MAKER, OTHER))
    assert served == Table.of(SECTIONS).total_bytes + sum(map(piece_bytes, lost))


@pytest.mark.parametrize("damaged", [-1, 0, 2, 4])
def test_when_everybody_fails_that_is_an_error_and_no_more(damaged: int) -> None:
    """Several pieces fail at once: one error of this module's own must come out of it."""
    world = World()

    def cut(peer: PeerId, first: int, answer: Message) -> Message:
        if first >= damaged:
            raise LinkClosed("the other side died", "", "")
        return answer

    world.spoil = cut
    with pytest.raises(StateError, match="cannot be had"):
        fetched(world, Sources((MAKER, OTHER), (ME,)))


def test_a_sibling_that_has_nothing_is_gone_round() -> None:
    world = World()
    assert fetched(world, Sources((MAKER,), (ME, SIBLING))) == SECTIONS
    assert (SIBLING, (2, 2)) in world.calls and (MAKER, (2, 2)) in world.calls


def test_siblings_share_a_mean_out_and_wait_for_each_other() -> None:
    """Each piece leaves its owner once, though the owner is slow."""
    world = World()

    async def main() -> None:
        wanted = Wanted(b"mean", BOUNDS, is_contribution=False)
        sources = Sources((MAKER,), (ME, SIBLING), is_shared=False)
        works = [
            asyncio.ensure_future(world.at[peer].fetch(KEY, wanted, sources))
            for peer in (ME, SIBLING)
        ]
        with world.at[MAKER].working(KEY, b"mean"):
            await asyncio.sleep(0.5)  # longer than a call may be silent about what nobody works at
            world.at[MAKER].put_mean(KEY, b"mean", SECTIONS)
        assert await asyncio.gather(*works) == [SECTIONS, SECTIONS]

    asyncio.run(main())
    from_owner = [piece for peer, piece in world.calls if peer == MAKER]
    assert sorted(from_owner) == [TABLE, (0, 2), (2, 2), (4, 2), (6, 1)]


def test_who_does_not_work_at_a_mean_says_so() -> None:
    world = World()

    async def main() -> None:
        wanted = Wanted(b"mean", BOUNDS, is_contribution=False)
        with pytest.raises(StateError, match="cannot be had"):
            await world.at[ME].fetch(KEY, wanted, Sources((MAKER,), is_shared=False))

    asyncio.run(main())


def test_whoever_waits_for_work_that_fails_is_told_at_once() -> None:
    world = World()

    async def main() -> float:
        wanted = Wanted(b"mean", BOUNDS, is_contribution=False)
        begin_seconds = asyncio.get_running_loop().time()
        with world.at[MAKER].working(KEY, b"mean"):
            work = asyncio.ensure_future(world.at[ME].fetch(KEY, wanted, Sources((MAKER,))))
            await asyncio.sleep(0.4)
            assert not work.done()
        with pytest.raises(StateError):
            await work
        return asyncio.get_running_loop().time() - begin_seconds

    assert asyncio.run(main()) < 4.0


def flipped(answer: Message, is_hidden: bool) -> Message:
    """Its last byte is another; where `is_hidden`, as its sender had it, so that the piece's own digest is right."""
    body = bytes(answer.body)[:-1] + b"!"
    if not is_hidden:
        return Message(answer.meta, body)
    digest = Table.of([body]).digests[0]
    return Message(RoundPieceReply(Status.OK, digest).encode(), body)


@pytest.mark.parametrize("is_hidden", [False, True])
def test_what_was_damaged_is_taken_from_another_peer(is_hidden: bool) -> None:
    """Underway, or in the memory of who serves it: table and sections alike."""
    world = World()
    world.spoil = lambda peer, _, answer: flipped(answer, is_hidden) if peer == MAKER else answer
    assert fetched(world, Sources((MAKER, OTHER), (ME,))) == SECTIONS
    spoilt = sum(piece_bytes(piece) for peer, piece in world.calls if peer == MAKER)
    assert spoilt and world.at[MAKER].served_bytes[1, 0] == spoilt
    assert world.at[ME].received_bytes[1, 0] == Table.of(SECTIONS).total_bytes + spoilt


def test_without_its_check_a_spoilt_section_would_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.spoil = lambda peer, first, answer: flipped(answer, True) if first > 0 else answer
    monkeypatch.setattr(Table, "fits", lambda self, number, section: True)
    assert fetched(world, Sources((MAKER,), (ME,))) != SECTIONS


def test_a_mean_whose_table_fits_nothing_is_begun_anew() -> None:
    world = World()

    async def main() -> None:
        world.at[MAKER].put_mean(KEY, b"mean", SECTIONS)
        world.at[OTHER].put_mean(KEY, b"mean", SECTIONS)
        wanted = Wanted(b"mean", BOUNDS, is_contribution=False)
        world.spoil = lambda _, first, answer: flipped(answer, True) if first < 0 else answer
        with pytest.raises(StateError):
            await world.at[ME].fetch(KEY, wanted, Sources((MAKER, OTHER)))
        world.spoil = lambda _, first, answer: answer
        assert await world.at[ME].fetch(KEY, wanted, Sources((MAKER, OTHER))) == SECTIONS

    asyncio.run(main())


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(len(SECTIONS) - 1, SECTION_BYTES),
        Bounds(len(SECTIONS) + 1, SECTION_BYTES),
        Bounds(len(SECTIONS) - 1, SECTION_BYTES, is_exact=False),
        Bounds(len(SECTIONS), SECTION_BYTES - 1),
    ],
)
def test_a_size_beyond_the_codecs_is_refused_before_it_costs_memory(bounds: Bounds) -> None:
    world = World()
    with pytest.raises(StateError, match="cannot be had"):
        fetched(world, Sources((MAKER,), (ME,)), bounds=bounds)
    assert world.calls == [(MAKER, TABLE)]


def test_more_than_a_piece_at_once_is_refused() -> None:
    world = World()

    async def main() -> None:
        name = world.at[MAKER].put(KEY, SECTIONS)
        request = RoundPieceRequest(1, 0, 3, b"base", name, 0, 3)
        with pytest.raises(Exception, match="larger than any"):
            await world.at[MAKER].answer(request)

    asyncio.run(main())


def test_but_not_where_somebody_catches_up_and_who_lacks_it_says_so_at_once() -> None:
    world = World()

    async def main() -> None:
        old, newest = RoundKey(1, 0, 3, b"base"), RoundKey(1, 0, 9, b"later")
        maker, other = world.at[MAKER], world.at[OTHER]
        maker.keep_from((1, 0), 3)
        for peer in (maker, other):
            name = peer.put(old, SECTIONS)
            peer.put(newest, SECTIONS)
        assert maker.bytes_between((1, 0), 3, 9) == PAYLOAD_BYTES
        assert (maker.held(old, name), other.held(old, name)) == (SECTIONS, None)
        begin = asyncio.get_running_loop().time()
        sources = Sources((OTHER, MAKER))
        assert await world.at[ME].fetch(old, Wanted(name, BOUNDS), sources) == SECTIONS
        assert asyncio.get_running_loop().time() - begin < 0.2, "of silence"
        maker.keep_from((1, 0), 9)
        maker.put(RoundKey(1, 0, 9, b"another"), SECTIONS)
        assert maker.held(old, name) is None

    asyncio.run(main())


def test_who_went_back_to_an_earlier_round_keeps_what_is_of_that() -> None:
    at = World().at[MAKER]
    at.put(RoundKey(1, 0, 9, b"base"), (b"later",))
    keys = [RoundKey(1, 0, 3, b"base")] * 2
    names = [at.put(key, (b"%d" % number,)) for number, key in enumerate(keys)]
    assert None not in [at.held(key, name) for key, name in zip(keys, names, strict=True)]


def test_what_is_two_rounds_old_goes() -> None:
    world = World()

    async def main() -> None:
        at = world.at[MAKER]
        names = [at.put(RoundKey(1, 0, number, b"base"), (b"%d" % number,)) for number in range(4)]
        kept = [at.held(RoundKey(1, 0, n, b"base"), name) for n, name in enumerate(names)]
        assert [found is not None for found in kept] == [False, False, True, True]

    asyncio.run(main())
