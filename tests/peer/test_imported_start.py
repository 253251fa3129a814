"""A run that continues an imported model: peers fetch it from the coordinator, and nothing begins from the seed."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from swarmtrain.checkpoint.initial import InitialModel
from swarmtrain.checkpoint.store import island_folder, load_stage, save
from swarmtrain.compute.lane import ThreadLane
from swarmtrain.compute.replica import Replica
from swarmtrain.compute.stage import build_compute
from swarmtrain.coordinator.service import Coordinator, RunFolder
from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.errors import ModelError, StateError
from swarmtrain.core.events import Event
from swarmtrain.core.messages import CheckpointAt, Restore, Source, StageAt
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.core.version import VERSION
from swarmtrain.experiments.imported import settings_of
from swarmtrain.experiments.machines import MachineLoop
from swarmtrain.experiments.virtual import Scenario, Stage, peers, play
from swarmtrain.peer import restore
from swarmtrain.peer.stage_rounds import OuterStates
from swarmtrain.recovery.dealing import pace_of
from swarmtrain.recovery.snapshots import Snapshots
from swarmtrain.recovery.transfer import fetch_stage
from swarmtrain.swarm.identity import Identity
from swarmtrain.transport.link import PROTOCOL, Hello, LinkLimits, Message
from swarmtrain.transport.memory import MemoryNetwork
from swarmtrain.transport.requests import Description, IslandStart
from tests.checkpoint.llamas import write_llama
from tests.experiments.runs import corpus, small_config
from tests.transport.worlds import Watcher

ME = PeerId("anna")
START = CheckpointAt(7, b"s" * 32)


class Guest(Watcher):
    """A peer of the run."""

    config: RunConfig
    island: int

    def hello(self) -> Hello:
        run = bytes.fromhex(self.config.hash)
        return Hello(PROTOCOL, VERSION, run, ME, "", "", "", "peer", self.island)


class Nowhere:
    bootstrap = ("/ip4/127.0.0.1/tcp/1/p2p/x",)

    async def close(self) -> None:
        """Nothing is open."""


NOWHERE: Any = Nowhere()


def save_doubled(folder: Path, config: RunConfig, at: CheckpointAt) -> Path:
    initial = InitialModel(config.model)
    states = [initial.stage(stage) for stage in range(config.model.stages + 1)]
    doubled = [replace(state, parameters=2 * state.parameters) for state in states]
    text = config.to_json()
    return save(folder, step=at.step, base=at.base, config_json=text, states=doubled)


def save_more(coordinator: Coordinator, island: int) -> None:
    """The island trains on for more checkpoints than are kept."""
    checkpoints, config = coordinator._islands.of(island), coordinator.config
    for step in range(10, 60, 10):
        at = CheckpointAt(step, bytes([step]) * 32)
        path = save_doubled(checkpoints.folder, config, at)
        checkpoints._add(at, partial(load_stage, path))
    coordinator.state = replace(coordinator.state, islands={island: 50})


def config_of(folder: Path) -> RunConfig:
    rounds = ["outer.inner_steps=5", "outer.fragments=2"]
    return load_config((), [*settings_of(write_llama(folder / "llama")), *rounds])


def with_parts(
    folder: Path,
    act: Callable[[Any, CheckpointAt], Awaitable[None]],
    island: int = 0,
    resumed: CheckpointAt | None = None,
    begun: Callable[[Coordinator, int], None] = lambda *_: None,
) -> list[Event]:
    """`act` with the parts of a peer that hosts stages 1 and 2 and has a link to the coordinator; its events.

    The first island's checkpoint of a `resumed` run holds the imported values doubled. `begun(coordinator, island)` is
    called before the peer asks where it starts.
    """
    torch.set_num_threads(1)
    config, events = config_of(folder), list[Event]()
    if resumed is not None:
        save_doubled(folder / "checkpoint", config, resumed)

    async def main() -> None:
        network = MemoryNetwork(0.001, 1e9, LinkLimits())
        coordinator = Coordinator(
            config,
            Identity.from_seed(bytes(32)),
            network.transport("coordinator"),
            RunFolder(folder),
            lambda *_: None,
        )
        lane, guest = ThreadLane(), Guest("anna")
        guest.config, guest.island = config, island
        try:
            if resumed is not None:
                coordinator.resume()
            await coordinator.start("coordinator:0", "")
            coordinator.open_run(NOWHERE, "")
            begun(coordinator, island)
            transport = network.transport("guest")
            link = await transport.dial(coordinator.address, guest.hello(), guest, 5.0)
            replicas = {s: Replica(config, s, build_compute(config, 257, s)) for s in (1, 2)}
            outer = OuterStates(config, island)
            for replica in replicas.values():
                outer.begin(replica)
            member = SimpleNamespace(stages=(1, 2), step=3, base=b"")
            parts = SimpleNamespace(
                me=ME, config=config, replicas=replicas, outer=outer, lane=lane, member=member,
                record=events.append, coordinator=lambda: link, snapshots=Snapshots(),
            )  # fmt: skip
            reply = await link.call("describe", Message(b""), silence_seconds=5.0)
            told = Description.decode(reply.meta)
            start = {entry.island: entry.at for entry in told.starts}.get(island, told.start)
            assert start is not None
            await act(parts, start)
        finally:
            await lane.close()
            await coordinator.close()

    asyncio.run(main())
    return events


def assert_as_imported(parts: Any) -> None:
    initial = InitialModel(parts.config.model)
    for stage, replica in parts.replicas.items():
        expected = initial.stage(stage).parameters
        assert replica.current.parameters.numpy().tobytes() == expected.tobytes()
        kept = [entry.state.parameters for entry in parts.outer.stages[stage].members]
        assert torch.cat(kept).numpy().tobytes() == expected.tobytes(), "rounds start from it too"
    assert not parts.outer.stranded


@pytest.mark.parametrize("island", [0, 1, 7])
def test_a_founder_starts_from_the_coordinators_model(tmp_path: Path, island: int) -> None:
    async def act(parts: Any, start: CheckpointAt) -> None:
        assert start.step == 0
        await restore.load_checkpoint(parts, start)
        assert_as_imported(parts)

    events = with_parts(tmp_path, act, island)
    assert [event.tier for event in events] == ["checkpoint"] * 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("island", [1, 7])
def test_an_island_that_comes_late_into_a_resumed_run_starts_from_the_model_too(
    tmp_path: Path, island: int
) -> None:
    async def act(parts: Any, start: CheckpointAt) -> None:
        assert start.step == 0
        await restore.load_checkpoint(parts, start)
        assert_as_imported(parts)

    with_parts(tmp_path, act, island, START)


@pytest.mark.parametrize("island", [0, 1])
@pytest.mark.parametrize("resumed", [None, START])
def test_an_island_that_died_long_after_the_start_is_begun_anew_from_the_model(
    tmp_path: Path, island: int, resumed: CheckpointAt | None
) -> None:
    async def act(parts: Any, start: CheckpointAt) -> None:
        assert start.step == 0
        await restore.load_checkpoint(parts, start)
        assert_as_imported(parts)
        kept = await fetch_stage([parts.coordinator()], 1, 50, pace_of(parts.config.links))
        assert kept.base == bytes([50]) * 32, "what it saved is served as before"

    if resumed is not None:
        save_doubled(island_folder(tmp_path / "checkpoint", 1), config_of(tmp_path), resumed)
    with_parts(tmp_path, act, island, resumed, save_more)


def test_an_island_that_was_saved_goes_on_where_it_was(tmp_path: Path) -> None:
    async def act(parts: Any, start: CheckpointAt) -> None:
        assert start == START
        await restore.load_checkpoint(parts, start)
        initial = InitialModel(parts.config.model)
        for stage, replica in parts.replicas.items():
            expected = 2 * initial.stage(stage).parameters
            assert replica.current.parameters.numpy().tobytes() == expected.tobytes()

    with_parts(tmp_path, act, 0, START)


def test_a_run_goes_on_without_its_model_and_says_what_that_costs(tmp_path: Path) -> None:
    async def act(parts: Any, start: CheckpointAt) -> None:
        assert start == START, "known by its own checkpoint"

    def gone(self: InitialModel) -> None:
        raise ModelError("no weights", "they were moved away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InitialModel, "check", gone)
        with_parts(tmp_path, act, 0, START)
        with pytest.raises(ModelError, match="no weights"):
            with_parts(tmp_path / "new", act)
    assert "no weights: they were moved away; an island" in (tmp_path / "journal.jsonl").read_text()


def restore_to(tier: str, start: CheckpointAt) -> Restore:
    roster = Roster.of(1, [Member(ME, (1, 2), "a:1")])
    at = [StageAt(stage, 0, start.base) for stage in (1, 2)]
    sources = tuple(Source(state.stage, tier, (state,), ()) for state in at)
    return Restore(2, 1, 0, b"r" * 32, roster, sources)


def test_a_run_that_begins_again_begins_with_the_imported_model(tmp_path: Path) -> None:
    async def act(parts: Any, start: CheckpointAt) -> None:
        await restore.restore(parts, restore_to("checkpoint", start), None)
        assert_as_imported(parts)

    with_parts(tmp_path, act)


def test_it_never_begins_from_its_seed(tmp_path: Path) -> None:
    async def act(parts: Any, start: CheckpointAt) -> None:
        with pytest.raises(StateError, match="cannot begin again from its seed"):
            await restore.restore(parts, restore_to("initial", start), None)

    with_parts(tmp_path, act)


def test_a_peer_passes_on_where_the_run_starts() -> None:
    scenes: list[Stage] = []

    async def main() -> None:
        await play(small_config(steps=2), Scenario(peers(1)), corpus(), scenes.append)  # type: ignore[arg-type]

    with asyncio.Runner(loop_factory=MachineLoop) as runner:
        runner.run(main())
    (session,) = scenes[0].sessions.values()
    starts, imported = (IslandStart(0, START),), replace(START, step=0)
    session.options = replace(session.options, start=imported, starts=starts)
    assert session._describe().starts == starts, "two steps were committed, START is later"
    session.options = replace(session.options, starts=(IslandStart(0, imported),))
    assert session._describe().starts == ()
    assert session._describe().start == imported, "islands that come late begin with it"
    session.runtime = None
    assert session._describe().starts == session.options.starts
