"""A pipe over one bidirectional gRPC stream of raw bytes, seen from either end.

No protobuf on this path: a protobuf bytes field costs 1.5 times the CPU (feasibility.md section 1).
"""

import asyncio
import re
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from swarmtrain.core.errors import LinkClosed

SERVICE = "swarmtrain.v1.Link"
METHOD = "Open"

_PEER = re.compile(r"ipv4:([0-9.]+):[0-9]+|ipv6:\[(?:::ffff:)?([0-9A-Fa-f:.]+)\]:[0-9]+")

_BROKEN = (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError)
"""What gRPC raises on a stream that ended, depending on how and when it noticed."""


class DiallerPipe:
    """The client's end; owns its channel."""

    observed_host = ""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._stream: Any = channel.stream_stream(f"/{SERVICE}/{METHOD}")()

    async def send(self, frame: bytes) -> None:
        if self._stream is None:
            raise LinkClosed("the connection ended", "closed on this side")
        try:
            await self._stream.write(frame)
        except _BROKEN as error:
            raise _lost(error) from None

    async def receive(self) -> bytes:
        if self._stream is None:
            raise LinkClosed("the connection ended", "closed on this side")
        try:
            frame = await self._stream.read()
        except _BROKEN as error:
            raise _lost(error) from None
        if frame is grpc.aio.EOF:
            raise LinkClosed("the connection ended", "the other side hung up")
        return frame

    async def close(self, reason: str) -> None:
        if self._stream is None:
            return
        # The socket lives until the last reference to the channel goes, whatever close() says.
        stream, channel = self._stream, self._channel
        self._stream = self._channel = None
        try:
            # Ending our half first lets what was written arrive; cancelling at once could overtake it.
            await stream.done_writing()
            await stream.code()
        except _BROKEN:
            pass  # it was broken already, which is what closing wants
        finally:
            stream.cancel()
            await channel.close()


class ListenerPipe:
    """The server's end; the stream ends when the handler that waits in `ended` returns."""

    def __init__(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._context = context
        self.observed_host = host_of(context.peer())
        self.ended = asyncio.Event()

    async def send(self, frame: bytes) -> None:
        if self.ended.is_set():
            raise LinkClosed("the connection ended", "closed on this side")
        try:
            await self._context.write(frame)
        except _BROKEN as error:
            raise _lost(error) from None

    async def receive(self) -> bytes:
        try:
            frame = await self._context.read()
        except _BROKEN as error:
            raise _lost(error) from None
        if frame is grpc.aio.EOF:
            raise LinkClosed("the connection ended", "the other side hung up")
        return frame

    async def close(self, reason: str) -> None:
        self.ended.set()


def host_of(peer: str) -> str:
    """The IP address in what gRPC says of a connection's other side, as "ipv4:10.0.0.5:4711"; else empty."""
    match = _PEER.fullmatch(unquote(peer))
    return "" if match is None else match[1] or match[2]


def _lost(error: BaseException) -> LinkClosed:
    if isinstance(error, grpc.aio.AioRpcError):
        return LinkClosed("the connection broke", f"{error.code().name}: {error.details()}")
    return LinkClosed("the connection broke", str(error) or type(error).__name__)
