"""Shaped lines: frames arrive when rate and latency say, in order, and the end comes behind them."""

import asyncio
import random

import pytest

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.errors import LinkClosed, LinkError
from swarmtrain.core.types import PeerId
from swarmtrain.transport.grpc_transport import GrpcTransport
from swarmtrain.transport.link import LinkLimits
from swarmtrain.transport.memory_pipe import LINE_BUFFER_BYTES
from swarmtrain.transport.shaping import (
    LEAST_TIMEOUT_SECONDS,
    Lines,
    Shape,
    ShapedPipe,
)
from tests.transport.worlds import Watcher

NEAR, FAR = PeerId("near"), PeerId("far")


class Wire:
    """What comes out of a shaped pipe, with the time; `broken` refuses everything."""

    def __init__(self) -> None:
        self.arrived: list[tuple[float, bytes]] = []
        self.broken = False
        self.closed_seconds: float | None = None

    async def send(self, frame: bytes) -> None:
        if self.broken:
            raise LinkClosed("the connection broke", "test")
        self.arrived.append((asyncio.get_running_loop().time(), frame))

    async def receive(self) -> bytes:
        return b"from there"

    async def close(self, reason: str) -> None:
        self.closed_seconds = asyncio.get_running_loop().time()


SHAPE = Shape(bytes_per_second=1000.0, latency_seconds=0.5)


def shaped(wire: Wire, shape: Shape) -> ShapedPipe:
    """A pipe to NEAR, on such a line."""
    pipe = ShapedPipe(wire, Lines({NEAR: shape}))
    pipe.peer = NEAR
    return pipe


def test_frames_queue_behind_each_other_and_arrive_a_latency_later() -> None:
    async def main() -> Wire:
        wire = Wire()
        pipe = shaped(wire, SHAPE)
        begin = asyncio.get_running_loop().time()
        await pipe.send(bytes(1000))
        await pipe.send(bytes(500))
        await asyncio.sleep(5.0)
        await pipe.send(bytes(100))
        assert await pipe.receive() == b"from there"
        await pipe.close("done")
        wire.arrived = [(at - begin, frame) for at, frame in wire.arrived]
        assert wire.closed_seconds is not None
        wire.closed_seconds -= begin
        return wire

    wire = run_virtual(main())
    assert [at for at, _ in wire.arrived] == pytest.approx([1.5, 2.0, 5.6])
    assert [len(frame) for _, frame in wire.arrived] == [1000, 500, 100]
    assert wire.closed_seconds == pytest.approx(5.6)


def test_a_sender_waits_once_the_line_has_much_to_carry() -> None:
    async def main() -> float:
        pipe = shaped(Wire(), Shape(LINE_BUFFER_BYTES, 0.0))
        begin = asyncio.get_running_loop().time()
        await pipe.send(bytes(3 * LINE_BUFFER_BYTES))
        waited = asyncio.get_running_loop().time() - begin
        await pipe.close("done")
        return waited

    assert run_virtual(main()) == pytest.approx(2.0)


def test_a_broken_connection_is_told_to_the_next_sender_and_does_not_keep_close() -> None:
    async def main() -> None:
        wire = Wire()
        pipe = shaped(wire, SHAPE)
        wire.broken = True
        await pipe.send(b"lost")
        await asyncio.sleep(1.0)
        with pytest.raises(LinkClosed):
            await pipe.send(b"more")
        await pipe.close("done")
        assert wire.arrived == []

    run_virtual(main())


async def arrivals_of(lines: Lines, peer: PeerId | None, frames: int) -> list[float]:
    """When so many frames of one byte, sent at once, arrive."""
    wire = Wire()
    pipe = ShapedPipe(wire, lines)
    pipe.peer = peer
    begin = asyncio.get_running_loop().time()
    for number in range(frames):
        await pipe.send(bytes([number]))
    await pipe.close("done")
    assert [frame[0] for _, frame in wire.arrived] == list(range(frames)), "they come in order"
    return [at - begin for at, _ in wire.arrived]


