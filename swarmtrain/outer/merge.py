"""One outer round of one fragment of a stage: whose contributions count, and their mean weighted by tokens.

    merged = sum_i tokens_i x_i / sum_i tokens_i        x_i what the others decode from member i

in float64, over members in ascending order, every element by itself, and rounded to float32 once. So the bits
depend neither on the order of arrival nor on how the fragment is cut into slices, and the mean of equal values
is that value, for fewer than 2^27 members. Weights are committed tokens of the stage (diloco.md sections 0 and 5.3):
who saw nothing weighs nothing, rather than pulling the mean to zero.

What x_i is, its form, decides whether rounds can be exact. No float32 difference d makes base - d every float32
(base = -1, end = 1 + 2^-23 has none, nor has a weight that passes through zero), so codecs that lose nothing send
the parameters themselves, and the pseudo-gradient is taken from their mean.
"""

import enum
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from swarmtrain.core.errors import StateError, WireError
from swarmtrain.core.types import Digest
from swarmtrain.wire.codec import Codec
from swarmtrain.wire.tensors import is_finite, tensor_digest

MAX_TOKENS = 1 << 40
"""Of one member in one round; weights and their sums then are exact in float64."""

_CHUNK_ELEMENTS = 65536
"""Buffers of this size stay in cache."""


class Form(enum.StrEnum):
    """What the tensor of a contribution holds."""

    VALUES = "values"
    """The member's parameters, so that they arrive exactly: codecs that lose nothing."""

    DIFFERENCE = "difference"
    """Outer parameters minus the member's, the pseudo-gradient: small, as lossy codecs want it."""

    @staticmethod
    def of(codec: Codec) -> "Form":
        return Form.DIFFERENCE if codec.lossy else Form.VALUES


@dataclass(frozen=True, slots=True)
class RoundTag:
    """Which round of which fragment, and what its members must have started from (I4)."""

    stage: int
    fragment: int
    round: int
    base: Digest
    """Digest of the outer state (`OuterState.digest`) that the contribution was made against."""
    form: Form


@dataclass(frozen=True, slots=True, eq=False)
class RoundContribution:
    """What one member brings to a round: float32 [elements] as everybody decodes it, and its weight."""

    member: str
    """Its id in the group: the order of summation."""
    tag: RoundTag
    tokens: int
    """Committed tokens of the stage since the member's last contribution."""
    values: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """What a round came to. `values` is float32 [elements] in the tag's form; None when nobody brought tokens."""

    tag: RoundTag
    members: tuple[str, ...]
    """Whose contributions counted, ascending."""
    tokens: int
    values: Tensor | None

    def digest(self) -> Digest:
        """SHA-256 over everything, for members to compare before they apply it."""
        tag = self.tag
        head = (
            f"{tag.stage} {tag.fragment} {tag.round} {tag.form} {self.tokens} {len(self.members)}"
        )
        names = "".join(f" {len(member)} {member}" for member in self.members)
        digest = hashlib.sha256(f"{head}{names} ".encode() + tag.base)
        if self.values is not None:
            digest.update(tensor_digest(self.values))
        return digest.digest()


class Gathering:
    """The contributions to one round; refuses those that may not be averaged. No I/O, no clock."""

    def __init__(self, tag: RoundTag, elements: int) -> None:
        self.tag, self.elements = tag, elements
        self._by_member: dict[str, RoundContribution] = {}

    @property
    def members(self) -> tuple[str, ...]:
        """Whose contributions are here, ascending."""
        return tuple(sorted(self._by_member))

    def add(self, contribution: RoundContribution) -> None:
        """Take one contribution; the same one again changes nothing.

        Raises, with nothing changed: StateError for another round, base or form, which is no fault of the
        sender's (it fell behind and fetches the outer state); WireError for values that are not finite, a wrong
        shape or weight, or a second contribution that differs from the first.
        """
        _check_tag(contribution.tag, self.tag)
        _check_values(contribution, self.elements)
        known = self._by_member.get(contribution.member)
        if known is not None and _differ(known, contribution):
            raise _refused(contribution, "it differs from the one before")
        self._by_member.setdefault(contribution.member, contribution)

    def merged(self, counted: Collection[str] | None = None) -> Merged:
        """The mean over the members on the commit list `counted`; None counts all.

        Raises StateError when a contribution that is to count is not here.
        """
        names = self.members if counted is None else tuple(sorted(counted))
        missing = [name for name in names if name not in self._by_member]
        if missing:
            raise StateError(
                f"the contributions of {', '.join(missing)} are not here",
                "they are on the commit list of the round",
                "fetch the merged round from another member",
            )
        entries = [self._by_member[name] for name in names]
        tokens = sum(entry.tokens for entry in entries)
        return Merged(self.tag, names, tokens, weighted_mean(entries))


def weighted_mean(contributions: Sequence[RoundContribution]) -> Tensor | None:
    """Mean of all values, weighted by tokens: float32 [elements]; None when there are no tokens."""
    ordered = sorted(
        (entry for entry in contributions if entry.tokens), key=lambda entry: entry.member
    )
    if not ordered:
        return None
    total = sum(entry.tokens for entry in ordered)
    out = torch.empty_like(ordered[0].values)
    for start in range(0, out.numel(), _CHUNK_ELEMENTS):
        piece = slice(start, start + _CHUNK_ELEMENTS)
        # The sum starts from the first term, not from zero: adding zero loses the sign of -0.
        first, *others = ordered
        summed = first.values[piece].double().mul_(first.tokens)
        for entry in others:
            # Two roundings, product and sum, on purpose: a fused one is not there on every machine.
            summed.add_(entry.values[piece].double().mul_(entry.tokens))
        out[piece] = summed.div_(total)
    return out


def _check_tag(theirs: RoundTag, ours: RoundTag) -> None:
    if theirs == ours:
        return
    what = [
        field
        for field in ("stage", "fragment", "round", "base", "form")
        if getattr(theirs, field) != getattr(ours, field)
    ]
    raise StateError(
        f"a contribution of round {theirs.round} is not for round {ours.round} "
        f"of stage {ours.stage}, fragment {ours.fragment}",
        f"its {' and '.join(what)} differ: it was not made against the same outer parameters",
        "let its sender fetch the outer state of the group and contribute from the next round on",
    )


def _check_values(contribution: RoundContribution, elements: int) -> None:
    values = contribution.values
    if not 0 <= contribution.tokens <= MAX_TOKENS:
        raise _refused(contribution, f"it claims {contribution.tokens} tokens")
    if values.dtype != torch.float32 or tuple(values.shape) != (elements,):
        raise _refused(contribution, f"it is {values.dtype} {list(values.shape)}, not [{elements}]")
    if not is_finite(values):
        raise _refused(contribution, "it holds infinity or NaN")


def _differ(one: RoundContribution, other: RoundContribution) -> bool:
    return one.tokens != other.tokens or not torch.equal(
        one.values.view(torch.int32), other.values.view(torch.int32)
    )


def _refused(contribution: RoundContribution, why: str) -> WireError:
    return WireError(
        f"the contribution of {contribution.member} to round {contribution.tag.round} is refused",
        why,
        "leave it out of the round; its sender is faulty or has diverged",
    )
