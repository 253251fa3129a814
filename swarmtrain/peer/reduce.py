"""The group reduce: replicas of a stage end a seal with the same sum, all of it or none (I3, R16).

Each replica owns one slice of the flat sum. It pulls that slice of everybody's immutable snapshot, adds them in
the order of peer ids, and serves the result; then it pulls the other slices. Every piece is tagged with
(step, term, seal) and taken only for the reader's own tag.
"""

import asyncio
import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from swarmtrain.compute.lane import Kind, Lane, Task
from swarmtrain.compute.replica import ReducedSum, Replica
from swarmtrain.core.errors import WireError
from swarmtrain.core.events import Record, SumSealed
from swarmtrain.core.faultpoints import reached
from swarmtrain.core.layout import ALIGN_ELEMENTS
from swarmtrain.core.messages import Commit, Prepared, StageSum
from swarmtrain.core.types import PeerId
from swarmtrain.peer.links import Links
from swarmtrain.steps.effects import Reduce
from swarmtrain.steps.member import StepMember
from swarmtrain.transport.link import Buffer, Message
from swarmtrain.transport.requests import PieceReply, PieceRequest, Status

_DIGEST_BYTES = 16
_DTYPES = {torch.int64: "int64", torch.float32: "float32"}

Tag = tuple[int, int, int]
"""(step, term, seal)"""


@dataclass(slots=True)
class Shared:
    """What a replica serves to its siblings under one tag: its snapshot, and its slice once it is summed."""

    snapshot: Tensor
    reduced: Tensor
    own_slice_done: bool = False


def slice_bounds(elements: int, slices: int) -> list[tuple[int, int]]:
    """Equal slices of a flat sum, starting on multiples of ALIGN_ELEMENTS; the last may be shorter or empty."""
    return [slice_bound(elements, slices, index) for index in range(slices)]


