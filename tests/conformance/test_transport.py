"""What every transport must do, run on gRPC over loopback (real time) and on the in-memory twin (virtual time)."""

import asyncio
import contextlib
import tracemalloc
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from swarmtrain.core.errors import (
    Incompatible,
    LinkClosed,
    LinkError,
    LinkSilent,
    Refused,
    SwarmError,
    WireError,
)
from swarmtrain.transport.frames import BULK, Frame, Kind, pack
from swarmtrain.transport.link import BODY_ALIGNMENT_BYTES, Hello, Message
from swarmtrain.transport.messages import encode
from tests.transport.worlds import MIB, Watcher, World, drained, hello, run_in, until_end

SILENCE_SECONDS = 10.0


@pytest.fixture(params=["grpc", "memory"])
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def pattern(size_bytes: int) -> bytes:
    """Bytes in which a lost, doubled or swapped chunk shows."""
    return np.arange(size_bytes // 4 + 1, dtype=np.uint32).tobytes()[:size_bytes]


SIZES = [0, 1, 4096, 4097, MIB - 1, MIB, MIB + 1, 5 * MIB, 20 * MIB]


def test_echo_of_every_size_and_kind_of_buffer(kind: str) -> None:
    async def test(world: World) -> None:
        link, _ = await world.pair(Watcher("near"), Watcher("far"))
        for size_bytes in SIZES:
            body = pattern(size_bytes)
            for buffer in (body, bytearray(body), memoryview(body)):
                request = Message(b"meta", buffer)
                answer = await link.call("echo", request, silence_seconds=SILENCE_SECONDS)
                assert answer.meta == b"meta"
                assert answer.body == body

    run_in(kind, test)


def test_received_bodies_are_aligned_and_writable(kind: str) -> None:
    addresses: list[int] = []

    async def look(method: str, request: Message) -> Message:
        view = np.frombuffer(request.body, np.uint8)
        addresses.append(view.ctypes.data)
        assert view.flags.writeable
        return request

    async def test(world: World) -> None:
        link, _ = await world.pair(Watcher("near"), Watcher("far", look))
        for size_bytes in (1, 63, 4097, MIB + 7):
            request = Message(b"", pattern(size_bytes))
            answer = await link.call("echo", request, silence_seconds=SILENCE_SECONDS)
            addresses.append(np.frombuffer(answer.body, np.uint8).ctypes.data)
        assert [address % BODY_ALIGNMENT_BYTES for address in addresses] == [0] * 8

    run_in(kind, test)


def test_both_directions_at_once(kind: str) -> None:
    async def test(world: World) -> None:
        near, far = await world.pair(Watcher("near"), Watcher("far"))
        bodies = [pattern(3 * MIB + index) for index in range(4)]
        calls = [
            link.call("echo", Message(b"", body), silence_seconds=SILENCE_SECONDS)
            for body in bodies
            for link in (near, far)
        ]
        answers = await asyncio.gather(*calls)
        assert [bytes(answer.body) for answer in answers] == [b for b in bodies for _ in range(2)]

    run_in(kind, test)


def test_200_calls_at_once_get_their_own_answers(kind: str) -> None:
    async def test(world: World) -> None:
        link, _ = await world.pair(Watcher("near"), Watcher("far"))
        requests = [Message(b"%d" % index, bytes([index]) * (index * 40)) for index in range(200)]
        calls = [link.call("e", each, silence_seconds=SILENCE_SECONDS) for each in requests]
        answers = await asyncio.gather(*calls)
        assert [(a.meta, bytes(a.body)) for a in answers] == [(r.meta, r.body) for r in requests]
        assert link.stats.calls == 200

    run_in(kind, test)


def test_control_overtakes_bulk(kind: str) -> None:
    async def test(world: World) -> None:
        order: list[str] = []

        async def answer(method: str, request: Message) -> Message:
            order.append(method)
            return Message(b"")

        far_side = Watcher("far", answer)
        link, _ = await world.pair(Watcher("near"), far_side)
        bulk = asyncio.gather(
            *[
                link.call("bulk", Message(b"", bytes(16 * MIB)), silence_seconds=SILENCE_SECONDS)
                for _ in range(2)
            ]
        )
        await asyncio.sleep(0)
        link.tell("tell", b"urgent")
        small = link.call("small", Message(b"", b"x" * 4096), silence_seconds=SILENCE_SECONDS)
        await asyncio.gather(small, far_side.until(lambda: bool(far_side.tells)))
        assert order == ["small"]
        await bulk

    run_in(kind, test)


def test_bulk_messages_take_turns(kind: str) -> None:
    async def test(world: World) -> None:
        order: list[str] = []

        async def answer(method: str, request: Message) -> Message:
            order.append(method)
            return Message(b"")

        link, _ = await world.pair(Watcher("near"), Watcher("far", answer))
        large = link.call("large", Message(b"", bytes(32 * MIB)), silence_seconds=SILENCE_SECONDS)
        short = link.call("short", Message(b"", bytes(2 * MIB)), silence_seconds=SILENCE_SECONDS)
        await asyncio.gather(large, short)
        assert order == ["short", "large"]

    run_in(kind, test)


def test_tells_arrive_in_order_both_ways(kind: str) -> None:
    async def test(world: World) -> None:
        near_side, far_side = Watcher("near"), Watcher("far")
        near, far = await world.pair(near_side, far_side)
        for index in range(50):
            near.tell("step", b"%d" % index)
            far.tell("step", b"%d" % index)
        expected = [("step", b"%d" % index) for index in range(50)]
        for side in (near_side, far_side):
            await side.until(lambda side=side: len(side.tells) == 50)
            assert side.tells == expected

    run_in(kind, test)


def test_a_handlers_error_reaches_the_caller_with_its_text(kind: str) -> None:
    errors: dict[str, Exception] = {
        "wire": WireError("bad tensor", "shape differs", "use one version"),
        "version": Incompatible("another corpus"),
        "bug": KeyError("a private detail"),
    }

    async def fail(method: str, request: Message) -> Message:
        raise errors[method]

    async def test(world: World) -> None:
        link, _ = await world.pair(Watcher("near"), Watcher("far", fail))
        caught: dict[str, SwarmError] = {}
        for method in errors:
            with pytest.raises(Refused) as raised:
                await link.call(method, Message(b""), silence_seconds=SILENCE_SECONDS)
            caught[method] = raised.value
        assert caught["wire"].args == ("bad tensor", "shape differs", "use one version")
        assert isinstance(caught["version"], Incompatible)
        assert "internal error" in caught["bug"].what
        assert "private" not in str(caught["bug"])

    run_in(kind, test)


@pytest.mark.parametrize("error", [Refused("no room", "full"), Incompatible("other run", "abc")])
def test_a_refused_greeting_reaches_the_dialler(kind: str, error: Refused) -> None:
    def refuse(hello: Hello) -> None:
        raise error

    async def test(world: World) -> None:
        near, far = Watcher("near"), Watcher("far", check=refuse)
        address = await world.transport().listen("127.0.0.1:0", far)
        with pytest.raises(type(error)) as raised:
            await world.transport().dial(address, near.hello(), near, 5.0)
        assert type(raised.value) is type(error)
        assert raised.value.args == error.args
        assert not near.links
        assert not far.links

    run_in(kind, test)


def test_the_dialler_checks_the_listener_too(kind: str) -> None:
    def refuse(hello: Hello) -> None:
        raise Incompatible(f"{hello.peer} is not who I called")

    async def test(world: World) -> None:
        near, far = Watcher("near", check=refuse), Watcher("far")
        address = await world.transport().listen("127.0.0.1:0", far)
        with pytest.raises(Incompatible, match="far is not who I called"):
            await world.transport().dial(address, near.hello(), near, 5.0)
        await far.until(lambda: len(far.closed_reasons) == len(far.links) == 1)

    run_in(kind, test)


def test_another_protocol_version_is_incompatible(kind: str) -> None:
    async def test(world: World) -> None:
        near = Watcher("near")
        address = await world.transport().listen("127.0.0.1:0", Watcher("far"))
        with pytest.raises(Incompatible, match="link protocol"):
            await world.transport().dial(address, hello("near", protocol=999), near, 5.0)

    run_in(kind, test)


def test_remote_is_what_the_other_side_said(kind: str) -> None:
    async def test(world: World) -> None:
        near, far = await world.pair(Watcher("near"), Watcher("far"))
        assert (near.remote, far.remote) == (hello("far"), hello("near"))

    run_in(kind, test)


def test_a_slow_handler_is_not_silent(kind: str) -> None:
    async def slow(method: str, request: Message) -> Message:
        await asyncio.sleep(1.2)
        return request

    async def test(world: World) -> None:
        link, _ = await world.pair(Watcher("near"), Watcher("far", slow))
        answer = await link.call("slow", Message(b"m"), silence_seconds=0.4)
        assert answer.meta == b"m"

    run_in(kind, test)


def test_silence_is_noticed_within_its_bound(kind: str) -> None:
    async def test(world: World) -> None:
        pipe, link = await world.raw_peer(Watcher("far"))
        loop = asyncio.get_running_loop()
        async with drained(pipe):
            for body in (b"", bytes(3 * MIB)):
                started = loop.time()
                with pytest.raises(LinkSilent):
                    await link.call("never", Message(b"", body), silence_seconds=0.3)
                assert 0.3 <= loop.time() - started < 0.6

    run_in(kind, test, heartbeat_seconds=30.0)


def test_a_deadline_ends_a_call_that_is_not_silent(kind: str) -> None:
    async def slow(method: str, request: Message) -> Message:
        await asyncio.sleep(5)
        return request

    async def test(world: World) -> None:
        link, _ = await world.pair(Watcher("near"), Watcher("far", slow))
        with pytest.raises(LinkSilent, match="no answer"):
            await link.call("slow", Message(b""), silence_seconds=5, deadline_seconds=0.3)

    run_in(kind, test)


def test_a_link_without_any_frame_is_closed(kind: str) -> None:
    async def test(world: World) -> None:
        far = Watcher("far")
        pipe, link = await world.raw_peer(far)
        async with drained(pipe):
            with pytest.raises(LinkClosed, match="silent"):
                await link.call("never", Message(b""), silence_seconds=30)
        assert len(far.closed_reasons) == 1

    run_in(kind, test, heartbeat_seconds=0.1)


@pytest.mark.parametrize("closer", ["near", "far"])
def test_close_ends_pending_calls_on_both_sides(kind: str, closer: str) -> None:
    async def never(method: str, request: Message) -> Message:
        return await asyncio.get_running_loop().create_future()

    async def test(world: World) -> None:
        sides = {"near": Watcher("near", never), "far": Watcher("far", never)}
        near, far = await world.pair(sides["near"], sides["far"])
        calls = [
            asyncio.ensure_future(link.call("never", Message(b""), silence_seconds=30))
            for link in (near, far)
        ]
        await asyncio.sleep(0.05)
        await {"near": near, "far": far}[closer].close("going home")
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, LinkClosed)
            assert "going home" in result.why
        for side, link in zip(sides.values(), (near, far), strict=True):
            await side.until(lambda side=side: bool(side.closed_reasons))
            assert side.closed_reasons == ["going home"]
            with pytest.raises(LinkClosed):
                await link.call("late", Message(b""), silence_seconds=1)
            link.tell("late", b"")

    run_in(kind, test)


