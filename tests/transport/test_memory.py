"""The modelled network: figures, order, faults, and the same run twice."""

import asyncio

import pytest

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.errors import LinkClosed, LinkError
from swarmtrain.transport.link import LinkLimits, Message
from swarmtrain.transport.memory import MemoryNetwork
from swarmtrain.transport.memory_pipe import Line, pipe_pair
from tests.transport.worlds import MIB, Watcher, until_end


def line(latency_seconds: float, bytes_per_second: float) -> Line:
    return Line(lambda: latency_seconds, lambda: bytes_per_second)


def test_a_frame_takes_its_bytes_over_the_rate_plus_the_latency() -> None:
    async def main() -> None:
        near, far = pipe_pair(line(0.5, 1000), line(0.25, 1e6))
        loop = asyncio.get_running_loop()
        await near.send(bytes(1000))
        await near.send(bytes(2000))
        assert loop.time() == 0.0
        arrivals = []
        for _ in range(2):
            await far.receive()
            arrivals.append(loop.time())
        assert arrivals == pytest.approx([1.5, 3.5])
        await far.send(b"")
        await near.receive()
        assert loop.time() == pytest.approx(3.75)

    run_virtual(main())


def test_links_between_the_same_names_share_the_line() -> None:
    async def main() -> None:
        there, back = line(0.0, 1000), line(0.0, 1000)
        pairs = [pipe_pair(there, back) for _ in range(2)]
        for near, _ in pairs:
            await near.send(bytes(1000))
        for _, far in pairs:
            await far.receive()
        assert asyncio.get_running_loop().time() == pytest.approx(2.0)

    run_virtual(main())


def test_a_sender_far_ahead_of_the_line_waits() -> None:
    async def main() -> None:
        near, _ = pipe_pair(line(0.0, MIB), line(0.0, MIB))
        for _ in range(8):
            await near.send(bytes(MIB))
        assert asyncio.get_running_loop().time() == pytest.approx(7.75)

    run_virtual(main())


def test_frames_stay_in_order_when_the_latency_drops() -> None:
    async def main() -> None:
        latencies = iter([5.0, 1.0, 0.0])
        near, far = pipe_pair(Line(lambda: next(latencies), lambda: 1e9), line(0.0, 1e9))
        for frame in (b"1", b"2", b"3"):
            await near.send(frame)
        assert [await far.receive() for _ in range(3)] == [b"1", b"2", b"3"]

    run_virtual(main())


def test_frames_are_passed_by_reference() -> None:
    async def main() -> None:
        near, far = pipe_pair(line(0.0, 1e9), line(0.0, 1e9))
        frame = bytes(1000)
        await near.send(frame)
        assert await far.receive() is frame

    run_virtual(main())


def test_closing_delivers_what_was_sent_and_then_ends_both_sides() -> None:
    async def main() -> None:
        near, far = pipe_pair(line(0.1, 1e9), line(0.1, 1e9))
        await near.send(b"last words")
        await near.close("enough")
        assert await until_end(far) == [b"last words"]
        with pytest.raises(LinkClosed, match="enough"):
            await far.receive()
        with pytest.raises(LinkClosed):
            await near.send(b"more")
        with pytest.raises(LinkClosed):
            await near.receive()

    run_virtual(main())


