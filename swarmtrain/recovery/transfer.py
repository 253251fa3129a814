"""A stage's state over links: parameters and both moments, piece by piece, from several donors, checked (I5).

The receiver holds whole arrays or nothing: a state becomes usable only after every piece came and the digests of
all three arrays, which a majority of the donors must agree on, fit. Nothing is ever half-applied.

Between peers a piece is packed where the donor measured its line to the receiver as slower than 100 Mbit/s: a sixth
fewer bytes, the same bits (`wire.states` has the figures and the bound). Digests are always those of the bytes as they
are in memory. A coordinator, which has no codecs, neither asks for packed pieces nor sends them.
"""

import asyncio
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from swarmtrain.checkpoint.stage_file import NamesShapes, StageState
from swarmtrain.core.errors import LinkError, StateError, WireError
from swarmtrain.core.layout import flat_layout
from swarmtrain.core.tensors import TensorHeader
from swarmtrain.core.types import Digest
from swarmtrain.recovery.dealing import Pace, deal
from swarmtrain.transport.link import Buffer, Link, Message
from swarmtrain.transport.requests import StateReply, StateRequest, Status

PATIENCE_SECONDS = 10.0
"""How long a donor may still be applying the step before."""

_PAUSE_SECONDS = 0.05
_DIGEST_BYTES = 16
_MOST_PARAMETERS = 100_000
_MOST_ELEMENTS = 1 << 36
_MOST_FLATS = 6
"""Arrays of the stage's size in what outer rounds keep: `FragmentMember.saved`."""
_MOST_ROUNDS_BYTES = 1 << 20
"""Of the description of these."""


Unpack = Callable[[TensorHeader, Buffer, int], memoryview]
"""Undoes `serving.Pack`: so many bytes, or a WireError."""


