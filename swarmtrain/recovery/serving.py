"""The donor's side of a state transfer: pieces of a stage's state, and its layout (`recovery.transfer` receives)."""

import hashlib
import json
from collections.abc import Callable

import numpy as np

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.core.errors import WireError
from swarmtrain.core.messages import StageDigest
from swarmtrain.core.tensors import TensorHeader
from swarmtrain.core.types import Digest
from swarmtrain.transport.link import Buffer, Message
from swarmtrain.transport.requests import StateReply, StateRequest, Status

_DIGEST_BYTES = 16
_NUMBER_BYTES = 4

Pack = Callable[[memoryview], tuple[TensorHeader, Buffer]]
"""Writes whole float32 numbers down in fewer bytes, exactly."""


def state_piece(
    state: StageState, base: Digest, request: StateRequest, pack: Pack | None = None
) -> Message:
    """A piece of `state`: parameters, both moments and what outer rounds keep, as one run of bytes.

    It goes through `pack`, if that is given and the asker can undo it. A piece of no length asks for the digests of
    parameters and moments. Raises WireError beyond the end.
    """
    start, total_bytes = request.offset_bytes, 0
    body: memoryview | None = None
    for _, array in state.arrays():
        if 0 <= start < array.nbytes and body is None:
            body = array.view(np.uint8).data[start : start + request.length_bytes]
        start -= array.nbytes
        total_bytes += array.nbytes
    if body is None:
        raise WireError("a piece of state beyond its end", f"offset {request.offset_bytes}")
    digests = () if request.length_bytes else _digests(state)
    digest = hashlib.sha256(body).digest()[:_DIGEST_BYTES]
    header: TensorHeader | None = None
    payload: Buffer = body
    if pack is not None and request.takes_packed and body and not body.nbytes % _NUMBER_BYTES:
        header, payload = pack(body)
    reply = StateReply(Status.OK, request.step, base, total_bytes, digests, digest, header)
    return Message(reply.encode(), payload)


def layout_answer(state: StageState) -> Message:
    """Names and shapes of a stage's parameters, in the order of its flat layout, as JSON."""
    return Message(b"", json.dumps(state.names_shapes).encode())


def _digests(state: StageState) -> tuple[StageDigest, StageDigest]:
    """SHA-256 of the parameters, and of all else together."""
    moments = hashlib.sha256()
    for name, array in state.arrays():
        if name != "parameters":
            moments.update(array.data)
    parameters = hashlib.sha256(state.parameters.data).digest()
    return StageDigest(state.stage, parameters), StageDigest(state.stage, moments.digest())
