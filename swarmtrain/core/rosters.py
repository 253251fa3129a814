"""Rosters by name: what stands in a step message for one of thousands of members.

A name is the roster's digest, and how it differs from another roster, its base, that the receivers are expected to
have: the last decision's. Who has the base puts the roster together; who lacks it asks for the whole one by digest.
Either way it counts only if it has the digest.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

from swarmtrain.core.errors import WireError
from swarmtrain.core.messages import StepMessage
from swarmtrain.core.remembered import remembered
from swarmtrain.core.types import MOST_MEMBERS, Digest, Member, PeerId, Roster

WHOLE_MEMBERS = 32
"""Up to so many members a roster travels whole, in 2 KiB: nobody ever has to ask for it."""

KEPT_MEMBERS = 24
"""From so many members on a roster that came whole is kept: a little larger, and the next one is told by it."""

MOST_CHANGES = 1000
"""A name lists no more members than this, some 70 KB, which go out to everybody: past that, who needs them asks."""


@dataclass(frozen=True, slots=True)
class RosterName:
    """One roster. With a `base` its members are those of the roster of that digest, less `left`, and with `members`
    in their places; with an empty `base` the name does not say who they are."""

    version: int
    digest: Digest
    base: Digest
    left: tuple[PeerId, ...]
    members: tuple[Member, ...]


@remembered(8)
def name_of(roster: Roster, base: Roster | None) -> RosterName:
    """The name of `roster` to those who have `base`; without the difference where that is long."""
    bare = RosterName(roster.version, roster.digest, b"", (), ())
    if base is None or base is roster or base.digest == roster.digest:
        return bare
    left = tuple(peer for peer in base.peers if peer not in roster)
    members = tuple(member for member in roster.members if base.member(member.peer) != member)
    if len(left) + len(members) > MOST_CHANGES:
        return bare
    return replace(bare, base=base.digest, left=left, members=members)


@remembered(8)
def rebuilt(name: RosterName, base: Roster) -> Roster:
    """The roster that `name` tells as a difference to `base`. Raises WireError when it comes to another digest, or
    to more members than there may be."""
    members = {member.peer: member for member in base.members}
    for peer in name.left:
        members.pop(peer, None)
    members.update((member.peer, member) for member in name.members)
    if len(members) > MOST_MEMBERS:
        why = f"{len(members)} members, {MOST_MEMBERS} allowed"
        raise WireError("a roster is not what its name says", why)
    roster = Roster.of(name.version, members.values())
    if base.digest != name.base or roster.digest != name.digest:
        raise WireError(
            "a roster is not what its name says",
            f"the difference comes to {roster.digest.hex()[:12]}, not to {name.digest.hex()[:12]}",
        )
    return roster


_known: WeakValueDictionary[Digest, Roster] = WeakValueDictionary()


def shared(roster: Roster) -> Roster:
    """The one roster of this digest in the process: what peers of a virtual world learn in different ways is kept,
    and looked up in, once."""
    return _known.setdefault(roster.digest, roster)


# ---- the rosters in a step message ----------------------------------------------------------------------------------

PARTS = ("commit", "last", "prepared", "open")
"""Fields of step messages that may be there or not, and have a roster."""


def rosters_in(value: Any) -> tuple[Roster, ...]:
    """The rosters of a step message: its own, then those of its parts in order."""
    own = (value.roster,) if hasattr(value, "roster") else ()
    parts = [getattr(value, part, None) for part in PARTS]
    return own + tuple(r for part in parts if part is not None for r in rosters_in(part))


def with_rosters(message: StepMessage, rosters: tuple[Roster, ...]) -> StepMessage:
    """`message` with other rosters, as many as `rosters_in` finds."""
    changed: StepMessage = _with_rosters(message, iter(rosters))
    return changed


def _with_rosters(value: Any, rosters: Iterator[Roster]) -> Any:
    changes: dict[str, Any] = {"roster": next(rosters)} if hasattr(value, "roster") else {}
    for part in PARTS:
        before = getattr(value, part, None)
        if before is not None:
            changes[part] = _with_rosters(before, rosters)
    return replace(value, **changes) if changes else value
