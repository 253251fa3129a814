"""What peers ask each other and a coordinator, as frozen values that encode themselves.

A tensor's bytes travel as the body of the message whose meta is one of these.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, Self

from swarmtrain.core.messages import CheckpointAt, Commit, StageDigest
from swarmtrain.core.rounds import GroupMember, LastCounted, RoundCodec
from swarmtrain.core.tensors import TensorHeader
from swarmtrain.core.types import Digest, PeerId, Route
from swarmtrain.transport.messages import decode, encode


class Encoded:
    """A value with a protobuf message of the same name."""

    __slots__ = ()

    def encode(self) -> bytes:
        return encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises WireError."""
        return decode(cls, data)


class Status(IntEnum):
    """How a peer answered a hop, a reduce piece or a state request."""

    OK = 1
    VOID = 2
    BUSY = 3
    FENCED = 4
    REFRESH = 5
    FULL = 6
    MISMATCH = 7


@dataclass(frozen=True, slots=True)
class ProcessRequest(Encoded):
    """One hop of a microbatch; the body is the activation that `tensor` describes."""

    step: int
    base: Digest
    roster_version: int
    key: int
    position: int
    route: Route
    attempt: int
    tensor: TensorHeader


@dataclass(frozen=True, slots=True)
class ProcessReply(Encoded):
    """The input gradient of a hop as the body, or why there is none; `step` is the answering peer's.

    `lane_seconds` is what a microbatch takes of its lane through all stages it hosts; 0 while it cannot say.
    """

    status: Status
    reason: str
    step: int
    tensor: TensorHeader | None
    lane_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class WhereRequest(Encoded):
    """Asked by a caller that waits longer than usual: is the key still at the peer it called, or further down?"""

    step: int
    key: int
    position: int


@dataclass(frozen=True, slots=True)
class WhereReply(Encoded):
    """`is_below`: the peer handed the key on and waits for others itself."""

    is_below: bool


@dataclass(frozen=True, slots=True)
class WithdrawRequest(Encoded):
    """Told by a caller that has the key's answer from another replica: this peer need not go on for it."""

    step: int
    base: Digest
    key: int
    position: int


@dataclass(frozen=True, slots=True)
class RosterRequest(Encoded):
    """Asked of who named a roster that this peer does not know; the answer's body is the whole roster."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class ProbeRequest(Encoded):
    """A body of `body_bytes` that goes nowhere: its sender measures how fast it is taken.

    The answer is empty, or, `is_echoed`, a ProbeReply with as many bytes back.
    """

    body_bytes: int
    is_echoed: bool = False


@dataclass(frozen=True, slots=True)
class ProbeReply(Encoded):
    """What the answering peer measured of its way back so far: 0 while that is not known; `messages` it rests on."""

    bytes_per_second: float
    messages: int


@dataclass(frozen=True, slots=True)
class PieceRequest(Encoded):
    """Slice `slice` of `slices` of a stage's sum under one seal: own contribution, or the `reduced` one."""

    step: int
    term: int
    seal: int
    stage: int
    slice: int
    slices: int
    reduced: bool


@dataclass(frozen=True, slots=True)
class PieceReply(Encoded):
    """`count` numbers of `dtype` as the body; `digest` is the body's."""

    status: Status
    dtype: str
    count: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class StateRequest(Encoded):
    """A piece of a stage's state at `step`. Who `takes_packed` may get it in fewer bytes."""

    stage: int
    step: int
    offset_bytes: int
    length_bytes: int
    takes_packed: bool = False


@dataclass(frozen=True, slots=True)
class StateReply(Encoded):
    """The piece as the body; `digests` are those of the whole stages, `digest` the piece's.

    A body that was packed is the payload of `tensor`; `digest` is of the bytes that come out of it.
    """

    status: Status
    step: int
    base: Digest
    total_bytes: int
    digests: tuple[StageDigest, ...]
    digest: Digest
    tensor: TensorHeader | None = None


