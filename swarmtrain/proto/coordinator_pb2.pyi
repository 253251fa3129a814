from swarmtrain.proto import step_pb2 as _step_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Hello(_message.Message):
    __slots__ = ("protocol", "version", "run", "peer", "corpus", "kernel_class", "address", "role", "island")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    CORPUS_FIELD_NUMBER: _ClassVar[int]
    KERNEL_CLASS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ISLAND_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    run: bytes
    peer: str
    corpus: str
    kernel_class: str
    address: str
    role: str
    island: int
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., run: _Optional[bytes] = ..., peer: _Optional[str] = ..., corpus: _Optional[str] = ..., kernel_class: _Optional[str] = ..., address: _Optional[str] = ..., role: _Optional[str] = ..., island: _Optional[int] = ...) -> None: ...

class Describe(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Description(_message.Message):
    __slots__ = ("version", "config_json", "run", "directory", "addresses", "coordinator", "corpus", "start", "starts")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    CORPUS_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    version: str
    config_json: str
    run: bytes
    directory: _containers.RepeatedScalarFieldContainer[str]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    coordinator: str
    corpus: str
    start: _step_pb2.CheckpointAt
    starts: _containers.RepeatedCompositeFieldContainer[IslandStart]
    def __init__(self, version: _Optional[str] = ..., config_json: _Optional[str] = ..., run: _Optional[bytes] = ..., directory: _Optional[_Iterable[str]] = ..., addresses: _Optional[_Iterable[str]] = ..., coordinator: _Optional[str] = ..., corpus: _Optional[str] = ..., start: _Optional[_Union[_step_pb2.CheckpointAt, _Mapping]] = ..., starts: _Optional[_Iterable[_Union[IslandStart, _Mapping]]] = ...) -> None: ...

class IslandStart(_message.Message):
    __slots__ = ("island", "at")
    ISLAND_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    island: int
    at: _step_pb2.CheckpointAt
    def __init__(self, island: _Optional[int] = ..., at: _Optional[_Union[_step_pb2.CheckpointAt, _Mapping]] = ...) -> None: ...

class EventBatch(_message.Message):
    __slots__ = ("peer", "lines", "dropped")
    PEER_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    peer: str
    lines: _containers.RepeatedScalarFieldContainer[str]
    dropped: int
    def __init__(self, peer: _Optional[str] = ..., lines: _Optional[_Iterable[str]] = ..., dropped: _Optional[int] = ...) -> None: ...

class ReachRequest(_message.Message):
    __slots__ = ("port",)
    PORT_FIELD_NUMBER: _ClassVar[int]
    port: int
    def __init__(self, port: _Optional[int] = ...) -> None: ...

class ReachReply(_message.Message):
    __slots__ = ("address", "problem")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    address: str
    problem: str
    def __init__(self, address: _Optional[str] = ..., problem: _Optional[str] = ...) -> None: ...

class ClockReply(_message.Message):
    __slots__ = ("now_seconds",)
    NOW_SECONDS_FIELD_NUMBER: _ClassVar[int]
    now_seconds: float
    def __init__(self, now_seconds: _Optional[float] = ...) -> None: ...

class FinishRequest(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("peer", "reason")
    PEER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    peer: str
    reason: str
    def __init__(self, peer: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
