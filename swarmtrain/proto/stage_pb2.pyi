from swarmtrain.proto import round_pb2 as _round_pb2
from swarmtrain.proto import step_pb2 as _step_pb2
from swarmtrain.proto import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_UNSPECIFIED: _ClassVar[Status]
    STATUS_OK: _ClassVar[Status]
    STATUS_VOID: _ClassVar[Status]
    STATUS_BUSY: _ClassVar[Status]
    STATUS_FENCED: _ClassVar[Status]
    STATUS_REFRESH: _ClassVar[Status]
    STATUS_FULL: _ClassVar[Status]
    STATUS_MISMATCH: _ClassVar[Status]
STATUS_UNSPECIFIED: Status
STATUS_OK: Status
STATUS_VOID: Status
STATUS_BUSY: Status
STATUS_FENCED: Status
STATUS_REFRESH: Status
STATUS_FULL: Status
STATUS_MISMATCH: Status

class ProcessRequest(_message.Message):
    __slots__ = ("step", "base", "roster_version", "key", "position", "route", "attempt", "tensor")
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ROSTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    step: int
    base: bytes
    roster_version: int
    key: int
    position: int
    route: _containers.RepeatedCompositeFieldContainer[_step_pb2.Visit]
    attempt: int
    tensor: _tensor_pb2.TensorHeader
    def __init__(self, step: _Optional[int] = ..., base: _Optional[bytes] = ..., roster_version: _Optional[int] = ..., key: _Optional[int] = ..., position: _Optional[int] = ..., route: _Optional[_Iterable[_Union[_step_pb2.Visit, _Mapping]]] = ..., attempt: _Optional[int] = ..., tensor: _Optional[_Union[_tensor_pb2.TensorHeader, _Mapping]] = ...) -> None: ...

class ProcessReply(_message.Message):
    __slots__ = ("status", "reason", "step", "tensor", "lane_seconds")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    LANE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    status: Status
    reason: str
    step: int
    tensor: _tensor_pb2.TensorHeader
    lane_seconds: float
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., reason: _Optional[str] = ..., step: _Optional[int] = ..., tensor: _Optional[_Union[_tensor_pb2.TensorHeader, _Mapping]] = ..., lane_seconds: _Optional[float] = ...) -> None: ...

class WhereRequest(_message.Message):
    __slots__ = ("step", "key", "position")
    STEP_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    step: int
    key: int
    position: int
    def __init__(self, step: _Optional[int] = ..., key: _Optional[int] = ..., position: _Optional[int] = ...) -> None: ...

class WhereReply(_message.Message):
    __slots__ = ("is_below",)
    IS_BELOW_FIELD_NUMBER: _ClassVar[int]
    is_below: bool
    def __init__(self, is_below: _Optional[bool] = ...) -> None: ...

