from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Visit(_message.Message):
    __slots__ = ("stage", "peer")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    stage: int
    peer: str
    def __init__(self, stage: _Optional[int] = ..., peer: _Optional[str] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("peer", "stages", "address", "region", "since")
    PEER_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    peer: str
    stages: _containers.RepeatedScalarFieldContainer[int]
    address: str
    region: str
    since: int
    def __init__(self, peer: _Optional[str] = ..., stages: _Optional[_Iterable[int]] = ..., address: _Optional[str] = ..., region: _Optional[str] = ..., since: _Optional[int] = ...) -> None: ...

class Roster(_message.Message):
    __slots__ = ("version", "members")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    version: int
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, version: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class RosterName(_message.Message):
    __slots__ = ("version", "digest", "base", "left", "members")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    version: int
    digest: bytes
    base: bytes
    left: _containers.RepeatedScalarFieldContainer[str]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, version: _Optional[int] = ..., digest: _Optional[bytes] = ..., base: _Optional[bytes] = ..., left: _Optional[_Iterable[str]] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class PositionKeys(_message.Message):
    __slots__ = ("position", "keys")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    position: int
    keys: bytes
    def __init__(self, position: _Optional[int] = ..., keys: _Optional[bytes] = ...) -> None: ...

class KeyLoss(_message.Message):
    __slots__ = ("key", "loss_sum")
    KEY_FIELD_NUMBER: _ClassVar[int]
    LOSS_SUM_FIELD_NUMBER: _ClassVar[int]
    key: int
    loss_sum: float
    def __init__(self, key: _Optional[int] = ..., loss_sum: _Optional[float] = ...) -> None: ...

class StageSum(_message.Message):
    __slots__ = ("stage", "digest", "square_sum", "exponent")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SQUARE_SUM_FIELD_NUMBER: _ClassVar[int]
    EXPONENT_FIELD_NUMBER: _ClassVar[int]
    stage: int
    digest: bytes
    square_sum: str
    exponent: int
    def __init__(self, stage: _Optional[int] = ..., digest: _Optional[bytes] = ..., square_sum: _Optional[str] = ..., exponent: _Optional[int] = ...) -> None: ...

class StageDigest(_message.Message):
    __slots__ = ("stage", "digest")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    stage: int
    digest: bytes
    def __init__(self, stage: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Ownership(_message.Message):
    __slots__ = ("peer", "items")
    PEER_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    peer: str
    items: _containers.RepeatedCompositeFieldContainer[PositionKeys]
    def __init__(self, peer: _Optional[str] = ..., items: _Optional[_Iterable[_Union[PositionKeys, _Mapping]]] = ...) -> None: ...

class Hint(_message.Message):
    __slots__ = ("position", "peer")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    position: int
    peer: str
    def __init__(self, position: _Optional[int] = ..., peer: _Optional[str] = ...) -> None: ...

class Scalars(_message.Message):
    __slots__ = ("learning_rate", "bias_correction1", "bias_correction2")
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    BIAS_CORRECTION1_FIELD_NUMBER: _ClassVar[int]
    BIAS_CORRECTION2_FIELD_NUMBER: _ClassVar[int]
    learning_rate: float
    bias_correction1: float
    bias_correction2: float
    def __init__(self, learning_rate: _Optional[float] = ..., bias_correction1: _Optional[float] = ..., bias_correction2: _Optional[float] = ...) -> None: ...

class Sequence(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[int]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("term", "step", "base", "roster", "leads", "microbatches", "sequences", "tokens", "path_peers", "paths", "remaining")
    TERM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    MICROBATCHES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PATH_PEERS_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    term: int
    step: int
    base: bytes
    roster: Roster
    leads: _containers.RepeatedCompositeFieldContainer[Ownership]
    microbatches: int
    sequences: _containers.RepeatedCompositeFieldContainer[Sequence]
    tokens: int
    path_peers: _containers.RepeatedScalarFieldContainer[str]
    paths: bytes
    remaining: bytes
    def __init__(self, term: _Optional[int] = ..., step: _Optional[int] = ..., base: _Optional[bytes] = ..., roster: _Optional[_Union[Roster, _Mapping]] = ..., leads: _Optional[_Iterable[_Union[Ownership, _Mapping]]] = ..., microbatches: _Optional[int] = ..., sequences: _Optional[_Iterable[_Union[Sequence, _Mapping]]] = ..., tokens: _Optional[int] = ..., path_peers: _Optional[_Iterable[str]] = ..., paths: _Optional[bytes] = ..., remaining: _Optional[bytes] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("step", "base", "keys")
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    step: int
    base: bytes
    keys: bytes
    def __init__(self, step: _Optional[int] = ..., base: _Optional[bytes] = ..., keys: _Optional[bytes] = ...) -> None: ...

class Freeze(_message.Message):
    __slots__ = ("term", "step", "seal", "roster")
    TERM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    term: int
    step: int
    seal: int
    roster: Roster
    def __init__(self, term: _Optional[int] = ..., step: _Optional[int] = ..., seal: _Optional[int] = ..., roster: _Optional[_Union[Roster, _Mapping]] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("step", "seal", "held", "void", "losses")
    STEP_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    VOID_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    step: int
    seal: int
    held: _containers.RepeatedCompositeFieldContainer[PositionKeys]
    void: _containers.RepeatedCompositeFieldContainer[PositionKeys]
    losses: _containers.RepeatedCompositeFieldContainer[KeyLoss]
    def __init__(self, step: _Optional[int] = ..., seal: _Optional[int] = ..., held: _Optional[_Iterable[_Union[PositionKeys, _Mapping]]] = ..., void: _Optional[_Iterable[_Union[PositionKeys, _Mapping]]] = ..., losses: _Optional[_Iterable[_Union[KeyLoss, _Mapping]]] = ...) -> None: ...

class Reopen(_message.Message):
    __slots__ = ("term", "step", "seal", "roster", "items")
    TERM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    term: int
    step: int
    seal: int
    roster: Roster
    items: _containers.RepeatedCompositeFieldContainer[PositionKeys]
    def __init__(self, term: _Optional[int] = ..., step: _Optional[int] = ..., seal: _Optional[int] = ..., roster: _Optional[_Union[Roster, _Mapping]] = ..., items: _Optional[_Iterable[_Union[PositionKeys, _Mapping]]] = ...) -> None: ...

class Redrive(_message.Message):
    __slots__ = ("term", "step", "seal", "key", "position", "hints")
    TERM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    HINTS_FIELD_NUMBER: _ClassVar[int]
    term: int
    step: int
    seal: int
    key: int
    position: int
    hints: _containers.RepeatedCompositeFieldContainer[Hint]
    def __init__(self, term: _Optional[int] = ..., step: _Optional[int] = ..., seal: _Optional[int] = ..., key: _Optional[int] = ..., position: _Optional[int] = ..., hints: _Optional[_Iterable[_Union[Hint, _Mapping]]] = ...) -> None: ...

class Redriven(_message.Message):
    __slots__ = ("step", "seal", "key", "position")
    STEP_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    step: int
    seal: int
    key: int
    position: int
    def __init__(self, step: _Optional[int] = ..., seal: _Optional[int] = ..., key: _Optional[int] = ..., position: _Optional[int] = ...) -> None: ...

class Assign(_message.Message):
    __slots__ = ("term", "step", "seal", "roster", "owners", "void", "loss", "closing")
    TERM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    VOID_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    term: int
    step: int
    seal: int
    roster: Roster
    owners: _containers.RepeatedCompositeFieldContainer[Ownership]
    void: bytes
    loss: float
    closing: Closing
    def __init__(self, term: _Optional[int] = ..., step: _Optional[int] = ..., seal: _Optional[int] = ..., roster: _Optional[_Union[Roster, _Mapping]] = ..., owners: _Optional[_Iterable[_Union[Ownership, _Mapping]]] = ..., void: _Optional[bytes] = ..., loss: _Optional[float] = ..., closing: _Optional[_Union[Closing, _Mapping]] = ...) -> None: ...

class Reduced(_message.Message):
    __slots__ = ("term", "step", "seal", "stages")
    TERM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    term: int
    step: int
    seal: int
    stages: _containers.RepeatedCompositeFieldContainer[StageSum]
    def __init__(self, term: _Optional[int] = ..., step: _Optional[int] = ..., seal: _Optional[int] = ..., stages: _Optional[_Iterable[_Union[StageSum, _Mapping]]] = ...) -> None: ...

class RoundWork(_message.Message):
    __slots__ = ("stage", "fragment", "round", "kind", "digest")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    stage: int
    fragment: int
    round: int
    kind: int
    digest: bytes
    def __init__(self, stage: _Optional[int] = ..., fragment: _Optional[int] = ..., round: _Optional[int] = ..., kind: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Closing(_message.Message):
    __slots__ = ("scalars", "next_step", "rounds")
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    NEXT_STEP_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    scalars: Scalars
    next_step: int
    rounds: _containers.RepeatedCompositeFieldContainer[RoundWork]
    def __init__(self, scalars: _Optional[_Union[Scalars, _Mapping]] = ..., next_step: _Optional[int] = ..., rounds: _Optional[_Iterable[_Union[RoundWork, _Mapping]]] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("term", "step", "seal", "base", "roster", "stages", "closing", "tokens", "loss", "void")
    TERM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    VOID_FIELD_NUMBER: _ClassVar[int]
    term: int
    step: int
    seal: int
    base: bytes
    roster: Roster
    stages: _containers.RepeatedCompositeFieldContainer[StageSum]
    closing: Closing
    tokens: int
    loss: float
    void: bytes
    def __init__(self, term: _Optional[int] = ..., step: _Optional[int] = ..., seal: _Optional[int] = ..., base: _Optional[bytes] = ..., roster: _Optional[_Union[Roster, _Mapping]] = ..., stages: _Optional[_Iterable[_Union[StageSum, _Mapping]]] = ..., closing: _Optional[_Union[Closing, _Mapping]] = ..., tokens: _Optional[int] = ..., loss: _Optional[float] = ..., void: _Optional[bytes] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("term", "commit", "open")
    TERM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    term: int
    commit: Commit
    open: Open
    def __init__(self, term: _Optional[int] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ..., open: _Optional[_Union[Open, _Mapping]] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("step", "base", "stages")
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    step: int
    base: bytes
    stages: _containers.RepeatedCompositeFieldContainer[StageDigest]
    def __init__(self, step: _Optional[int] = ..., base: _Optional[bytes] = ..., stages: _Optional[_Iterable[_Union[StageDigest, _Mapping]]] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("term", "step", "stages")
    TERM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    term: int
    step: int
    stages: _containers.RepeatedCompositeFieldContainer[StageDigest]
    def __init__(self, term: _Optional[int] = ..., step: _Optional[int] = ..., stages: _Optional[_Iterable[_Union[StageDigest, _Mapping]]] = ...) -> None: ...

class NewTerm(_message.Message):
    __slots__ = ("term", "step", "base", "roster")
    TERM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    term: int
    step: int
    base: bytes
    roster: Roster
    def __init__(self, term: _Optional[int] = ..., step: _Optional[int] = ..., base: _Optional[bytes] = ..., roster: _Optional[_Union[Roster, _Mapping]] = ...) -> None: ...

class Prepared(_message.Message):
    __slots__ = ("term", "seal", "roster", "stages", "void", "loss", "closing")
    TERM_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    VOID_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    term: int
    seal: int
    roster: Roster
    stages: _containers.RepeatedCompositeFieldContainer[StageSum]
    void: bytes
    loss: float
    closing: Closing
    def __init__(self, term: _Optional[int] = ..., seal: _Optional[int] = ..., roster: _Optional[_Union[Roster, _Mapping]] = ..., stages: _Optional[_Iterable[_Union[StageSum, _Mapping]]] = ..., void: _Optional[bytes] = ..., loss: _Optional[float] = ..., closing: _Optional[_Union[Closing, _Mapping]] = ...) -> None: ...

class Promise(_message.Message):
    __slots__ = ("term", "epoch", "step", "base", "seal", "last", "prepared", "open")
    TERM_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    term: int
    epoch: int
    step: int
    base: bytes
    seal: int
    last: Commit
    prepared: Prepared
    open: Open
    def __init__(self, term: _Optional[int] = ..., epoch: _Optional[int] = ..., step: _Optional[int] = ..., base: _Optional[bytes] = ..., seal: _Optional[int] = ..., last: _Optional[_Union[Commit, _Mapping]] = ..., prepared: _Optional[_Union[Prepared, _Mapping]] = ..., open: _Optional[_Union[Open, _Mapping]] = ...) -> None: ...

class Nack(_message.Message):
    __slots__ = ("term",)
    TERM_FIELD_NUMBER: _ClassVar[int]
    term: int
    def __init__(self, term: _Optional[int] = ...) -> None: ...

class Ask(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    def __init__(self, step: _Optional[int] = ...) -> None: ...

class Tell(_message.Message):
    __slots__ = ("commit",)
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    commit: Commit
    def __init__(self, commit: _Optional[_Union[Commit, _Mapping]] = ...) -> None: ...

class Join(_message.Message):
    __slots__ = ("member", "step", "base", "learns")
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    LEARNS_FIELD_NUMBER: _ClassVar[int]
    member: Member
    step: int
    base: bytes
    learns: bool
    def __init__(self, member: _Optional[_Union[Member, _Mapping]] = ..., step: _Optional[int] = ..., base: _Optional[bytes] = ..., learns: _Optional[bool] = ...) -> None: ...

class Leave(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Move(_message.Message):
    __slots__ = ("term", "stages", "reason")
    TERM_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    term: int
    stages: _containers.RepeatedScalarFieldContainer[int]
    reason: str
    def __init__(self, term: _Optional[int] = ..., stages: _Optional[_Iterable[int]] = ..., reason: _Optional[str] = ...) -> None: ...

class Recall(_message.Message):
    __slots__ = ("term", "seal", "stages")
    TERM_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    term: int
    seal: int
    stages: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, term: _Optional[int] = ..., seal: _Optional[int] = ..., stages: _Optional[_Iterable[int]] = ...) -> None: ...

class StageAt(_message.Message):
    __slots__ = ("stage", "step", "base")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    stage: int
    step: int
    base: bytes
    def __init__(self, stage: _Optional[int] = ..., step: _Optional[int] = ..., base: _Optional[bytes] = ...) -> None: ...

class CheckpointAt(_message.Message):
    __slots__ = ("step", "base")
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    step: int
    base: bytes
    def __init__(self, step: _Optional[int] = ..., base: _Optional[bytes] = ...) -> None: ...

class Kept(_message.Message):
    __slots__ = ("seal", "step", "base", "room", "states", "checkpoint")
    SEAL_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ROOM_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    seal: int
    step: int
    base: bytes
    room: int
    states: _containers.RepeatedCompositeFieldContainer[StageAt]
    checkpoint: CheckpointAt
    def __init__(self, seal: _Optional[int] = ..., step: _Optional[int] = ..., base: _Optional[bytes] = ..., room: _Optional[int] = ..., states: _Optional[_Iterable[_Union[StageAt, _Mapping]]] = ..., checkpoint: _Optional[_Union[CheckpointAt, _Mapping]] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("stage", "tier", "states", "peers")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    stage: int
    tier: str
    states: _containers.RepeatedCompositeFieldContainer[StageAt]
    peers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, stage: _Optional[int] = ..., tier: _Optional[str] = ..., states: _Optional[_Iterable[_Union[StageAt, _Mapping]]] = ..., peers: _Optional[_Iterable[str]] = ...) -> None: ...

class Restore(_message.Message):
    __slots__ = ("term", "seal", "step", "base", "roster", "sources")
    TERM_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    term: int
    seal: int
    step: int
    base: bytes
    roster: Roster
    sources: _containers.RepeatedCompositeFieldContainer[Source]
    def __init__(self, term: _Optional[int] = ..., seal: _Optional[int] = ..., step: _Optional[int] = ..., base: _Optional[bytes] = ..., roster: _Optional[_Union[Roster, _Mapping]] = ..., sources: _Optional[_Iterable[_Union[Source, _Mapping]]] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ("term", "step", "finished", "reason")
    TERM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    term: int
    step: int
    finished: bool
    reason: str
    def __init__(self, term: _Optional[int] = ..., step: _Optional[int] = ..., finished: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class PlaceNews(_message.Message):
    __slots__ = ("stage", "fragment", "round", "is_sent", "choice", "offered", "ahead_round", "ahead_state", "begun_seconds", "window_seconds", "is_coming", "follows_to")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    IS_SENT_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    OFFERED_FIELD_NUMBER: _ClassVar[int]
    AHEAD_ROUND_FIELD_NUMBER: _ClassVar[int]
    AHEAD_STATE_FIELD_NUMBER: _ClassVar[int]
    BEGUN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IS_COMING_FIELD_NUMBER: _ClassVar[int]
    FOLLOWS_TO_FIELD_NUMBER: _ClassVar[int]
    stage: int
    fragment: int
    round: int
    is_sent: bool
    choice: bytes
    offered: int
    ahead_round: int
    ahead_state: bytes
    begun_seconds: float
    window_seconds: float
    is_coming: bool
    follows_to: int
    def __init__(self, stage: _Optional[int] = ..., fragment: _Optional[int] = ..., round: _Optional[int] = ..., is_sent: _Optional[bool] = ..., choice: _Optional[bytes] = ..., offered: _Optional[int] = ..., ahead_round: _Optional[int] = ..., ahead_state: _Optional[bytes] = ..., begun_seconds: _Optional[float] = ..., window_seconds: _Optional[float] = ..., is_coming: _Optional[bool] = ..., follows_to: _Optional[int] = ...) -> None: ...

class RoundNews(_message.Message):
    __slots__ = ("step", "base", "places")
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    step: int
    base: bytes
    places: _containers.RepeatedCompositeFieldContainer[PlaceNews]
    def __init__(self, step: _Optional[int] = ..., base: _Optional[bytes] = ..., places: _Optional[_Iterable[_Union[PlaceNews, _Mapping]]] = ...) -> None: ...

class StepEnvelope(_message.Message):
    __slots__ = ("open", "done", "freeze", "held", "reopen", "redrive", "redriven", "assign", "reduced", "decision", "ready", "release", "new_term", "promise", "nack", "ask", "tell", "stop", "join", "leave", "move", "recall", "kept", "restore", "round_news", "rosters", "owners")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    FREEZE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    REOPEN_FIELD_NUMBER: _ClassVar[int]
    REDRIVE_FIELD_NUMBER: _ClassVar[int]
    REDRIVEN_FIELD_NUMBER: _ClassVar[int]
    ASSIGN_FIELD_NUMBER: _ClassVar[int]
    REDUCED_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    NEW_TERM_FIELD_NUMBER: _ClassVar[int]
    PROMISE_FIELD_NUMBER: _ClassVar[int]
    NACK_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    TELL_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    JOIN_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    ROUND_NEWS_FIELD_NUMBER: _ClassVar[int]
    ROSTERS_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    open: Open
    done: Done
    freeze: Freeze
    held: Held
    reopen: Reopen
    redrive: Redrive
    redriven: Redriven
    assign: Assign
    reduced: Reduced
    decision: Decision
    ready: Ready
    release: Release
    new_term: NewTerm
    promise: Promise
    nack: Nack
    ask: Ask
    tell: Tell
    stop: Stop
    join: Join
    leave: Leave
    move: Move
    recall: Recall
    kept: Kept
    restore: Restore
    round_news: RoundNews
    rosters: _containers.RepeatedCompositeFieldContainer[RosterName]
    owners: bytes
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., freeze: _Optional[_Union[Freeze, _Mapping]] = ..., held: _Optional[_Union[Held, _Mapping]] = ..., reopen: _Optional[_Union[Reopen, _Mapping]] = ..., redrive: _Optional[_Union[Redrive, _Mapping]] = ..., redriven: _Optional[_Union[Redriven, _Mapping]] = ..., assign: _Optional[_Union[Assign, _Mapping]] = ..., reduced: _Optional[_Union[Reduced, _Mapping]] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., new_term: _Optional[_Union[NewTerm, _Mapping]] = ..., promise: _Optional[_Union[Promise, _Mapping]] = ..., nack: _Optional[_Union[Nack, _Mapping]] = ..., ask: _Optional[_Union[Ask, _Mapping]] = ..., tell: _Optional[_Union[Tell, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., join: _Optional[_Union[Join, _Mapping]] = ..., leave: _Optional[_Union[Leave, _Mapping]] = ..., move: _Optional[_Union[Move, _Mapping]] = ..., recall: _Optional[_Union[Recall, _Mapping]] = ..., kept: _Optional[_Union[Kept, _Mapping]] = ..., restore: _Optional[_Union[Restore, _Mapping]] = ..., round_news: _Optional[_Union[RoundNews, _Mapping]] = ..., rosters: _Optional[_Iterable[_Union[RosterName, _Mapping]]] = ..., owners: _Optional[bytes] = ...) -> None: ...
