"""Links over gRPC: one bidirectional stream between two processes, whoever dialled.

The options are measured ones (feasibility.md section 1): frozen partners are found by the link's own heartbeat,
so gRPC's keepalive stays far above it; a server with default ping limits throws healthy dialers out.
"""

import asyncio
import re
from collections.abc import AsyncIterator

import grpc
import grpc.aio

from swarmtrain.core.errors import BadAddress, LinkClosed, LinkError
from swarmtrain.core.types import PeerId
from swarmtrain.transport.caps import NO_CAPS, Caps
from swarmtrain.transport.endpoint import Endpoint
from swarmtrain.transport.frames import FRAME_SLACK_BYTES
from swarmtrain.transport.grpc_pipe import METHOD, SERVICE, DiallerPipe, ListenerPipe
from swarmtrain.transport.link import Handler, Hello, Link, LinkLimits
from swarmtrain.transport.shaping import Lines

Options = tuple[tuple[str, int], ...]

_ADDRESS = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_KEEPALIVE_HEARTBEATS = 20


class GrpcTransport:
    """Makes links over gRPC on the running event loop."""

    def __init__(
        self, limits: LinkLimits, lines: Lines | None = None, caps: Caps = NO_CAPS
    ) -> None:
        """With `lines`, for experiments, its lines are shaped by them; `caps` hold for all of them together."""
        self._limits = limits
        self._endpoint = Endpoint(limits, lines, caps)
        self._servers: list[grpc.aio.Server] = []

    async def listen(self, address: str, handler: Handler) -> str:
        host, _, port_text = _checked(address).rpartition(":")
        server = grpc.aio.server(options=self._options())
        server.add_generic_rpc_handlers((_Streams(self._endpoint, handler),))
        try:
            port = server.add_insecure_port(address)
        except RuntimeError:
            await server.stop(None)
            raise LinkError(
                f"cannot listen on {address}",
                f"port {port_text} is in use, or {host} is not an address of this machine",
                "choose another port, or 0 for any free one",
            ) from None
        await server.start()
        self._servers.append(server)
        return f"{host}:{port}"

    async def dial(
        self,
        address: str,
        hello: Hello,
        handler: Handler,
        timeout_seconds: float,
        *,
        expected: PeerId | None = None,
    ) -> Link:
        channel = grpc.aio.insecure_channel(_checked(address), options=self._options())
        pipe = DiallerPipe(channel)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._endpoint.greet(pipe, hello, handler, expected)
        except TimeoutError:
            raise _unreachable(address, f"no answer within {timeout_seconds:g} s") from None
        except LinkClosed as error:
            raise _unreachable(address, error.why) from None

    async def close(self) -> None:
        await self._endpoint.close()
        for server in self._servers:
            await server.stop(None)
        self._servers.clear()

    def _options(self) -> Options:
        frame_bytes = FRAME_SLACK_BYTES + max(self._limits.chunk_bytes, self._limits.meta_bytes)
        keepalive = int(1000 * self._limits.heartbeat_seconds * _KEEPALIVE_HEARTBEATS)
        return (
            ("grpc.max_send_message_length", frame_bytes),
            ("grpc.max_receive_message_length", frame_bytes),
            ("grpc.keepalive_time_ms", keepalive),
            ("grpc.keepalive_timeout_ms", keepalive),
            # keepalive_timeout_ms alone does not notice a frozen idle partner.
            ("grpc.http2.ping_timeout_ms", keepalive),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
            ("grpc.http2.max_ping_strikes", 0),
            # Without this two processes may share a port and each get half of the links.
            ("grpc.so_reuseport", 0),
            ("grpc.enable_http_proxy", 0),
            # A shared pool would keep an address that was dead a moment ago in its back-off.
            ("grpc.use_local_subchannel_pool", 1),
        )


class _Streams(grpc.GenericRpcHandler):
    """Takes every stream of the link service as a listener's pipe."""

    def __init__(self, endpoint: Endpoint, handler: Handler) -> None:
        self._endpoint, self._handler = endpoint, handler

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != f"/{SERVICE}/{METHOD}":
            return None
        return grpc.stream_stream_rpc_method_handler(self._serve)

    async def _serve(
        self, _: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[bytes, bytes]"
    ) -> None:
        pipe = ListenerPipe(context)
        try:
            await self._endpoint.accept(pipe, self._handler)
            await pipe.ended.wait()
        finally:
            # gRPC cancels this coroutine when the dialler is gone.
            pipe.ended.set()


def _checked(address: str) -> str:
    """Only plain host:port: addresses come from other peers, and gRPC also knows unix: and others (I5)."""
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[2]) > 65535:
        raise BadAddress(
            f"{address!r} is not an address",
            "a host and a port up to 65535 belong to it, with a colon between them",
            "write host:port, for example 10.0.0.5:7700",
        )
    return address


def _unreachable(address: str, why: str) -> LinkError:
    return LinkError(
        f"cannot reach {address}",
        why,
        "check the address, that swarmtrain runs there, and that no firewall is in between",
    )
