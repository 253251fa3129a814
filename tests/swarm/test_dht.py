"""What only the DHT has: processes, files, dead and frozen partners, and a library that likes to leave traces."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from swarmtrain.core.errors import ConfigError, DirectoryError
from swarmtrain.core.events import BadMessage, Event
from swarmtrain.swarm import daemon
from swarmtrain.swarm.daemon import DhtOptions, start_node, stop_node
from swarmtrain.swarm.dht import DhtDirectory, key_of
from swarmtrain.swarm.identity import Identity
from swarmtrain.swarm.records import MAX_LIFE_SECONDS, PeerRecord, seal

RUN = "ab" * 32
DEADLINE_SECONDS = 15.0


@pytest.fixture(autouse=True)
def own_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short one, because the name of a socket has at most 107 bytes; empty again when a test ends."""
    with tempfile.TemporaryDirectory(prefix="st") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []
        assert daemons() == []


def daemons() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.name() == "p2pd"]


async def join(name: str, *bootstrap: str, start_seconds: float = 10.0) -> DhtDirectory:
    options = DhtOptions(bootstrap=bootstrap, start_seconds=start_seconds)
    identity = Identity.from_seed(name.encode().ljust(32))
    return await DhtDirectory.open(RUN, identity, lambda _: None, options)


