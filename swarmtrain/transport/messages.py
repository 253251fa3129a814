"""Core values to protobuf and back, checked on the way in (I5).

One generic converter walks the fields of a frozen dataclass; the protobuf message has the same name and the
same fields. Whatever a remote sends either becomes a value whose numbers, lengths and counts are sane, or a
WireError. It does not judge meaning: terms, fences and digests are the step protocol's.
"""

import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import IntEnum
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage

from swarmtrain.core.errors import WireError
from swarmtrain.core.rounds import RoundMessage
from swarmtrain.proto import coordinator_pb2, round_pb2, stage_pb2, step_pb2, tensor_pb2
from swarmtrain.transport.checks import (
    check_bytes,
    check_count,
    check_float,
    check_integer,
    check_text,
    check_whole,
)

T = TypeVar("T")

_PROTO_TYPES: dict[str, type[ProtoMessage]] = {
    name: getattr(module, name)
    for module in (step_pb2, round_pb2, tensor_pb2, stage_pb2, coordinator_pb2)
    for name in module.DESCRIPTOR.message_types_by_name
}

Read = Callable[[str, Any], Any]
"""(field name, protobuf value) -> core value; raises WireError."""

Write = Callable[[Any, str, Any], None]
"""(protobuf message, field name, core value) -> sets the field."""

Plan = tuple[tuple[str, Write, Read, bool], ...]
"""For each field of a dataclass: its name, writer, reader, and whether it must be present."""

_PLANS: dict[type[Any], Plan] = {}


def encode(value: Any) -> bytes:
    """A core dataclass as protobuf bytes."""
    message = _PROTO_TYPES[type(value).__name__]()
    fill(message, value)
    return message.SerializeToString()


def decode(kind: type[T], data: bytes) -> T:
    """The `kind` that `data` holds. Raises WireError."""
    return build(kind, parse(_PROTO_TYPES[kind.__name__], data))


def encode_round(message: RoundMessage) -> bytes:
    """A message about an outer round in its envelope, which names its kind."""
    envelope = round_pb2.RoundEnvelope()
    member = getattr(envelope, snake(type(message).__name__))
    member.SetInParent()
    fill(member, message)
    return envelope.SerializeToString()


def decode_round(data: bytes) -> RoundMessage:
    """The message about an outer round in an envelope. Raises WireError."""
    envelope = parse(round_pb2.RoundEnvelope, data)
    field = envelope.WhichOneof("message")
    if field is None:
        raise WireError("malformed message", "a round message of no known kind")
    return build(_ROUND_KINDS[field], getattr(envelope, field))


def snake(name: str) -> str:
    """`NewTerm` as the envelopes call it, `new_term`."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).removeprefix("_")


_ROUND_KINDS: dict[str, type[Any]] = {snake(kind.__name__): kind for kind in get_args(RoundMessage)}


def parse(proto: type[ProtoMessage], data: bytes) -> Any:
    """`data` as a protobuf message, unchecked. Raises WireError."""
    message = proto()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise WireError(f"malformed {proto.DESCRIPTOR.name}", str(error)) from None
    return message


def _plan(kind: type[Any]) -> Plan:
    if kind not in _PLANS:
        hints = get_type_hints(kind)
        _PLANS[kind] = tuple(_plan_field(field.name, hints[field.name]) for field in fields(kind))
    return _PLANS[kind]


def _plan_field(name: str, hint: Any) -> tuple[str, Write, Read, bool]:
    origin = get_origin(hint)
    if origin is tuple:
        element = get_args(hint)[0]
        return name, _tuple_writer(element), _tuple_reader(element), False
    if origin in (Union, types.UnionType):
        (inner,) = (entry for entry in get_args(hint) if entry is not type(None))
        return name, _write_message, _reader(inner), False
    if is_dataclass(hint):
        return name, _write_message, _reader(hint), True
    return name, setattr, _reader(hint), False


def _write_message(message: Any, name: str, value: Any) -> None:
    if value is not None:
        member = getattr(message, name)
        member.SetInParent()
        fill(member, value)


def _tuple_writer(element: Any) -> Write:
    if get_origin(element) is tuple:
        return _write_tuples
    return _write_messages if is_dataclass(element) else _write_scalars


def _write_scalars(message: Any, name: str, value: Any) -> None:
    getattr(message, name).extend(value)


def _write_messages(message: Any, name: str, value: Any) -> None:
    for entry in value:
        fill(getattr(message, name).add(), entry)


def _write_tuples(message: Any, name: str, value: Any) -> None:
    # Protobuf has no list of lists: each inner tuple is a message with `values`.
    for inner in value:
        getattr(message, name).add(values=inner)


def _tuple_reader(element: Any) -> Read:
    read = _reader(element)

    def read_all(name: str, values: Any) -> tuple[Any, ...]:
        check_count(name, len(values))
        return tuple(read(name, value) for value in values)

    return read_all


def _reader(hint: Any) -> Read:
    hint = getattr(hint, "__supertype__", hint)
    kind: Any = hint
    if get_origin(hint) is tuple:
        inner = _tuple_reader(get_args(hint)[0])
        return lambda name, value: inner(name, value.values)
    if get_origin(hint) is Literal:
        return lambda name, value: _choice(name, value, get_args(hint))
    if is_dataclass(hint):
        return lambda name, value: build(kind, value)
    if issubclass(hint, IntEnum):
        return lambda name, value: hint(_choice(name, value, tuple(int(entry) for entry in hint)))
    checks: dict[Any, Read] = {
        bool: lambda name, value: value,
        int: check_integer,
        float: check_float,
        str: check_text,
        bytes: check_bytes,
    }
    return checks[hint]


def _choice(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise WireError("malformed message", f"{name} is none of the known values")
    return value


def fill(message: Any, value: Any) -> None:
    """Write a core dataclass into the protobuf message of its name."""
    for name, write, _, _ in _plan(type(value)):
        write(message, name, getattr(value, name))


def build(kind: type[T], message: Any) -> T:
    """The `kind` that a protobuf message holds. Raises WireError."""
    values: dict[str, Any] = {}
    for name, write, read, required in _plan(kind):
        if write is _write_message and not message.HasField(name):
            if required:
                raise WireError(f"malformed {kind.__name__}", f"{name} is missing")
            values[name] = None
        else:
            values[name] = read(name, getattr(message, name))
    value = kind(**values)
    check_whole(value)
    return value
