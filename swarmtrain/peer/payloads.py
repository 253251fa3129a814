"""What travels between islands in outer rounds: kept for those who ask, and fetched piece by piece (I5, I8).

A parcel (`outer.parcel`) is an island's contribution or the mean of a slice; a piece is a run of its sections. Each
piece that comes from another island crosses the slow link once: the replicas of a stage share the pieces out among
themselves, and get the rest from each other. Every section is checked against the parcel's table as it comes, so what
one peer spoilt is asked of the next.

Bytes are counted by fragment, at both ends, as bodies of answers: pieces and their tables, to and from islands and
replicas of the own one. Received are those that came whole, served those that were given to a link. Without faults
both are what contributions and means take; on top of that, received has what was refused and asked for again, and
served also what was lost on its way. What came of an answer that was cut off, headers, offers and votes are in the
totals of links alone (Traffic, LinksCarried).
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from swarmtrain.core.errors import LinkError, StateError, WireError
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import Digest, PeerId
from swarmtrain.outer.parcel import Bounds, Buffer, Table
from swarmtrain.transport.link import Link, Message
from swarmtrain.transport.requests import RoundPieceReply, RoundPieceRequest, Status

PIECE_BYTES = 1 << 20
PIECES_IN_FLIGHT = 4
KEPT_ROUNDS = 2
"""Of each fragment: who is a round late can still fetch what was counted."""

_DIGEST_BYTES = 16
_TABLE = (0, 0)


@dataclass(frozen=True, slots=True)
class RoundKey:
    """Which round of which fragment, and the outer state that it starts from."""

    stage: int
    fragment: int
    round: int
    base: Digest


@dataclass(frozen=True, slots=True)
class Wanted:
    """Sections of a parcel, from the first of `sections` up to the second; all where that is None.

    A contribution's `name` is its table's digest; a mean is named by what it is made of, and its table is believed.
    """

    name: Digest
    bounds: Bounds
    sections: tuple[int, int] | None = None
    is_contribution: bool = True


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a parcel can be had: `holders` are the peers that made it, or hold it, in the order to ask.

    Where `is_shared`, they are asked in turn, piece by piece. `siblings` are the replicas of this stage in this peer's
    own island, this peer included, in ascending order, who fetch the same.
    """

    holders: tuple[PeerId, ...]
    siblings: tuple[PeerId, ...] = ()
    is_shared: bool = True


@dataclass(slots=True)
class _Parcel:
    """What is here of a parcel; `at_work` counts those who fetch or make it, `pulls` are the pieces on their way."""

    table: Table | None = None
    sections: dict[int, Buffer] = field(default_factory=dict)
    pulls: dict[tuple[int, int], "asyncio.Task[LinkError | WireError | None]"] = field(
        default_factory=dict
    )
    at_work: int = 0


