"""What only the twin has: modelled latency in loop time, and many peers at no cost in real time."""

import asyncio
from dataclasses import replace

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.events import Event
from swarmtrain.swarm.identity import Identity
from swarmtrain.swarm.memory_directory import MemoryDirectoryHub
from swarmtrain.swarm.records import PeerRecord

RUN = "ab" * 32
TEMPLATE = PeerRecord(
    run=RUN,
    peer=Identity.from_seed(b"0" * 32).peer_id,
    name="name",
    address="",
    stages=(),
    state="serving",
    pinned=False,
    capacity_stages=1,
    seconds_per_stage=1.0,
    edge_capable=True,
    version="1",
    sequence=0,
    expires=0.0,
)


def test_every_call_takes_the_latency() -> None:
    async def scenario() -> None:
        hub = MemoryDirectoryHub(latency_seconds=0.25)
        directory = hub.directory(RUN, Identity.from_seed(b"0" * 32), lambda _: None)
        await directory.publish(TEMPLATE, 30.0)
        assert directory.now() == 0.25
        assert len(await directory.records()) == 1
        assert directory.now() == 0.5

    run_virtual(scenario())


def test_a_hundred_peers_give_the_same_story_twice() -> None:
    async def scenario() -> list[tuple[float, tuple[PeerRecord, ...]]]:
        hub = MemoryDirectoryHub(latency_seconds=0.01)
        events: list[Event] = []
        story: list[tuple[float, tuple[PeerRecord, ...]]] = []

        async def peer(index: int) -> None:
            identity = Identity.from_seed(b"%032d" % index)
            directory = hub.directory(RUN, identity, events.append)
            record = replace(TEMPLATE, peer=identity.peer_id, name=f"peer {index}")
            await asyncio.sleep(index / 100)
            await directory.publish(record, 30.0)
            story.append((directory.now(), await directory.records()))

        async with asyncio.TaskGroup() as group:
            for index in range(100):
                group.create_task(peer(index))
        assert not events
        assert len(story[-1][1]) == 100
        return story

    assert run_virtual(scenario()) == run_virtual(scenario())


def test_readers_share_what_is_there_until_something_changes() -> None:
    """A list for each of ten thousand readers would be a hundred million entries."""

    async def scenario() -> None:
        hub = MemoryDirectoryHub()
        people = [Identity.from_seed(b"%032d" % index) for index in range(3)]
        doors = [hub.directory(RUN, who, lambda _: None) for who in people]
        for who, door in zip(people, doors, strict=True):
            await door.publish(replace(TEMPLATE, peer=who.peer_id), 30.0)
        first, second = await doors[0].records(), await doors[1].records()
        assert first is second and len(first) == 3
        await doors[2].publish(replace(TEMPLATE, peer=people[2].peer_id, stages=(1,)), 30.0)
        third = await doors[0].records()
        assert [r.stages for r in third if r.peer == people[2].peer_id] == [(1,)]
        assert [r for r in first if r.peer != people[2].peer_id] == [
            r for r in third if r.peer != people[2].peer_id
        ]
        await doors[0].withdraw()
        assert people[0].peer_id not in [r.peer for r in await doors[1].records()]
        await asyncio.sleep(31.0)
        assert await doors[1].records() == ()
        assert hub.look(RUN, asyncio.get_running_loop().time()).sealed_bytes == 0

    run_virtual(scenario())