def test_close_lets_queued_control_out_first(kind: str) -> None:
    async def test(world: World) -> None:
        far_side = Watcher("far")
        link, _ = await world.pair(Watcher("near"), far_side)
        for index in range(100):
            link.tell("last", b"%d" % index * 1000)
        await link.close("done")
        await far_side.until(lambda: bool(far_side.closed_reasons))
        assert len(far_side.tells) == 100

    run_in(kind, test)


def test_a_cancelled_caller_does_not_cancel_the_work(kind: str) -> None:
    async def test(world: World) -> None:
        go, done = asyncio.Event(), asyncio.Event()

        async def work(method: str, request: Message) -> Message:
            if method == "work":
                await go.wait()
                done.set()
            return Message(b"", bytes(3 * MIB))

        link, _ = await world.pair(Watcher("near"), Watcher("far", work))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await link.call("work", Message(b""), silence_seconds=5)
        go.set()
        await asyncio.wait_for(done.wait(), 5)
        # The late answer passes by without harm: the link still serves.
        answer = await link.call("other", Message(b""), silence_seconds=5)
        assert len(answer.body) == 3 * MIB

    run_in(kind, test)


def test_too_many_calls_are_refused_as_busy(kind: str) -> None:
    async def test(world: World) -> None:
        go = asyncio.Event()

        async def wait(method: str, request: Message) -> Message:
            await go.wait()
            return request

        link, _ = await world.pair(Watcher("near"), Watcher("far", wait))
        bodies = [b"", b"", bytes(MIB), b"", bytes(2 * MIB)]
        calls = [
            asyncio.ensure_future(link.call("wait", Message(b"", body), silence_seconds=5))
            for body in bodies
        ]
        refused, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
        assert all("busy" in str(call.exception()) for call in refused)
        await asyncio.sleep(0.2)
        assert sum(call.done() for call in calls) == 2
        go.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, Refused) for result in results) == 2

    run_in(kind, test, incoming_calls=3)