class Payloads:
    """Parcels at one peer. `link_to` gives an open link, or raises LinkError.

    A call may be silent for `silence_seconds`; what is at work here is waited for up to `patience_seconds`.
    """

    def __init__(
        self,
        me: PeerId,
        link_to: Callable[[PeerId], Awaitable[Link]],
        silence_seconds: float,
        patience_seconds: float,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._me, self._link_to = me, link_to
        self._silence_seconds, self._patience_seconds = silence_seconds, patience_seconds
        self._parcels: dict[tuple[RoundKey, Digest], _Parcel] = {}
        self._at_round: dict[tuple[int, int], int] = {}
        self._kept_from: dict[tuple[int, int], int] = {}
        self._changed = asyncio.Event()
        self._tasks = Tasks(failed)
        self.received_bytes: Counter[tuple[int, int]] = Counter()
        """By stage and fragment, since this peer's rounds began."""
        self.served_bytes: Counter[tuple[int, int]] = Counter()

    async def close(self) -> None:
        await self._tasks.cancel_all()

    def put(self, key: RoundKey, sections: Sequence[Buffer]) -> Digest:
        """Keep a whole contribution; its name."""
        name = Table.of(sections).digest
        self.put_mean(key, name, sections)
        return name

    def put_mean(self, key: RoundKey, name: Digest, sections: Sequence[Buffer]) -> None:
        """Keep the whole mean of a slice, in place of what came of it before."""
        parcel = self._parcel(key, name)
        parcel.table, parcel.sections = Table.of(sections), dict(enumerate(sections))
        self._notify()

    def keep_from(self, place: tuple[int, int], first: int) -> None:
        """Somebody still needs what rounds from `first` on were made of, however old that is."""
        self._kept_from[place] = first

    def bytes_between(self, place: tuple[int, int], first: int, stop: int) -> int:
        """What is kept of rounds from `first` up to `stop`."""
        return sum(
            sum(map(len, parcel.sections.values()))
            for (key, _), parcel in self._parcels.items()
            if (key.stage, key.fragment) == place and first <= key.round < stop
        )

    def held(self, key: RoundKey, name: Digest) -> tuple[Buffer, ...] | None:
        """All sections of a parcel, when all are here."""
        parcel = self._parcels.get((key, name))
        if parcel is None or parcel.table is None:
            return None
        count = len(parcel.table.lengths)
        if len(parcel.sections) < count:
            return None
        return tuple(parcel.sections[number] for number in range(count))

    @contextmanager
    def working(self, key: RoundKey, name: Digest) -> Iterator[None]:
        """Whoever asks for the parcel meanwhile waits for it."""
        parcel = self._parcel(key, name)
        parcel.at_work += 1
        self._notify()
        try:
            yield
        finally:
            parcel.at_work -= 1
            self._notify()

    async def fetch(self, key: RoundKey, wanted: Wanted, sources: Sources) -> tuple[Buffer, ...]:
        """The sections that are wanted; StateError when nobody gives them."""
        with self.working(key, wanted.name):
            parcel = self._parcel(key, wanted.name)
            try:
                return await self._pull(key, wanted, sources, parcel)
            except (LinkError, WireError) as error:
                if not wanted.is_contribution:
                    parcel.table, parcel.sections = None, {}  # a table that nothing fits is no use
                raise StateError(
                    f"a part of round {key.round} of stage {key.stage} cannot be had",
                    str(error),
                    "",
                ) from None

    async def _pull(
        self, key: RoundKey, wanted: Wanted, sources: Sources, parcel: _Parcel
    ) -> tuple[Buffer, ...]:
        table = parcel.table
        if table is None:
            await self._pull_piece(key, wanted, sources, _TABLE, 0)
            table = parcel.table
            assert table is not None
        first, stop = wanted.sections or (0, len(table.lengths))
        gate = asyncio.Semaphore(PIECES_IN_FLIGHT)

        async def pull(number: int, piece: tuple[int, int]) -> None:
            async with gate:
                await self._pull_piece(key, wanted, sources, piece, number)

        pieces = table.pieces(first, stop, PIECE_BYTES)
        pulls = [
            asyncio.ensure_future(pull(number, piece))
            for number, piece in enumerate(pieces)
            if not parcel.sections.keys() >= set(range(*piece))
        ]
        try:
            await asyncio.gather(*pulls)
        finally:
            for task in pulls:
                task.cancel()
        return tuple(parcel.sections[number] for number in range(first, stop))

    async def _pull_piece(
        self,
        key: RoundKey,
        wanted: Wanted,
        sources: Sources,
        piece: tuple[int, int],
        number: int,
    ) -> None:
        """One piece. Who wanted it may give up, as when a round is decided: it comes all the same, for the next."""
        pulls = self._parcel(key, wanted.name).pulls
        if piece not in pulls:
            work = self._asked_for(key, wanted, sources, piece, number)
            pulls[piece] = self._tasks.spawn(work, f"piece {piece} of round {key.round}")
            pulls[piece].add_done_callback(lambda _: pulls.pop(piece))
        error = await asyncio.shield(pulls[piece])
        if error is not None:
            raise error

    async def _asked_for(
        self,
        key: RoundKey,
        wanted: Wanted,
        sources: Sources,
        piece: tuple[int, int],
        number: int,
    ) -> LinkError | WireError | None:
        """One piece from the sibling whose share it is, else from those who hold it; or why it cannot be had."""
        first, stop = piece
        request = RoundPieceRequest(
            key.stage, key.fragment, key.round, key.base, wanted.name, first, stop - first
        )
        error: LinkError | WireError = WireError("no peer that has it can be reached", "")
        for peer in self._in_turn(sources, number):
            try:
                self._take(key, wanted, piece, await self._ask(peer, request))
            except (LinkError, WireError) as failed:
                error = failed
                continue
            return None
        return error

    def _in_turn(self, sources: Sources, number: int) -> list[PeerId]:
        siblings, holders = sources.siblings, sources.holders
        turn = number % max(1, len(holders)) if sources.is_shared else 0
        mine = siblings[number % len(siblings)] if siblings else self._me
        asked = dict.fromkeys((mine, *holders[turn:], *holders[:turn]))
        return [peer for peer in asked if peer != self._me]

    def _take(self, key: RoundKey, wanted: Wanted, piece: tuple[int, int], body: Buffer) -> None:
        """Keep what came. Raises WireError when it is not what was wanted."""
        parcel = self._parcel(key, wanted.name)
        if piece == _TABLE:
            table = Table.read(body, wanted.bounds)
            if wanted.is_contribution and table.digest != wanted.name:
                raise WireError("a contribution is not the one that was offered", "")
            parcel.table = table
        elif parcel.table is not None:
            found = parcel.table.split(*piece, body)
            parcel.sections.update(zip(range(*piece), found, strict=True))
        self._notify()

    async def _ask(self, peer: PeerId, request: RoundPieceRequest) -> memoryview:
        link = await self._link_to(peer)
        answer = await link.call(
            "round_piece", Message(request.encode()), silence_seconds=self._silence_seconds
        )
        reply, body = RoundPieceReply.decode(answer.meta), memoryview(answer.body)
        self.received_bytes[request.stage, request.fragment] += len(body)
        if reply.status is not Status.OK:
            raise WireError("a peer does not have that part of a round", f"{reply.status.name}")
        if hashlib.sha256(body).digest()[:_DIGEST_BYTES] != reply.digest:
            raise WireError("a piece of a round was damaged on its way", "")
        return body

    # ---- for others ---------------------------------------------------------------------------------------------

    async def answer(self, request: RoundPieceRequest) -> Message:
        """A piece of what is here. What is at work here is waited for, and other things as long as a call may be
        silent."""
        key = RoundKey(request.stage, request.fragment, request.round, request.base)
        body = await self._awaited(key, request)
        if body is None:
            return Message(RoundPieceReply(Status.REFRESH, b"").encode())
        self.served_bytes[request.stage, request.fragment] += len(body)
        digest = hashlib.sha256(body).digest()[:_DIGEST_BYTES]
        return Message(RoundPieceReply(Status.OK, digest).encode(), body)

    async def _awaited(self, key: RoundKey, request: RoundPieceRequest) -> bytes | None:
        began_seconds = asyncio.get_running_loop().time()
        while True:
            found, changed = self._piece(key, request), self._changed
            if found is not None:
                return found
            parcel = self._parcels.get((key, request.name))
            if parcel is None and self._is_over(key):
                return None
            is_at_work = parcel is not None and parcel.at_work > 0
            wait_seconds = self._patience_seconds if is_at_work else self._silence_seconds
            try:
                async with asyncio.timeout_at(began_seconds + wait_seconds):
                    await changed.wait()
            except TimeoutError:
                return None

    def _piece(self, key: RoundKey, request: RoundPieceRequest) -> bytes | None:
        parcel = self._parcels.get((key, request.name))
        if parcel is None or parcel.table is None:
            return None
        if request.sections == 0:
            return parcel.table.encoded()
        numbers = range(request.first, request.first + request.sections)
        if not 0 < request.sections <= len(parcel.sections):
            return None
        found = [parcel.sections[number] for number in numbers if number in parcel.sections]
        if len(found) < len(numbers):
            return None
        if len(found) > 1 and sum(map(len, found)) > PIECE_BYTES:
            raise WireError("a piece of a round is larger than any that is sent", f"{numbers}")
        return b"".join(found)

    def _parcel(self, key: RoundKey, name: Digest) -> _Parcel:
        """A new one takes the place of what is too old for anybody."""
        place = (key.stage, key.fragment)
        self._at_round[place] = key.round
        if (key, name) not in self._parcels:
            for known in [k for k in self._parcels if self._is_stale(k[0], place)]:
                del self._parcels[known]
        return self._parcels.setdefault((key, name), _Parcel())

    def _is_stale(self, known: RoundKey, place: tuple[int, int]) -> bool:
        is_here = (known.stage, known.fragment) == place
        return (
            is_here
            and self._is_over(known)
            and known.round < self._kept_from.get(place, known.round + 1)
        )

    def _is_over(self, key: RoundKey) -> bool:
        """Whether it is too old a round for anything new to come of it."""
        return key.round <= self._at_round.get((key.stage, key.fragment), 0) - KEPT_ROUNDS

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def ordered(peers: Sequence[PeerId], me: PeerId) -> tuple[PeerId, ...]:
    """The same peers, beginning behind `me`, so that replicas do not all ask the same one first."""
    after = [peer for peer in peers if peer > me]
    return (*after, *(peer for peer in peers if peer < me))