def test_what_had_not_left_a_dead_sender_is_lost() -> None:
    async def main() -> None:
        there = line(0.1, MIB)
        near, far = pipe_pair(there, line(0.1, MIB))
        frames = [bytes([index]) * (MIB // 4) for index in range(8)]
        sending = asyncio.ensure_future(
            asyncio.wait([asyncio.ensure_future(near.send(f)) for f in frames])
        )
        await asyncio.sleep(1.1)
        there.stop_sender("it died")
        assert await until_end(far) == frames[:4]
        with pytest.raises(LinkClosed, match="it died"):
            await far.receive()
        await sending

    run_virtual(main())


class Pair:
    """Two machines with a link from a to b."""

    def __init__(self, heartbeat_seconds: float = 1.0) -> None:
        self.network = MemoryNetwork(0.01, 1e8, LinkLimits(heartbeat_seconds=heartbeat_seconds))
        self.a, self.b = Watcher("a"), Watcher("b")

    async def join(self) -> None:
        self.address = await self.network.transport("b").listen("b:7", self.b)
        self.near = self.network.transport("a")
        self.link = await self.near.dial(self.address, self.a.hello(), self.a, 5.0)
        await self.b.until(lambda: bool(self.b.links))


def test_a_short_cut_delays_and_loses_nothing() -> None:
    async def main() -> None:
        pair = Pair()
        await pair.join()
        pair.network.cut("a", "b")
        loop = asyncio.get_running_loop()
        loop.call_later(1.0, lambda: pair.network.heal("a", "b"))
        started = loop.time()
        answer = await pair.link.call("echo", Message(b"", bytes(3 * MIB)), silence_seconds=5)
        assert len(answer.body) == 3 * MIB
        assert 1.0 < loop.time() - started < 1.5
        assert not pair.a.closed_reasons

    run_virtual(main())


@pytest.mark.parametrize("one_way", [False, True])
def test_a_long_cut_is_found_by_heartbeats_on_both_sides(one_way: bool) -> None:
    async def main() -> None:
        pair = Pair()
        await pair.join()
        pair.network.cut("a", "b", one_way=one_way)
        await pair.b.until(lambda: bool(pair.b.closed_reasons))
        assert asyncio.get_running_loop().time() < 4.5
        assert "silent" in pair.b.closed_reasons[0]
        await pair.a.until(lambda: bool(pair.a.closed_reasons))
        assert asyncio.get_running_loop().time() < 4.5
        # With the way back open, b's goodbye still gets through.
        assert "silent" in pair.a.closed_reasons[0] or one_way

    run_virtual(main())


@pytest.mark.parametrize("cut_seconds", [0.1, 0.5, 0.9])
def test_silence_is_found_when_it_has_lasted_three_heartbeats(cut_seconds: float) -> None:
    """Whatever was heard came at most a heartbeat before the cut; nobody waits for the next heartbeat to be due."""

    async def main() -> None:
        pair = Pair()
        await pair.join()
        await asyncio.sleep(cut_seconds)
        pair.network.cut("a", "b")
        await pair.b.until(lambda: bool(pair.b.closed_reasons))
        assert 2.0 + cut_seconds < asyncio.get_running_loop().time() < 3.05 + cut_seconds

    run_virtual(main())


def test_a_killed_machine_is_noticed_after_the_latency_and_can_come_back() -> None:
    async def main() -> None:
        pair = Pair()
        await pair.join()
        loop = asyncio.get_running_loop()
        call = asyncio.ensure_future(
            pair.link.call("e", Message(b"", bytes(50 * MIB)), silence_seconds=5)
        )
        await asyncio.sleep(0.1)
        killed_at = loop.time()
        pair.network.kill("b")
        with pytest.raises(LinkClosed, match="died"):
            await call
        assert loop.time() - killed_at < 0.05
        with pytest.raises(LinkError, match="cannot reach"):
            await pair.near.dial(pair.address, pair.a.hello(), pair.a, 1.0)
        again = Watcher("b2")
        await pair.network.transport("b").listen("b:7", again)
        link = await pair.near.dial(pair.address, pair.a.hello(), pair.a, 1.0)
        assert link.remote.peer == "b2"

    run_virtual(main())


def test_figures_may_differ_per_pair_and_direction() -> None:
    async def main() -> None:
        def latency(sender: str, receiver: str) -> float:
            return {("a", "b"): 0.3, ("b", "a"): 0.1}[sender, receiver]

        pair = Pair()
        pair.network = MemoryNetwork(latency, lambda sender, receiver: 1e9, LinkLimits())
        await pair.join()
        started = asyncio.get_running_loop().time()
        await pair.link.call("echo", Message(b""), silence_seconds=5)
        assert asyncio.get_running_loop().time() - started == pytest.approx(0.4, abs=1e-3)

    run_virtual(main())


def trace() -> list[str]:
    """Many links with crossing calls, tells and a kill; every delivery with its exact time."""
    events: list[str] = []

    async def main() -> None:
        network = MemoryNetwork(lambda a, b: 0.001 * (len(a) + len(b)), 1e7, LinkLimits())
        loop = asyncio.get_running_loop()

        class Recorder(Watcher):
            async def call(self, link: object, method: str, request: Message) -> Message:
                events.append(f"{loop.time()!r} {self.name} {method}")
                return request

            def closed(self, link: object, reason: str) -> None:
                events.append(f"{loop.time()!r} {self.name} closed {reason}")

        names = [f"n{'x' * index}" for index in range(6)]
        sides = [Recorder(name) for name in names]
        machines = [network.transport(name) for name in names]
        addresses = [await m.listen("h:0", s) for m, s in zip(machines, sides, strict=True)]
        links = [
            await machines[i].dial(addresses[j], sides[i].hello(), sides[i], 5.0)
            for i in range(6)
            for j in range(i)
        ]
        calls = [
            link.call(f"c{k}", Message(b"", bytes(k * 50_000)), silence_seconds=5)
            for k, link in enumerate(links)
        ]
        loop.call_later(0.5, lambda: network.kill(names[2]))
        results = await asyncio.gather(*calls, return_exceptions=True)
        events.extend(str(result)[:80] for result in results if isinstance(result, Exception))
        await asyncio.sleep(5)

    run_virtual(main())
    return events


def test_two_runs_are_the_same_to_the_last_digit() -> None:
    first = trace()
    assert len(first) > 15
    assert trace() == first
