"""What every Directory must do, run against hivemind's DHT (real time, loopback) and its in-memory twin (virtual)."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import pytest

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.errors import DirectoryError, WireError
from swarmtrain.core.events import BadMessage, Event
from swarmtrain.swarm import records
from swarmtrain.swarm.daemon import DhtOptions, start_node, stop_node
from swarmtrain.swarm.dht import DhtDirectory, key_of
from swarmtrain.swarm.directory import Directory, Entry
from swarmtrain.swarm.identity import Identity
from swarmtrain.swarm.memory_directory import MemoryDirectoryHub
from swarmtrain.swarm.records import MAX_LIFE_SECONDS, PeerRecord, seal

RUN, OTHER_RUN = "ab" * 32, "cd" * 32
LIFE_SECONDS = 60.0
DEADLINE_SECONDS = 15.0


def identity(name: str) -> Identity:
    return Identity.from_seed(name.encode().ljust(32))


def record_of(name: str, run: str = RUN) -> PeerRecord:
    return PeerRecord(
        run=run,
        peer=identity(name).peer_id,
        name=name,
        address="127.0.0.1:4000",
        stages=(1,),
        state="serving",
        pinned=False,
        capacity_stages=2,
        seconds_per_stage=0.5,
        edge_capable=True,
        version="0.1.0",
        sequence=0,
        expires=0.0,
    )


@dataclass
class World:
    """Opens directories of one kind that know each other, and closes them at the end."""

    stack: AsyncExitStack
    events: dict[str, list[Event]] = field(default_factory=dict)

    async def join(self, name: str, run: str = RUN) -> Directory:
        self.events[name] = []
        directory = await self.open(name, run)
        self.stack.push_async_callback(directory.close)
        return directory

    def bad(self, name: str) -> list[BadMessage]:
        return [event for event in self.events[name] if isinstance(event, BadMessage)]

    async def open(self, name: str, run: str) -> Directory:
        raise NotImplementedError

    async def inject(self, entry: Entry) -> None:
        """Store raw bytes the way a hostile member would."""
        raise NotImplementedError


@dataclass
class MemoryWorld(World):
    hub: MemoryDirectoryHub = field(default_factory=lambda: MemoryDirectoryHub(0.01))

    async def open(self, name: str, run: str) -> Directory:
        return self.hub.directory(run, identity(name), self.events[name].append)

    async def inject(self, entry: Entry) -> None:
        self.hub.put(RUN, entry, asyncio.get_running_loop().time())


@dataclass
class DhtWorld(World):
    bootstrap: tuple[str, ...] = ()
    hostile: Any = None

    async def open(self, name: str, run: str) -> Directory:
        options = DhtOptions(bootstrap=self.bootstrap, start_seconds=DEADLINE_SECONDS)
        directory = await DhtDirectory.open(run, identity(name), self.events[name].append, options)
        self.bootstrap = self.bootstrap or directory.bootstrap
        return directory

    async def inject(self, entry: Entry) -> None:
        if self.hostile is None:
            # A member that checks nothing, so it also serves what it stored to all who ask.
            self.hostile = await start_node(DhtOptions(bootstrap=self.bootstrap), None)
            self.stack.push_async_callback(stop_node, self.hostile)
        key = key_of(RUN)
        await self.hostile.store(key, entry.sealed, entry.expires, subkey=entry.peer)


Scenario = Callable[[World], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=["memory", "dht"])
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a scenario in a fresh world of each kind."""
    runners: dict[str, tuple[type[World], Callable[[Coroutine[Any, Any, None]], None]]] = {
        "memory": (MemoryWorld, run_virtual),
        "dht": (DhtWorld, asyncio.run),
    }
    world_class, run = runners[request.param]

    async def scene(scenario: Scenario) -> None:
        async with AsyncExitStack() as stack:
            await scenario(world_class(stack))

    return lambda scenario: run(scene(scenario))


