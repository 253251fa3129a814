"""Where peers find each other: one small protocol, and the rules its implementations share.

Implementations: `swarm.dht` (hivemind's DHT) and `swarm.memory_directory` (its twin in the virtual world). Both
keep, per run, one entry per peer id, and an entry with a later expiry replaces an earlier one. Because the
expiry is part of the signed record, nobody can bring an old record back or make it outlive a newer one.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from swarmtrain.core.errors import WireError
from swarmtrain.core.events import BadMessage, Record
from swarmtrain.core.types import PeerId
from swarmtrain.swarm.identity import Identity
from swarmtrain.swarm.records import PeerRecord, open_record, read_sealed, seal

_REPORTED_KEPT = 1024
_PEER_ID = re.compile(r"[0-9a-f]{32}")


class Directory(Protocol):
    """What a peer needs of discovery; `DirectoryError` when it is out of reach or closed."""

    @property
    def bootstrap(self) -> tuple[str, ...]:
        """Addresses with which others can join this directory."""

    def now(self) -> float:
        """Directory time in seconds: the clock of `PeerRecord.expires`."""

    async def publish(self, record: PeerRecord, life_seconds: float) -> None:
        """Sign `record` as this peer's newest, living `life_seconds` from now; `sequence` and `expires` are set here.

        WireError if the record breaks a limit, so that no reader would accept it.
        """

    async def records(self) -> tuple[PeerRecord, ...]:
        """The newest verified record of every peer that has not left, ascending by peer id.

        Bad records are dropped and each is reported once as a `BadMessage`.
        """

    async def withdraw(self) -> None:
        """Tell the others that this peer is gone; without a published record nothing happens."""

    async def close(self) -> None:
        """Release everything held here; what was published lives on until it expires."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a directory stores: sealed bytes under a peer id, until directory time `expires`."""

    peer: str
    sealed: bytes
    expires: float


def check_entry(entry: Entry) -> PeerRecord:
    """The record in `entry` after the checks any storing node can make, whatever its run; else WireError."""
    record = read_sealed(entry.sealed)
    if record.peer != entry.peer:
        raise WireError("a peer record was refused", f"{record.peer} signed it, not {entry.peer}")
    if record.expires != entry.expires:
        raise WireError("a peer record was refused", "its expiry is not the one that was signed")
    return record


class Author:
    """Signs one peer's records so that each is newer than all before it."""

    def __init__(self, run: str, identity: Identity) -> None:
        self._run = run
        self._identity = identity
        self._last: PeerRecord | None = None

    def entry(self, record: PeerRecord, now: float, life_seconds: float) -> Entry:
        """`record` as this peer's newest entry; WireError if no reader would accept it."""
        previous = self._last or replace(record, sequence=0, expires=0.0)
        stamp = previous.renewed(now, life_seconds)
        record = replace(record, sequence=stamp.sequence, expires=stamp.expires)
        sealed = seal(record, self._identity)
        self._last = open_record(sealed, now, self._run)
        return Entry(record.peer, sealed, record.expires)

    def farewell(self, now: float) -> Entry | None:
        """The entry that hides this peer for as long as its last record would have lived."""
        if self._last is None or self._last.expires <= now:
            return None
        return self.entry(replace(self._last, state="left", stages=()), now, life_seconds=0.0)


class Reader:
    """Turns what a directory returned into records, and reports what had to be dropped."""

    def __init__(self, run: str, record: Record) -> None:
        self._run = run
        self._record = record
        self._seen: dict[PeerId, PeerRecord] = {}
        self._newest_sealed: dict[str, bytes] = {}
        self._reported: dict[bytes, None] = {}

    def newest(self, entries: Iterable[Entry], now: float) -> tuple[PeerRecord, ...]:
        """The newest record of every peer in `entries`, or seen before and still alive, that has not left.

        Keeping what was seen means that a look-up that failed, or that somebody answered with less than there
        is, can hide a newcomer but never a peer already known.
        """
        for entry in entries:
            # The end of a life between the look-up and here is nobody's fault; what was taken before is not
            # checked again, since most of what a look-up returns is unchanged.
            if entry.expires > now and self._newest_sealed.get(entry.peer) != entry.sealed:
                self._take(entry, now)
        self._forget_expired(now)
        return tuple(
            self._seen[peer] for peer in sorted(self._seen) if self._seen[peer].state != "left"
        )

    def _forget_expired(self, now: float) -> None:
        for peer in [peer for peer, seen in self._seen.items() if seen.expires <= now]:
            del self._seen[peer], self._newest_sealed[peer]

    def _take(self, entry: Entry, now: float) -> None:
        try:
            check_entry(entry)
            record = open_record(entry.sealed, now, self._run)
        except WireError as error:
            self.report(entry.peer, entry.sealed, error.why)
            return
        seen = self._seen.get(record.peer)
        if seen is None or seen.expires < record.expires:
            self._seen[record.peer] = record
            self._newest_sealed[record.peer] = entry.sealed

    def report(self, peer: str, sealed: bytes, reason: str) -> None:
        """Report bad bytes stored under `peer`, once, however often they are seen."""
        digest = hashlib.sha256(peer.encode() + b"\0" + sealed).digest()
        if digest in self._reported:
            return
        self._reported[digest] = None
        if len(self._reported) > _REPORTED_KEPT:
            del self._reported[next(iter(self._reported))]
        claimed = peer if _PEER_ID.fullmatch(peer) else "unknown"
        self._record(BadMessage(claimed, f"its record in the directory: {reason}"))
