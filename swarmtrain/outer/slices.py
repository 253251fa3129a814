"""How a group reduces a round: every peer gathers all contributions, or each reduces one slice for all.

With E islands and contributions of P bytes, each counted island sends, while everybody gathers,

    (E - 1) P                                every contribution whole to every other island

and, where it owns the share s of the fragment and means take M bytes,

    (1 - s) P  +  s (E - 1) M                what others own to its owners, and its means to everybody else

which for even shares is (E - 1) / E (P + M). Shares go by the owners' measured uplinks. A slice is a run of whole
sections, and every element is summed and encoded in its section alone, so who owns which makes no difference to a bit.
All of this is part of what the group agrees on (`core.rounds.Choice`): a peer never cuts by its own figures.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarmtrain.core.errors import StateError
from swarmtrain.core.rounds import Choice, Slice
from swarmtrain.core.types import Digest, PeerId
from swarmtrain.core.units import format_bytes

UNMEASURED_BYTES_PER_SECOND = 12.5e6
"""100 Mbit/s, while nobody has measured anything."""

EXCHANGE_SECONDS = 0.2
"""What one exchange between islands takes besides its bytes; slices need two, one behind the other."""

LEAST_SAVING = 0.2
"""Slices must save this share of the time, or they are not worth that their means are rounded once more."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of one fragment: its sections, and what contributions and means take on the wire, before zstd.

    `sections` is 0 where contributions cannot be cut: those of codecs that see the whole.
    """

    sections: int
    payload_bytes: int
    mean_bytes: int


@dataclass(frozen=True, slots=True)
class Owner:
    """A peer that could own a slice; a rate of 0 was not measured."""

    peer: PeerId
    island: int
    uplink_bytes_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The slices, none where contributions are gathered, and why."""

    slices: tuple[Slice, ...]
    reason: str


def plan(sizes: Sizes, owners: Sequence[Owner], islands: int) -> Plan:
    """How to reduce a round that `islands` islands want to know; `owners` are of those that are counted."""
    if not sizes.sections:
        return Plan((), "gathered: the codec's contributions cannot be cut")
    count = len({owner.island for owner in owners})
    if count < 2:
        return Plan((), "gathered: fewer than two islands that offered vote, and could own slices")
    if sizes.sections < len(owners):
        return Plan((), f"gathered: {sizes.sections} sections for {len(owners)} peers")
    rates = assumed(owners)
    sections = shares(sizes.sections, [rates[owner.peer] for owner in owners])
    slices = tuple(
        Slice(owner.peer, taken) for owner, taken in zip(owners, sections, strict=True) if taken
    )
    gathered = _slowest(sizes, owners, rates, islands, {}) + EXCHANGE_SECONDS
    owned = {cut.peer: cut.sections for cut in slices}
    sliced = _slowest(sizes, owners, rates, islands, owned) + 2 * EXCHANGE_SECONDS
    times = f"{_seconds(sliced)} in slices, {_seconds(gathered)} gathered"
    if sliced > (1 - LEAST_SAVING) * gathered:
        return Plan((), f"gathered: {times}")
    said = ", ".join(f"{cut.peer[:8]} {cut.sections}" for cut in slices)
    size = format_bytes(sizes.payload_bytes)
    return Plan(slices, f"in slices: {times}, of {size}; sections: {said}")


def assumed(owners: Sequence[Owner]) -> dict[PeerId, float]:
    """Bytes a second by peer: as measured, else the mean of those that were, else all alike."""
    rates = {o.peer: _credible(o.uplink_bytes_per_second) for o in owners}
    measured = [rate for rate in rates.values() if rate]
    usual = sum(measured) / len(measured) if measured else UNMEASURED_BYTES_PER_SECOND
    return {peer: rate or usual for peer, rate in rates.items()}


def shares(sections: int, rates: Sequence[float]) -> tuple[int, ...]:
    """`sections` in proportion to `rates`, whole ones; what is left goes to the largest remainders."""
    total = sum(rates)
    wanted = [sections * rate / total for rate in rates]
    taken = [int(share) for share in wanted]
    by_rest = sorted(range(len(rates)), key=lambda at: (taken[at] - wanted[at], at))
    for at in by_rest[: sections - sum(taken)]:
        taken[at] += 1
    return tuple(taken)


def bounds(slices: Sequence[Slice]) -> list[tuple[int, int]]:
    """The sections of every slice: (first, stop)."""
    found, begin = [], 0
    for cut in slices:
        found.append((begin, begin + cut.sections))
        begin += cut.sections
    return found


def check(choice: Choice, sections: int) -> None:
    """Raise StateError unless the slices of `choice` make up a fragment of so many sections, and have a mean."""
    cut = [entry.sections for entry in choice.slices]
    tokens = sum(counted.tokens for counted in choice.counted)
    if min(cut, default=0) < 1 or sum(cut) != sections or tokens < 1:
        raise StateError(
            "a round is cut in a way that makes no sense",
            f"{cut} sections of {sections}, {tokens} tokens",
            "its chair is faulty, or of another version",
        )


def mean_name(choice: Choice, number: int) -> Digest:
    """Names the mean of a slice: what is counted and how it is cut say all about it."""
    counted = "".join(f" {c.island} {c.tokens} {c.digest.hex()}" for c in choice.counted)
    cut = "".join(f" {entry.sections} {entry.peer}" for entry in choice.slices)
    return hashlib.sha256(f"mean {number}{counted};{cut}".encode()).digest()


def sent_bytes(sizes: Sizes, share: float, islands: int) -> float:
    """What a counted island sends in a round of which it owns `share`; see above."""
    return (1 - share) * sizes.payload_bytes + share * (islands - 1) * sizes.mean_bytes


def _slowest(
    sizes: Sizes,
    owners: Sequence[Owner],
    rates: Mapping[PeerId, float],
    islands: int,
    owned: Mapping[PeerId, int],
) -> float:
    """Seconds until the island that takes longest has sent its part; with nothing `owned`, its whole contribution."""
    longest = 0.0
    for island in {owner.island for owner in owners}:
        mine = [owner.peer for owner in owners if owner.island == island]
        share = sum(owned.get(peer, 0) for peer in mine) / sizes.sections
        some = sent_bytes(sizes, share, islands) if owned else (islands - 1) * sizes.payload_bytes
        longest = max(longest, some / sum(rates[peer] for peer in mine))
    return longest


def _credible(bytes_per_second: float) -> float:
    """What a peer says of its line; 0 where that can be of no line (I5)."""
    return bytes_per_second if 1.0 <= bytes_per_second <= 1e12 else 0.0


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s"