class WithdrawRequest(_message.Message):
    __slots__ = ("step", "base", "key", "position")
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    step: int
    base: bytes
    key: int
    position: int
    def __init__(self, step: _Optional[int] = ..., base: _Optional[bytes] = ..., key: _Optional[int] = ..., position: _Optional[int] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("body_bytes", "is_echoed")
    BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    IS_ECHOED_FIELD_NUMBER: _ClassVar[int]
    body_bytes: int
    is_echoed: bool
    def __init__(self, body_bytes: _Optional[int] = ..., is_echoed: _Optional[bool] = ...) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("bytes_per_second", "messages")
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    bytes_per_second: float
    messages: int
    def __init__(self, bytes_per_second: _Optional[float] = ..., messages: _Optional[int] = ...) -> None: ...

class RosterRequest(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    def __init__(self, digest: _Optional[bytes] = ...) -> None: ...

class PieceRequest(_message.Message):
    __slots__ = ("step", "term", "seal", "stage", "slice", "slices", "reduced")
    STEP_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    REDUCED_FIELD_NUMBER: _ClassVar[int]
    step: int
    term: int
    seal: int
    stage: int
    slice: int
    slices: int
    reduced: bool
    def __init__(self, step: _Optional[int] = ..., term: _Optional[int] = ..., seal: _Optional[int] = ..., stage: _Optional[int] = ..., slice: _Optional[int] = ..., slices: _Optional[int] = ..., reduced: _Optional[bool] = ...) -> None: ...

class PieceReply(_message.Message):
    __slots__ = ("status", "dtype", "count", "digest")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    status: Status
    dtype: str
    count: int
    digest: bytes
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., dtype: _Optional[str] = ..., count: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class StateRequest(_message.Message):
    __slots__ = ("stage", "step", "offset_bytes", "length_bytes", "takes_packed")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    LENGTH_BYTES_FIELD_NUMBER: _ClassVar[int]
    TAKES_PACKED_FIELD_NUMBER: _ClassVar[int]
    stage: int
    step: int
    offset_bytes: int
    length_bytes: int
    takes_packed: bool
    def __init__(self, stage: _Optional[int] = ..., step: _Optional[int] = ..., offset_bytes: _Optional[int] = ..., length_bytes: _Optional[int] = ..., takes_packed: _Optional[bool] = ...) -> None: ...

class StateReply(_message.Message):
    __slots__ = ("status", "step", "base", "total_bytes", "digests", "digest", "tensor")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    status: Status
    step: int
    base: bytes
    total_bytes: int
    digests: _containers.RepeatedCompositeFieldContainer[_step_pb2.StageDigest]
    digest: bytes
    tensor: _tensor_pb2.TensorHeader
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., step: _Optional[int] = ..., base: _Optional[bytes] = ..., total_bytes: _Optional[int] = ..., digests: _Optional[_Iterable[_Union[_step_pb2.StageDigest, _Mapping]]] = ..., digest: _Optional[bytes] = ..., tensor: _Optional[_Union[_tensor_pb2.TensorHeader, _Mapping]] = ...) -> None: ...

class RoundPieceRequest(_message.Message):
    __slots__ = ("stage", "fragment", "round", "base", "name", "first", "sections")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECTIONS_FIELD_NUMBER: _ClassVar[int]
    stage: int
    fragment: int
    round: int
    base: bytes
    name: bytes
    first: int
    sections: int
    def __init__(self, stage: _Optional[int] = ..., fragment: _Optional[int] = ..., round: _Optional[int] = ..., base: _Optional[bytes] = ..., name: _Optional[bytes] = ..., first: _Optional[int] = ..., sections: _Optional[int] = ...) -> None: ...

class RoundPieceReply(_message.Message):
    __slots__ = ("status", "digest")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    status: Status
    digest: bytes
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., digest: _Optional[bytes] = ...) -> None: ...

class OuterStateRequest(_message.Message):
    __slots__ = ("stage", "fragment", "round", "offset_bytes", "length_bytes")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    LENGTH_BYTES_FIELD_NUMBER: _ClassVar[int]
    stage: int
    fragment: int
    round: int
    offset_bytes: int
    length_bytes: int
    def __init__(self, stage: _Optional[int] = ..., fragment: _Optional[int] = ..., round: _Optional[int] = ..., offset_bytes: _Optional[int] = ..., length_bytes: _Optional[int] = ...) -> None: ...

class LastCounted(_message.Message):
    __slots__ = ("island", "round")
    ISLAND_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    island: int
    round: int
    def __init__(self, island: _Optional[int] = ..., round: _Optional[int] = ...) -> None: ...

class OuterStateReply(_message.Message):
    __slots__ = ("status", "round", "steps", "base", "members", "total_bytes", "digest", "counted", "codec")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    status: Status
    round: int
    steps: int
    base: bytes
    members: _containers.RepeatedCompositeFieldContainer[_round_pb2.GroupMember]
    total_bytes: int
    digest: bytes
    counted: _containers.RepeatedCompositeFieldContainer[LastCounted]
    codec: str
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., round: _Optional[int] = ..., steps: _Optional[int] = ..., base: _Optional[bytes] = ..., members: _Optional[_Iterable[_Union[_round_pb2.GroupMember, _Mapping]]] = ..., total_bytes: _Optional[int] = ..., digest: _Optional[bytes] = ..., counted: _Optional[_Iterable[_Union[LastCounted, _Mapping]]] = ..., codec: _Optional[str] = ...) -> None: ...

class LearnRequest(_message.Message):
    __slots__ = ("verb", "stage", "step")
    VERB_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    verb: str
    stage: int
    step: int
    def __init__(self, verb: _Optional[str] = ..., stage: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class LearnReply(_message.Message):
    __slots__ = ("status", "step", "base", "epoch", "commit")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    status: Status
    step: int
    base: bytes
    epoch: int
    commit: _step_pb2.Commit
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., step: _Optional[int] = ..., base: _Optional[bytes] = ..., epoch: _Optional[int] = ..., commit: _Optional[_Union[_step_pb2.Commit, _Mapping]] = ...) -> None: ...
