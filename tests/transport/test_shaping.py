"""Shaped lines: frames arrive when rate and latency say, in order, and the end comes behind them."""

import asyncio

import pytest

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.errors import ConfigError, LinkClosed
from swarmtrain.transport.memory_pipe import LINE_BUFFER_BYTES
from swarmtrain.transport.shaping import Shape, ShapedPipe, parse_shape


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


def test_frames_queue_behind_each_other_and_arrive_a_latency_later() -> None:
    async def main() -> Wire:
        wire = Wire()
        pipe = ShapedPipe(wire, SHAPE)
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
        pipe = ShapedPipe(Wire(), Shape(bytes_per_second=LINE_BUFFER_BYTES, latency_seconds=0.0))
        begin = asyncio.get_running_loop().time()
        await pipe.send(bytes(3 * LINE_BUFFER_BYTES))
        waited = asyncio.get_running_loop().time() - begin
        await pipe.close("done")
        return waited

    assert run_virtual(main()) == pytest.approx(2.0)


def test_a_broken_connection_is_told_to_the_next_sender_and_does_not_keep_close() -> None:
    async def main() -> None:
        wire = Wire()
        pipe = ShapedPipe(wire, SHAPE)
        wire.broken = True
        await pipe.send(b"lost")
        await asyncio.sleep(1.0)
        with pytest.raises(LinkClosed):
            await pipe.send(b"more")
        await pipe.close("done")
        assert wire.arrived == []

    run_virtual(main())


def test_shapes_are_read_from_the_command_line() -> None:
    assert parse_shape("20Mbit:50ms") == Shape(2.5e6, 0.05)
    for wrong in ("20Mbit", "0Mbit:1s", "fast:1s"):
        with pytest.raises(ConfigError):
            parse_shape(wrong)