@dataclass(frozen=True, slots=True)
class StageTransfer:
    """What arrived: the state at `step` on `base`, and how many bytes its pieces took on their way."""

    state: StageState
    step: int
    base: Digest
    bytes_received: int


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a donor says of the state it would give: digests of parameters and of both moments together."""

    step: int
    base: Digest
    total_bytes: int
    parameters: Digest
    moments: Digest


async def fetch_stage(
    links: Sequence[Link],
    stage: int,
    step: int,
    pace: Pace,
    base: Digest | None = None,
    unpack: Unpack | None = None,
) -> StageTransfer:
    """The state of `stage` at `step` from the donors behind `links`.

    With `base` those count that are on it: another may not know yet that the island was restored (I4). With `unpack`
    pieces may come packed.

    Raises:
        StateError: no donor has it, they disagree, or what they sent is not what they claimed.
    """
    if not links:
        raise _failed(stage, step, "no peer that hosts it can be reached")
    claims = await _claims(links, stage, step, base, pace.silence_seconds)
    agreed = max(claims.values(), key=list(claims.values()).count)
    donors = [link for link, claim in claims.items() if claim == agreed]
    try:
        return await _pull(donors, stage, agreed, pace, unpack)
    except (LinkError, WireError) as error:
        raise _failed(stage, step, str(error)) from error


async def _pull(
    donors: list[Link], stage: int, claim: _Claim, pace: Pace, unpack: Unpack | None
) -> StageTransfer:
    """All pieces from all donors, and from one of them what the parameters are called and how they are shaped."""
    layout = await _layout_of_any(donors, stage, pace.silence_seconds)
    _, elements = flat_layout([shape for _, shape in layout])
    ends_bytes = [4 * elements, 8 * elements, 12 * elements, claim.total_bytes]
    rounds_bytes = claim.total_bytes - 12 * elements
    if rounds_bytes % 4 or not 0 <= rounds_bytes <= _MOST_ROUNDS_BYTES + 4 * _MOST_FLATS * elements:
        raise WireError("a stage's state has another size than its layout", f"stage {stage}")
    whole = np.empty(claim.total_bytes // 4, dtype=np.float32)
    target = whole.view(np.uint8).data
    spans = _spans(ends_bytes, pace.piece_bytes)
    received_bytes = 0

    async def pull(donor: Link, number: int) -> None:
        nonlocal received_bytes
        start, end = spans[number]
        request = StateRequest(stage, claim.step, start, end - start, unpack is not None)
        reply, body = await _piece(donor, request, pace.silence_seconds, unpack)
        if len(body) != end - start or reply.base != claim.base:
            raise WireError("a piece of state is not the one that was asked for", f"{len(body)}")
        target[start:end] = body
        received_bytes += reply.tensor.payload_bytes if reply.tensor is not None else len(body)

    await deal(len(spans), donors, pull, pace)
    parameters, moment1, moment2, rounds = np.split(whole, [elements, 2 * elements, 3 * elements])
    if hashlib.sha256(parameters.data).digest() != claim.parameters:
        raise WireError("the parameters that came are not those that were promised", "")
    if hashlib.sha256(whole[elements:].data).digest() != claim.moments:
        raise WireError("the optimizer moments that came are not those that were promised", "")
    state = StageState(stage, layout, parameters, moment1, moment2, rounds if rounds.size else None)
    return StageTransfer(state, claim.step, claim.base, received_bytes)


def _spans(ends_bytes: Sequence[int], piece_bytes: int) -> list[tuple[int, int]]:
    """Where pieces start and end; no piece crosses from one of the arrays, which end there, into the next."""
    return [
        (offset, min(offset + piece_bytes, end))
        for start, end in itertools.pairwise((0, *ends_bytes))
        for offset in range(start, end, piece_bytes)
    ]


async def _claims(
    links: Sequence[Link], stage: int, step: int, base: Digest | None, silence_seconds: float
) -> dict[Link, _Claim]:
    """What the donors would give. While none has the step yet, all are asked again for a while."""
    loop = asyncio.get_running_loop()
    deadline_seconds = loop.time() + PATIENCE_SECONDS
    while True:
        answers = await asyncio.gather(
            *(_claim(link, stage, step, silence_seconds) for link in links), return_exceptions=True
        )
        claims: dict[Link, _Claim] = {}
        why = ""
        for link, answer in zip(links, answers, strict=True):
            if isinstance(answer, _Claim):
                if base in (None, answer.base):
                    claims[link] = answer
                else:
                    why = f"peer {link.remote.peer} has it on other parameters"
            elif isinstance(answer, LinkError | WireError):
                why = f"peer {link.remote.peer}: {answer}"
            else:
                raise answer
        if claims:
            return claims
        if loop.time() > deadline_seconds:
            raise _failed(stage, step, why)
        await asyncio.sleep(_PAUSE_SECONDS)


async def _claim(link: Link, stage: int, step: int, silence_seconds: float) -> _Claim:
    reply, _ = await _piece(link, StateRequest(stage, step, 0, 0), silence_seconds)
    digests = [entry.digest for entry in reply.digests if entry.stage == stage]
    if len(digests) != 2:
        raise WireError("a donor did not say what it would give", f"{len(digests)} digests")
    return _Claim(reply.step, reply.base, reply.total_bytes, digests[0], digests[1])


async def _piece(
    link: Link, request: StateRequest, silence_seconds: float, unpack: Unpack | None = None
) -> tuple[StateReply, memoryview]:
    """One piece. Raises WireError when the donor is at another step or the piece is damaged."""
    message = Message(request.encode())
    answer = await link.call("state", message, silence_seconds=silence_seconds)
    reply = StateReply.decode(answer.meta)
    if reply.status is not Status.OK:
        raise WireError(
            "a donor is at another step", f"it is at {reply.step}, asked for {request.step}"
        )
    body = memoryview(answer.body)
    if reply.tensor is not None:
        if unpack is None:
            raise WireError("a piece of state came packed", "nobody asked for that")
        body = unpack(reply.tensor, body, request.length_bytes)
    if hashlib.sha256(body).digest()[:_DIGEST_BYTES] != reply.digest:
        raise WireError("a piece of state was damaged on its way", "")
    return reply, body


async def _layout_of_any(donors: list[Link], stage: int, silence_seconds: float) -> NamesShapes:
    for link in donors[:-1]:
        try:
            return await _layout(link, stage, silence_seconds)
        except (LinkError, WireError):
            continue
    return await _layout(donors[-1], stage, silence_seconds)


async def _layout(link: Link, stage: int, silence_seconds: float) -> NamesShapes:
    """Names and shapes as a donor sent them, with sane sizes (I5)."""
    request = Message(StateRequest(stage, 0, 0, 0).encode())
    answer = await link.call("layout", request, silence_seconds=silence_seconds)
    try:
        pairs = json.loads(bytes(answer.body))
        layout = tuple((str(name), tuple(int(extent) for extent in shape)) for name, shape in pairs)
    except (ValueError, TypeError) as error:
        raise WireError("a stage's layout makes no sense", str(error)) from None
    sane = all(extent > 0 for _, shape in layout for extent in shape)
    if not sane or len(layout) > _MOST_PARAMETERS or len({n for n, _ in layout}) < len(layout):
        raise WireError("a stage's layout makes no sense", "repeated names or empty shapes")
    if sum(math.prod(shape) for _, shape in layout) > _MOST_ELEMENTS:
        raise WireError("a stage's layout is absurdly large", "")
    return layout


def _failed(stage: int, step: int, why: str) -> StateError:
    return StateError(
        f"the state of stage {stage} at step {step} could not be fetched",
        why,
        "a peer that hosts this stage must be reachable; see its events",
    )
