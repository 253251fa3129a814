"""Step messages in their envelope. One of up to 32 members carries its roster whole, a larger one is named there.

The parts of a message that lack their roster take it, in order, from the envelope's names; each name is a difference
to the roster before it, the first to that of the last decision. A decision that opens the next step with its own
roster carries or names it once. An assignment to the members of a named roster tells owners by their places in it.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, get_args

from swarmtrain.core.errors import WireError
from swarmtrain.core.messages import Assign, Decision, StepMessage
from swarmtrain.core.remembered import remembered
from swarmtrain.core.rosters import (
    PARTS,
    WHOLE_MEMBERS,
    RosterName,
    name_of,
    rosters_in,
    with_rosters,
)
from swarmtrain.core.types import Roster
from swarmtrain.proto import step_pb2
from swarmtrain.transport.messages import build, decode, encode, fill, parse, snake
from swarmtrain.transport.owner_table import pack_owners, unpack_owners

_KINDS: dict[str, type[Any]] = {snake(kind.__name__): kind for kind in get_args(StepMessage)}
_FIELDS = {kind: field for field, kind in _KINDS.items()}

_EMPTY = Roster(0, ())

MOST_BYTES = 16 << 20
"""Of a whole roster: all members there may be, with the longest texts that anybody uses."""


def is_named(roster: Roster) -> bool:
    """Whether messages have the name of this roster instead of all its members."""
    return len(roster.members) > WHOLE_MEMBERS


@dataclass(frozen=True, eq=False)
class Unread:
    """A step message as it came: `named` tells of each of its rosters which of `names` it is, -1 where it was sent
    whole. The named ones are empty in `message` until `whole` puts them in, and the `owners` of an assignment."""

    message: StepMessage
    names: tuple[RosterName, ...]
    named: tuple[int, ...]
    owners: bytes

    def whole(self, *found: Roster) -> StepMessage:
        """The message with the rosters that its names stand for. Raises WireError when they do not fit it."""
        return _whole(self, *found) if self.names else self.message


@remembered(64)
def _whole(unread: Unread, *found: Roster) -> StepMessage:
    known = zip(rosters_in(unread.message), unread.named, strict=True)
    rosters = tuple(found[index] if index >= 0 else roster for roster, index in known)
    message = with_rosters(unread.message, rosters)
    if isinstance(message, Assign) and unread.owners:
        return replace(message, owners=unpack_owners(unread.owners, message.roster))
    return message


# A broadcast is encoded once, also where other messages go out in between.
@remembered(8)
def encode_step(message: StepMessage, base: Roster | None) -> bytes:
    """A step message in its envelope, to those who have `base`, the roster of the last decision."""
    envelope = step_pb2.StepEnvelope()
    member = getattr(envelope, _FIELDS[type(message)])
    member.SetInParent()
    rosters = rosters_in(message)
    shown = tuple(_EMPTY if is_named(roster) else roster for roster in rosters)
    if isinstance(message, Assign) and is_named(message.roster):
        envelope.owners = pack_owners(message.owners, message.roster)
    fill(member, with_rosters(message, shown))
    if envelope.owners:
        member.ClearField("owners")
    for index, (part, roster) in enumerate(zip(_parts(member), rosters, strict=True)):
        if index and isinstance(message, Decision) and roster == base:
            part.ClearField("roster")
        elif is_named(roster):
            part.ClearField("roster")
            fill(envelope.rosters.add(), name_of(roster, base))
        base = roster
    data: bytes = envelope.SerializeToString()
    return data


@lru_cache(maxsize=64)
def read_step(data: bytes) -> Unread:
    """The step message in an envelope, as far as it goes without the rosters that it names. Raises WireError.

    Values are immutable, so equal bytes give one value: peers of a virtual world read a broadcast once.
    """
    envelope = parse(step_pb2.StepEnvelope, data)
    field = envelope.WhichOneof("message")
    if field is None:
        raise WireError("malformed message", "a step message of no known kind")
    member = getattr(envelope, field)
    parts = _parts(member)
    lacking = [index for index, part in enumerate(parts) if not part.HasField("roster")]
    count = len(envelope.rosters)
    is_same = field == "decision" and lacking[-1:] == [1] and count == len(lacking) - 1
    if count != len(lacking) - is_same:
        why = f"roster is missing: {len(lacking)} are to be named, {count} are"
        raise WireError(f"malformed {field}", why)
    names = tuple(build(RosterName, entry) for entry in envelope.rosters)
    for index in lacking:
        parts[index].roster.SetInParent()
    message: StepMessage = build(_KINDS[field], member)
    named = [lacking.index(index) if index in lacking else -1 for index in range(len(parts))]
    if is_same:
        own = rosters_in(message)[0]
        message, named[1] = with_rosters(message, (own, own)), named[0]
    owners: bytes = envelope.owners
    if owners and not (isinstance(message, Assign) and names and not message.owners):
        raise WireError(f"malformed {field}", "owners are told by places in no named roster")
    return Unread(message, names, tuple(named), owners)


def _parts(member: Any) -> list[Any]:
    """The parts of a protobuf step message that have a roster, itself first, in the order of `rosters_in`."""
    known = member.DESCRIPTOR.fields_by_name
    found = [member] if "roster" in known else []
    for part in PARTS:
        if part in known and member.HasField(part):
            found += _parts(getattr(member, part))
    return found


@remembered(4)
def encode_roster(roster: Roster) -> bytes:
    """A whole roster; encoded once for all who ask for it."""
    return encode(roster)


@lru_cache(maxsize=2)
def read_roster(data: bytes) -> Roster:
    """A whole roster. Raises WireError."""
    if len(data) > MOST_BYTES:
        raise WireError("a roster is too long", f"{len(data)} bytes, {MOST_BYTES} allowed")
    return decode(Roster, data)
