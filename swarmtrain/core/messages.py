"""The step protocol's messages as frozen values (protocol.md, rules R1 to R16).

They carry no run hash: the link's handshake binds a link to one run, and the transport adds it. `seal` is the
seal number n of a step, `base` the digest of the decisions that led to the step's parameters. Key sets travel
as bitmaps, little-endian by key index, one per position.
"""

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from swarmtrain.core.closing import Closing, PlaceNews, Scalars
from swarmtrain.core.types import Digest, Item, Member, PeerId, Roster


@dataclass(frozen=True, slots=True)
class PositionKeys:
    """The keys of one position, as a bitmap."""

    position: int
    keys: bytes


def pack_items(items: Iterable[Item]) -> tuple[PositionKeys, ...]:
    """Items as one bitmap per position, positions ascending."""
    bitmaps: dict[int, int] = {}
    for position, key in items:
        bitmaps[position] = bitmaps.get(position, 0) | 1 << key
    return tuple(
        PositionKeys(position, bits.to_bytes((bits.bit_length() + 7) // 8, "little"))
        for position, bits in sorted(bitmaps.items())
    )


def unpack_items(packed: Iterable[PositionKeys]) -> tuple[Item, ...]:
    """The items in `packed`, ascending."""
    items: list[Item] = []
    for entry in packed:
        bits = int.from_bytes(entry.keys, "little")
        while bits:
            lowest = bits & -bits
            items.append((entry.position, lowest.bit_length() - 1))
            bits ^= lowest
    return tuple(sorted(items))


@dataclass(frozen=True, slots=True)
class KeyLoss:
    """Summed loss of one key in nats over its tokens, as its head computed it."""

    key: int
    loss_sum: float


@dataclass(frozen=True, slots=True)
class StageSum:
    """What a replica has after the reduce: the sum's digest, and its squared norm as `square_sum / 2**exponent`.

    `square_sum` is decimal text because the integer has no bound.
    """

    stage: int
    digest: Digest
    square_sum: str
    exponent: int


@dataclass(frozen=True, slots=True)
class StageDigest:
    stage: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Ownership:
    """The items whose gradient `peer` brings into the reduce."""

    peer: PeerId
    items: tuple[PositionKeys, ...]


@dataclass(frozen=True, slots=True)
class Hint:
    """A peer believed to hold a position of a key, to try first."""

    position: int
    peer: PeerId


def pack_paths(paths: tuple[tuple[PeerId, ...], ...]) -> tuple[tuple[PeerId, ...], bytes]:
    """`(path_peers, paths)` of an OPEN: by key, the replicas of its middle positions, as many for each key."""
    peers = tuple(sorted({peer for path in paths for peer in path}))
    index = {peer: number.to_bytes(2, "little") for number, peer in enumerate(peers)}
    return peers, b"".join(index[peer] for path in paths for peer in path)


def pack_remaining(seconds: Iterable[float]) -> bytes:
    """`remaining` of an OPEN: by key, then by task along its round trip."""
    return b"".join(struct.pack("<f", value) for value in seconds)


@dataclass(frozen=True, slots=True)
class Open:
    """Freezes a step: keys 0..microbatches-1, their stage sequences, and the divisor in tokens (R14).

    `sequences` has one entry that serves all keys, or one per key; an entry lists the middle stages visited.
    `leads` says which edge starts which keys (items of position 0). With a plan, `path_peers` and `paths` name the
    replica of every middle position of every key (`pack_paths`), and `remaining` how long the round trip takes from
    each of its tasks on (`pack_remaining`), which is what lanes go by. All are empty without one; a replica that is
    gone by then is replaced by the caller (plan.wiring).
    """

    term: int
    step: int
    base: Digest
    roster: Roster
    leads: tuple[Ownership, ...]
    microbatches: int
    sequences: tuple[tuple[int, ...], ...]
    tokens: int
    path_peers: tuple[PeerId, ...] = ()
    paths: bytes = b""
    remaining: bytes = b""

    def remaining_seconds(self, task: int, key: int) -> float | None:
        """The planned seconds from the begin of a key's task to the end of its round trip, waiting aside.

        Tasks count along the round trip: 0 is the embedding, `visits + 1` the loss, `2 visits + 2` the backward of
        the embedding. None without a plan, or with one that makes no sense.
        """
        tasks = 2 * len(self.sequence(key)) + 3
        if len(self.remaining) != 4 * tasks * self.microbatches or not 0 <= task < tasks:
            return None
        (seconds,) = struct.unpack_from("<f", self.remaining, 4 * (key * tasks + task))
        return seconds if 0 <= seconds < math.inf else None

    def planned(self, position: int, key: int) -> PeerId | None:
        """The replica that the plan names for a middle position; None without a plan, or one that makes sense."""
        visits = len(self.sequence(key))
        place = 2 * (key * visits + position - 1)
        if not 1 <= position <= visits or len(self.paths) != 2 * visits * self.microbatches:
            return None
        index = int.from_bytes(self.paths[place : place + 2], "little")
        return self.path_peers[index] if index < len(self.path_peers) else None

    def sequence(self, key: int) -> tuple[int, ...]:
        return self.sequences[key if len(self.sequences) > 1 else 0]

    def stage_at(self, position: int, key: int) -> int:
        """The stage that position visits; embedding and head are stage 0."""
        middle = self.sequence(key)
        return middle[position - 1] if 1 <= position <= len(middle) else 0

    def items(self) -> tuple[Item, ...]:
        """Every item the step must hold exactly once, ascending."""
        return tuple(
            sorted(
                (position, key)
                for key in range(self.microbatches)
                for position in range(len(self.sequence(key)) + 2)
            )
        )


@dataclass(frozen=True, slots=True)
class Done:
    """An edge: these keys came back through the embedding."""

    step: int
    base: Digest
    keys: bytes


@dataclass(frozen=True, slots=True)
class Freeze:
    """Closes the step for seal `seal`; nothing accumulates from here on but what a Reopen lists (R5)."""

    term: int
    step: int
    seal: int
    roster: Roster


@dataclass(frozen=True, slots=True)
class Held:
    """What a peer's accumulators hold; void keys had a non-finite or oversized contribution or activation."""

    step: int
    seal: int
    held: tuple[PositionKeys, ...]
    void: tuple[PositionKeys, ...]
    losses: tuple[KeyLoss, ...]


@dataclass(frozen=True, slots=True)
class Reopen:
    """Admits the listed items again, so that missing runs can be re-driven. All in `roster` have closed the step with
    it: where it lists nothing it says only that."""

    term: int
    step: int
    seal: int
    roster: Roster
    items: tuple[PositionKeys, ...]


@dataclass(frozen=True, slots=True)
class Redrive:
    """Call a replica of `position` for `key` with kept bytes, or lead the key when `position` is 0 (R6)."""

    term: int
    step: int
    seal: int
    key: int
    position: int
    hints: tuple[Hint, ...]


@dataclass(frozen=True, slots=True)
class Redriven:
    """A re-driven run came back at `position`."""

    step: int
    seal: int
    key: int
    position: int


@dataclass(frozen=True, slots=True)
class Assign:
    """One owner per item; a peer retracts what it holds and does not own, and all items of void keys.

    `loss` is the mean over the tokens of keys that are not void, in nats; `closing` is what will be done with the sum.
    Both ride along into the commit.
    """

    term: int
    step: int
    seal: int
    roster: Roster
    owners: tuple[Ownership, ...]
    void: bytes
    loss: float
    closing: Closing


@dataclass(frozen=True, slots=True)
class Reduced:
    """A replica's reduce of `(term, step, seal)` ended; `stages` is empty when it could not serve the seal."""

    term: int
    step: int
    seal: int
    stages: tuple[StageSum, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """The decision of step `step`: every replica applies the sum with this digest, or none does (R8).

    `term` is the term of the reduce that was prepared, which a later conductor may spread unchanged.
    """

    term: int
    step: int
    seal: int
    base: Digest
    roster: Roster
    stages: tuple[StageSum, ...]
    closing: Closing
    tokens: int
    loss: float
    void: bytes

    @property
    def scalars(self) -> Scalars:
        return self.closing.scalars

    @property
    def next_step(self) -> int:
        return self.closing.next_step


@dataclass(frozen=True, slots=True)
class Decision:
    """A commit as a conductor sends it, with the next step's opening on its back."""

    term: int
    commit: Commit
    open: Open | None


@dataclass(frozen=True, slots=True)
class Ready:
    """A replica applied; the digests of its parameters at `step`."""

    step: int
    base: Digest
    stages: tuple[StageDigest, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """A majority is ready at `step`: what was kept for earlier steps may go (R10, R11)."""

    term: int
    step: int
    stages: tuple[StageDigest, ...]


@dataclass(frozen=True, slots=True)
class NewTerm:
    """A candidate conductor asks the base roster for promises."""

    term: int
    step: int
    base: Digest
    roster: Roster


@dataclass(frozen=True, slots=True)
class Prepared:
    """A reduce that ended: what a replica could commit."""

    term: int
    seal: int
    roster: Roster
    stages: tuple[StageSum, ...]
    void: bytes
    loss: float
    closing: Closing


@dataclass(frozen=True, slots=True)
class Promise:
    """No prepare of a lower term will be finished by this peer from now on; `epoch` is that of its parameters.

    `open` is the newest opening that it took, of this step or an earlier one.
    """

    term: int
    epoch: int
    step: int
    base: Digest
    seal: int
    last: Commit | None
    prepared: Prepared | None
    open: Open | None


@dataclass(frozen=True, slots=True)
class Nack:
    """Somebody promised a higher term."""

    term: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A peer that woke up or was cut off asks what was decided for `step` (R9)."""

    step: int


@dataclass(frozen=True, slots=True)
class Tell:
    """The answer to Ask: the decision of the asked step."""

    commit: Commit


@dataclass(frozen=True, slots=True)
class Join:
    """A peer asks to be in the roster, saying which parameters it holds.

    Those of the current step: it is back at once, with what it holds (R9). Others: from the next step on, with
    state from a sibling. One that `learns` brings itself to the current step and asks until it is let in there.
    """

    member: Member
    step: int
    base: Digest
    learns: bool = False


@dataclass(frozen=True, slots=True)
class Leave:
    """A peer asks to be out of the roster of the next step; until then it works on, so nothing is replayed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Move:
    """The conductor asks a peer to host `stages` instead of its own from the next step on; it answers with Join."""

    term: int
    stages: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Recall:
    """A stage has no replica left: which states could each peer give? `seal` counts the tries of one term."""

    term: int
    seal: int
    stages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StageAt:
    """A whole state of `stage` at `step`, which the base digest `base` names."""

    stage: int
    step: int
    base: Digest


@dataclass(frozen=True, slots=True)
class CheckpointAt:
    """The coordinator has a checkpoint of every stage at `step`, which the base digest `base` names."""

    step: int
    base: Digest


@dataclass(frozen=True, slots=True)
class Kept:
    """The answer to Recall: where this peer is, states in its memory with its live ones, for how many stages more it
    has room, and the newest checkpoint of the coordinator that it heard of."""

    seal: int
    step: int
    base: Digest
    room: int
    states: tuple[StageAt, ...]
    checkpoint: CheckpointAt | None


@dataclass(frozen=True, slots=True)
class Source:
    """Where the state of `stage` comes from: peers that have it at `state.step`, or the stages to average.

    `tier` is live, snapshot, checkpoint or neighbours.
    """

    stage: int
    tier: str
    states: tuple[StageAt, ...]
    peers: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Restore:
    """The island goes on at `step` on `base` with `roster`: every peer loads its stages as `sources` say.

    `term` starts an epoch: decisions of lower epochs are another history from here on.
    """

    term: int
    seal: int
    step: int
    base: Digest
    roster: Roster
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """The run ends; `finished` says whether it reached its last step."""

    term: int
    step: int
    finished: bool
    reason: str


@dataclass(frozen=True, slots=True)
class RoundNews:
    """What a replica at `step` tells the conductor, which decides in which step's closing a round has its place."""

    step: int
    base: Digest
    places: tuple[PlaceNews, ...]


StepMessage = (
    Open | Done | Freeze | Held | Reopen | Redrive | Redriven | Assign | Reduced | Decision | Ready
    | Release | NewTerm | Promise | Nack | Ask | Tell | Stop | Join | Leave | Move | Recall | Kept | Restore
    | RoundNews
)  # fmt: skip