def record_of(name: str) -> PeerRecord:
    return PeerRecord(
        run=RUN,
        peer=Identity.from_seed(name.encode().ljust(32)).peer_id,
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


async def publish(directory: DhtDirectory, name: str) -> None:
    await directory.publish(record_of(name), 60.0)


async def names(directory: DhtDirectory) -> list[str]:
    return sorted(record.name for record in await directory.records())


def dies(process: psutil.Process) -> bool:
    """Whether `process`, no child of ours, ends soon; where nobody reaps orphans it stays a zombie."""
    for _ in range(50):
        _, alive = psutil.wait_procs([process], timeout=0.1)
        if not alive or alive[0].status() == psutil.STATUS_ZOMBIE:
            return True
    return False


def pid_of(directory: DhtDirectory) -> int:
    return int(directory._node.p2p._child.pid)


def test_the_others_read_on_when_one_daemon_is_killed() -> None:
    async def scenario() -> None:
        first = await join("ann")
        others = [await join(name, *first.bootstrap) for name in ("bob", "cid")]
        for directory, name in zip((first, *others), ("ann", "bob", "cid"), strict=True):
            await publish(directory, name)
        os.kill(pid_of(first), signal.SIGKILL)
        for directory in others:
            assert await names(directory) == ["ann", "bob", "cid"]
        await publish(others[0], "bob")
        late = await join("dan", *others[0].bootstrap)
        assert await names(late) == ["ann", "bob", "cid"]
        async with asyncio.timeout(DEADLINE_SECONDS):
            await first._node.p2p._child.wait()
        with pytest.raises(DirectoryError, match="daemon p2pd ended"):
            await first.records()
        # Closing after the daemon's death must not wait for its answer.
        async with asyncio.timeout(daemon.TERMINATE_SECONDS):
            for directory in (first, *others, late):
                await directory.close()

    asyncio.run(scenario())


def test_a_frozen_daemon_is_closed_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        directory = await join("ann")
        os.kill(pid_of(directory), signal.SIGSTOP)
        monkeypatch.setattr(daemon, "TERMINATE_SECONDS", 0.2)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await directory.close()

    asyncio.run(scenario())


def test_a_dead_bootstrap_is_an_error_with_a_remedy() -> None:
    async def scenario() -> None:
        gone = await join("ann")
        await gone.close()
        with pytest.raises(DirectoryError) as caught:
            await join("bob", *gone.bootstrap)
        assert gone.bootstrap[0] in caught.value.what
        assert "failed to connect to bootstrap peers" in caught.value.why
        assert "another" in caught.value.remedy or "any other" in caught.value.remedy

    asyncio.run(scenario())


def test_a_frozen_bootstrap_is_an_error_within_the_deadline() -> None:
    async def scenario() -> None:
        frozen = await join("ann")
        os.kill(pid_of(frozen), signal.SIGSTOP)
        started = asyncio.get_running_loop().time()
        with pytest.raises(DirectoryError, match=r"no answer in 1 s"):
            await join("bob", *frozen.bootstrap, start_seconds=1.0)
        assert asyncio.get_running_loop().time() - started < 1.0 + daemon.TERMINATE_SECONDS
        assert [child.pid for child in daemons()] == [pid_of(frozen)]
        os.kill(pid_of(frozen), signal.SIGCONT)
        await frozen.close()

    asyncio.run(scenario())


def test_one_dead_bootstrap_among_living_ones_does_no_harm() -> None:
    async def scenario() -> None:
        gone, alive = await join("ann"), await join("bob")
        await gone.close()
        await publish(alive, "bob")
        late = await join("cid", *gone.bootstrap, *alive.bootstrap)
        assert await names(late) == ["bob"]
        await late.close()
        await alive.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("address", ["", "127.0.0.1:4000", "/ip4/127.0.0.1/tcp/1", "/p2p/x", "/x"])
def test_a_wrong_address_is_an_error_with_an_example(address: str) -> None:
    with pytest.raises(DirectoryError, match=r"no address of a directory(.|\n)*/ip4/"):
        asyncio.run(join("ann", address))


def test_a_taken_port_and_a_host_name_are_errors() -> None:
    async def scenario() -> None:
        identity = Identity.from_seed(b"a" * 32)
        first = await join("ann")
        port = int(first.bootstrap[0].split("/")[4])
        with pytest.raises(DirectoryError, match=f"cannot start on 127.0.0.1 port {port}"):
            await DhtDirectory.open(RUN, identity, lambda _: None, DhtOptions(port=port))
        with pytest.raises(ConfigError, match="give an IP address"):
            await DhtDirectory.open(RUN, identity, lambda _: None, DhtOptions(host="localhost"))
        await first.close()

    asyncio.run(scenario())


def test_a_call_ends_at_its_deadline() -> None:
    async def scenario() -> None:
        directory = await join("ann")
        directory._call_seconds = 0.1
        directory._node.get = lambda *_, **__: asyncio.Event().wait()
        with pytest.raises(DirectoryError, match=r"did not answer within 0\.1 seconds"):
            await directory.records()
        await directory.close()

    asyncio.run(scenario())


def test_close_ends_calls_under_way() -> None:
    async def scenario() -> None:
        first = await join("ann")
        second = await join("bob", *first.bootstrap)
        os.kill(pid_of(first), signal.SIGSTOP)
        reading = asyncio.create_task(second.records())
        pending = second._node.p2p._client.control._pending_calls
        async with asyncio.timeout(DEADLINE_SECONDS):
            while all(call.done() for call in pending.values()):  # noqa: ASYNC110
                await asyncio.sleep(0)
        async with asyncio.timeout(daemon.RPC_SECONDS / 2):
            await second.close()
            with pytest.raises(DirectoryError, match="left it"):
                await reading
        os.kill(pid_of(first), signal.SIGCONT)
        await first.close()

    asyncio.run(scenario())


def test_interrupts_from_the_terminal_do_not_reach_the_daemon() -> None:
    async def scenario() -> None:
        directory = await join("ann")
        assert os.getsid(pid_of(directory)) != os.getsid(0)
        await directory.close()

    asyncio.run(scenario())


def test_nothing_is_changed_for_the_rest_of_the_process(
    capfd: pytest.CaptureFixture[str],
) -> None:
    handlers = logging.getLogger().handlers.copy()

    async def scenario() -> None:
        directory = await join("ann")
        await publish(directory, "ann")
        os.kill(pid_of(directory), signal.SIGKILL)
        await directory._node.p2p._child.wait()
        await directory.close()

    asyncio.run(scenario())
    assert logging.getLogger().handlers == handlers
    assert logging.getLevelName(logging.WARNING) == "WARNING"
    assert logging.getLogger("hivemind").handlers == []
    assert "uvloop" not in type(asyncio.get_event_loop_policy()).__module__
    assert capfd.readouterr() == ("", "")


def test_a_killed_peer_takes_its_daemon_along(own_temporary_folder: Path) -> None:
    script = textwrap.dedent("""
        import asyncio
        from swarmtrain.swarm.dht import DhtDirectory, DhtOptions
        from swarmtrain.swarm.identity import Identity

        async def main():
            who = Identity.from_seed(b"a" * 32)
            directory = await DhtDirectory.open("ab" * 32, who, lambda _: None, DhtOptions())
            print(directory._node.p2p._child.pid, flush=True)
            await asyncio.Event().wait()

        asyncio.run(main())
    """)
    environment = {**os.environ, "TMPDIR": str(own_temporary_folder)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment, text=True
    ) as peer:
        assert peer.stdout is not None
        p2pd = psutil.Process(int(peer.stdout.readline()))
        peer.kill()
    assert dies(p2pd), "p2pd outlived its peer"


def test_a_storing_node_keeps_nothing_but_sound_entries_in_their_place() -> None:
    async def scenario() -> None:
        events: list[Event] = []
        ann = Identity.from_seed(b"a" * 32)
        directory = await DhtDirectory.open(RUN, ann, events.append, DhtOptions())
        hostile = await start_node(DhtOptions(bootstrap=directory.bootstrap), None)
        good = replace(record_of("eve"), expires=directory.now() + 30)
        endless = replace(good, expires=directory.now() + 3 * MAX_LIFE_SECONDS)
        sealed, key = seal(good, Identity.from_seed(b"eve".ljust(32))), key_of(RUN)
        for place, value, expires, subkey in (
            ("elsewhere", sealed, good.expires, good.peer),
            (key, sealed, good.expires, "x" + good.peer),
            (key, sealed, good.expires, None),
            (key, {"a": "mapping"}, good.expires, good.peer),
            (key, seal(endless, Identity.from_seed(b"eve".ljust(32))), endless.expires, good.peer),
        ):
            await hostile.store(place, value, expires, subkey=subkey)
            assert len(directory._node.protocol.storage) == 0, place
        assert all(isinstance(event, BadMessage) for event in events) and events
        await hostile.store(key, sealed, good.expires, subkey=good.peer)
        assert len(directory._node.protocol.storage) == 1
        await stop_node(hostile)
        await directory.close()

    asyncio.run(scenario())


def test_others_join_through_the_announced_host_and_a_given_port() -> None:
    async def scenario() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = DhtOptions(port=port, announce_host="localhost")
        identity = Identity.from_seed(b"first".ljust(32))
        first = await DhtDirectory.open(RUN, identity, lambda _: None, options)
        assert first.bootstrap[0].startswith(f"/dns/localhost/tcp/{port}/p2p/")
        second = await join("second", *first.bootstrap)
        await publish(second, "second")
        assert await names(first) == ["second"]
        await second.close()
        await first.close()

    asyncio.run(scenario())