def test_oversize_is_refused_here_before_it_is_sent(kind: str) -> None:
    async def test(world: World) -> None:
        link, _ = await world.pair(Watcher("near"), Watcher("far"))
        for request in (Message(b"", bytes(MIB + 1)), Message(bytes(MIB + 1))):
            with pytest.raises(LinkError, match="too large"):
                await link.call("big", request, silence_seconds=5)
        answer = await link.call("fits", Message(b"", bytes(MIB)), silence_seconds=5)
        assert len(answer.body) == MIB

    run_in(kind, test, message_bytes=MIB)


def test_a_declared_oversize_takes_no_memory_and_costs_the_link(kind: str) -> None:
    async def test(world: World) -> None:
        far = Watcher("far")
        pipe, _ = await world.raw_peer(far)
        tracemalloc.start()
        frame = Frame(Kind.REQUEST, BULK, 1, "big", b"", 1 << 40, b"x", note_milliseconds=100)
        await pipe.send(pack(frame))
        await far.until(lambda: bool(far.closed_reasons))
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert "a body of 1099511627776 bytes" in far.closed_reasons[0]
        assert peak_bytes < 4 * MIB

    run_in(kind, test)


REQUEST = Frame(Kind.REQUEST, BULK, 7, "work", b"m", 10_000, b"x" * 100, note_milliseconds=100)
MALFORMED: dict[str, list[bytes]] = {
    "empty": [b""],
    "short": [b"\x0c\x00"],
    "unknown kind": [b"\xff" + pack(Frame(Kind.PING))[1:]],
    "flags on ping": [pack(Frame(Kind.PING, BULK))],
    "unknown flag": [pack(REQUEST)[:1] + b"\x80" + pack(REQUEST)[2:]],
    "meta beyond the frame": [pack(REQUEST)[:4] + b"\xff\xff\x00\x00" + pack(REQUEST)[8:]],
    "method beyond the frame": [pack(REQUEST)[:2] + b"\xff\xff" + pack(REQUEST)[4:]],
    "no method": [pack(Frame(Kind.TELL, meta=b"x"))],
    "odd method": [pack(Frame(Kind.TELL, method="A b", meta=b"x"))],
    "greeting again": [pack(Frame(Kind.HELLO, meta=b"x"))],
    "payload on tell": [pack(Frame(Kind.TELL, method="t", payload=b"x"))],
    "payload beyond the body": [
        pack(Frame(Kind.REQUEST, BULK, 7, "w", b"", 10, b"x" * 11, note_milliseconds=100))
    ],
    "chunk beyond the body": [pack(REQUEST), pack(Frame(Kind.REQUEST_CHUNK, BULK, 7, payload=bytes(9901)))],
    "chunk for an unknown call": [pack(Frame(Kind.REQUEST_CHUNK, BULK, 9, payload=b"x"))],
    "first frame twice": [pack(REQUEST), pack(REQUEST)],
    "withdrawal of an unknown call": [pack(Frame(Kind.WITHDRAW, call=3))],
    "answer to no call": [pack(Frame(Kind.ANSWER, call=99, meta=b"m"))],
    "answer chunk to no call": [pack(Frame(Kind.ANSWER_CHUNK, BULK, 99, payload=b"x"))],
    "note for no call": [pack(Frame(Kind.NOTE, call=99))],
    "error for no call": [pack(Frame(Kind.ERROR, call=99, meta=b"m"))],
    "acknowledges what was not sent": [pack(Frame(Kind.ACK, call=1 << 30))],
}  # fmt: skip


