"""One process's side of all its links: greeting over a fresh pipe, and the orderly end of everything."""

import asyncio
import logging

from swarmtrain.core.errors import Incompatible, LinkClosed, LinkError, Refused, WireError
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import PeerId
from swarmtrain.transport.caps import NO_CAPS, Caps
from swarmtrain.transport.frames import Frame, Kind, error_frame, pack, read_error, unpack
from swarmtrain.transport.link import PROTOCOL, Handler, Hello, LinkLimits
from swarmtrain.transport.messages import decode, encode
from swarmtrain.transport.mux import Mux
from swarmtrain.transport.pipe import Pipe
from swarmtrain.transport.shaping import Lines, ShapedPipe

logger = logging.getLogger(__name__)


class Endpoint:
    """The links and tasks that one transport owns."""

    def __init__(
        self, limits: LinkLimits, lines: Lines | None = None, caps: Caps = NO_CAPS
    ) -> None:
        """With `lines` all pipes are shaped by them; `caps` hold for all links together."""
        self._limits, self._lines, self._caps = limits, lines, caps
        self._links: dict[Mux, None] = {}
        self._closed = False
        self.tasks = Tasks()

    async def greet(
        self, pipe: Pipe, hello: Hello, handler: Handler, expected: PeerId | None = None
    ) -> Mux:
        """The dialler's greeting, of `expected` where it knows whom it dials.

        Raises Refused, Incompatible, LinkClosed or WireError; the pipe is then closed.
        """
        pipe = self._shaped(pipe)
        _leads_to(pipe, expected)
        try:
            self._check_open()
            await pipe.send(pack(Frame(Kind.HELLO, meta=encode(hello))))
            frame = unpack(await pipe.receive(), self._limits)
            if frame.kind is Kind.REFUSE:
                raise read_error(frame)
            remote = _read_hello(frame, Kind.WELCOME)
            handler.check(remote)
            self._check_open()
        except BaseException:
            self.tasks.spawn(self._drop(pipe, "the greeting failed"), "drop pipe")
            raise
        return self._open(pipe, remote, handler)

    async def accept(self, pipe: Pipe, handler: Handler) -> Mux | None:
        """The listener's greeting; None when the link was refused or the other side made no sense."""
        pipe = self._shaped(pipe)
        try:
            async with asyncio.timeout(self._limits.silent_seconds):
                remote = await self._check(pipe, handler)
                await pipe.send(pack(Frame(Kind.WELCOME, meta=encode(handler.hello()))))
            self._check_open()
        except (LinkError, WireError, TimeoutError) as error:
            logger.info("a link was not opened: %s", error)
            await self._drop(pipe, "the greeting failed")
            return None
        return self._open(pipe, remote, handler)

    def _shaped(self, pipe: Pipe) -> Pipe:
        return pipe if self._lines is None else ShapedPipe(pipe, self._lines)

    async def close(self) -> None:
        """Close all links at once, then cancel the calls still being answered."""
        self._closed = True
        closing = [link.close("the other side shut down") for link in list(self._links)]
        await asyncio.gather(*closing)
        await self.tasks.cancel_all()

    async def _check(self, pipe: Pipe, handler: Handler) -> Hello:
        """The other side's Hello if it may come in; it is told why not before the error is raised here."""
        try:
            remote = _read_hello(unpack(await pipe.receive(), self._limits), Kind.HELLO)
            # From the first word on, the line is as it is to this peer: no greeting comes through a cut.
            _leads_to(pipe, remote.peer)
            handler.check(remote)
        except (Refused, WireError) as error:
            await pipe.send(pack(error_frame(Kind.REFUSE, 0, error)))
            raise
        return remote

    def _check_open(self) -> None:
        """A link that opens after `close` looked for links would be nobody's to close."""
        if self._closed:
            raise LinkClosed("the transport is closed", "this process is shutting down")

    def _open(self, pipe: Pipe, remote: Hello, handler: Handler) -> Mux:
        _leads_to(pipe, remote.peer)
        link = Mux(pipe, remote, handler, self._limits, self.tasks, self._caps)
        link.gone = self._links.pop
        self._links[link] = None
        link.start()
        return link

    async def _drop(self, pipe: Pipe, reason: str) -> None:
        try:
            async with asyncio.timeout(self._limits.farewell_seconds):
                await pipe.close(reason)
        except (TimeoutError, LinkClosed):
            logger.debug("a pipe did not end in time: %s", reason)


def _leads_to(pipe: Pipe, peer: PeerId | None) -> None:
    """Let the line be shaped as the one to `peer` is, if it is shaped at all."""
    if isinstance(pipe, ShapedPipe):
        pipe.peer = peer


def _read_hello(frame: Frame, kind: Kind) -> Hello:
    if frame.kind is not kind:
        raise WireError("malformed greeting", f"{frame.kind.name} instead of {kind.name}")
    hello = decode(Hello, frame.meta)
    if hello.protocol != PROTOCOL:
        raise Incompatible(
            "the other side speaks another version of the link protocol",
            f"protocol {hello.protocol} against {PROTOCOL}, swarmtrain {hello.version}",
            "install the same version of swarmtrain on both sides",
        )
    return hello
