"""Brings a peer's stages to a whole state: from siblings, from snapshots, from a checkpoint, or made from neighbours.

Whatever has to come over links comes first, whole and verified; only then is anything loaded, and nothing is ever
half-applied.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

import torch

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.compute.lane import Kind, Task
from swarmtrain.compute.replica import Replica
from swarmtrain.core.errors import LinkError, StateError
from swarmtrain.core.events import Recovered
from swarmtrain.core.messages import (
    CheckpointAt,
    Commit,
    Restore,
    Source,
    StageAt,
    StageDigest,
)
from swarmtrain.core.types import Digest, PeerId
from swarmtrain.peer.parts import Parts
from swarmtrain.peer.stage_rounds import Read
from swarmtrain.recovery.dealing import Pace, pace_of
from swarmtrain.recovery.neighbours import gradient_weight, neighbour_state
from swarmtrain.recovery.snapshots import copy_of
from swarmtrain.recovery.transfer import StageTransfer, fetch_stage
from swarmtrain.steps.effects import Resync
from swarmtrain.steps.restoring import CHECKPOINT, INITIAL, NEIGHBOURS
from swarmtrain.transport.link import Link
from swarmtrain.wire.states import unpack

_LINK_PAUSE_SECONDS = 0.1


async def resync(
    parts: Parts, siblings: Callable[[int], Sequence[PeerId]], wanted: Resync, pace: Pace
) -> tuple[StageDigest, ...]:
    """Load every stage that `wanted` names from its siblings; the parameter digests.

    A stage that this peer already has at that step stays as it is: a peer that moves fetches only what is new.

    Raises:
        StateError: a stage has no sibling that can give its state. Nothing was loaded then.
    """
    start_seconds = now_seconds()
    missing = [stage for stage in wanted.stages if stage not in wanted.keeps]

    async def fetch(stage: int) -> StageTransfer:
        return await fetch_from(parts, siblings(stage), stage, wanted.step, wanted.base, pace)

    transfers = await asyncio.gather(*(fetch(stage) for stage in missing))
    states = {transfer.state.stage: transfer.state for transfer in transfers}
    digests = await load(parts, wanted.stages, states)
    for transfer in transfers:
        _recovered(parts, transfer, "sibling", start_seconds)
    return digests


async def restore(parts: Parts, message: Restore, last: Commit | None) -> tuple[StageDigest, ...]:
    """Load this peer's stages as the conductor's RESTORE says; `last` is the decision whose norms weigh neighbours.

    Raises:
        StateError: a source could not give what it has. Nothing was loaded then.
    """
    mine = message.roster.member(parts.me)
    assert mine is not None
    sources = {source.stage: source for source in message.sources}
    found: dict[int, tuple[StageTransfer, str, float]] = {}
    anew: set[int] = set()
    for stage in mine.stages:
        source, start_seconds = sources[stage], now_seconds()
        if _is_live_here(parts, source):
            continue
        if source.tier == INITIAL:
            _check_begins_from_seed(parts)
            anew.add(stage)
            continue
        found[stage] = await _state_of(parts, source, message, last), source.tier, start_seconds
    states = {stage: transfer.state for stage, (transfer, _, _) in found.items()}
    digests = await load(parts, mine.stages, states, is_start=message.step == 0, anew=anew)
    for transfer, tier, start_seconds in found.values():
        _recovered(parts, transfer, tier, start_seconds)
    return digests


async def load(
    parts: Parts,
    stages: Sequence[int],
    states: Mapping[int, StageState],
    is_start: bool = False,
    anew: Collection[int] = (),
) -> tuple[StageDigest, ...]:
    """Host exactly `stages`: those in `states` with that state, the others as they are, with empty sums; those `anew`,
    and those that are not here, with the parameters that the run starts from.

    `is_start` says that the states are those before the first step: outer rounds begin from them.

    Raises:
        StateError: one of `states` is of another model or damaged. Nothing was loaded then.
    """
    built = {s: await parts.build(s) for s in stages if s not in parts.replicas or s in anew}
    outer, rounds = parts.outer, dict[int, Read]()
    for stage, state in states.items():
        replica = built[stage] if stage in built else parts.replicas[stage]
        _check_size(replica, state)
        if outer is not None:
            rounds[stage] = outer.read(replica, state.rounds)
    # Nothing is refused from here on.
    gone = [known for known in parts.replicas if known not in stages]
    parts.replicas.update(built)
    for stage in gone:
        del parts.replicas[stage]
    if outer is not None:
        outer.forget(gone)
        for stage in built.keys() - rounds.keys():
            outer.begin(built[stage])
        for stage, read in rounds.items():
            outer.load(stage, read)
    digests = []
    for stage in stages:
        replica = parts.replicas[stage]
        loading = states.get(stage)
        flats = [torch.from_numpy(array) for _, array in loading.sections()] if loading else None
        task = Task(Kind.STATE, stage, name="load")
        await parts.lane.submit(task, lambda r=replica, f=flats: _begin(r, f))  # type: ignore[misc]
        if outer is not None and is_start and loading is not None:
            outer.begin(replica)
        digests.append(StageDigest(stage, replica.digest()))
    return tuple(digests)


def _check_begins_from_seed(parts: Parts) -> None:
    """A run that continues a model has another beginning than its seed's, which the coordinator serves."""
    if parts.config.model.initial_sha256:
        raise StateError(
            "this run cannot begin again from its seed",
            "it continues an imported model, and nobody knows the coordinator's copy of it",
            "the restore is tried again; see whether the coordinator runs",
        )


