"""The frames of a link: a fixed header of 28 bytes (little-endian), then method, meta and payload.

    kind u8 | flags u8 | method bytes u16 | meta bytes u32 | note milliseconds u32 | call u64 | body bytes u64

The first frame of a message (REQUEST, ANSWER) declares the whole body and carries its beginning; CHUNK frames
carry the rest in order. REQUEST says how often it wants progress notes. `call` numbers the calls of the side
that made them; it is a running total in ACK and a serial number in PING and PONG. Everything is checked here
before anybody acts on it (I5).
"""

import re
import struct
from dataclasses import dataclass
from enum import IntEnum

from swarmtrain.core.errors import Incompatible, Refused, SwarmError, WireError
from swarmtrain.core.remembered import remembered
from swarmtrain.transport.link import Buffer, LinkLimits

_HEADER = struct.Struct("<BBHIIQQ")
HEADER_BYTES = _HEADER.size
METHOD_BYTES = 64
FRAME_SLACK_BYTES = HEADER_BYTES + METHOD_BYTES
"""What a frame has beyond its meta and payload at most."""

SMALL_BODY_BYTES = 4096
"""Messages with a body up to this size travel as one control frame, ahead of bulk."""

DROPPED_MESSAGES = 4096
"""How many messages that nobody wants a remote may have under way at once before its link is closed."""

_METHOD = re.compile(rb"[a-z0-9_.]{1,%d}" % METHOD_BYTES)
_ERROR_BYTES = 8192

BULK = 1
"""Flag: this frame counts against the window and is acknowledged."""
INCOMPATIBLE = 2
"""Flag of REFUSE and ERROR: the error is an Incompatible."""


class Kind(IntEnum):
    HELLO = 1
    WELCOME = 2
    REFUSE = 3
    REQUEST = 4
    REQUEST_CHUNK = 5
    WITHDRAW = 6
    ANSWER = 7
    ANSWER_CHUNK = 8
    ERROR = 9
    NOTE = 10
    TELL = 11
    PING = 12
    PONG = 13
    ACK = 14
    BYE = 15


_WITH_METHOD = frozenset((Kind.REQUEST, Kind.TELL))
_WITH_META = frozenset(
    (Kind.HELLO, Kind.WELCOME, Kind.REFUSE, Kind.REQUEST, Kind.ANSWER)
    + (Kind.ERROR, Kind.TELL, Kind.BYE)
)
_WITH_BODY = frozenset((Kind.REQUEST, Kind.ANSWER))
_WITH_PAYLOAD = frozenset((Kind.REQUEST, Kind.REQUEST_CHUNK, Kind.ANSWER, Kind.ANSWER_CHUNK))
_WITH_FLAGS = _WITH_PAYLOAD | {Kind.REFUSE, Kind.ERROR}


LARGE_TELL_BYTES = 4096
"""One-way messages from here on name a whole roster: broadcasts, of which a copy for each of thousands weighs."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, taken apart; `body_bytes` is the whole message's body where a frame declares one."""

    kind: Kind
    flags: int = 0
    call: int = 0
    method: str = ""
    meta: bytes = b""
    body_bytes: int = 0
    payload: Buffer = b""
    note_milliseconds: int = 0


def pack(frame: Frame) -> bytes:
    """The frame's bytes; the one copy a chunk costs on its way out."""
    method = frame.method.encode("ascii")
    sizes = (len(method), len(frame.meta), frame.note_milliseconds)
    header = _HEADER.pack(frame.kind, frame.flags, *sizes, frame.call, frame.body_bytes)
    return b"".join((header, method, frame.meta, frame.payload))


def unpack(data: bytes, limits: LinkLimits) -> Frame:
    """Take a received frame apart; its payload stays a view of `data`. Raises WireError."""
    if len(data) >= LARGE_TELL_BYTES and data[0] == Kind.TELL:
        return _unpack_broadcast(data, limits)
    return _unpack(data, limits)


