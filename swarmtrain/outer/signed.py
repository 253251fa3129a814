"""Signatures under the votes of a round: what a decision shows to whoever did not take part in it.

Every peer signs what it accepts: the choice with its result, for which run, stage, fragment, round, base and ballot,
and under which list of its island. A decision carries the votes of all replicas of each island of its quorum, and a
peer's id follows from its public key, so one peer alone cannot pass off as decided what no quorum accepted, nor can one
that passes a decision on change it, whatever name it goes by.

Not proven: that a peer belongs to an island. That rests on the lists that islands tell when they greet, as ever; of the
voters for an island at least one has to be on the newest that the reader heard, so a replica that lies can speak for
its own island, and whoever is first heard of under the name of an island is believed. Nothing else is signed: offers,
promises, what a peer holds or cannot have, votes told anew, the outer state that who is behind fetches. And a result
may be wrong that a quorum agrees on.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from swarmtrain.core.rounds import (
    Ballot,
    Choice,
    GroupMember,
    RoundDecided,
    SignedVote,
    is_quorum,
)
from swarmtrain.core.types import Digest, PeerId
from swarmtrain.outer.roll import ReplicaList

# Signing under a purpose of its own keeps a vote from passing as any other signed message.
_PURPOSE = b"swarmtrain round vote 1\n"

Head = tuple[int, int, int, Digest]
"""Stage, fragment, round and base."""


@dataclass(frozen=True, slots=True)
class Signing:
    """How this peer's votes in `run` are signed, and everybody's are checked."""

    run: str
    public_key: bytes
    sign: Callable[[bytes], bytes]
    peer_of: Callable[[bytes], PeerId]
    """Whom a public key names."""
    is_signed: Callable[[bytes, bytes, bytes], bool]
    """Whether the third is the signature over the second made with the private half of the first."""


def vote_text(
    run: str, head: Head, ballot: Ballot, island: int, listed: ReplicaList, choice: Choice
) -> bytes:
    """What the replicas `listed` of `island` sign when they accept `choice`, whose result is known by then."""
    said = json.dumps(
        (run, head, ballot, island, listed, choice), default=_plain, separators=(",", ":")
    )
    # Short, however much is chosen: checked signatures are remembered.
    return _PURPOSE + hashlib.sha256(said.encode()).digest()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return [getattr(value, field.name) for field in fields(value)]


def flaw(
    signing: Signing,
    decided: RoundDecided,
    members: Sequence[GroupMember],
    lists: Mapping[int, ReplicaList],
) -> str:
    """Why the votes of `decided` do not prove it to a peer that knows these `lists`; empty where they do."""
    voting = {member.island: member.version for member in members}
    votes: dict[int, list[SignedVote]] = {}
    for vote in decided.votes:
        votes.setdefault(vote.island, []).append(vote)
    if not votes.keys() <= voting.keys() or not is_quorum(votes, voting):
        return f"islands {sorted(votes)} are no quorum of {sorted(voting)}"
    head = decided.stage, decided.fragment, decided.round, decided.base
    for island, given in sorted(votes.items()):
        # Signed was the whole list: with a vote left out, or one too many, none of them fits.
        peers = tuple(sorted(signing.peer_of(vote.public_key) for vote in given))
        listed, known = ReplicaList(given[0].version, peers), lists.get(island)
        if known is None or not set(peers) & set(known.peers):
            return f"nobody who voted for island {island} is known to be of it"
        if {vote.version for vote in given} != {listed.version} or listed.version < voting[island]:
            return f"island {island} voted under a list that does not count"
        text = vote_text(signing.run, head, decided.ballot, island, listed, decided.choice)
        if not all(signing.is_signed(v.public_key, text, v.signature) for v in given):
            return f"the replicas of island {island} did not sign that"
    return ""