def test_each_peer_has_a_line_of_its_own() -> None:
    lines = Lines({NEAR: Shape(1e9, 0.001), FAR: Shape(1e9, 0.2)})
    for peer, seconds in ((NEAR, 0.001), (FAR, 0.2), (PeerId("coordinator"), 0.0), (None, 0.0)):
        assert run_virtual(arrivals_of(lines, peer, 1)) == pytest.approx([seconds], abs=1e-6)


def test_jitter_and_losses_make_frames_late_and_never_lose_one() -> None:
    jittery = Lines({NEAR: Shape(1e9, 0.1, jitter_seconds=0.05)}, random.Random(3))
    arrived = run_virtual(arrivals_of(jittery, NEAR, 50))
    assert all(0.1 <= at <= 0.151 for at in arrived) and len(set(arrived)) > 1
    lossy = Lines({NEAR: Shape(1e9, 0.01, loss=0.2)}, random.Random(3))
    arrived = run_virtual(arrivals_of(lossy, NEAR, 50))
    assert arrived[0] == pytest.approx(0.01, abs=1e-6)
    # Whatever was sent after the first lost one waits behind it.
    assert arrived[-1] == pytest.approx(0.01 + LEAST_TIMEOUT_SECONDS, abs=1e-5)


def test_a_cut_line_holds_what_is_under_way_until_it_is_mended_and_the_other_goes_on() -> None:
    async def main() -> tuple[list[float], list[float]]:
        shape, loop = Shape(1e9, 0.01), asyncio.get_running_loop()
        lines = Lines({NEAR: Shape(1e9, 0.01, is_cut=True), FAR: shape})
        wires = {NEAR: Wire(), FAR: Wire()}
        begin = loop.time()
        for peer, wire in wires.items():
            pipe = ShapedPipe(wire, lines)
            pipe.peer = peer
            await pipe.send(b"frame")
        await asyncio.sleep(3.0)
        lines.change({NEAR: shape, FAR: shape})
        await asyncio.sleep(1.0)
        near, far = ([at - begin for at, _ in wire.arrived] for wire in wires.values())
        return near, far

    near, far = run_virtual(main())
    assert far == pytest.approx([0.01]) and near == pytest.approx([3.0])


@pytest.mark.parametrize("cut_from", [NEAR, FAR])
def test_no_greeting_comes_through_a_cut_in_either_direction(cut_from: PeerId) -> None:
    """Otherwise whoever is cut off is dialled anew, answers, and is never found lost."""

    async def main() -> None:
        limits, towards = LinkLimits(), {NEAR: FAR, FAR: NEAR}
        cut = Shape(1e9, 0.0, is_cut=True)
        lines = {me: Lines({to: cut} if me == cut_from else {}) for me, to in towards.items()}
        near, far = (GrpcTransport(limits, lines[me]) for me in (NEAR, FAR))
        try:
            address = await far.listen("127.0.0.1:0", Watcher(FAR))
            dialler = Watcher(NEAR)
            with pytest.raises(LinkError, match="cannot reach"):
                await near.dial(address, dialler.hello(), dialler, 0.5, expected=FAR)
            assert not dialler.links
            lines[cut_from].change({})
            link = await near.dial(address, dialler.hello(), dialler, 20.0, expected=FAR)
            assert link.remote.peer == FAR
        finally:
            await near.close()
            await far.close()

    asyncio.run(main())


def test_a_greeting_takes_as_long_as_the_lines_in_both_directions() -> None:
    async def main() -> float:
        shape = Shape(1e9, 0.2)
        near, far = (GrpcTransport(LinkLimits(), Lines({to: shape})) for to in (FAR, NEAR))
        try:
            address = await far.listen("127.0.0.1:0", Watcher(FAR))
            begin, dialler = asyncio.get_running_loop().time(), Watcher(NEAR)
            await near.dial(address, dialler.hello(), dialler, 20.0, expected=FAR)
            return asyncio.get_running_loop().time() - begin
        finally:
            await near.close()
            await far.close()

    assert asyncio.run(main()) >= 0.39
