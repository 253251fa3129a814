"""The mux's timing and bounds, exact in virtual time; what every transport shares is in the conformance suite."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.errors import LinkSilent, Refused, WireError
from swarmtrain.transport.frames import BULK, Frame, Kind, pack, unpack
from swarmtrain.transport.link import Link, LinkLimits, Message
from swarmtrain.transport.memory import MemoryNetwork
from tests.transport.worlds import MIB, Watcher, World, drained, run_in

MEGABIT = 125_000.0


async def joined(network: MemoryNetwork, near: Watcher, far: Watcher) -> tuple[Link, Link]:
    address = await network.transport("far").listen("far:0", far)
    link = await network.transport("near").dial(address, near.hello(), near, 5.0)
    await far.until(lambda: bool(far.links))
    return link, far.links[0]


def in_network(
    test: Callable[[MemoryNetwork], Awaitable[None]],
    bytes_per_second: float = 1e9,
    **limits: Any,
) -> None:
    async def main() -> None:
        await test(MemoryNetwork(0.02, bytes_per_second, LinkLimits(**limits)))

    run_virtual(main())


def of_kind(frames: list[bytes], kind: Kind) -> list[Frame]:
    return [frame for data in frames if (frame := unpack(data, LinkLimits())).kind is kind]


def test_notes_come_four_times_per_silence() -> None:
    async def work(method: str, request: Message) -> Message:
        await asyncio.sleep(10)
        return request

    async def test(world: World) -> None:
        pipe, _ = await world.raw_peer(Watcher("far", work))
        async with drained(pipe) as frames:
            await pipe.send(pack(Frame(Kind.REQUEST, 0, 1, "work", note_milliseconds=1000)))
            await asyncio.sleep(10.5)
        assert len(of_kind(frames, Kind.NOTE)) == 10
        assert len(of_kind(frames, Kind.ANSWER)) == 1

    run_in("memory", test, heartbeat_seconds=100.0)


def test_a_remote_cannot_make_notes_rain() -> None:
    async def work(method: str, request: Message) -> Message:
        await asyncio.sleep(1)
        return request

    async def test(world: World) -> None:
        pipe, _ = await world.raw_peer(Watcher("far", work))
        async with drained(pipe) as frames:
            await pipe.send(pack(Frame(Kind.REQUEST, 0, 1, "work", note_milliseconds=1)))
            await asyncio.sleep(1.5)
        assert 40 < len(of_kind(frames, Kind.NOTE)) <= 50

    run_in("memory", test, heartbeat_seconds=100.0)


def test_a_long_upload_and_a_long_download_are_not_silence() -> None:
    """16 MiB at 8 Mbit/s is 17 s each way, with a silence of 1 s."""

    async def test(network: MemoryNetwork) -> None:
        link, _ = await joined(network, Watcher("near"), Watcher("far"))
        answer = await link.call("echo", Message(b"", bytes(16 * MIB)), silence_seconds=1.0)
        assert len(answer.body) == 16 * MIB

    in_network(test, 8 * MEGABIT)


def test_silence_starts_when_the_line_is_cut_in_the_middle_of_an_upload() -> None:
    async def test(network: MemoryNetwork) -> None:
        link, _ = await joined(network, Watcher("near"), Watcher("far"))
        loop = asyncio.get_running_loop()
        loop.call_later(3.0, lambda: network.cut("near", "far"))
        started = loop.time()
        with pytest.raises(LinkSilent):
            await link.call("echo", Message(b"", bytes(16 * MIB)), silence_seconds=1.0)
        assert 3.9 <= loop.time() - started < 4.5

    in_network(test, 8 * MEGABIT, heartbeat_seconds=100.0)


@pytest.mark.parametrize("megabits", [5, 20, 100, 1000])
def test_control_waits_little_behind_bulk_on_any_line(megabits: int) -> None:
    """A fixed window of 8 MiB would make a small call wait 3.4 s at 20 Mbit/s."""

    async def test(network: MemoryNetwork) -> None:
        link, _ = await joined(network, Watcher("near"), Watcher("far"))
        loop = asyncio.get_running_loop()
        body = bytes(min(megabits, 200) * MIB)
        bulk = asyncio.ensure_future(link.call("b", Message(b"", body), silence_seconds=5))
        await asyncio.sleep(1)
        for _ in range(10):
            started = loop.time()
            await link.call("small", Message(b""), silence_seconds=5)
            assert loop.time() - started < 0.04 + 0.3
        await bulk

    in_network(test, megabits * MEGABIT)


def test_the_line_is_used_well_by_bulk() -> None:
    async def test(network: MemoryNetwork) -> None:
        link, _ = await joined(network, Watcher("near"), Watcher("far"))
        started = asyncio.get_running_loop().time()
        await link.call("echo", Message(b"", bytes(32 * MIB)), silence_seconds=5)
        seconds = asyncio.get_running_loop().time() - started
        assert seconds < 1.15 * 2 * 32 * MIB / (100 * MEGABIT)
        assert link.stats.bytes_per_second == pytest.approx(100 * MEGABIT, rel=0.2)
        assert link.stats.round_trip_seconds >= 0.04

    in_network(test, 100 * MEGABIT)


def test_an_abandoned_upload_is_withdrawn_and_forgotten() -> None:
    async def test(network: MemoryNetwork) -> None:
        far_side = Watcher("far")
        link, far = await joined(network, Watcher("near"), far_side)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await link.call("big", Message(b"", bytes(64 * MIB)), silence_seconds=5)
        sent = link.stats.bytes_sent
        await asyncio.sleep(2.0)
        assert sent < 3 * MIB
        assert link.stats.bytes_sent < sent + MIB
        assert far._incoming._assembler.held_bytes == 0
        assert not far._incoming._calls
        await link.call("echo", Message(b""), silence_seconds=5)

    in_network(test, 20 * MEGABIT)


def test_a_late_bulk_answer_is_dropped_without_a_buffer() -> None:
    async def work(method: str, request: Message) -> Message:
        await asyncio.sleep(1)
        return Message(b"", bytes(8 * MIB))

    async def test(network: MemoryNetwork) -> None:
        link, _ = await joined(network, Watcher("near"), Watcher("far", work))
        for wait_seconds in (0.5, 1.5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await link.call("work", Message(b""), silence_seconds=5)
            assert link._outgoing._assembler.held_bytes == 0
        received = link.stats.bytes_received
        await asyncio.sleep(10)
        assert link.stats.bytes_received > received + 8 * MIB
        assert not link._outgoing._dropping

    in_network(test, 20 * MEGABIT)


def test_bytes_being_put_together_are_bounded() -> None:
    async def test(network: MemoryNetwork) -> None:
        link, far = await joined(network, Watcher("near"), Watcher("far"))
        held: list[int] = []
        calls = [
            asyncio.ensure_future(link.call("b", Message(b"", bytes(2 * MIB)), silence_seconds=9))
            for _ in range(8)
        ]
        while not all(call.done() for call in calls):
            held.append(far._incoming._assembler.held_bytes)
            await asyncio.sleep(0.1)
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [result for result in results if isinstance(result, Refused)]
        assert max(held) <= 5 * MIB
        assert len(refused) == 6
        assert "busy" in str(refused[0])
        assert far._incoming._assembler.held_bytes == 0

    in_network(test, 20 * MEGABIT, reassembly_bytes=5 * MIB)


def test_too_many_unwanted_messages_close_the_link() -> None:
    async def test(world: World) -> None:
        far = Watcher("far")
        pipe, _ = await world.raw_peer(far)
        async with drained(pipe):
            for call in range(1, 4200):
                first = Frame(Kind.REQUEST, BULK, call, "w", b"", 100, note_milliseconds=1000)
                await pipe.send(pack(first))
            await far.until(lambda: bool(far.closed_reasons))
        assert "too many requests" in far.closed_reasons[0]

    run_in("memory", test, incoming_calls=3, heartbeat_seconds=100.0)


def test_an_answer_too_large_is_refused_by_the_callee() -> None:
    async def grow(method: str, request: Message) -> Message:
        return Message(b"", bytes(2 * MIB))

    async def test(network: MemoryNetwork) -> None:
        link, _ = await joined(network, Watcher("near"), Watcher("far", grow))
        with pytest.raises(Refused, match="too large"):
            await link.call("grow", Message(b""), silence_seconds=5)

    in_network(test, message_bytes=MIB)


def test_a_bad_tell_closes_the_link_and_a_bug_does_not() -> None:
    class Picky(Watcher):
        def tell(self, link: Link, method: str, meta: bytes) -> None:
            super().tell(link, method, meta)
            raise WireError("malformed step") if meta == b"bad" else KeyError("bug")

    async def test(network: MemoryNetwork) -> None:
        far_side = Picky("far")
        link, _ = await joined(network, Watcher("near"), far_side)
        link.tell("step", b"odd")
        await link.call("echo", Message(b""), silence_seconds=5)
        link.tell("step", b"bad")
        await far_side.until(lambda: bool(far_side.closed_reasons))
        assert "malformed step" in far_side.closed_reasons[0]

    in_network(test)


def test_an_idle_link_stays_open() -> None:
    async def test(network: MemoryNetwork) -> None:
        near_side = Watcher("near")
        link, _ = await joined(network, near_side, Watcher("far"))
        await asyncio.sleep(3600)
        assert not near_side.closed_reasons
        assert link.stats.round_trip_seconds == pytest.approx(0.04, rel=0.01)

    in_network(test)


def test_a_process_that_stood_still_does_not_blame_the_other_side() -> None:
    async def test(network: MemoryNetwork) -> None:
        near_side = Watcher("near")
        await joined(network, near_side, Watcher("far"))
        loop: Any = asyncio.get_running_loop()
        await asyncio.sleep(0.5)
        loop._now_seconds += 60
        await asyncio.sleep(5)
        assert not near_side.closed_reasons

    in_network(test)


FRAMES = st.builds(
    Frame,
    st.sampled_from([kind for kind in Kind if kind is not Kind.BYE]),
    st.sampled_from([0, BULK]),
    st.integers(0, 3),
    st.sampled_from(["", "work"]),
    st.sampled_from([b"", b"meta"]),
    st.sampled_from([0, 10, 1 << 50]),
    st.sampled_from([b"", b"12345"]),
    st.sampled_from([0, 50]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(FRAMES | st.binary(max_size=60), min_size=1, max_size=12))
def test_whatever_a_remote_sends_the_other_links_go_on(frames: list[Frame | bytes]) -> None:
    async def test(world: World) -> None:
        far = Watcher("far")
        address = await world.transport().listen("host:0", far)
        good, _ = await world.dial(address, Watcher("near"), far)
        pipe, _ = await world.raw_greeted(address, far)
        async with drained(pipe):
            for frame in frames:
                await pipe.send(frame if isinstance(frame, bytes) else pack(frame))
            await asyncio.sleep(10)
        # Silent or malformed, the link is gone and holds nothing.
        assert len(far.closed_reasons) == 1
        await good.call("echo", Message(b""), silence_seconds=5)

    run_in("memory", test)
