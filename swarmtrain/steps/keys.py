"""What identifies a step's work: bitmaps of keys, the base digest that fences it, and who leads which key."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from swarmtrain.core.messages import Commit, Ownership, pack_items, unpack_items
from swarmtrain.core.types import Digest, Item, PeerId


def pack_keys(keys: Iterable[int]) -> bytes:
    """Key indices as one little-endian bitmap."""
    bits = 0
    for key in keys:
        bits |= 1 << key
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def unpack_keys(bitmap: bytes) -> tuple[int, ...]:
    """The key indices in `bitmap`, ascending."""
    bits = int.from_bytes(bitmap, "little")
    return tuple(index for index in range(bits.bit_length()) if bits >> index & 1)


def first_base(run: bytes) -> Digest:
    """The base digest of step 0: the initial parameters follow from the run alone."""
    return hashlib.sha256(b"swarmtrain step 0" + run).digest()


def next_base(commit: Commit) -> Digest:
    """The base digest after `commit`: a chain over the decisions, which determine the parameters.

    It depends on what was applied and not on who decided it, so a step redone in another term with the same
    sums leads to the same base (R10). READY compares the digests of the parameters themselves.
    """
    chain = hashlib.sha256(commit.base)
    scalars = commit.scalars
    facts: list[object] = [commit.step, commit.tokens, scalars.learning_rate.hex()]
    facts += [scalars.bias_correction1.hex(), scalars.bias_correction2.hex()]
    for entry in sorted(commit.stages, key=lambda stage_sum: stage_sum.stage):
        facts += [entry.stage, entry.digest.hex(), entry.square_sum, entry.exponent]
    facts.append(commit.next_step)
    for work in commit.closing.rounds:
        facts += [work.stage, work.fragment, work.round, int(work.kind), work.digest.hex()]
    chain.update(repr(facts).encode())
    return chain.digest()


def share_leads(microbatches: int, edges: Sequence[PeerId]) -> tuple[Ownership, ...]:
    """Keys dealt round robin to the edges; every edge reads the same corpus, so any edge can lead any key."""
    return leads_of([edges[key % len(edges)] for key in range(microbatches)], edges)


def leads_of(leaders: Sequence[PeerId], edges: Sequence[PeerId]) -> tuple[Ownership, ...]:
    """What each edge leads, where `leaders` has one of them for each key; those that lead none are left out."""
    keys_of: dict[PeerId, list[int]] = {edge: [] for edge in edges}
    for key, leader in enumerate(leaders):
        keys_of[leader].append(key)
    return _shares({edge: [(0, key) for key in keys] for edge, keys in keys_of.items()})


def keep_leads(
    leads: Sequence[Ownership], microbatches: int, edges: Sequence[PeerId]
) -> tuple[Ownership, ...]:
    """`leads` with the keys of edges that are gone dealt to those that are left; what runs goes on where it runs."""
    kept = {share.peer: unpack_items(share.items) for share in leads if share.peer in edges}
    led = {key for items in kept.values() for _, key in items}
    orphans = [key for key in range(microbatches) if key not in led]
    shares = {edge: list(kept.get(edge, ())) for edge in edges}
    for number, key in enumerate(orphans):
        shares[edges[number % len(edges)]].append((0, key))
    return _shares(shares)


def _shares(items_of: Mapping[PeerId, Sequence[Item]]) -> tuple[Ownership, ...]:
    """One entry for each peer that has any items: hundreds of edges may have fewer keys to lead."""
    return tuple(Ownership(peer, pack_items(items)) for peer, items in items_of.items() if items)
