"""Brings a peer's stages to a step that it missed: from siblings, whole and verified, or not at all (tier 0)."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import torch

from swarmtrain.compute.lane import Kind, Lane, Task
from swarmtrain.compute.replica import Replica
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import LinkError, StateError
from swarmtrain.core.events import Record, Recovered
from swarmtrain.core.messages import StageDigest
from swarmtrain.core.types import Digest, PeerId, Roster
from swarmtrain.peer.links import Links
from swarmtrain.recovery.transfer import StageTransfer, fetch_stage
from swarmtrain.transport.link import Link


class Restored(Protocol):
    """The parts of a peer that a restore needs."""

    @property
    def me(self) -> PeerId: ...
    @property
    def config(self) -> RunConfig: ...
    @property
    def replicas(self) -> dict[int, Replica]: ...
    @property
    def lane(self) -> Lane: ...
    @property
    def links(self) -> Links: ...
    @property
    def record(self) -> Record: ...


async def restore(
    parts: Restored, roster: Roster, step: int
) -> tuple[Digest, tuple[StageDigest, ...]]:
    """Load every hosted stage's state at `step`; the base they share, and the parameter digests.

    Raises:
        StateError: a stage has no sibling that can give its state. Nothing was loaded then.
    """
    start = asyncio.get_running_loop().time()
    silence_seconds = parts.config.links.silence_seconds

    async def fetch(stage: int) -> StageTransfer:
        return await fetch_stage(await _donors(parts, roster, stage), stage, step, silence_seconds)

    transfers = await asyncio.gather(*(fetch(stage) for stage in sorted(parts.replicas)))
    if len({transfer.base for transfer in transfers}) > 1:
        raise StateError(
            f"siblings disagree on the parameters of step {step}",
            "their base digests differ",
            "this peer joins again with the next step",
        )
    digests = await _load(parts, transfers)
    seconds = asyncio.get_running_loop().time() - start
    for transfer in transfers:
        parts.record(
            Recovered(
                peer=parts.me,
                stage=transfer.state.stage,
                step=step,
                tier="sibling",
                bytes_received=transfer.bytes_received,
                seconds=seconds,
            )
        )
    return transfers[0].base, digests


async def _donors(parts: Restored, roster: Roster, stage: int) -> list[Link]:
    links = []
    for peer in roster.replicas(stage):
        if peer == parts.me:
            continue
        try:
            links.append(await parts.links.to(peer))
        except LinkError:
            continue
    return links


async def _load(parts: Restored, transfers: Sequence[StageTransfer]) -> tuple[StageDigest, ...]:
    """All stages on the lane, after everything arrived: never half a state."""
    digests = []
    for transfer in transfers:
        replica = parts.replicas[transfer.state.stage]
        flats = [torch.from_numpy(array) for _, array in transfer.state.sections()]
        if any(flat.numel() != replica.elements for flat in flats):
            raise StateError(
                f"the state of stage {replica.stage} has another size than this model's",
                f"{flats[0].numel()} elements for {replica.elements}",
                "the donor runs another model",
            )
        task = Task(Kind.STATE, replica.stage, name="load")
        await parts.lane.submit(task, lambda r=replica, f=flats: r.load(f))  # type: ignore[misc]
        digests.append(StageDigest(replica.stage, replica.digest()))
    return tuple(digests)