async def until(directory: Directory, names: set[str]) -> tuple[PeerRecord, ...]:
    """Read until exactly `names` are there."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            found = await directory.records()
            if {record.name for record in found} == names:
                return found
            await asyncio.sleep(0.05)


def test_what_one_publishes_the_others_see(play: Play) -> None:
    async def scenario(world: World) -> None:
        members = [await world.join(name) for name in ("ann", "bob", "cid")]
        for name, member in zip(("ann", "bob", "cid"), members, strict=True):
            await member.publish(record_of(name), LIFE_SECONDS)
        for member in members:
            found = await until(member, {"ann", "bob", "cid"})
            assert [r.peer for r in found] == sorted(r.peer for r in found)
            for record in found:
                assert record == replace(
                    record_of(record.name), sequence=record.sequence, expires=record.expires
                )
                assert 0 < record.expires - member.now() <= LIFE_SECONDS
        assert not any(world.events.values())

    play(scenario)


def test_a_late_joiner_sees_all(play: Play) -> None:
    async def scenario(world: World) -> None:
        for name in ("ann", "bob"):
            await (await world.join(name)).publish(record_of(name), LIFE_SECONDS)
        await until(await world.join("late"), {"ann", "bob"})

    play(scenario)


def test_the_newest_record_wins(play: Play) -> None:
    async def scenario(world: World) -> None:
        ann, bob = await world.join("ann"), await world.join("bob")
        await ann.publish(record_of("ann"), LIFE_SECONDS)
        (first,) = await until(bob, {"ann"})
        # A shorter life must not let the older record win.
        await ann.publish(replace(record_of("ann"), stages=(1, 2), state="draining"), 5.0)
        (second,) = await bob.records()
        assert second.stages == (1, 2) and second.state == "draining"
        assert second.sequence > first.sequence and second.expires > first.expires
        await world.inject(Entry(first.peer, seal(first, identity("ann")), first.expires))
        assert await bob.records() == (second,)
        assert await (await world.join("late")).records() == (second,)
        assert not world.bad("bob")

    play(scenario)


def test_records_expire(play: Play) -> None:
    async def scenario(world: World) -> None:
        ann, bob = await world.join("ann"), await world.join("bob")
        await bob.publish(record_of("bob"), LIFE_SECONDS)
        await ann.publish(record_of("ann"), 1.5)
        (expires,) = (r.expires for r in await until(bob, {"ann", "bob"}) if r.name == "ann")
        await until(bob, {"bob"})
        assert bob.now() >= expires
        assert not world.bad("bob")

    play(scenario)


def test_bad_entries_are_ignored_and_reported_once(play: Play) -> None:
    async def scenario(world: World) -> None:
        ann, bob = await world.join("ann"), await world.join("bob")
        await ann.publish(record_of("ann"), LIFE_SECONDS)
        (true_record,) = await until(bob, {"ann"})
        bad = _bad_entries(true_record, bob.now())
        for entry in bad:
            await world.inject(entry)
        for _ in range(3):
            assert await bob.records() == (true_record,)
        reasons = [event.reason for event in world.bad("bob")]
        assert len(reasons) == len(bad), reasons
        assert len(set(reasons)) == len(bad)
        assert {event.peer for event in world.bad("bob")} == {e.peer for e in bad}
        # Somebody new knows nothing but what the storing nodes kept.
        assert await until(await world.join("late"), {"ann"}) == (true_record,)

    play(scenario)


def _bad_entries(victim: PeerRecord, now: float) -> list[Entry]:
    """One entry of each kind of lie; the first tries to push the victim's own record aside."""
    later = now + LIFE_SECONDS * 2
    ids = [identity(f"liar {index}") for index in range(6)]
    own = [replace(record_of("liar"), peer=i.peer_id, expires=later) for i in ids]
    payload = seal(own[0], ids[0])[96:].replace(ids[0].peer_id.encode(), victim.peer.encode())
    forged = ids[0].public_key + ids[0].sign(records._PURPOSE + payload) + payload
    replayed = seal(replace(own[1], expires=now / 2), ids[1])
    too_long = replace(own[5], expires=now + MAX_LIFE_SECONDS * 3)
    return [
        Entry(victim.peer, forged, later),
        Entry(ids[1].peer_id, replayed, later),
        Entry(ids[2].peer_id, seal(own[2], ids[2])[96:], later),
        Entry(ids[3].peer_id, b"x" * 5000, later),
        Entry(ids[4].peer_id, seal(own[0], ids[0]), later),
        Entry(ids[5].peer_id, seal(too_long, ids[5]), too_long.expires),
    ]


def test_two_runs_do_not_mix(play: Play) -> None:
    async def scenario(world: World) -> None:
        ann, bob = await world.join("ann"), await world.join("bob", OTHER_RUN)
        await ann.publish(record_of("ann"), LIFE_SECONDS)
        await bob.publish(record_of("bob", OTHER_RUN), LIFE_SECONDS)
        await until(ann, {"ann"})
        await until(bob, {"bob"})
        foreign = replace(record_of("eve", OTHER_RUN), expires=ann.now() + LIFE_SECONDS)
        await world.inject(Entry(foreign.peer, seal(foreign, identity("eve")), foreign.expires))
        await until(ann, {"ann"})
        assert len(world.bad("ann")) == 1

    play(scenario)


def test_a_withdrawn_peer_is_gone_and_can_come_back(play: Play) -> None:
    async def scenario(world: World) -> None:
        ann, bob = await world.join("ann"), await world.join("bob")
        await ann.withdraw()
        await ann.publish(record_of("ann"), LIFE_SECONDS)
        await until(bob, {"ann"})
        await ann.withdraw()
        await until(bob, set())
        await until(await world.join("late"), set())
        await ann.publish(record_of("ann"), LIFE_SECONDS)
        await until(bob, {"ann"})

    play(scenario)


def test_what_was_published_outlives_its_directory(play: Play) -> None:
    async def scenario(world: World) -> None:
        ann, bob = await world.join("ann"), await world.join("bob")
        await bob.publish(record_of("bob"), LIFE_SECONDS)
        await until(ann, {"bob"})
        await bob.close()
        await until(ann, {"bob"})

    play(scenario)


def test_a_record_no_reader_would_accept_is_refused_at_once(play: Play) -> None:
    async def scenario(world: World) -> None:
        ann = await world.join("ann")
        for record, life_seconds in (
            (replace(record_of("ann"), name="<b>"), LIFE_SECONDS),
            (record_of("ann", OTHER_RUN), LIFE_SECONDS),
            (record_of("bob"), LIFE_SECONDS),
            (record_of("ann"), MAX_LIFE_SECONDS * 2),
        ):
            with pytest.raises(WireError):
                await ann.publish(record, life_seconds)
        assert await ann.records() == ()

    play(scenario)


def test_a_closed_directory_says_so_and_leaves_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        children = psutil.Process().children(recursive=True)
        ann = await world.join("ann")
        await ann.publish(record_of("ann"), LIFE_SECONDS)
        await ann.close()
        await ann.close()
        for call in (ann.records(), ann.publish(record_of("ann"), LIFE_SECONDS), ann.withdraw()):
            with pytest.raises(DirectoryError, match="closed"):
                await call
        assert psutil.Process().children(recursive=True) == children
        assert asyncio.all_tasks() == {asyncio.current_task()}

    play(scenario)
