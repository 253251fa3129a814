"""One exchange of a hop over a link: the request out, the answer in and checked; and the question where a key is."""

import math
from dataclasses import dataclass

from torch import Tensor

from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import LinkError, WireError
from swarmtrain.core.events import BadMessage, CallFailed, Record
from swarmtrain.core.messages import Hint, Open
from swarmtrain.core.tensors import TensorHeader
from swarmtrain.core.types import Item, PeerId, Route
from swarmtrain.peer.links import Links
from swarmtrain.peer.store import Answer
from swarmtrain.transport.link import Buffer, Message
from swarmtrain.transport.requests import (
    ProcessReply,
    ProcessRequest,
    Status,
    WhereReply,
    WhereRequest,
    WithdrawRequest,
)
from swarmtrain.wire.tensors import decode_tensor, encode_tensor


@dataclass(frozen=True, slots=True)
class Reply:
    """What `peer` answered, or None, and then whether to prefer another replica at the next try.

    `lane_seconds` is what a microbatch takes of its lane, 0 if it cannot say.
    """

    peer: PeerId
    answer: Answer | None
    failed: bool = False
    lane_seconds: float = 0.0


@dataclass(slots=True)
class Hop:
    """What is called for: the same at every try but for the opening, which may be a newer one."""

    opening: Open
    item: Item
    x_BTD: Tensor
    route: Route
    hints: tuple[Hint, ...]
    attempt: int = 0
    encoded: tuple[TensorHeader, Buffer] | None = None

    @property
    def stage(self) -> int:
        return self.opening.stage_at(*self.item)

    @property
    def replicas(self) -> tuple[PeerId, ...]:
        return self.opening.roster.replicas(self.stage)


class Exchange:
    """Asks one peer for one hop. Failures are events and an empty reply, never exceptions."""

    def __init__(self, config: RunConfig, links: Links, record: Record) -> None:
        self._config, self._links, self._record = config, links, record

    async def call(self, hop: Hop, peer: PeerId) -> Reply:
        """What `peer` says to `hop`."""
        silence_seconds = self._config.links.silence_seconds
        wire = self._config.wire
        hop.encoded = hop.encoded or encode_tensor(hop.x_BTD, wire.codec, wire.zstd_level)
        request = self._request(hop, hop.encoded[0])
        try:
            link = await self._links.to(peer)
            message = Message(request.encode(), hop.encoded[1])
            answer = await link.call("process", message, silence_seconds=silence_seconds)
            return self._read(peer, ProcessReply.decode(answer.meta), answer.body)
        except LinkError as error:
            self._record(CallFailed(peer, error.what))
        except WireError as error:
            self._record(BadMessage(peer, f"an answer made no sense: {error.what} ({error.why})"))
        return Reply(peer, None, failed=True)

    def _read(self, peer: PeerId, reply: ProcessReply, payload: Buffer) -> Reply:
        match reply.status:
            case Status.OK if reply.tensor is not None:
                train, width = self._config.train, self._config.model.width
                shape = (train.microbatch_size, train.sequence_length, width)
                if not 0 <= reply.lane_seconds < math.inf:
                    raise WireError("an answer has no time", f"{reply.lane_seconds} s")
                gradient_BTD = decode_tensor(reply.tensor, payload, expect_shape=shape)
                return Reply(peer, Answer(gradient_BTD), lane_seconds=reply.lane_seconds)
            case Status.VOID:
                return Reply(peer, Answer(None))
            case Status.BUSY | Status.REFRESH | Status.FENCED:
                return Reply(peer, None)
            case _:
                return Reply(peer, None, failed=True)

    def _request(self, hop: Hop, tensor: TensorHeader) -> ProcessRequest:
        opening = hop.opening
        return ProcessRequest(
            step=opening.step,
            base=opening.base,
            roster_version=opening.roster.version,
            key=hop.item[1],
            position=hop.item[0],
            route=hop.route,
            attempt=hop.attempt,
            tensor=tensor,
        )

    def withdraw(self, hop: Hop, peer: PeerId) -> None:
        """Tell `peer` that nobody here waits for `hop` any more; it may never hear of it."""
        if self._links.figures(peer) is not None:
            opening, (position, key) = hop.opening, hop.item
            request = WithdrawRequest(opening.step, opening.base, key, position)
            self._links.tell(peer, "withdraw", request.encode())

    async def is_below(self, hop: Hop, peer: PeerId, limit_seconds: float) -> bool:
        """Whether `peer` says that it waits for others; one that does not answer has the key."""
        request = WhereRequest(hop.opening.step, hop.item[1], hop.item[0])
        try:
            link = await self._links.to(peer)
            reply = await link.call(
                "where",
                Message(request.encode()),
                silence_seconds=limit_seconds,
                deadline_seconds=limit_seconds,
            )
            return WhereReply.decode(reply.meta).is_below
        except (LinkError, WireError):
            return False
