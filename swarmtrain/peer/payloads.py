"""What islands contribute to outer rounds, as bytes: kept for those who ask, and fetched piece by piece (I5, I8).

Each piece that comes from another island crosses the slow link once: the replicas of a stage share the pieces out among
themselves, and get the rest from each other. A contribution is used only when all of it has the digest that the group
counts; whoever sent a piece that spoilt it is found by fetching it whole from one peer after the other.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from swarmtrain.core.errors import LinkError, StateError, WireError
from swarmtrain.core.rounds import Counted
from swarmtrain.core.types import Digest, PeerId
from swarmtrain.transport.link import Link, Message
from swarmtrain.transport.requests import RoundPieceReply, RoundPieceRequest, Status

PIECE_BYTES = 1 << 20
PIECES_IN_FLIGHT = 4
KEPT_ROUNDS = 2
"""Of each fragment: who is a round late can still fetch what was counted."""

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class RoundKey:
    """Which round of which fragment, and the outer state that it starts from."""

    stage: int
    fragment: int
    round: int
    base: Digest


@dataclass(slots=True)
class Partial:
    """A contribution that is still coming in, by piece; `total_bytes` is 0 until the first one came."""

    total_bytes: int = 0
    pieces: dict[int, memoryview] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a contribution can be had: `island` are the peers that made it, or hold it, in the order to ask.

    `siblings` are the replicas of this stage in this peer's own island, this peer included, in ascending order.
    """

    island: tuple[PeerId, ...]
    siblings: tuple[PeerId, ...]


