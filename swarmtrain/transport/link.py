"""What the rest of swarmtrain sees of a connection: links, their handler, and the transport that makes them.

A link carries calls in both directions as opaque frames, control ahead of bulk (design.md section 5). Two
transports make links, gRPC and an in-memory twin; the code above the pipe is the same for both.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from swarmtrain.core.types import PeerId

PROTOCOL = 1
"""Version of the frame layout; both sides of a link must have the same."""

Buffer = bytes | bytearray | memoryview
"""Contiguous bytes; a sender leaves them unchanged until its call ended."""

Role = Literal["peer", "forming", "coordinator", "query"]
"""`forming` is a peer that has no island yet and measures its lines to choose one."""

BODY_ALIGNMENT_BYTES = 64
"""A received body starts on such an address, so that a tensor can be read without a copy."""


@dataclass(frozen=True, slots=True)
class Message:
    """A small encoded description and the bytes it describes.

    A received body is a writable memoryview on memory of its own, aligned to BODY_ALIGNMENT_BYTES.
    """

    meta: bytes
    body: Buffer = b""


@dataclass(frozen=True, slots=True)
class Hello:
    """What each side says of itself before anything else; `address` is where it can be dialled, or empty.

    `island` is the swarm it belongs to: step messages come from no other.
    """

    protocol: int
    version: str
    run: bytes
    peer: PeerId
    corpus: str
    kernel_class: str
    address: str
    role: Role
    island: int = 0


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Bounds of one link (I8); what a remote sends is held against them before memory is taken (I5).

    `window_bytes` bounds the bulk under way that the remote has not acknowledged, `control_bytes` the control
    frames that wait here, `reassembly_bytes` the incoming bodies that are not whole yet. A link without any
    frame for three heartbeats is closed.
    """

    chunk_bytes: int = 1 << 20
    window_bytes: int = 8 << 20
    meta_bytes: int = 1 << 20
    message_bytes: int = 256 << 20
    reassembly_bytes: int = 512 << 20
    control_bytes: int = 8 << 20
    incoming_calls: int = 256
    heartbeat_seconds: float = 1.0

    @property
    def silent_seconds(self) -> float:
        return 3 * self.heartbeat_seconds

    @property
    def farewell_seconds(self) -> float:
        """How long a closing link may spend on getting its queued control frames out."""
        return self.heartbeat_seconds


@dataclass(slots=True)
class LinkStats:
    """Running figures of one link; `bytes_per_second` and `round_trip_seconds` are 0 until measured.

    The rate is that of the line as this side sends (transport.line_rate). It rests on `messages`, calls and answers
    with more than a small body, the newest of them at `rated_seconds` of the loop.
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    calls: int = 0
    round_trip_seconds: float = 0.0
    bytes_per_second: float = 0.0
    messages: int = 0
    rated_seconds: float = 0.0


class Link(Protocol):
    """One bidirectional connection to one peer."""

    @property
    def remote(self) -> Hello: ...

    @property
    def stats(self) -> LinkStats: ...

    @property
    def observed_host(self) -> str:
        """The IP address from which the remote dialled, as seen here; empty where this side dialled."""
        ...

    @property
    def is_sending(self) -> bool:
        """Whether bodies wait here or are under way, apart from small ones."""
        ...

    async def call(
        self,
        method: str,
        request: Message,
        *,
        silence_seconds: float,
        deadline_seconds: float | None = None,
    ) -> Message:
        """Send `request` and wait for the answer.

        The remote sends progress notes for every call it works on, so a long computation is not silence.
        Cancelling the caller does not cancel the remote's work; its late answer is dropped. A request that is
        only partly sent by then is withdrawn.

        Raises LinkClosed, LinkSilent (nothing heard of this call for `silence_seconds`, or no answer within
        `deadline_seconds`), Refused or Incompatible (the remote answered with an error), and LinkError when the
        request is larger than this link's limits allow.
        """
        ...

    def tell(self, method: str, meta: bytes) -> None:
        """Send one-way control and return at once; a closed link drops it.

        Too many tells that the line cannot carry away close the link.
        """
        ...

    async def close(self, reason: str = "") -> None:
        """Close after queued control frames went out, in bounded time; pending calls get LinkClosed."""
        ...


class Handler(Protocol):
    """What a process does with its links."""

    def hello(self) -> Hello:
        """What a listener says of itself to those who dial it."""
        ...

    def check(self, hello: Hello) -> None:
        """Raise Refused or Incompatible to refuse the link; the other side gets the same error."""
        ...

    async def call(self, link: Link, method: str, request: Message) -> Message:
        """Answer a call. A SwarmError reaches the caller as Refused with its text; the answer's body must
        stay unchanged until it is sent. The caller's disconnect does not cancel this."""
        ...

    def tell(self, link: Link, method: str, meta: bytes) -> None:
        """Take one-way control; a WireError closes the link. Whatever else goes wrong is only logged by the link, so
        the handler notes it as an event before it raises (I7)."""
        ...

    def opened(self, link: Link) -> None:
        """The link's greeting succeeded; calls may be made on it."""
        ...

    def closed(self, link: Link, reason: str) -> None:
        """The link is gone; called once for each opened link."""
        ...


class Transport(Protocol):
    """Makes links."""

    async def listen(self, address: str, handler: Handler) -> str:
        """Take links at `address` ("host:port", port 0 picks one) and return the address that others dial.

        Raises LinkError when the address cannot be had.
        """
        ...

    async def dial(
        self,
        address: str,
        hello: Hello,
        handler: Handler,
        timeout_seconds: float,
        *,
        expected: PeerId | None = None,
    ) -> Link:
        """Open a link. `expected` is who should be there, where that is known: lines that an experiment shapes carry
        the greeting as they would to that peer. Whether it is there is the caller's to see.

        Raises LinkError when nobody answers in time, Refused or Incompatible when the other side or `handler.check`
        says no, and WireError when its greeting makes no sense.
        """
        ...

    async def close(self) -> None:
        """Close every link and listener and cancel the calls still being answered."""
        ...