def test_malformed_frames_cost_their_own_link_only(kind: str) -> None:
    async def test(world: World) -> None:
        far = Watcher("far")
        address = await world.transport().listen("127.0.0.1:0", far)
        good, _ = await world.dial(address, Watcher("near"), far)
        for name, frames in MALFORMED.items():
            before = len(far.closed_reasons)
            pipe, _ = await world.raw_greeted(address, far)
            for frame in frames:
                await pipe.send(frame)
            received = await until_end(pipe)
            await far.until(lambda before=before: len(far.closed_reasons) > before)
            assert far.closed_reasons[-1].startswith("malformed"), name
            assert b"malformed" in received[-1], name
            answer = await good.call("echo", Message(b"m"), silence_seconds=5)
            assert answer.meta == b"m", name

    run_in(kind, test)


def test_a_bad_greeting_leaves_the_listener_serving(kind: str) -> None:
    async def test(world: World) -> None:
        far = Watcher("far")
        address = await world.transport().listen("127.0.0.1:0", far)
        for first in (b"garbage", pack(Frame(Kind.PING)), pack(Frame(Kind.HELLO, meta=b"\xff"))):
            pipe = await world.raw_pipe(address)
            await pipe.send(first)
            await until_end(pipe)
        assert not far.links
        link, _ = await world.dial(address, Watcher("near"), far)
        await link.call("echo", Message(b"m"), silence_seconds=5)

    run_in(kind, test)


