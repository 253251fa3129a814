"""The owners of an assignment by number instead of by name: two bytes an item, where thousands own one or two each.

positions u16 | keys u16 | for each position, for each key: the owner's place in the roster, u16   (little-endian)
"""

import struct
from collections.abc import Iterator

from swarmtrain.core.errors import WireError
from swarmtrain.core.messages import Ownership, pack_items, unpack_items
from swarmtrain.core.types import Item, Roster
from swarmtrain.transport.checks import MAX_ITEMS, MAX_MICROBATCHES, MAX_POSITION

OWNER_BYTES = 36
"""An entry of a list of owners takes at least this: a peer id of 32 characters, and two lengths."""

_NOBODY = 0xFFFF
_HEADER = struct.Struct("<HH")


def pack_owners(owners: tuple[Ownership, ...], roster: Roster) -> bytes:
    """The table of `owners`; empty where their list is shorter, or says what no table can."""
    held = [(item, share.peer) for share in owners for item in unpack_items(share.items)]
    positions = max((position for (position, _), _ in held), default=0) + 1
    keys = max((key for (_, key), _ in held), default=0) + 1
    if _HEADER.size + 2 * positions * keys >= OWNER_BYTES * len(owners):
        return b""
    place_of = {peer: place for place, peer in enumerate(roster.peers)}
    places = [_NOBODY] * (positions * keys)
    for (position, key), peer in held:
        places[position * keys + key] = place_of.get(peer, _NOBODY)
    table = _HEADER.pack(positions, keys) + struct.pack(f"<{len(places)}H", *places)
    return table if unpack_owners(table, roster) == owners else b""


def unpack_owners(table: bytes, roster: Roster) -> tuple[Ownership, ...]:
    """The owners in a table, ascending. Raises WireError."""
    items_of: dict[int, list[Item]] = {}
    for item, place in _entries(table):
        items_of.setdefault(place, []).append(item)
    if items_of and max(items_of) >= len(roster.members):
        why = f"place {max(items_of)} of a roster of {len(roster.members)}"
        raise WireError("malformed message: owners", why)
    return tuple(
        Ownership(roster.peers[place], pack_items(items_of[place])) for place in sorted(items_of)
    )


def _entries(table: bytes) -> Iterator[tuple[Item, int]]:
    """Each item that somebody owns, and the owner's place."""
    if len(table) < _HEADER.size:
        raise WireError("malformed message: owners", f"{len(table)} bytes are less than a header")
    positions, keys = _HEADER.unpack_from(table)
    count = positions * keys
    if positions > MAX_POSITION + 1 or keys > MAX_MICROBATCHES or count > MAX_ITEMS:
        raise WireError("malformed message: owners", f"{positions} positions of {keys} keys")
    if len(table) != _HEADER.size + 2 * count:
        raise WireError("malformed message: owners", f"{len(table)} bytes for {count} items")
    places = struct.unpack_from(f"<{count}H", table, _HEADER.size)
    for index, place in enumerate(places):
        if place != _NOBODY:
            yield divmod(index, keys), place
