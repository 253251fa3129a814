"""What one peer knows of the step it is at; the step member keeps it, one for each step."""

from dataclasses import dataclass, field

from swarmtrain.core.events import SealAssigned
from swarmtrain.core.messages import Assign, Commit, Decision, Open, Prepared
from swarmtrain.core.remembered import remembered
from swarmtrain.core.types import Item, PeerId, Roster
from swarmtrain.steps.keys import unpack_keys


@dataclass
class Ledger:
    """One step's facts at one peer; replaced as a whole at every commit.

    Seals of different conductors are ordered by `(seal_term, seal)`: a new conductor need not know how far
    those before it had counted.
    """

    open: Open | None = None
    seal_term: int = 0
    seal: int = 0
    closed: bool = False
    reopened: set[Item] = field(default_factory=set)
    confirmed: int = 0
    """The list version of the newest roster with which all in it are known to have closed the step."""
    held: set[Item] = field(default_factory=set)
    void: set[Item] = field(default_factory=set)
    losses: dict[int, float] = field(default_factory=dict)
    leading: set[int] = field(default_factory=set)
    led: set[int] = field(default_factory=set)
    assign: Assign | None = None
    prepared: Prepared | None = None
    reduce_failed: bool = False
    applying: Commit | None = None
    after: Decision | None = None


def age(opening: Open) -> tuple[int, int]:
    """Orders the openings of one step: by conductor, then by roster."""
    return (opening.term, opening.roster.version)


def moves(peer: PeerId, stages: tuple[int, ...], roster: Roster) -> bool:
    """Whether `roster` has `peer` with other stages than those it hosts."""
    place = roster.member(peer)
    return place is not None and place.stages != stages


# In a virtual world all peers read one and the same message.
@remembered(4)
def seal_assigned(assign: Assign, opening: Open) -> SealAssigned:
    """The owners that this peer accepted, as its journal shows them."""
    owners = tuple(
        (owner.peer, tuple((entry.position, entry.keys.hex()) for entry in owner.items))
        for owner in assign.owners
    )
    return SealAssigned(
        step=assign.step,
        term=assign.term,
        seal=assign.seal,
        microbatches=opening.microbatches,
        sequences=opening.sequences,
        owners=owners,
        void=unpack_keys(assign.void),
    )