class Payloads:
    """Contributions at one peer. `link_to` gives an open link, or raises LinkError."""

    def __init__(
        self,
        me: PeerId,
        link_to: Callable[[PeerId], Awaitable[Link]],
        silence_seconds: float,
    ) -> None:
        self._me, self._link_to, self._silence_seconds = me, link_to, silence_seconds
        self._whole: dict[tuple[RoundKey, int], bytes] = {}
        self._partial: dict[tuple[RoundKey, int], Partial] = {}
        self._changed = asyncio.Condition()
        self.received_bytes: Counter[tuple[int, int]] = Counter()
        """By stage and fragment, since the beginning; failed tries included."""
        self.served_bytes: Counter[tuple[int, int]] = Counter()

    def put(self, key: RoundKey, island: int, payload: bytes) -> Digest:
        """Keep a whole contribution; its digest."""
        self._whole[key, island] = payload
        for kept in (self._whole, self._partial):
            for known in [k for k in kept if _is_stale(k[0], key)]:
                del kept[known]
        return payload_digest(payload)

    async def fetch(
        self, key: RoundKey, counted: Counted, sources: Sources, most_bytes: int
    ) -> bytes:
        """The contribution that the group counts, of at most `most_bytes`; StateError when nobody gives it whole."""
        name, why = (key, counted.island), "no peer of that island can be reached"
        known = self._whole.get(name)
        if known is not None and payload_digest(known) == counted.digest:
            return known
        ways = [sources, *(Sources((peer,), ()) for peer in sources.island)]
        for way in ways:
            try:
                payload = await self._pull(key, counted.island, way, most_bytes)
            except (LinkError, WireError) as error:
                why = str(error)
                continue
            self._partial.pop(name, None)
            if payload_digest(payload) == counted.digest:
                self.put(key, counted.island, payload)
                await self._notify()
                return payload
            why = "what came does not have the digest that was offered"
        raise StateError(
            f"the contribution of island {counted.island} to round {key.round} cannot be had",
            why,
            "",
        )

    async def _pull(self, key: RoundKey, island: int, way: Sources, most_bytes: int) -> bytes:
        """All pieces of a contribution, those that are here already included."""
        partial = self._partial.setdefault((key, island), Partial())
        gate = asyncio.Semaphore(PIECES_IN_FLIGHT)

        async def pull(number: int) -> None:
            if number not in partial.pieces:
                async with gate:
                    await self._pull_piece(key, island, number, way, partial)

        await pull(0)
        if partial.total_bytes > most_bytes:
            del self._partial[key, island]
            raise WireError("a contribution is too large", f"{partial.total_bytes} bytes")
        count = -(-partial.total_bytes // PIECE_BYTES)
        pulls = [asyncio.ensure_future(pull(number)) for number in range(1, count)]
        try:
            await asyncio.gather(*pulls)
        finally:
            for task in pulls:
                task.cancel()
        return b"".join(bytes(partial.pieces[number]) for number in range(count))

    async def _pull_piece(
        self, key: RoundKey, island: int, number: int, way: Sources, partial: Partial
    ) -> None:
        """One piece: from the sibling whose share it is, else from those who made it, in turn."""
        offset = number * PIECE_BYTES
        request = RoundPieceRequest(
            key.stage, key.fragment, key.round, key.base, island, offset, PIECE_BYTES
        )
        mine = way.siblings[number % len(way.siblings)] if way.siblings else self._me
        turn = number % max(1, len(way.island))
        asked = (*way.island[turn:], *way.island[:turn])
        error: LinkError | WireError = WireError("nobody has that contribution", f"island {island}")
        for peer in asked if mine == self._me else (mine, *asked):
            if peer == self._me:
                continue
            try:
                reply, body = await self._ask(peer, request)
            except (LinkError, WireError) as failed:
                error = failed
                continue
            if partial.total_bytes not in (0, reply.total_bytes):
                error = WireError("a contribution changed its size", f"{reply.total_bytes} bytes")
                continue
            partial.total_bytes = reply.total_bytes
            partial.pieces[number] = body
            await self._notify()
            return
        raise error

    async def _ask(
        self, peer: PeerId, request: RoundPieceRequest
    ) -> tuple[RoundPieceReply, memoryview]:
        link = await self._link_to(peer)
        answer = await link.call(
            "round_piece", Message(request.encode()), silence_seconds=self._silence_seconds
        )
        reply, body = RoundPieceReply.decode(answer.meta), memoryview(answer.body)
        self.received_bytes[request.stage, request.fragment] += len(body)
        if reply.status is not Status.OK:
            raise WireError("a peer does not have that contribution", f"{reply.status.name}")
        if hashlib.sha256(body).digest()[:_DIGEST_BYTES] != reply.digest:
            raise WireError("a piece of a contribution was damaged on its way", "")
        wanted = min(PIECE_BYTES, reply.total_bytes - request.offset_bytes)
        if len(body) != wanted or wanted <= 0:
            raise WireError(
                "a piece of a contribution has another size than asked for", f"{len(body)}"
            )
        return reply, body

    async def answer(self, request: RoundPieceRequest) -> Message:
        """A piece of what is here. One that is on its way is waited for, as long as a call may be silent."""
        key = RoundKey(request.stage, request.fragment, request.round, request.base)
        try:
            async with asyncio.timeout(self._silence_seconds), self._changed:
                await self._changed.wait_for(lambda: self._piece(key, request) is not None)
        except TimeoutError:
            return Message(RoundPieceReply(Status.REFRESH, 0, b"").encode())
        found = self._piece(key, request)
        assert found is not None
        total_bytes, body = found
        self.served_bytes[request.stage, request.fragment] += len(body)
        digest = hashlib.sha256(body).digest()[:_DIGEST_BYTES]
        return Message(RoundPieceReply(Status.OK, total_bytes, digest).encode(), body)

    def _piece(self, key: RoundKey, request: RoundPieceRequest) -> tuple[int, memoryview] | None:
        start = request.offset_bytes
        whole = self._whole.get((key, request.island))
        if whole is not None:
            length = min(request.length_bytes, PIECE_BYTES)
            return len(whole), memoryview(whole)[start : start + length]
        partial = self._partial.get((key, request.island))
        if partial is None or start % PIECE_BYTES or request.length_bytes != PIECE_BYTES:
            return None
        body = partial.pieces.get(start // PIECE_BYTES)
        return None if body is None else (partial.total_bytes, body)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def arrived(self) -> None:
        """Something was `put`: wake those who wait for it."""
        await self._notify()


def payload_digest(payload: bytes) -> Digest:
    return hashlib.sha256(payload).digest()


def ordered(peers: Sequence[PeerId], me: PeerId) -> tuple[PeerId, ...]:
    """The same peers, beginning behind `me`, so that replicas do not all ask the same one first."""
    after = [peer for peer in peers if peer > me]
    return (*after, *(peer for peer in peers if peer < me))


def _is_stale(known: RoundKey, newest: RoundKey) -> bool:
    is_same_place = (known.stage, known.fragment) == (newest.stage, newest.fragment)
    return is_same_place and known.round <= newest.round - KEPT_ROUNDS
