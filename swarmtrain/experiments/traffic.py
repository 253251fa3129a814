"""What frames on a line are: for faults that choose messages, and for points that messages show."""

import asyncio
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from swarmtrain.core.closing import RoundWorkKind
from swarmtrain.core.messages import Decision
from swarmtrain.transport.frames import BULK, Frame, Kind, unpack
from swarmtrain.transport.link import Handler, Hello, Link, LinkLimits, Message
from swarmtrain.transport.messages import decode_round
from swarmtrain.transport.step_messages import read_step

_LIMITS = LinkLimits(message_bytes=1 << 40, meta_bytes=1 << 30, chunk_bytes=1 << 30)
"""A watcher refuses nothing: the receiver does."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One frame to an onlooker. `is_small`: a whole request or answer, which may vanish without hurting the link."""

    what: str
    is_tell: bool
    is_small: bool
    payload_bytes: int


@dataclass(slots=True)
class Traffic:
    """Remembers which call has which method, to name its answer."""

    methods: dict[tuple[str, str, int], str] = field(default_factory=dict)

    def show(self, frame_bytes: bytes) -> Shown:
        frame = unpack(frame_bytes, _LIMITS)
        is_tell = frame.kind is Kind.TELL and frame.method in ("step", "round")
        is_call = frame.kind in (Kind.REQUEST, Kind.ANSWER)
        what = f"a {frame.kind.name.lower()}{' of ' + frame.method if frame.method else ''}"
        is_small = is_call and not frame.flags & BULK
        return Shown(what, is_tell, is_small, len(frame.payload))

    def sent(self, sender: str, receiver: str, frame_bytes: bytes) -> list[str]:
        """Observations of `sender` as it sends."""
        frame = unpack(frame_bytes, _LIMITS)
        if frame.kind is Kind.ANSWER:
            method = self.methods.pop((receiver, sender, frame.call), "")
            return [f"{method}.answered"]
        return self._named(frame, "sent")

    def received(self, sender: str, receiver: str, frame_bytes: bytes) -> list[str]:
        """Observations of `receiver` as it receives."""
        frame = unpack(frame_bytes, _LIMITS)
        if frame.kind is Kind.REQUEST:
            self.methods[(sender, receiver, frame.call)] = frame.method
        return self._named(frame, "received")

    def _named(self, frame: Frame, verb: str) -> list[str]:
        if frame.kind is Kind.TELL and frame.method in ("step", "round"):
            is_step = frame.method == "step"
            message = read_step(frame.meta).message if is_step else decode_round(frame.meta)
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(message).__name__).lower()
            return [f"{name}.{verb}", *([f"merging_{name}.{verb}"] if _merges(message) else [])]
        return [f"{frame.method}.{verb}"] if frame.kind is Kind.REQUEST else []


def _merges(message: object) -> bool:
    """Whether it is a decision that has its island take a round's result."""
    works = message.commit.closing.rounds if isinstance(message, Decision) else ()
    return any(work.kind == RoundWorkKind.MERGE for work in works)


def flipped(frame: bytes, payload_bytes: int, chance: random.Random) -> bytes:
    """`frame` with one bit of its payload, which is its end, turned over."""
    changed = bytearray(frame)
    place = len(frame) - payload_bytes + chance.randrange(payload_bytes)
    changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


class _Repeating:
    """A handler that may get a call twice, as after a retry whose first try was only slow."""

    def __init__(self, handler: Handler, is_repeated: Callable[[], bool]) -> None:
        self._handler, self._is_repeated = handler, is_repeated
        self._repeats: dict[asyncio.Task[Message], None] = {}

    def hello(self) -> Hello:
        return self._handler.hello()

    def check(self, hello: Hello) -> None:
        self._handler.check(hello)

    def tell(self, link: Link, method: str, meta: bytes) -> None:
        self._handler.tell(link, method, meta)

    def opened(self, link: Link) -> None:
        self._handler.opened(link)

    def closed(self, link: Link, reason: str) -> None:
        self._handler.closed(link, reason)

    async def call(self, link: Link, method: str, request: Message) -> Message:
        if self._is_repeated():
            copy = Message(request.meta, bytearray(request.body))
            repeat = asyncio.ensure_future(self._handler.call(link, method, copy))
            self._repeats[repeat] = None
            repeat.add_done_callback(self._ended)
        return await self._handler.call(link, method, request)

    def _ended(self, repeat: "asyncio.Task[Message]") -> None:
        """Nobody hears the answer to a repeat, nor its error."""
        del self._repeats[repeat]
        if not repeat.cancelled():
            repeat.exception()


def repeating(handler: Handler, is_repeated: Callable[[], bool]) -> Handler:
    """`handler`, with each call delivered twice for which `is_repeated()` says so."""
    return _Repeating(handler, is_repeated)