def _begin(replica: Replica, flats: list[torch.Tensor] | None) -> None:
    """Empty sums, and another state if one is given."""
    replica.load(replica.current.flats if flats is None else flats)


def _is_live_here(parts: Parts, source: Source) -> bool:
    """Whether this peer holds right now what the source would give."""
    at = source.states[0]
    here = (parts.member.step, parts.member.base)
    return (
        source.tier != NEIGHBOURS and source.stage in parts.replicas and here == (at.step, at.base)
    )


async def _state_of(
    parts: Parts, source: Source, message: Restore, last: Commit | None
) -> StageTransfer:
    if source.tier == NEIGHBOURS:
        return await _average(parts, source, message, last)
    at = source.states[0]
    return await _state_at(parts, at, source, message)


async def _state_at(parts: Parts, at: StageAt, source: Source, message: Restore) -> StageTransfer:
    """The state `at` names: from this peer's own snapshots, or from those that keep it."""
    own = parts.snapshots.get(at.stage, at.step)
    if own is not None and own.at == at:
        return StageTransfer(copy_of(own.state), at.step, at.base, 0)
    if source.tier == CHECKPOINT:
        found = await _from_coordinator(parts, at.stage, at.step)
    else:
        found = await fetch_from(parts, source.peers, at.stage, at.step)
    # A donor that has restored already calls the same state by the new base.
    if found.base not in (at.base, message.base):
        raise StateError(
            f"the state of stage {at.stage} at step {at.step} is not the one that was asked for",
            "its base digest differs",
            "the restore is tried again",
        )
    return found


async def load_checkpoint(parts: Parts, start: CheckpointAt) -> None:
    """Every hosted stage from the coordinator's checkpoint, for a run that is resumed. Raises StateError."""
    start_seconds = now_seconds()
    stages = parts.member.stages
    found = {stage: await _from_coordinator(parts, stage, start.step) for stage in stages}
    if any(transfer.base != start.base for transfer in found.values()):
        raise StateError(
            f"the coordinator's checkpoint of step {start.step} is not the one it announced",
            "its base digest differs",
            "start the coordinator again",
        )
    states = {stage: transfer.state for stage, transfer in found.items()}
    await load(parts, stages, states, is_start=start.step == 0)
    outer = parts.outer
    if outer is not None:
        task = Task(Kind.STATE, stages[0], name="go on")
        await parts.lane.submit(task, lambda: outer.go_on(start.step))
    for transfer in found.values():
        _recovered(parts, transfer, CHECKPOINT, start_seconds)


async def _from_coordinator(parts: Parts, stage: int, step: int) -> StageTransfer:
    """A stage of the coordinator's checkpoint; the link to it may still be on its way."""
    deadline_seconds = now_seconds() + 2 * parts.config.links.connect_seconds
    while (link := parts.coordinator()) is None:
        if now_seconds() > deadline_seconds:
            raise StateError(
                f"the checkpoint of step {step} cannot be fetched",
                "this peer has no link to the coordinator",
                "see whether the coordinator runs and can be reached",
            )
        await asyncio.sleep(_LINK_PAUSE_SECONDS)
    return await fetch_stage([link], stage, step, pace_of(parts.config.links))


async def _average(
    parts: Parts, source: Source, message: Restore, last: Commit | None
) -> StageTransfer:
    """The lost stage from its neighbours, weighed by their pre-clip squared gradient norms (CheckFree)."""
    decided = last.stages if last is not None else ()
    weights = {entry.stage: gradient_weight(entry) for entry in decided}
    found = await asyncio.gather(*(_state_at(parts, at, source, message) for at in source.states))
    weighed = [(transfer.state, weights.get(transfer.state.stage, 1.0)) for transfer in found]
    state = neighbour_state(source.stage, weighed)
    received_bytes = sum(transfer.bytes_received for transfer in found)
    return StageTransfer(state, message.step, message.base, received_bytes)


async def fetch_from(
    parts: Parts,
    peers: Sequence[PeerId],
    stage: int,
    step: int,
    base: Digest | None = None,
    pace: Pace | None = None,
) -> StageTransfer:
    """`stage` at `step`, on `base` if that is known, from those of `peers` that can be reached, as fast as it comes
    unless `pace` says else.

    They are dialled all at once: who stood still has lost every link, and a step may wait for this.
    """
    others = [peer for peer in peers if peer != parts.me]
    reached = await asyncio.gather(*map(parts.links.to, others), return_exceptions=True)
    links: list[Link] = []
    for link in reached:
        if isinstance(link, BaseException):
            if not isinstance(link, LinkError):
                raise link
        else:
            links.append(link)
    pace = pace or pace_of(parts.config.links)
    return await fetch_stage(links, stage, step, pace, base, unpack)


def _check_size(replica: Replica, state: StageState) -> None:
    for _, array in state.sections():
        if array.size != replica.elements:
            raise StateError(
                f"the state of stage {replica.stage} has another size than this model's",
                f"{array.size} elements for {replica.elements}",
                "the donor runs another model",
            )


def _recovered(parts: Parts, found: StageTransfer, tier: str, start_seconds: float) -> None:
    parts.record(
        Recovered(
            peer=parts.me,
            stage=found.state.stage,
            step=found.step,
            tier=tier,
            bytes_received=found.bytes_received,
            seconds=now_seconds() - start_seconds,
        )
    )


def now_seconds() -> float:
    return asyncio.get_running_loop().time()