@dataclass(frozen=True, slots=True)
class RoundPieceRequest(Encoded):
    """So many sections of a parcel of an outer round, from `first` on; none ask for its table.

    `name` says which: the digest of an island's contribution, or the name of a slice's mean (outer.slices). Whoever
    has it may serve it.
    """

    stage: int
    fragment: int
    round: int
    base: Digest
    name: Digest
    first: int
    sections: int


@dataclass(frozen=True, slots=True)
class RoundPieceReply(Encoded):
    """The sections, one after the other, as the body; `digest` is the body's."""

    status: Status
    digest: Digest


@dataclass(frozen=True, slots=True)
class OuterStateRequest(Encoded):
    """A piece of a fragment's outer state, at `round` or a later one."""

    stage: int
    fragment: int
    round: int
    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class OuterStateReply(Encoded):
    """The piece as the body: parameters, then momentum; `base` is the state's digest, `digest` the piece's.

    `members` vote in the round that comes next, which sends in `codec`, or the configured one where that is empty;
    `counted` are the islands that ever contributed.
    """

    status: Status
    round: int
    steps: int
    base: Digest
    members: tuple[GroupMember, ...]
    total_bytes: int
    digest: Digest
    counted: tuple[LastCounted, ...]
    codec: RoundCodec = ""


@dataclass(frozen=True, slots=True)
class LearnRequest(Encoded):
    """A newcomer learns `stage` outside of any roster (peer.learning, peer.teaching).

    `look`: could you keep your state for me? `begin`: keep that of now. `hold`: I still fetch it. `commit`: the
    decision of `step`, once there is one; what was before it may go. `end`: all of it may go.
    """

    verb: Literal["look", "begin", "hold", "commit", "end"]
    stage: int
    step: int = 0


@dataclass(frozen=True, slots=True)
class LearnReply(Encoded):
    """OK, with the `commit` that was asked for if it is decided; BUSY: another newcomer learns here; FENCED: nothing
    is kept that could serve.

    `step`, `base` and `epoch` say where the donor is, or for `begin` which state it keeps.
    """

    status: Status
    step: int
    base: Digest
    epoch: int
    commit: Commit | None = None


@dataclass(frozen=True, slots=True)
class Describe(Encoded):
    """What is this run? Asked by a machine that wants to join."""


@dataclass(frozen=True, slots=True)
class IslandStart(Encoded):
    """The checkpoint that an island of a resumed run starts from: its own."""

    island: int
    at: CheckpointAt


@dataclass(frozen=True, slots=True)
class Description(Encoded):
    """The run as a joining machine needs it; `directory` are DHT multiaddresses, `corpus` its digest.

    `start` is the checkpoint that all islands start from, `starts` those of islands that have their own.
    """

    version: str
    config_json: str
    run: bytes
    directory: tuple[str, ...]
    addresses: tuple[str, ...]
    coordinator: str
    corpus: str
    start: CheckpointAt | None = None
    starts: tuple[IslandStart, ...] = ()


@dataclass(frozen=True, slots=True)
class EventBatch(Encoded):
    """A peer's events, one JSON line each; `dropped` counts those that did not fit before."""

    peer: PeerId
    lines: tuple[str, ...]
    dropped: int


@dataclass(frozen=True, slots=True)
class ReachRequest(Encoded):
    """Can you dial me? At `port` of the address that you see me come from, and at no other."""

    port: int


@dataclass(frozen=True, slots=True)
class ReachReply(Encoded):
    """`address` was dialled; `problem` says why the caller did not answer there, empty when it did."""

    address: str
    problem: str


@dataclass(frozen=True, slots=True)
class ClockReply(Encoded):
    """The answering machine's clock, as the directory counts: seconds since 1970."""

    now_seconds: float


@dataclass(frozen=True, slots=True)
class FinishRequest(Encoded):
    """An operator ends the run."""

    reason: str


@dataclass(frozen=True, slots=True)
class LeaveRequest(Encoded):
    """A peer leaves on its own."""

    peer: PeerId
    reason: str
