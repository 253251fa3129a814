from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Ballot(_message.Message):
    __slots__ = ("attempt", "chair", "born")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CHAIR_FIELD_NUMBER: _ClassVar[int]
    BORN_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    chair: str
    born: int
    def __init__(self, attempt: _Optional[int] = ..., chair: _Optional[str] = ..., born: _Optional[int] = ...) -> None: ...

class Counted(_message.Message):
    __slots__ = ("island", "tokens", "digest")
    ISLAND_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    island: int
    tokens: int
    digest: bytes
    def __init__(self, island: _Optional[int] = ..., tokens: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class GroupMember(_message.Message):
    __slots__ = ("island", "version")
    ISLAND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    island: int
    version: int
    def __init__(self, island: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class Slice(_message.Message):
    __slots__ = ("peer", "sections")
    PEER_FIELD_NUMBER: _ClassVar[int]
    SECTIONS_FIELD_NUMBER: _ClassVar[int]
    peer: str
    sections: int
    def __init__(self, peer: _Optional[str] = ..., sections: _Optional[int] = ...) -> None: ...

class Measured(_message.Message):
    __slots__ = ("codec", "bits_per_parameter", "relative_error")
    CODEC_FIELD_NUMBER: _ClassVar[int]
    BITS_PER_PARAMETER_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_ERROR_FIELD_NUMBER: _ClassVar[int]
    codec: str
    bits_per_parameter: float
    relative_error: float
    def __init__(self, codec: _Optional[str] = ..., bits_per_parameter: _Optional[float] = ..., relative_error: _Optional[float] = ...) -> None: ...

class Choice(_message.Message):
    __slots__ = ("counted", "members", "result", "slices", "codec")
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    counted: _containers.RepeatedCompositeFieldContainer[Counted]
    members: _containers.RepeatedCompositeFieldContainer[GroupMember]
    result: bytes
    slices: _containers.RepeatedCompositeFieldContainer[Slice]
    codec: str
    def __init__(self, counted: _Optional[_Iterable[_Union[Counted, _Mapping]]] = ..., members: _Optional[_Iterable[_Union[GroupMember, _Mapping]]] = ..., result: _Optional[bytes] = ..., slices: _Optional[_Iterable[_Union[Slice, _Mapping]]] = ..., codec: _Optional[str] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("ballot", "choice")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    ballot: Ballot
    choice: Choice
    def __init__(self, ballot: _Optional[_Union[Ballot, _Mapping]] = ..., choice: _Optional[_Union[Choice, _Mapping]] = ...) -> None: ...

class RoundOffer(_message.Message):
    __slots__ = ("stage", "fragment", "round", "base", "island", "version", "peers", "tokens", "digest", "uplink_bytes_per_second", "measured", "slack_seconds")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ISLAND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    UPLINK_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    SLACK_SECONDS_FIELD_NUMBER: _ClassVar[int]
    stage: int
    fragment: int
    round: int
    base: bytes
    island: int
    version: int
    peers: _containers.RepeatedScalarFieldContainer[str]
    tokens: int
    digest: bytes
    uplink_bytes_per_second: float
    measured: _containers.RepeatedCompositeFieldContainer[Measured]
    slack_seconds: float
    def __init__(self, stage: _Optional[int] = ..., fragment: _Optional[int] = ..., round: _Optional[int] = ..., base: _Optional[bytes] = ..., island: _Optional[int] = ..., version: _Optional[int] = ..., peers: _Optional[_Iterable[str]] = ..., tokens: _Optional[int] = ..., digest: _Optional[bytes] = ..., uplink_bytes_per_second: _Optional[float] = ..., measured: _Optional[_Iterable[_Union[Measured, _Mapping]]] = ..., slack_seconds: _Optional[float] = ...) -> None: ...

class RoundAsk(_message.Message):
    __slots__ = ("stage", "fragment", "round", "base", "ballot")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    stage: int
    fragment: int
    round: int
    base: bytes
    ballot: Ballot
    def __init__(self, stage: _Optional[int] = ..., fragment: _Optional[int] = ..., round: _Optional[int] = ..., base: _Optional[bytes] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ...) -> None: ...

class RoundPromise(_message.Message):
    __slots__ = ("stage", "fragment", "round", "base", "ballot", "island", "version", "peers", "accepted")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    ISLAND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    stage: int
    fragment: int
    round: int
    base: bytes
    ballot: Ballot
    island: int
    version: int
    peers: _containers.RepeatedScalarFieldContainer[str]
    accepted: Accepted
    def __init__(self, stage: _Optional[int] = ..., fragment: _Optional[int] = ..., round: _Optional[int] = ..., base: _Optional[bytes] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ..., island: _Optional[int] = ..., version: _Optional[int] = ..., peers: _Optional[_Iterable[str]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ...) -> None: ...

class RoundNack(_message.Message):
    __slots__ = ("stage", "fragment", "round", "base", "ballot", "promised")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    PROMISED_FIELD_NUMBER: _ClassVar[int]
    stage: int
    fragment: int
    round: int
    base: bytes
    ballot: Ballot
    promised: Ballot
    def __init__(self, stage: _Optional[int] = ..., fragment: _Optional[int] = ..., round: _Optional[int] = ..., base: _Optional[bytes] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ..., promised: _Optional[_Union[Ballot, _Mapping]] = ...) -> None: ...

class Collect(_message.Message):
    __slots__ = ("stage", "fragment", "round", "base", "ballot", "choice", "holders", "only_hold")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    ONLY_HOLD_FIELD_NUMBER: _ClassVar[int]
    stage: int
    fragment: int
    round: int
    base: bytes
    ballot: Ballot
    choice: Choice
    holders: _containers.RepeatedScalarFieldContainer[str]
    only_hold: bool
    def __init__(self, stage: _Optional[int] = ..., fragment: _Optional[int] = ..., round: _Optional[int] = ..., base: _Optional[bytes] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ..., choice: _Optional[_Union[Choice, _Mapping]] = ..., holders: _Optional[_Iterable[str]] = ..., only_hold: _Optional[bool] = ...) -> None: ...

class Collected(_message.Message):
    __slots__ = ("stage", "fragment", "round", "base", "ballot", "island", "version", "peers", "result", "missing", "only_hold", "public_key", "signature")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    ISLAND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    ONLY_HOLD_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    stage: int
    fragment: int
    round: int
    base: bytes
    ballot: Ballot
    island: int
    version: int
    peers: _containers.RepeatedScalarFieldContainer[str]
    result: bytes
    missing: _containers.RepeatedScalarFieldContainer[int]
    only_hold: bool
    public_key: bytes
    signature: bytes
    def __init__(self, stage: _Optional[int] = ..., fragment: _Optional[int] = ..., round: _Optional[int] = ..., base: _Optional[bytes] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ..., island: _Optional[int] = ..., version: _Optional[int] = ..., peers: _Optional[_Iterable[str]] = ..., result: _Optional[bytes] = ..., missing: _Optional[_Iterable[int]] = ..., only_hold: _Optional[bool] = ..., public_key: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SignedVote(_message.Message):
    __slots__ = ("island", "version", "public_key", "signature")
    ISLAND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    island: int
    version: int
    public_key: bytes
    signature: bytes
    def __init__(self, island: _Optional[int] = ..., version: _Optional[int] = ..., public_key: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class RoundDecided(_message.Message):
    __slots__ = ("stage", "fragment", "round", "base", "island", "version", "peers", "choice", "holders", "ballot", "votes")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ISLAND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    VOTES_FIELD_NUMBER: _ClassVar[int]
    stage: int
    fragment: int
    round: int
    base: bytes
    island: int
    version: int
    peers: _containers.RepeatedScalarFieldContainer[str]
    choice: Choice
    holders: _containers.RepeatedScalarFieldContainer[str]
    ballot: Ballot
    votes: _containers.RepeatedCompositeFieldContainer[SignedVote]
    def __init__(self, stage: _Optional[int] = ..., fragment: _Optional[int] = ..., round: _Optional[int] = ..., base: _Optional[bytes] = ..., island: _Optional[int] = ..., version: _Optional[int] = ..., peers: _Optional[_Iterable[str]] = ..., choice: _Optional[_Union[Choice, _Mapping]] = ..., holders: _Optional[_Iterable[str]] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ..., votes: _Optional[_Iterable[_Union[SignedVote, _Mapping]]] = ...) -> None: ...

class VotesAsk(_message.Message):
    __slots__ = ("stage", "fragment", "round", "base", "island", "version", "peers", "ballot")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ISLAND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    stage: int
    fragment: int
    round: int
    base: bytes
    island: int
    version: int
    peers: _containers.RepeatedScalarFieldContainer[str]
    ballot: Ballot
    def __init__(self, stage: _Optional[int] = ..., fragment: _Optional[int] = ..., round: _Optional[int] = ..., base: _Optional[bytes] = ..., island: _Optional[int] = ..., version: _Optional[int] = ..., peers: _Optional[_Iterable[str]] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ...) -> None: ...

class VotesTell(_message.Message):
    __slots__ = ("stage", "fragment", "round", "base", "island", "version", "peers", "knows", "fence", "promised", "accepted")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ISLAND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    KNOWS_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    PROMISED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    stage: int
    fragment: int
    round: int
    base: bytes
    island: int
    version: int
    peers: _containers.RepeatedScalarFieldContainer[str]
    knows: bool
    fence: int
    promised: Ballot
    accepted: Accepted
    def __init__(self, stage: _Optional[int] = ..., fragment: _Optional[int] = ..., round: _Optional[int] = ..., base: _Optional[bytes] = ..., island: _Optional[int] = ..., version: _Optional[int] = ..., peers: _Optional[_Iterable[str]] = ..., knows: _Optional[bool] = ..., fence: _Optional[int] = ..., promised: _Optional[_Union[Ballot, _Mapping]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ...) -> None: ...

class RoundEnvelope(_message.Message):
    __slots__ = ("round_offer", "round_ask", "round_promise", "round_nack", "collect", "collected", "round_decided", "votes_ask", "votes_tell")
    ROUND_OFFER_FIELD_NUMBER: _ClassVar[int]
    ROUND_ASK_FIELD_NUMBER: _ClassVar[int]
    ROUND_PROMISE_FIELD_NUMBER: _ClassVar[int]
    ROUND_NACK_FIELD_NUMBER: _ClassVar[int]
    COLLECT_FIELD_NUMBER: _ClassVar[int]
    COLLECTED_FIELD_NUMBER: _ClassVar[int]
    ROUND_DECIDED_FIELD_NUMBER: _ClassVar[int]
    VOTES_ASK_FIELD_NUMBER: _ClassVar[int]
    VOTES_TELL_FIELD_NUMBER: _ClassVar[int]
    round_offer: RoundOffer
    round_ask: RoundAsk
    round_promise: RoundPromise
    round_nack: RoundNack
    collect: Collect
    collected: Collected
    round_decided: RoundDecided
    votes_ask: VotesAsk
    votes_tell: VotesTell
    def __init__(self, round_offer: _Optional[_Union[RoundOffer, _Mapping]] = ..., round_ask: _Optional[_Union[RoundAsk, _Mapping]] = ..., round_promise: _Optional[_Union[RoundPromise, _Mapping]] = ..., round_nack: _Optional[_Union[RoundNack, _Mapping]] = ..., collect: _Optional[_Union[Collect, _Mapping]] = ..., collected: _Optional[_Union[Collected, _Mapping]] = ..., round_decided: _Optional[_Union[RoundDecided, _Mapping]] = ..., votes_ask: _Optional[_Union[VotesAsk, _Mapping]] = ..., votes_tell: _Optional[_Union[VotesTell, _Mapping]] = ...) -> None: ...