def test_a_silent_greeting_is_given_up(kind: str) -> None:
    async def test(world: World) -> None:
        address = await world.transport().listen("127.0.0.1:0", Watcher("far"))
        pipe = await world.raw_pipe(address)
        with pytest.raises(LinkClosed):
            await pipe.receive()

    run_in(kind, test, heartbeat_seconds=0.1)


def test_a_taken_port_is_named_with_a_remedy(kind: str) -> None:
    async def test(world: World) -> None:
        transport = world.transport()
        address = await transport.listen("127.0.0.1:0", Watcher("far"))
        other = world.transport() if kind == "grpc" else transport
        with pytest.raises(LinkError) as raised:
            await other.listen(address, Watcher("other"))
        assert address.rpartition(":")[2] in raised.value.why
        assert "another port" in raised.value.remedy

    run_in(kind, test)


def test_a_dead_address_fails_in_time_and_can_come_alive(kind: str) -> None:
    async def test(world: World) -> None:
        near, far, server = Watcher("near"), Watcher("far"), world.transport()
        address = await server.listen("127.0.0.1:0", far)
        await server.close()
        dialler, started = world.transport(), asyncio.get_running_loop().time()
        with pytest.raises(LinkError, match="cannot reach") as raised:
            await dialler.dial(address, near.hello(), near, 2.0)
        assert asyncio.get_running_loop().time() - started < 2.5
        assert raised.value.remedy
        if kind == "grpc":
            await world.transport().listen(address, far)
            link = await dialler.dial(address, near.hello(), near, 2.0)
            assert link.remote.peer == "far"

    run_in(kind, test)


