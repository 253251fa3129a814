"""What a decision says besides its sum: the update's scalars, the outer rounds that go with it, and what comes next."""

from dataclasses import dataclass
from enum import IntEnum

from swarmtrain.core.types import Digest


@dataclass(frozen=True, slots=True)
class Scalars:
    """Numbers every replica must use alike, computed once by the conductor (protocol.md, answer c)."""

    learning_rate: float
    bias_correction1: float
    bias_correction2: float


class RoundWorkKind(IntEnum):
    """What a step's decision has the replicas of a stage do about the outer rounds of one of its fragments."""

    SEND = 1
    """Make the contribution to the round from the parameters they have now."""
    MERGE = 2
    """Take the result that the group decided."""
    CATCH_UP = 3
    """Go over to the group's outer state at the round: the island has missed results."""


@dataclass(frozen=True, slots=True)
class RoundWork:
    """One thing to do behind a step's update, in this order. `digest` names the group's choice, or the outer state to
    catch up with; empty where a contribution is made."""

    stage: int
    fragment: int
    round: int
    kind: RoundWorkKind
    digest: Digest


@dataclass(frozen=True, slots=True)
class Closing:
    """What follows from a step's sum: the update's scalars, outer rounds, and the step that comes next.

    That is `step + 1` unless the island follows its group to a later round (swarmtrain.outer.rounds).
    """

    scalars: Scalars
    next_step: int
    rounds: tuple[RoundWork, ...] = ()


@dataclass(frozen=True, slots=True)
class PlaceNews:
    """How a replica stands with one fragment of its stage: the round that comes next, or is under way.

    `choice` is the digest of what the group decided for it, empty until then; `offered` how many other islands are
    ready, once it is decided for the round after it. A group that is ahead of this island is at `ahead_round`, with an
    outer state of digest `ahead_state`. The island's last contribution was made `begun_seconds` ago, or else the stage
    has been here for so long. Those that are ready wait for `window_seconds` more, as far as they say. `is_coming`:
    what the round comes to can be had without anybody who is lost by now. Rounds before `follows_to` are over, and the
    island is on its way there, result by result.
    """

    stage: int
    fragment: int
    round: int
    is_sent: bool
    choice: Digest
    offered: int
    ahead_round: int
    ahead_state: Digest
    begun_seconds: float = 0.0
    window_seconds: float = 0.0
    is_coming: bool = False
    follows_to: int = 0
