"""Pulls the stages' states from the peers, piece by piece and checked, and writes a checkpoint of them."""

import asyncio
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from swarmtrain.checkpoint.stage_file import NamesShapes, StageState
from swarmtrain.checkpoint.store import save
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import LinkError, StateError, WireError
from swarmtrain.core.layout import flat_layout
from swarmtrain.core.types import Digest
from swarmtrain.transport.link import Link, Message
from swarmtrain.transport.requests import StateReply, StateRequest, Status

PIECE_BYTES = 4 << 20
PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.1
_DIGEST_BYTES = 16
_MOST_PARAMETERS = 100_000


async def collect(
    config: RunConfig, step: int, donors: dict[int, Sequence[Link]], folder: Path
) -> Path:
    """Write the checkpoint of `step`; `donors` are the links to each stage's replicas, best first.

    Raises:
        StateError: no replica of some stage could give its state, or the disk refused it.
    """
    states: list[StageState] = []
    base: Digest = b""
    for stage in range(config.model.stages + 1):
        state, base = await _from_any(config, stage, step, donors.get(stage, ()))
        states.append(state)
    return save(folder, step=step, base=base, config_json=config.to_json(), states=states)


async def _from_any(
    config: RunConfig, stage: int, step: int, links: Sequence[Link]
) -> tuple[StageState, Digest]:
    why = "no peer that hosts it is connected"
    for link in links:
        try:
            async with asyncio.timeout(60 * PATIENCE_SECONDS):
                return await _pull_stage(config, stage, step, link)
        except (LinkError, WireError, TimeoutError) as error:
            why = f"peer {link.remote.peer}: {error}"
    raise StateError(
        f"the state of stage {stage} at step {step} could not be collected",
        why,
        "the peers keep it until they end; older checkpoints are untouched",
    )


async def _pull_stage(
    config: RunConfig, stage: int, step: int, link: Link
) -> tuple[StageState, Digest]:
    silence_seconds = config.links.silence_seconds
    ask = StateRequest(stage, step, 0, PIECE_BYTES)
    layout = await link.call("layout", Message(ask.encode()), silence_seconds=silence_seconds)
    names_shapes = _read_layout(bytes(layout.body))
    _, elements = flat_layout([shape for _, shape in names_shapes])
    whole = np.empty(3 * elements, dtype=np.float32)
    target = whole.view(np.uint8).data
    base: Digest = b""
    digest: Digest = b""
    offset_bytes = 0
    while offset_bytes < target.nbytes:
        reply, body = await _piece(
            link, StateRequest(stage, step, offset_bytes, PIECE_BYTES), config
        )
        if reply.total_bytes != target.nbytes or not 0 < len(body) <= target.nbytes - offset_bytes:
            raise WireError("a stage's state has another size than its layout", f"stage {stage}")
        if offset_bytes == 0:
            base = reply.base
            digest = next((entry.digest for entry in reply.digests if entry.stage == stage), b"")
        target[offset_bytes : offset_bytes + len(body)] = body
        offset_bytes += len(body)
    parameters, moment1, moment2 = np.split(whole, 3)
    if hashlib.sha256(parameters.data).digest() != digest:
        raise WireError("a stage's parameters do not have the digest they were sent with", "")
    return StageState(stage, names_shapes, parameters, moment1, moment2), base


async def _piece(
    link: Link, request: StateRequest, config: RunConfig
) -> tuple[StateReply, memoryview]:
    """One piece; a peer that still applies the last step is asked again for a while."""
    for _ in range(int(PATIENCE_SECONDS / _PAUSE_SECONDS)):
        answer = await link.call(
            "state",
            Message(request.encode()),
            silence_seconds=config.links.silence_seconds,
            deadline_seconds=PATIENCE_SECONDS,
        )
        reply = StateReply.decode(answer.meta)
        if reply.status is Status.OK:
            body = memoryview(answer.body)
            if hashlib.sha256(body).digest()[:_DIGEST_BYTES] != reply.digest:
                raise WireError("a piece of state was damaged on its way", "")
            return reply, body
        await asyncio.sleep(_PAUSE_SECONDS)
    raise WireError(
        "a peer is at another step than the run", f"it is at {reply.step}, not {request.step}"
    )


def _read_layout(body: bytes) -> NamesShapes:
    """Names and shapes as a peer sent them, with sane sizes (I5)."""
    try:
        pairs = json.loads(body)
        layout = tuple((str(name), tuple(int(extent) for extent in shape)) for name, shape in pairs)
    except (ValueError, TypeError) as error:
        raise WireError("a stage's layout makes no sense", str(error)) from None
    sane = all(extent > 0 for _, shape in layout for extent in shape)
    if (
        not sane
        or len(layout) > _MOST_PARAMETERS
        or len({name for name, _ in layout}) < len(layout)
    ):
        raise WireError("a stage's layout makes no sense", "repeated names or empty shapes")
    if sum(math.prod(shape) for _, shape in layout) > 1 << 36:
        raise WireError("a stage's layout is absurdly large", "")
    return layout
