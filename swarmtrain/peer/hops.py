"""The caller's side of a hop: pick a replica of the next position, call it, and reroute when it falls silent (R7).

The bytes stay the same at every try, so peers further down answer from their stores. BUSY is back-pressure and
no failure. Tries go on until the step is decided without them, which cancels the task that waits here.
"""

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any

from torch import Tensor

from swarmtrain.compute.lane import Kind, Task
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import LinkError, WireError
from swarmtrain.core.events import BadMessage, CallFailed, Record, Rerouted
from swarmtrain.core.messages import Hint, Open
from swarmtrain.core.tensors import TensorHeader
from swarmtrain.core.types import Item, PeerId, Route
from swarmtrain.peer.links import Links
from swarmtrain.peer.slots import Busy
from swarmtrain.peer.store import Answer
from swarmtrain.peer.worker import Worker
from swarmtrain.plan.wiring import next_replica, route_of
from swarmtrain.transport.link import Buffer, Message
from swarmtrain.transport.requests import ProcessReply, ProcessRequest, Status
from swarmtrain.wire.tensors import decode_tensor, encode_tensor

FIRST_PAUSE_SECONDS = 0.005
LONGEST_PAUSE_SECONDS = 0.5


class StepMoved(Exception):
    """The step was decided while a call for it was being made: its bytes have no place any more (I4)."""


class Hops:
    """Calls the next position of a route, on this peer or another."""

    def __init__(
        self, me: PeerId, config: RunConfig, worker: Worker, links: Links, record: Record
    ) -> None:
        self._me, self._config = me, config
        self._worker, self._links, self._record = worker, links, record

    async def call(
        self, opening: Open, item: Item, x_BTD: Tensor, route: Route, hints: tuple[Hint, ...]
    ) -> tuple[Answer, PeerId]:
        """The answer for `item` and who gave it. `route` may be empty: then it starts here."""
        position, key = item
        stage = opening.stage_at(position, key)
        route = route or route_of(opening.roster, opening.sequence(key), key, self._me)
        hinted = next((hint.peer for hint in hints if hint.position == position), None)
        wanted = hinted or route[position].peer
        encoded: tuple[TensorHeader, Buffer] | None = None
        tried: list[PeerId] = []
        pause_seconds = FIRST_PAUSE_SECONDS
        member = self._worker.member
        for attempt in itertools.count():
            if member.step != opening.step:
                raise StepMoved
            opening = member.ledger.open or opening
            replicas = opening.roster.replicas(stage)
            peer = next_replica(replicas, key, wanted, tried)
            if attempt and peer != wanted:
                reason = "the replica before did not answer"
                self._record(Rerouted(opening.step, key, position, wanted, peer, reason))
            wanted = peer
            if peer == self._me:
                answer = await self._call_local(opening, item, x_BTD, route, hints)
            else:
                wire = self._config.wire
                encoded = encoded or encode_tensor(x_BTD, wire.codec, wire.zstd_level)
                request = self._request(opening, item, route, attempt, encoded[0])
                start_seconds = asyncio.get_running_loop().time()
                answer, failed = await self._call_remote(peer, request, encoded[1])
                hop = Task(Kind.HOP, stage, key=key)
                self._worker.positions.lane.note(hop, start_seconds)
                if failed:
                    tried.append(peer)
                    tried = tried if len(tried) < len(replicas) else []
            if answer is not None:
                return answer, peer
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
        raise AssertionError("the loop above ends by returning or raising")

    async def _call_local(
        self, opening: Open, item: Item, x_BTD: Tensor, route: Route, hints: tuple[Hint, ...]
    ) -> Answer | None:
        try:
            return await self._worker.enter_local(opening, item, x_BTD, route, hints)
        except Busy:
            return None

    async def _call_remote(
        self, peer: PeerId, request: ProcessRequest, payload: Buffer
    ) -> tuple[Answer | None, bool]:
        """The answer, or None and whether to prefer another replica at the next try."""
        silence_seconds = self._config.links.silence_seconds
        try:
            link = await self._links.to(peer)
            message = Message(request.encode(), payload)
            reply_message = await self._while_member(
                peer, link.call("process", message, silence_seconds=silence_seconds)
            )
            if reply_message is None:
                return None, True
            reply = ProcessReply.decode(reply_message.meta)
            return self._read(reply, reply_message.body)
        except LinkError as error:
            self._record(CallFailed(peer, error.what))
            return None, True
        except WireError as error:
            self._record(BadMessage(peer, f"an answer made no sense: {error.what} ({error.why})"))
            return None, True

    async def _while_member(
        self, peer: PeerId, call: Coroutine[Any, Any, Message]
    ) -> Message | None:
        """The answer, or None once `peer` is no longer in the roster: it may live on and go on sending progress
        notes for work that nobody will count."""
        answer = asyncio.ensure_future(call)
        try:
            while not answer.done():
                await asyncio.wait([answer], timeout=self._config.links.silence_seconds)
                opening = self._worker.member.ledger.open
                if opening is not None and peer not in opening.roster and not answer.done():
                    self._record(CallFailed(peer, "it is not in the roster any more"))
                    return None
            return answer.result()
        finally:
            answer.cancel()

    def _read(self, reply: ProcessReply, payload: Buffer) -> tuple[Answer | None, bool]:
        match reply.status:
            case Status.OK if reply.tensor is not None:
                train, width = self._config.train, self._config.model.width
                shape = (train.microbatch_size, train.sequence_length, width)
                return Answer(decode_tensor(reply.tensor, payload, expect_shape=shape)), False
            case Status.VOID:
                return Answer(None), False
            case Status.BUSY | Status.REFRESH | Status.FENCED:
                return None, False
            case _:
                return None, True

    def _request(
        self, opening: Open, item: Item, route: Route, attempt: int, tensor: TensorHeader
    ) -> ProcessRequest:
        return ProcessRequest(
            step=opening.step,
            base=opening.base,
            roster_version=opening.roster.version,
            key=item[1],
            position=item[0],
            route=route,
            attempt=attempt,
            tensor=tensor,
        )
