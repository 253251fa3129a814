"""Several islands that all died go on from checkpoints of one step, each its own: the bits of the run without that."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.core.config import RunConfig
from swarmtrain.core.messages import CheckpointAt
from swarmtrain.experiments.virtual import Stage, VirtualPeer, VirtualRun
from swarmtrain.recovery.serving import layout_answer, state_piece
from swarmtrain.recovery.snapshots import copy_of
from swarmtrain.transport.link import Message
from swarmtrain.transport.requests import IslandStart, StateRequest
from tests.experiments.island_worlds import (
    choices,
    config_of,
    is_agreed,
    islands_of,
    last_digests,
    outer_digests,
    plain_islands,
    run_islands,
)
from tests.peer.test_imported_start import Guest

ISLANDS, STAGES = 2, (0, 1, 2)
EXACT = ("outer.codec=none",)
OTHER_PLACES = ((0, 1), (2,), (1, 2))


@dataclass(eq=False)
class Kept:
    """The state of one island at the step it goes on from; answers as its coordinator's link would."""

    step: int
    base: bytes = b""
    states: dict[int, StageState] = field(default_factory=dict)

    @property
    def remote(self) -> Any:
        return Guest("coordinator").hello

    async def call(self, method: str, request: Message, *, silence_seconds: float) -> Message:
        asked = StateRequest.decode(request.meta)
        state = self.states[asked.stage]
        return layout_answer(state) if method == "layout" else state_piece(state, self.base, asked)


def run_and_keep(config: RunConfig, step: int) -> tuple[VirtualRun, dict[int, Kept]]:
    """The run without interruption, and what its islands' peers held before `step`."""
    kept = {island: Kept(step) for island in range(ISLANDS)}

    def act(stage: Stage) -> "asyncio.Future[None]":
        async def watch() -> None:
            while any(len(entry.states) < len(STAGES) for entry in kept.values()):
                await asyncio.sleep(0.02)
                for session in stage.sessions.values():
                    if session.runtime is None:
                        continue
                    entry = kept[session.island or 0]
                    for number in session.runtime.replicas:
                        found = session.runtime.snapshots.get(number, step)
                        if found is not None and number not in entry.states:
                            entry.states[number] = copy_of(found.state)
                            entry.base = found.at.base

        return asyncio.ensure_future(watch())

    run = run_islands(config, islands_of(ISLANDS), act)
    assert all(len(entry.states) == len(STAGES) for entry in kept.values())
    return run, kept


def resume(config: RunConfig, kept: dict[int, Kept]) -> VirtualRun:
    """The same run by new processes, in other numbers and places, from what was kept."""
    starts = tuple(IslandStart(i, CheckpointAt(one.step, one.base)) for i, one in kept.items())
    peers = [
        VirtualPeer(f"again-{island}-{number}", stages, island=island)
        for island in kept
        for number, stages in enumerate(OTHER_PLACES)
    ]

    def act(stage: Stage) -> None:
        for session in stage.sessions.values():
            session.options = replace(session.options, starts=starts)
            session.coordinator = lambda s=session: kept[s.island or 0]  # type: ignore[misc,assignment,return-value]

    return run_islands(config, peers, act)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("step", "overrides"),
    [
        (10, EXACT),
        (12, ("outer.codec=int4", "outer.fragments=2", "outer.delay_steps=3")),
        # Between two rounds' choices of codec, with contributions under way that were measured for the next.
        (
            12,
            (
                "outer.codec=auto",
                "outer.distortion=0.2",
                "outer.fragments=2",
                "outer.delay_steps=3",
            ),
        ),
        pytest.param(
            14,
            (
                "outer.codec=ternary",
                "outer.staggered=true",
                "outer.inner_steps=9",
                "outer.delay_steps=5",
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_islands_go_on_bit_for_bit_on_other_peers(step: int, overrides: tuple[str, ...]) -> None:
    config = config_of(*overrides, f"recovery.snapshot_steps={step}")
    calm, kept = run_and_keep(config, step)
    again = resume(config, kept)
    done = [outcome.finished for outcome in again.outcomes.values()]
    assert not again.stalled and not again.errors and all(done) and len(done) == 6
    assert last_digests(again) == last_digests(calm) == digests_of_plain_loop(config)
    assert is_agreed(again)
    calm_outer, outer = outer_digests(calm), outer_digests(again)
    assert outer and all(found == calm_outer[place] for place, found in outer.items())
    assert all(len(islands) == ISLANDS for found in choices(again).values() for islands, _ in found)


def digests_of_plain_loop(config: RunConfig) -> set[str]:
    loop = plain_islands(config, ISLANDS)
    return {island.parameters_sha256() for island in loop.active.values()}