def slice_bound(elements: int, slices: int, index: int) -> tuple[int, int]:
    """One of `slice_bounds`."""
    width = -(-elements // (slices * ALIGN_ELEMENTS)) * ALIGN_ELEMENTS
    return min(index * width, elements), min((index + 1) * width, elements)


class Reducer:
    """Runs and serves reduces for the stages of one peer. `record` is set by who makes it."""

    record: Record

    def __init__(
        self,
        me: PeerId,
        member: StepMember,
        replicas: dict[int, Replica],
        lane: Lane,
        links: Links,
        silence_seconds: float,
    ) -> None:
        self._me, self._member, self._replicas = me, member, replicas
        self._lane, self._links, self._silence_seconds = lane, links, silence_seconds
        self._shared: dict[tuple[Tag, int], Shared] = {}
        self._changed = asyncio.Condition()
        self._sums: dict[tuple[int, int], dict[int, ReducedSum]] = {}

    async def reduce(self, effect: Reduce) -> tuple[StageSum, ...]:
        """Reduce every stage of this peer; LinkError or WireError when a sibling fails."""
        reached("sealed")
        start_seconds = asyncio.get_running_loop().time()
        tag = (effect.step, effect.term, effect.seal)
        self._shared = {known: shared for known, shared in self._shared.items() if known[0] == tag}
        work = [
            self._reduce_stage(tag, stage, effect, self._snapshot(tag, stage))
            for stage in sorted(self._replicas)
        ]
        sums = await asyncio.gather(*work)
        self._keep(effect, {entry.facts.stage: entry for entry in sums})
        self._lane.note(Task(Kind.REDUCE, min(self._replicas)), start_seconds)
        return tuple(entry.facts for entry in sums)

    def sums_of(self, prepared: Prepared) -> dict[int, ReducedSum]:
        """The sums by stage that this peer reported for a prepared seal."""
        return self._sums[prepared.term, prepared.seal]

    def learned(self, commit: Commit, sums: dict[int, ReducedSum]) -> None:
        """The sums of a decided step came from siblings, which reduced them without this peer."""
        self._sums[commit.term, commit.seal] = sums

    def _keep(self, effect: Reduce, sums: dict[int, ReducedSum]) -> None:
        """Beside the newest sums only those of the prepared seal stay, which may still be decided."""
        prepared = self._member.ledger.prepared
        wanted = None if prepared is None else (prepared.term, prepared.seal)
        self._sums = {tag: kept for tag, kept in self._sums.items() if tag == wanted}
        self._sums[effect.term, effect.seal] = sums

    def _snapshot(self, tag: Tag, stage: int) -> "asyncio.Future[Tensor]":
        """Queued at once, behind all work on the sum; the event has the order of the lane, as SumChanged has."""
        task = Task(Kind.STATE, stage, name="snapshot")
        taken = self._lane.submit(task, self._replicas[stage].snapshot)
        sealed = SumSealed(*tag, stage)

        def report(ended: "asyncio.Future[Tensor]") -> None:
            if not ended.cancelled() and ended.exception() is None:
                self.record(sealed)

        taken.add_done_callback(report)
        return taken

    async def _reduce_stage(
        self, tag: Tag, stage: int, effect: Reduce, snapshot_ready: "asyncio.Future[Tensor]"
    ) -> ReducedSum:
        replica, siblings = self._replicas[stage], effect.roster.replicas(stage)
        snapshot = await snapshot_ready
        state = Task(Kind.STATE, stage, name="seal")
        if len(siblings) == 1:
            return await self._lane.submit(state, lambda: replica.sealed(snapshot, effect.tokens))
        shared = Shared(snapshot, torch.empty_like(snapshot))
        self._shared[tag, stage] = shared
        await self._notify()
        bounds = slice_bounds(snapshot.numel(), len(siblings))
        rank = siblings.index(self._me)
        await self._sum_own_slice(tag, stage, siblings, bounds[rank])
        # A sum of few elements has fewer slices than replicas.
        others = [i for i, (start, end) in enumerate(bounds) if i != rank and start < end]
        pieces = await asyncio.gather(
            *(
                self.pull(siblings[i], tag, stage, (i, len(siblings)), True, bounds[i])
                for i in others
            )
        )
        for index, piece in zip(others, pieces, strict=True):
            start, end = bounds[index]
            shared.reduced[start:end].copy_(piece)
        return await self._lane.submit(state, lambda: replica.sealed(shared.reduced, effect.tokens))

    async def _sum_own_slice(
        self, tag: Tag, stage: int, siblings: tuple[PeerId, ...], bounds: tuple[int, int]
    ) -> None:
        shared, rank = self._shared[tag, stage], siblings.index(self._me)
        start, end = bounds
        place = (rank, len(siblings))
        others = [peer for peer in siblings if peer != self._me and start < end]
        pulled = await asyncio.gather(
            *(self.pull(peer, tag, stage, place, False, bounds) for peer in others)
        )
        pieces = dict(zip(others, pulled, strict=True))
        pieces[self._me] = shared.snapshot[start:end]

        def add() -> None:
            if start == end:
                return
            out = shared.reduced[start:end].copy_(pieces[siblings[0]])
            for peer in siblings[1:]:
                out.add_(pieces[peer])

        await self._lane.submit(Task(Kind.STATE, stage, name="slice"), add)
        reached("reduce.middle")
        shared.own_slice_done = True
        await self._notify()

    async def pull(
        self,
        peer: PeerId,
        tag: Tag,
        stage: int,
        place: tuple[int, int],
        reduced: bool,
        bounds: tuple[int, int],
    ) -> Tensor:
        """One piece from a sibling, checked (I5). Nobody asks for the empty ones of a stage with few elements."""
        count, dtype = bounds[1] - bounds[0], self._replicas[stage].total.dtype
        if not count:
            return torch.empty(0, dtype=dtype)
        link = await self._links.to(peer)
        request = PieceRequest(*tag, stage, *place, reduced)
        message = Message(request.encode())
        answer = await link.call("piece", message, silence_seconds=self._silence_seconds)
        reply = PieceReply.decode(answer.meta)
        expected = (Status.OK, _DTYPES[dtype], count, count * dtype.itemsize, _digest(answer.body))
        got = (reply.status, reply.dtype, reply.count, len(answer.body), reply.digest)
        if got != expected:
            raise WireError(
                f"peer {peer} sent a piece of a reduce that does not fit",
                f"status {reply.status.name}, {reply.count} x {reply.dtype}, {len(answer.body)} bytes",
                "the step is sealed again; see whether this peer's events repeat",
            )
        return torch.frombuffer(answer.body, dtype=dtype)

    # ---- serving ------------------------------------------------------------------------------------------------

    async def piece(self, request: PieceRequest) -> tuple[PieceReply, Buffer]:
        """A slice of this peer's snapshot or of the sum it made, once it is there; FENCED for old tags."""
        tag = (request.step, request.term, request.seal)
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_past(tag) or self._has(tag, request))
        shared = self._shared.get((tag, request.stage))
        if shared is None or not self._has(tag, request):
            return PieceReply(Status.FENCED, "int64", 0, b""), b""
        return cut(shared.reduced if request.reduced else shared.snapshot, request)

    async def fence(self) -> None:
        """The seal or the step changed: answer those who wait for what will never be."""
        await self._notify()

    def forget_before(self, step: int) -> None:
        """Drop what was summed and served for earlier steps."""
        self._sums = {}
        self._shared = {known: kept for known, kept in self._shared.items() if known[0][0] >= step}

    def abandon(self) -> None:
        """Drop everything: the island goes on from another state."""
        self._sums, self._shared = {}, {}

    def _is_past(self, tag: Tag) -> bool:
        return tag < (self._member.step, self._member.term, self._member.ledger.seal)

    def _has(self, tag: Tag, request: PieceRequest) -> bool:
        shared = self._shared.get((tag, request.stage))
        return shared is not None and (shared.own_slice_done or not request.reduced)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def cut(total: Tensor, request: PieceRequest) -> tuple[PieceReply, Buffer]:
    """The slice of a flat sum that `request` asks for; FENCED if there is no such slice."""
    if not 0 <= request.slice < request.slices:
        return PieceReply(Status.FENCED, "int64", 0, b""), b""
    start, end = slice_bound(total.numel(), request.slices, request.slice)
    piece = total[start:end]
    body = piece.view(torch.uint8).numpy().data if end > start else b""
    return PieceReply(Status.OK, _DTYPES[piece.dtype], end - start, _digest(body)), body


def _digest(body: Buffer) -> bytes:
    return hashlib.sha256(body).digest()[:_DIGEST_BYTES]
