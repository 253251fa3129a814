"""One question to a peer or coordinator by a process that takes no part in the run."""

import contextlib
from collections.abc import AsyncIterator

from swarmtrain.core.errors import Refused
from swarmtrain.core.types import PeerId
from swarmtrain.core.version import VERSION
from swarmtrain.transport.grpc_transport import GrpcTransport
from swarmtrain.transport.link import PROTOCOL, Hello, Link, LinkLimits, Message
from swarmtrain.transport.requests import Describe


class Asker:
    """The handler of a process that only asks; `peer` is what it calls itself."""

    def __init__(self, peer: PeerId) -> None:
        self._peer = peer

    def hello(self) -> Hello:
        return Hello(PROTOCOL, VERSION, b"", self._peer, "", "", "", "query")

    def check(self, hello: Hello) -> None:
        """Whoever answers is asked; the answer is checked."""

    async def call(self, link: Link, method: str, request: Message) -> Message:
        raise Refused("this process only asks")

    def tell(self, link: Link, method: str, meta: bytes) -> None:
        """Nothing is told to a query."""

    def opened(self, link: Link) -> None:
        """Nothing to do."""

    def closed(self, link: Link, reason: str) -> None:
        """Nothing to do."""


@contextlib.asynccontextmanager
async def reaching(address: str, timeout_seconds: float) -> AsyncIterator[Link]:
    """A link to the peer or coordinator at `address`, for questions only; closed at the end. Raises LinkError."""
    transport = GrpcTransport(LinkLimits())
    asker = Asker(PeerId("query"))
    try:
        yield await transport.dial(address, asker.hello(), asker, timeout_seconds)
    finally:
        await transport.close()


async def ask(address: str, method: str, timeout_seconds: float) -> Message:
    """One question to the peer or coordinator at `address`. Raises LinkError."""
    async with reaching(address, timeout_seconds) as link:
        return await link.call(
            method,
            Message(Describe().encode()),
            silence_seconds=timeout_seconds,
            deadline_seconds=timeout_seconds,
        )
