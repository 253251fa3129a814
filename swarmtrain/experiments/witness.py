"""What the virtual world notes of a peer besides the peer's own events: seals it accepted, state it applied.

It only reads what the step machine says of itself, so that a checker can follow ownership and digests.
"""

from dataclasses import dataclass

from swarmtrain.core.events import Event, SealAssigned, StateApplied
from swarmtrain.core.messages import Assign, Open, Ready
from swarmtrain.peer.runtime import Runtime
from swarmtrain.steps.keys import unpack_keys


@dataclass(slots=True)
class Witness:
    """Watches one peer; `look` returns what is new since the last look."""

    _assign: Assign | None = None
    _ready: Ready | None = None

    def look(self, runtime: Runtime | None) -> list[Event]:
        if runtime is None:
            return []
        member, found = runtime.member, list[Event]()
        assign, ready = member.ledger.assign, member.ready
        if assign is not None and assign is not self._assign and member.ledger.open is not None:
            self._assign = assign
            found.append(_seal(assign, member.ledger.open))
        if ready is not None and ready is not self._ready:
            self._ready, last = ready, member.last
            # State fetched from a sibling was applied there; the decision known here may be the next one.
            if last is not None and last.step == ready.step - 1:
                stages = tuple((entry.stage, entry.digest.hex()) for entry in ready.stages)
                found.append(StateApplied(last.step, last.term, last.seal, stages))
        return found


def _seal(assign: Assign, opening: Open) -> SealAssigned:
    owners = tuple(
        (owner.peer, tuple((entry.position, entry.keys.hex()) for entry in owner.items))
        for owner in assign.owners
    )
    void = unpack_keys(assign.void)
    return SealAssigned(
        assign.step, assign.term, assign.seal, opening.microbatches, opening.sequences, owners, void
    )
