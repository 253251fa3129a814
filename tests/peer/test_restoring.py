"""A peer that loads several stages at once loads all of them or none."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.compute.lane import ThreadLane
from swarmtrain.compute.replica import Replica
from swarmtrain.compute.stage import build_compute
from swarmtrain.core.errors import StateError
from swarmtrain.core.events import Event
from swarmtrain.core.messages import Restore, Source, StageAt
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.peer import restore
from swarmtrain.peer.stage_rounds import OuterStates
from swarmtrain.recovery.snapshots import Snapshots
from tests.experiments.island_worlds import config_of

ME, NOW, OLD = PeerId("anna"), b"n" * 32, b"o" * 32


def with_parts(act: Callable[[Any], Awaitable[None]]) -> None:
    """`act` with the parts of a peer that hosts stages 0 and 1 of an island."""
    torch.set_num_threads(1)
    config, events = config_of(), list[Event]()

    async def main() -> None:
        lane = ThreadLane()

        async def build(stage: int) -> Replica:
            return Replica(config, stage, build_compute(config, 257, stage))

        replicas = {stage: await build(stage) for stage in (0, 1)}
        outer = OuterStates(config, 0)
        for replica in replicas.values():
            outer.begin(replica)
        parts = SimpleNamespace(
            me=ME, config=config, replicas=replicas, outer=outer, lane=lane, build=build, events=events,
            record=events.append, snapshots=Snapshots(), member=SimpleNamespace(step=9, base=NOW),
        )  # fmt: skip
        try:
            await act(parts)
        finally:
            await lane.close()

    asyncio.run(main())


def state_of(parts: Any, stage: int) -> StageState:
    """Another state of `stage`, that fits."""
    replica = parts.replicas.get(stage) or Replica(
        parts.config, stage, build_compute(parts.config, 257, stage)
    )
    if stage not in parts.replicas:
        outer = OuterStates(parts.config, 0)
        outer.begin(replica)
    else:
        outer = parts.outer
    flats = [flat.numpy() + 1.0 for flat in replica.current.flats]
    return StageState(stage, (), *flats, rounds=outer.packed(stage).copy())


def held(parts: Any) -> dict[int, tuple[bytes, bytes]]:
    return {
        stage: (replica.digest(), parts.outer.packed(stage).tobytes())
        for stage, replica in parts.replicas.items()
    }


def too_short(state: StageState) -> StageState:
    return replace(state, parameters=state.parameters[1:])


def damaged(state: StageState) -> StageState:
    assert state.rounds is not None
    return replace(state, rounds=state.rounds[:-1])


@pytest.mark.parametrize("harm", [too_short, damaged])
def test_what_is_refused_of_one_stage_keeps_all_from_being_loaded(
    harm: Callable[[StageState], StageState],
) -> None:
    """Of one that stays, one that is begun anew and one that is new, in either order."""

    async def act(parts: Any) -> None:
        before = held(parts)
        good, bad = state_of(parts, 1), harm(state_of(parts, 2))
        for states in ({1: good, 2: bad}, {2: bad, 1: good}):
            with pytest.raises(StateError):
                await restore.load(parts, (0, 1, 2), states, anew={0})
            assert held(parts) == before and not parts.outer.stranded
        states = {1: good, 2: state_of(parts, 2)}
        digests = await restore.load(parts, (1, 2), states)
        assert sorted(parts.replicas) == [1, 2] == sorted(parts.outer.stages)
        assert digests[0].digest == parts.replicas[1].digest() != before[1][0]

    with_parts(act)


def test_a_restore_whose_second_source_fails_begins_nothing_and_says_nothing() -> None:
    """The first stage would have begun from the seed."""

    async def act(parts: Any) -> None:
        at = {stage: StageAt(stage, 4, OLD) for stage in (0, 1)}
        sources = Source(0, "initial", (at[0],), ()), Source(1, "snapshot", (at[1],), ())
        roster = Roster.of(1, [Member(ME, (0, 1), "a:1")])
        message = Restore(2, 1, 4, b"r" * 32, roster, sources)
        parts.links = SimpleNamespace(to=None)
        with torch.no_grad():
            parts.replicas[0].current.parameters += 1.0
        before = held(parts)
        with pytest.raises(StateError):
            await restore.restore(parts, message, None)
        assert held(parts) == before
        parts.snapshots.put(state_of(parts, 1), 4, OLD)
        await restore.restore(parts, message, None)
        assert held(parts)[0] != before[0] and held(parts)[1] != before[1]
        assert [event.stage for event in parts.events] == [1]

    with_parts(act)
