"""Who holds what, as pure functions: one owner per item, missing runs, and who drives them (R2, R6)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from swarmtrain.core.messages import Hint, Ownership, pack_items
from swarmtrain.core.types import Item, PeerId, Roster


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive positions `first`..`last` of `key` that nobody holds."""

    key: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What the held sets of a seal add up to."""

    owners: Mapping[Item, PeerId]
    missing: tuple[Item, ...]
    void: tuple[int, ...]


def audit(
    needed: Iterable[Item],
    held: Mapping[PeerId, frozenset[Item]],
    void: Mapping[PeerId, frozenset[Item]],
) -> Audit:
    """Give every needed item one owner among its holders; the lowest peer id wins, so any conductor agrees.

    An item reported void anywhere voids its key everywhere: such a key is neither owned nor missing.
    """
    void_keys = sorted({key for items in void.values() for _, key in items})
    owners: dict[Item, PeerId] = {}
    missing: list[Item] = []
    holders = sorted(held)
    for item in needed:
        if item[1] in void_keys:
            continue
        owner = next((peer for peer in holders if item in held[peer]), None)
        if owner is None:
            missing.append(item)
        else:
            owners[item] = owner
    return Audit(owners, tuple(missing), tuple(void_keys))


def missing_runs(missing: Iterable[Item]) -> tuple[Run, ...]:
    """Maximal runs of consecutive missing positions, by key then position (R6)."""
    runs: list[Run] = []
    for position, key in sorted(missing, key=lambda item: (item[1], item[0])):
        if runs and runs[-1].key == key and runs[-1].last == position - 1:
            runs[-1] = Run(key, runs[-1].first, position)
        else:
            runs.append(Run(key, position, position))
    return tuple(runs)


def driver_of(run: Run, owners: Mapping[Item, PeerId], roster: Roster) -> PeerId:
    """Who re-drives `run`: the holder of the position above, or the lowest edge when the embedding is missing."""
    return roster.edges[0] if run.first == 0 else owners[(run.first - 1, run.key)]


def hints_for(key: int, owners: Mapping[Item, PeerId]) -> tuple[Hint, ...]:
    """Holders of the key's other positions, position ascending."""
    return tuple(
        Hint(position, owners[(position, other)])
        for position, other in sorted(owners)
        if other == key
    )


def ownerships(owners: Mapping[Item, PeerId]) -> tuple[Ownership, ...]:
    """Owners grouped by peer, ascending."""
    by_peer: dict[PeerId, list[Item]] = {}
    for item, peer in owners.items():
        by_peer.setdefault(peer, []).append(item)
    return tuple(Ownership(peer, pack_items(by_peer[peer])) for peer in sorted(by_peer))