def tell_frame(method: str, meta: bytes) -> bytes:
    """A one-way message as bytes: the same for all links, so that a broadcast takes the memory of one."""
    if len(meta) >= LARGE_TELL_BYTES:
        return _pack_broadcast(method, meta)
    return pack(Frame(Kind.TELL, method=method, meta=meta))


@remembered(4)
def _pack_broadcast(method: str, meta: bytes) -> bytes:
    return pack(Frame(Kind.TELL, method=method, meta=meta))


@remembered(4)
def _unpack_broadcast(data: bytes, limits: LinkLimits) -> Frame:
    """What a virtual world hands to all receivers by reference."""
    return _unpack(data, limits)


def _unpack(data: bytes, limits: LinkLimits) -> Frame:
    if len(data) < HEADER_BYTES:
        raise _malformed(f"{len(data)} bytes are less than a header")
    kind_value, flags, method_bytes, meta_bytes, note, call, body_bytes = _HEADER.unpack_from(data)
    try:
        kind = Kind(kind_value)
    except ValueError:
        raise _malformed(f"unknown kind {kind_value}") from None
    payload_at = HEADER_BYTES + method_bytes + meta_bytes
    payload_bytes = len(data) - payload_at
    _check(kind, flags, limits, (method_bytes, meta_bytes, payload_bytes, body_bytes))
    if bool(note) != (kind is Kind.REQUEST):
        raise _malformed(f"a note interval of {note} ms on {kind.name}")
    method_at = HEADER_BYTES + method_bytes
    method = data[HEADER_BYTES:method_at]
    if method and not _METHOD.fullmatch(method):
        raise _malformed("a method name of other characters than a-z 0-9 _ .")
    meta = data[method_at:payload_at]
    payload = memoryview(data)[payload_at:]
    return Frame(kind, flags, call, method.decode("ascii"), meta, body_bytes, payload, note)


def _check(kind: Kind, flags: int, limits: LinkLimits, sizes: tuple[int, int, int, int]) -> None:
    method_bytes, meta_bytes, payload_bytes, body_bytes = sizes
    if flags & ~(BULK | INCOMPATIBLE) or (flags and kind not in _WITH_FLAGS):
        raise _malformed(f"flags {flags} on {kind.name}")
    if payload_bytes < 0:
        raise _malformed(f"{kind.name} is cut short by {-payload_bytes} bytes")
    if method_bytes > METHOD_BYTES or bool(method_bytes) != (kind in _WITH_METHOD):
        raise _malformed(f"a method name of {method_bytes} bytes on {kind.name}")
    if meta_bytes > limits.meta_bytes or (meta_bytes and kind not in _WITH_META):
        raise _malformed(f"{meta_bytes} bytes of meta on {kind.name}")
    if body_bytes > limits.message_bytes or (body_bytes and kind not in _WITH_BODY):
        raise _malformed(f"a body of {body_bytes} bytes on {kind.name}")
    if payload_bytes > limits.chunk_bytes or (payload_bytes and kind not in _WITH_PAYLOAD):
        raise _malformed(f"{payload_bytes} bytes of payload on {kind.name}")


def _malformed(why: str) -> WireError:
    return WireError("malformed frame", why)


def error_frame(kind: Kind, call: int, error: SwarmError) -> Frame:
    """An error as REFUSE or ERROR carries it: whether it is an Incompatible, and its three texts."""
    flags = INCOMPATIBLE if isinstance(error, Incompatible) else 0
    text = "\x1f".join((error.what, error.why, error.remedy))
    return Frame(kind, flags, call, meta=text.encode()[:_ERROR_BYTES])


def read_error(frame: Frame) -> Refused:
    """The error that the remote answered, of the class it had there."""
    parts = [*frame.meta[:_ERROR_BYTES].decode("utf-8", "replace").split("\x1f", 2), "", ""]
    what, why, remedy = (printable(part) for part in parts[:3])
    return (Incompatible if frame.flags & INCOMPATIBLE else Refused)(what, why, remedy)


def printable(text: str) -> str:
    """A remote's text without what could steer a terminal or fake a log line."""
    return "".join(character if character.isprintable() else " " for character in text)