def test_an_address_that_accepts_but_never_answers_fails_in_time(kind: str) -> None:
    async def test(world: World) -> None:
        near = Watcher("near")
        started = asyncio.get_running_loop().time()
        if kind == "grpc":
            accepted: list[asyncio.StreamWriter] = []
            server = await asyncio.start_server(
                lambda reader, writer: accepted.append(writer), "127.0.0.1", 0
            )
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(LinkError, match="cannot reach"):
                await world.transport().dial(f"127.0.0.1:{port}", near.hello(), near, 0.5)
            server.close()
            for writer in accepted:
                writer.close()
        else:
            address = await world.network.transport("cut").listen("127.0.0.1:0", Watcher("far"))
            world.network.cut("near", "cut")
            dialler = world.network.transport("near")
            with pytest.raises(LinkError, match="cannot reach"):
                await dialler.dial(address, near.hello(), near, 0.5)
            await dialler.close()
        assert 0.4 < asyncio.get_running_loop().time() - started < 2.0

    run_in(kind, test)


def test_a_receiver_that_does_not_read_bounds_what_is_sent(kind: str) -> None:
    async def test(world: World) -> None:
        pipe, link = await world.raw_peer(Watcher("far"))
        calls = [
            asyncio.ensure_future(
                link.call("bulk", Message(b"", bytes(32 * MIB)), silence_seconds=60)
            )
            for _ in range(3)
        ]
        await asyncio.sleep(1.0)
        assert link.stats.bytes_sent <= world.limits.window_bytes + MIB
        with contextlib.suppress(TimeoutError):
            # Nothing reads here, so an orderly end never comes.
            await asyncio.wait_for(pipe.close(""), 0.2)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, LinkClosed) for result in results)

    run_in(kind, test, heartbeat_seconds=30.0)


def test_too_many_tells_close_the_link_with_a_reason(kind: str) -> None:
    async def test(world: World) -> None:
        near_side = Watcher("near")
        link, _ = await world.pair(near_side, Watcher("far"))
        for _ in range(2000):
            link.tell("flood", bytes(1000))
        await near_side.until(lambda: bool(near_side.closed_reasons))
        assert "control" in near_side.closed_reasons[0]

    run_in(kind, test, control_bytes=MIB)


def test_a_link_whose_greeting_ends_after_close_is_not_opened(kind: str) -> None:
    async def test(world: World) -> None:
        far, server = Watcher("far"), world.transport()
        pipe = await world.raw_pipe(await server.listen("127.0.0.1:0", far))
        await pipe.send(pack(Frame(Kind.HELLO, meta=encode(hello("raw")))))
        await server.close()
        near, dialler = Watcher("near"), world.transport()
        await dialler.close()
        address = await world.transport().listen("127.0.0.1:0", far)
        with pytest.raises(LinkError, match="cannot reach"):
            await dialler.dial(address, near.hello(), near, 1.0)
        await far.until(lambda: len(far.links) == len(far.closed_reasons))
        assert not near.links

    run_in(kind, test)


def test_nothing_is_left_after_close(kind: str) -> None:
    async def never(method: str, request: Message) -> Message:
        return await asyncio.get_running_loop().create_future()

    async def test(world: World) -> None:
        before_tasks = len(asyncio.all_tasks())
        near, far = world.transport(), world.transport()
        side = Watcher("near")
        address = await far.listen("127.0.0.1:0", Watcher("far", never))
        links = [await near.dial(address, side.hello(), side, 5.0) for _ in range(3)]
        calls = [
            asyncio.ensure_future(link.call("never", Message(b"", bytes(MIB)), silence_seconds=30))
            for link in links
        ]
        await asyncio.sleep(0.1)
        await far.close()
        await near.close()
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0.1)
        assert len(side.closed_reasons) == 3
        assert len(asyncio.all_tasks()) == before_tasks
        port = address.rpartition(":")[2]
        sockets = psutil.Process().net_connections()
        assert not [
            entry for entry in sockets if port in (str(entry.laddr[1:2]), str(entry.raddr[1:2]))
        ]

    run_in(kind, test)
