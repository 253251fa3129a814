"""What a group machine is made of and what it asks of the world; the peer's driver carries effects out, in order."""

from dataclasses import dataclass

from swarmtrain.core.events import Event
from swarmtrain.core.rounds import Ballot, Choice, RoundMessage
from swarmtrain.core.types import PeerId
from swarmtrain.outer.signed import Signing


@dataclass(frozen=True, slots=True)
class SendRound:
    to: PeerId
    message: RoundMessage


@dataclass(frozen=True, slots=True)
class Gather:
    """Get the payloads of `choice` and merge them, or fetch its result from one of `holders`; then call `collected`.

    `choice.result` says which result it must be, where that is known. A later Gather replaces this one. `round` is
    needed, as ballots begin anew in every round.
    """

    round: int
    ballot: Ballot
    choice: Choice
    holders: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The round is decided. Merge its result, which `holders` have, then call `advance`."""

    choice: Choice
    holders: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Note:
    event: Event


Effect = SendRound | Gather | Chosen | Note


@dataclass(frozen=True, slots=True)
class Seat:
    """Whose machine it is: the peer, its island, the island's replica list with the version it came in, its key."""

    peer: PeerId
    island: int
    version: int
    peers: tuple[PeerId, ...]
    signing: Signing


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a group waits, in seconds."""

    patience: float
    """For promises, and for the candidate before."""
    grace: float
    """For stragglers, from when a quorum has offered."""
    gather: float
    """For payloads to be merged and accepted."""


@dataclass(frozen=True, slots=True)
class Behind:
    """The newest round heard of, and from whom."""

    round: int
    peer: PeerId
