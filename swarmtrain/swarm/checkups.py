"""What a machine may ask to check itself before it joins: the time here, and whether it can be dialled.

A stranger may ask, so the dial-back goes only to the address that the question came from, to a port that needs no
privilege, one at a time, and not more often than every DIAL_PAUSE_SECONDS: nobody can be made to knock elsewhere.
"""

import asyncio
import math
from collections.abc import Callable

from swarmtrain.core.errors import LinkError, Refused, WireError
from swarmtrain.core.types import PeerId
from swarmtrain.transport.frames import printable
from swarmtrain.transport.link import Hello, Link, Message, Transport
from swarmtrain.transport.requests import ClockReply, ReachReply, ReachRequest

METHODS = ("clock", "reach")

DIAL_SECONDS = 5.0
DIAL_PAUSE_SECONDS = 1.0


class Checkups:
    """Answers `clock` and `reach`. `now()` is the directory's time."""

    def __init__(
        self, transport: Transport, hello: Callable[[], Hello], now: Callable[[], float]
    ) -> None:
        self._transport, self._hello, self._now = transport, hello, now
        self._next_dial_seconds = -math.inf

    async def answer(self, link: Link, method: str, request: Message) -> Message:
        """Raises Refused when the caller cannot be dialled at all, or too many ask; WireError for junk."""
        match method:
            case "clock":
                return Message(ClockReply(self._now()).encode())
            case "reach":
                port = ReachRequest.decode(request.meta).port
                return Message((await self._dial_back(link, port)).encode())
            case _:
                raise WireError("an unknown method", method)

    async def _dial_back(self, link: Link, port: int) -> ReachReply:
        host, loop = link.observed_host, asyncio.get_running_loop()
        if not host:
            raise Refused("this side does not know the address you come from", "it dialled you")
        if loop.time() < self._next_dial_seconds:
            raise Refused("others are being dialled back right now", "", "ask again in a moment")
        # The longest it can take, until it is known how long it took.
        self._next_dial_seconds = loop.time() + DIAL_SECONDS + DIAL_PAUSE_SECONDS
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            problem = await self._problem(address, link.remote.peer)
        finally:
            self._next_dial_seconds = loop.time() + DIAL_PAUSE_SECONDS
        return ReachReply(address, problem)

    async def _problem(self, address: str, peer: PeerId) -> str:
        """Why `peer` does not answer at `address`; empty when it does."""
        caller = _Caller(self._hello, peer)
        try:
            link = await self._transport.dial(address, self._hello(), caller, DIAL_SECONDS)
        except LinkError as error:
            return printable(f"{error.what}: {error.why}" if error.why else error.what)[:400]
        except WireError:
            return "something else answers there"
        await link.close("reached")
        return ""


class _Caller:
    """The handler of a dial-back: whoever answers must be the one who asked, and nothing is served."""

    def __init__(self, hello: Callable[[], Hello], peer: PeerId) -> None:
        self.hello, self._peer = hello, peer

    def check(self, hello: Hello) -> None:
        if hello.peer != self._peer:
            raise Refused("another process answers there", f"it calls itself {hello.peer}")

    async def call(self, link: Link, method: str, request: Message) -> Message:
        raise Refused("this link only shows that you can be reached")

    def tell(self, link: Link, method: str, meta: bytes) -> None:
        raise WireError("this link only shows that you can be reached", f"method {method}")

    def opened(self, link: Link) -> None:
        """Nothing to do."""

    def closed(self, link: Link, reason: str) -> None:
        """Nothing to do."""
