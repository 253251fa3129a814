"""A peer changes stages between two steps: no gap, no replay, the same parameters (issue: rebalancing)."""

import asyncio

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.events import MembershipChanged, Moved, Noted, Recovered, Replayed
from swarmtrain.core.types import PeerId
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualPeer, VirtualRun, play
from tests.experiments.runs import corpus, events_of, known_reference, sha_of, small_config

FLEET = (
    VirtualPeer("edge", (0,)),
    VirtualPeer("one-a", (1,)),
    VirtualPeer("one-b", (1,)),
    VirtualPeer("two", (2,)),
)
CONFIG = small_config("train.microbatches=2", steps=8)


def moving(name: str, stages: tuple[int, ...]) -> VirtualRun:
    """A run in which the conductor asks a machine to host other stages after three virtual seconds."""

    def script(stage: Stage) -> "asyncio.Task[None]":
        async def act() -> None:
            await asyncio.sleep(3.0)
            conductor = stage.sessions["edge"].runtime
            assert conductor is not None
            conductor.island.move(PeerId(stage.names[name]), stages, "a test says so")

        return asyncio.create_task(act())

    async def main() -> VirtualRun:
        async with asyncio.timeout(600):
            return await play(CONFIG, Scenario(FLEET), corpus(), script)

    return run_virtual(main())


def test_a_move_costs_no_replay_and_no_bit() -> None:
    run = moving("one-b", (2,))
    [moved] = events_of(run, Moved)
    assert isinstance(moved, Moved) and (moved.from_stages, moved.to_stages) == ((1,), (2,))
    changes = [
        e.reason for e in events_of(run, MembershipChanged) if isinstance(e, MembershipChanged)
    ]
    assert changes == [
        "leaves before step 3: moves to stages 2, which it knows by now",
        "joins step 3 with stages 2, learnt before",
    ]
    [fetched] = events_of(run, Recovered)
    assert isinstance(fetched, Recovered) and (fetched.stage, fetched.tier) == (2, "sibling")
    assert not events_of(run, Replayed)
    assert sha_of(run) == known_reference(CONFIG).parameters_sha256


def test_a_peer_can_take_on_a_stage_and_keep_its_own() -> None:
    run = moving("two", (1, 2))
    [fetched] = events_of(run, Recovered)
    assert isinstance(fetched, Recovered) and fetched.stage == 1, "only what is new is fetched"
    assert sha_of(run) == known_reference(CONFIG).parameters_sha256


def test_the_last_replica_of_a_stage_stays() -> None:
    run = moving("two", (1,))
    notes = [e for e in events_of(run, Noted) if isinstance(e, Noted) and "cannot move" in e.what]
    assert notes and "nobody else hosts stage 2" in notes[0].detail
    assert not events_of(run, Recovered)
    assert sha_of(run) == known_reference(CONFIG).parameters_sha256
