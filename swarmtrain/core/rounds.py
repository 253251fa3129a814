"""The messages by which the members of a group agree on an outer round, as frozen values (design.md section 8).

A place is (stage, fragment); its group are the peers that hold the stage, of all islands. Its rounds count 0, 1, ...,
and `base` is the digest of the outer state that a round starts from: what was made for another one is refused (I4).
An island speaks through all peers on one version of its replica list: `island`, `version` and `peers` say for which.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from swarmtrain.core.types import Digest, PeerId

RoundCodec = Literal["", "none", "bf16", "fp16", "int8", "int4", "ternary"]
"""What a round may choose for the next one to send in (`outer.budget`); empty: as before."""


def is_quorum(present: Iterable[int], members: Iterable[int]) -> bool:
    """Whether the islands `present` outvote the rest of `members`; an exact half does with the lowest member.

    So of two islands the second may be lost. Two quorums of the same members always share an island.
    """
    voters = frozenset(members)
    votes = voters.intersection(present)
    if 2 * len(votes) == len(voters):
        return bool(votes) and min(voters) in votes
    return 2 * len(votes) > len(voters)


@dataclass(frozen=True, slots=True, order=True)
class Ballot:
    """One attempt of one chair; compared field by field.

    `born` is the version of the replica list with which the chair's process began. A process that starts again
    does not know which attempts it made, and must not make one of them twice.
    """

    attempt: int
    chair: PeerId
    born: int


NO_BALLOT = Ballot(0, PeerId(""), 0)
"""Below every ballot."""


@dataclass(frozen=True, slots=True)
class Counted:
    """The contribution of `island` that a round counts: its weight in tokens, and the digest of its payload."""

    island: int
    tokens: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class LastCounted:
    """The last round that counted a contribution of `island`. All it had done by then is in the outer state, once."""

    island: int
    round: int


@dataclass(frozen=True, slots=True)
class GroupMember:
    """An island that votes in a round, under replica lists of this `version` or later."""

    island: int
    version: int


@dataclass(frozen=True, slots=True)
class Slice:
    """The next so many sections of a fragment, which `peer` reduces for all."""

    peer: PeerId
    sections: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What a codec does to a pseudo-gradient, or the mean of several; bits are after zstd."""

    codec: str
    bits_per_parameter: float
    relative_error: float
    """Squared error over squared norm."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a round agrees on; islands ascend. `result` is empty until somebody has merged what is counted."""

    counted: tuple[Counted, ...]
    members: tuple[GroupMember, ...]
    """Of the round that follows."""
    result: Digest
    slices: tuple[Slice, ...] = ()
    """Who reduces what, from the fragment's start to its end; none where every peer gathers all contributions."""
    codec: RoundCodec = ""
    """In which the round that follows sends."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A peer's vote: what it accepted last. It holds the merged result."""

    ballot: Ballot
    choice: Choice


@dataclass(frozen=True, slots=True)
class RoundOffer:
    """A contribution of `tokens` committed tokens is ready; of 0, none is to come. An empty `digest` only greets.

    The sender's line to other islands carries `uplink_bytes_per_second`, 0 where that was not measured. Where rounds
    choose their codec, `measured` are those that could be chosen, on what the island contributes. For as long as
    `slack_seconds` the island can spare the result to wait for others; it is below 0 where it does not say.
    """

    stage: int
    fragment: int
    round: int
    base: Digest
    island: int
    version: int
    peers: tuple[PeerId, ...]
    tokens: int
    digest: Digest
    uplink_bytes_per_second: float = 0.0
    measured: tuple[Measured, ...] = ()
    slack_seconds: float = -1.0


@dataclass(frozen=True, slots=True)
class RoundAsk:
    """A chair asks to promise `ballot`, and for what was accepted below it."""

    stage: int
    fragment: int
    round: int
    base: Digest
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class RoundPromise:
    """Nothing below `ballot` will be accepted here any more."""

    stage: int
    fragment: int
    round: int
    base: Digest
    ballot: Ballot
    island: int
    version: int
    peers: tuple[PeerId, ...]
    accepted: Accepted | None


@dataclass(frozen=True, slots=True)
class RoundNack:
    """`ballot` is refused: a higher one was promised."""

    stage: int
    fragment: int
    round: int
    base: Digest
    ballot: Ballot
    promised: Ballot


@dataclass(frozen=True, slots=True)
class Collect:
    """Merge what `choice` counts, or fetch its result from one of `holders`, and accept it.

    `only_hold`: accept nothing yet; those who are to vote in the next round, and do not in this one, have it first.
    """

    stage: int
    fragment: int
    round: int
    base: Digest
    ballot: Ballot
    choice: Choice
    holders: tuple[PeerId, ...]
    only_hold: bool = False


@dataclass(frozen=True, slots=True)
class Collected:
    """The choice of `ballot` is accepted with this `result`, or held if it was to be held only; or, where that is
    empty, cannot be had here.

    `missing` then names the islands whose payloads could not be had. What is accepted is signed (`outer.signed`) with
    the private half of `public_key`, from which the sender's peer id follows.
    """

    stage: int
    fragment: int
    round: int
    base: Digest
    ballot: Ballot
    island: int
    version: int
    peers: tuple[PeerId, ...]
    result: Digest
    missing: tuple[int, ...]
    only_hold: bool = False
    public_key: bytes = b""
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class SignedVote:
    """That whoever `public_key` names accepted a choice, as one of `island` under list `version` of it."""

    island: int
    version: int
    public_key: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class RoundDecided:
    """A quorum accepted `choice`; `holders` have its result. From a list that has been replaced it says nothing.

    `votes` prove it: those of all replicas of each island of the quorum, given in `ballot`.
    """

    stage: int
    fragment: int
    round: int
    base: Digest
    island: int
    version: int
    peers: tuple[PeerId, ...]
    choice: Choice
    holders: tuple[PeerId, ...]
    ballot: Ballot
    votes: tuple[SignedVote, ...]


@dataclass(frozen=True, slots=True)
class VotesAsk:
    """A replica that may not know its island's votes asks a sibling for them, or another island for its own.

    Another island promises `ballot` with its answer; siblings need not.
    """

    stage: int
    fragment: int
    round: int
    base: Digest
    island: int
    version: int
    peers: tuple[PeerId, ...]
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class VotesTell:
    """All that the sender's island has voted in this round, where it `knows` that; `version` is its replica list's.

    It knows what was voted under lists of version `fence` or later, or was told all of it. One that does not know is
    no help to a sibling, unless nobody knows; its promise counts all the same.
    """

    stage: int
    fragment: int
    round: int
    base: Digest
    island: int
    version: int
    peers: tuple[PeerId, ...]
    knows: bool
    fence: int
    promised: Ballot
    accepted: Accepted | None


RoundMessage = (
    RoundOffer | RoundAsk | RoundPromise | RoundNack | Collect | Collected | RoundDecided | VotesAsk | VotesTell
)  # fmt: skip

RoundQuestion = RoundOffer | RoundAsk | Collect | VotesAsk
"""What gets an answer in another round than its own; answers are not answered."""

RoundSpeech = RoundOffer | RoundPromise | Collected | RoundDecided | VotesAsk | VotesTell
"""What says for which island, and under which list of it, the sender speaks."""
