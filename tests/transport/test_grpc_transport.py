"""What only real connections have: dead processes, frozen processes, and addresses that are not addresses."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swarmtrain.core.errors import LinkClosed, LinkError
from swarmtrain.transport.grpc_transport import GrpcTransport
from swarmtrain.transport.link import Link, LinkLimits, Message
from tests.transport.worlds import MIB, Watcher, World, run_in

ROOT = Path(__file__).resolve().parents[2]

LISTENER = """
import asyncio
from swarmtrain.transport.grpc_transport import GrpcTransport
from swarmtrain.transport.link import LinkLimits
from tests.transport.worlds import Watcher

async def main():
    transport = GrpcTransport(LinkLimits())
    print(await transport.listen("127.0.0.1:0", Watcher("child")), flush=True)
    await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""

DIALLER = """
import asyncio, sys
from swarmtrain.transport.grpc_transport import GrpcTransport
from swarmtrain.transport.link import LinkLimits
from tests.transport.worlds import Watcher

async def main():
    side, transport = Watcher("child"), GrpcTransport(LinkLimits())
    link = await transport.dial(sys.argv[1], side.hello(), side, 5.0)
    await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_frozen_process_is_noticed(how: signal.Signals, busy: bool) -> None:
    async def test(child: subprocess.Popen[str], address: str) -> None:
        near, transport = Watcher("near"), GrpcTransport(LinkLimits(heartbeat_seconds=0.2))
        link = await transport.dial(address, near.hello(), near, 5.0)
        bulk = asyncio.ensure_future(keep_busy(link)) if busy else None
        await link.call("echo", Message(b""), silence_seconds=5)
        loop = asyncio.get_running_loop()
        started = loop.time()
        os.kill(child.pid, how)
        await near.until(lambda: bool(near.closed_reasons))
        assert loop.time() - started < (0.5 if how == signal.SIGKILL else 2.0)
        if bulk is not None:
            with pytest.raises(LinkClosed):
                await bulk
        await transport.close()
        assert loop.time() - started < 3.0

    async def keep_busy(link: Link) -> None:
        while True:
            await link.call("echo", Message(b"", bytes(4 * MIB)), silence_seconds=60)

    command = [sys.executable, "-c", LISTENER]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            asyncio.run(test(child, child.stdout.readline().strip()))
        finally:
            child.kill()


def test_a_dead_dialler_is_noticed_by_the_listener() -> None:
    async def test(world: World) -> None:
        far = Watcher("far")
        address = await world.transport().listen("127.0.0.1:0", far)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DIALLER, address, cwd=ROOT
        )
        try:
            await far.until(lambda: bool(far.links))
        finally:
            child.kill()
        started = asyncio.get_running_loop().time()
        await far.until(lambda: bool(far.closed_reasons))
        assert asyncio.get_running_loop().time() - started < 0.5
        await child.wait()

    run_in("grpc", test)


@pytest.mark.parametrize(
    "address",
    [
        "unix:/tmp/x",
        "dns://8.8.8.8/host:1",
        "host",
        "host:99999",
        "a b:1",
        "",
        "http://h:1",
        "h:1/x",
    ],
)
def test_only_host_and_port_are_dialled(address: str) -> None:
    async def test(world: World) -> None:
        near = Watcher("near")
        with pytest.raises(LinkError, match="not an address"):
            await world.transport().dial(address, near.hello(), near, 1.0)
        with pytest.raises(LinkError, match="not an address"):
            await world.transport().listen(address, near)

    run_in("grpc", test)


def test_other_methods_of_the_port_are_refused_and_the_listener_serves_on() -> None:
    import grpc.aio

    async def test(world: World) -> None:
        far = Watcher("far")
        address = await world.transport().listen("127.0.0.1:0", far)
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
                await channel.unary_unary("/other.Service/Method")(b"x")
            stream = channel.stream_stream("/swarmtrain.v1.Link/Open")()
            with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
                await stream.write(bytes(8 * MIB))
                await stream.read()
        link, _ = await world.dial(address, Watcher("near"), far)
        await link.call("echo", Message(b""), silence_seconds=5)

    run_in("grpc", test)
