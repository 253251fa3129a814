"""What strangers may ask to check themselves: they are dialled back where they come from, and nowhere else."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from swarmtrain.core.errors import Refused, WireError
from swarmtrain.core.types import PeerId
from swarmtrain.swarm import checkups
from swarmtrain.swarm.checkups import Checkups
from swarmtrain.transport.grpc_pipe import host_of
from swarmtrain.transport.grpc_transport import GrpcTransport
from swarmtrain.transport.link import PROTOCOL, Hello, Link, LinkLimits, Message
from swarmtrain.transport.requests import ClockReply, Describe, ReachReply, ReachRequest


class Someone:
    """A process that says who it is, answers check-ups if it has any, and remembers who came."""

    def __init__(self, name: str) -> None:
        self.name, self.came = name, list[str]()
        self.transport = GrpcTransport(LinkLimits())
        self.checkups = Checkups(self.transport, self.hello, lambda: 1234.5)

    def hello(self) -> Hello:
        return Hello(PROTOCOL, "1", b"", PeerId(self.name), "", "", "", "query")

    def check(self, hello: Hello) -> None:
        self.came.append(hello.peer)

    async def call(self, link: Link, method: str, request: Message) -> Message:
        return await self.checkups.answer(link, method, request)

    def tell(self, link: Link, method: str, meta: bytes) -> None: ...

    def opened(self, link: Link) -> None: ...

    def closed(self, link: Link, reason: str) -> None: ...


def among(test: Callable[[Someone, Someone, Link], Awaitable[None]]) -> None:
    """Run `test` with a helper that listens, a caller, and the caller's link to the helper."""

    async def run() -> None:
        helper, caller = Someone("helper"), Someone("caller")
        try:
            address = await helper.transport.listen("127.0.0.1:0", helper)
            link = await caller.transport.dial(address, caller.hello(), caller, 10.0)
            await test(helper, caller, link)
        finally:
            await caller.transport.close()
            await helper.transport.close()

    asyncio.run(asyncio.wait_for(run(), 60.0))


async def reach(link: Link, port: int) -> ReachReply:
    request = Message(ReachRequest(port).encode())
    return ReachReply.decode((await link.call("reach", request, silence_seconds=20.0)).meta)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_who_listens_is_reached_where_they_come_from() -> None:
    async def test(helper: Someone, caller: Someone, link: Link) -> None:
        address = await caller.transport.listen("127.0.0.1:0", caller)
        assert await reach(link, port_of(address)) == ReachReply(address, "")
        assert caller.came[-1] == "helper"

    among(test)


def test_a_port_where_nobody_listens_is_named_with_the_reason() -> None:
    async def test(helper: Someone, caller: Someone, link: Link) -> None:
        gone = Someone("gone")
        address = await gone.transport.listen("127.0.0.1:0", gone)
        await gone.transport.close()
        reply = await reach(link, port_of(address))
        assert reply.address == address and "cannot reach" in reply.problem

    among(test)


def test_another_process_at_that_port_does_not_count() -> None:
    async def test(helper: Someone, caller: Someone, link: Link) -> None:
        bystander = Someone("bystander")
        try:
            address = await bystander.transport.listen("127.0.0.1:0", bystander)
            assert "another process" in (await reach(link, port_of(address))).problem
        finally:
            await bystander.transport.close()

    among(test)


def test_only_one_dial_back_at_a_time_and_a_pause_after_it() -> None:
    async def test(helper: Someone, caller: Someone, link: Link) -> None:
        port = port_of(await caller.transport.listen("127.0.0.1:0", caller))
        both = await asyncio.gather(reach(link, port), reach(link, port), return_exceptions=True)
        assert {type(one) for one in both} == {ReachReply, Refused}
        with pytest.raises(Refused, match="dialled back right now"):
            await reach(link, port)
        await asyncio.sleep(checkups.DIAL_PAUSE_SECONDS)
        assert not (await reach(link, port)).problem

    among(test)


def test_privileged_ports_are_not_knocked_at() -> None:
    async def test(helper: Someone, caller: Someone, link: Link) -> None:
        with pytest.raises(Refused, match="port"):
            await reach(link, 1023)

    among(test)


def test_the_clock_and_junk() -> None:
    async def test(helper: Someone, caller: Someone, link: Link) -> None:
        answer = await link.call("clock", Message(Describe().encode()), silence_seconds=20.0)
        assert ClockReply.decode(answer.meta).now_seconds == 1234.5
        with pytest.raises(WireError):
            await helper.checkups.answer(link, "fly", Message(b""))

    among(test)


def test_a_side_that_was_not_dialled_knows_no_address() -> None:
    async def test(helper: Someone, caller: Someone, link: Link) -> None:
        assert link.observed_host == ""
        with pytest.raises(Refused, match="does not know"):
            await caller.checkups.answer(link, "reach", Message(ReachRequest(5000).encode()))

    among(test)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.5:4711", "10.0.0.5"),
        ("ipv6:[::1]:4711", "::1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[::ffff:10.0.0.5]:4711", "10.0.0.5"),
        ("unix:/tmp/x", ""),
        ("", ""),
    ],
)
def test_the_host_in_what_grpc_says(peer: str, host: str) -> None:
    assert host_of(peer) == host
