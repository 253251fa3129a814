"""Gradient sums of a step: `exact` (int64 fixed point, free of order, retractable) and `fast` (fp32).

Exact: each contribution is rounded once to multiples of 2^-44 and summed as integers, so any order, any split
over replicas and any retraction gives the same bits (reliability_security.md section 6). Fast promises one
count per position and equal replicas, not equal bits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

SCALE_BITS = 44
"""Fixed point: one unit is 2^-44."""

RANGE_BITS = 19
"""A sum must stay below 2^19 in magnitude, or the int64 would overflow."""

_CHUNK_ELEMENTS = 65536
"""Buffers of this size stay in cache; measured fastest for the fixed-point sum."""

_SQUARE_BITS = 42
"""Squares are scaled so that the largest stays below 2^42: a chunk of 2^16 of them fits an int64."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """One item's gradient: a tensor per `(offset, elements)` span of the stage's flat layout."""

    spans: Sequence[tuple[int, int]]
    gradients: Sequence[Tensor]

    def peak(self) -> float:
        """Largest magnitude; nan when any value is nan."""
        # Both extremes by themselves need no copy of the gradient, as abs() would.
        peaks = [
            max(float(gradient.amax()), -float(gradient.amin())) for gradient in self.gradients
        ]
        return next((peak for peak in peaks if peak != peak), max(peaks))


def contribution_limit(microbatches: int) -> float:
    """Largest magnitude one contribution may have so that no sum of a step can overflow.

    Twice the microbatches, because embedding and head of a tied edge add to the same sum.
    """
    return float(2 ** (RANGE_BITS - (2 * microbatches - 1).bit_length()))


def is_summable(contribution: Contribution, limit: float) -> bool:
    """False voids the key at every position; the reference shares this rule."""
    return contribution.peak() < limit


class Accumulator(Protocol):
    """The sum of one stage at one replica."""

    total: Tensor

    def add(self, contribution: Contribution) -> None: ...

    def retract(self, gone: Contribution) -> None: ...

    def clear(self) -> None: ...


class ExactAccumulator:
    """int64 sum; `total` has the stage's flat layout in units of 2^-44."""

    def __init__(self, elements: int) -> None:
        self.total = torch.zeros(elements, dtype=torch.int64)
        self._rounded = torch.empty(_CHUNK_ELEMENTS)
        self._units = torch.empty(_CHUNK_ELEMENTS, dtype=torch.int64)

    def add(self, contribution: Contribution) -> None:
        self._merge(contribution, 1)

    def retract(self, gone: Contribution) -> None:
        self._merge(gone, -1)

    def clear(self) -> None:
        self.total.zero_()

    def _merge(self, contribution: Contribution, sign: int) -> None:
        for (offset, elements), gradient in zip(
            contribution.spans, contribution.gradients, strict=True
        ):
            flat = gradient.reshape(-1)
            for start in range(0, elements, _CHUNK_ELEMENTS):
                piece = flat[start : start + _CHUNK_ELEMENTS]
                size = piece.numel()
                # A power-of-two scale is exact in fp32, so rounding happens exactly once.
                torch.mul(piece, float(2**SCALE_BITS), out=self._rounded[:size]).round_()
                self._units[:size].copy_(self._rounded[:size])
                place = offset + start
                self.total[place : place + size].add_(self._units[:size], alpha=sign)


class FastAccumulator:
    """fp32 sum in order of arrival."""

    def __init__(self, elements: int) -> None:
        self.total = torch.zeros(elements)

    def add(self, contribution: Contribution) -> None:
        self._merge(contribution, 1.0)

    def retract(self, gone: Contribution) -> None:
        """Subtracting leaves rounding residue of the size of one fp32 reordering, which `fast` allows."""
        self._merge(gone, -1.0)

    def clear(self) -> None:
        self.total.zero_()

    def _merge(self, contribution: Contribution, sign: float) -> None:
        for (offset, elements), gradient in zip(
            contribution.spans, contribution.gradients, strict=True
        ):
            self.total[offset : offset + elements].add_(gradient.reshape(-1), alpha=sign)


def new_accumulator(kind: str, elements: int) -> Accumulator:
    """`kind` is `exact` or `fast`."""
    return ExactAccumulator(elements) if kind == "exact" else FastAccumulator(elements)


def mean_gradient(total: Tensor, tokens: int, out: Tensor) -> Tensor:
    """The mean gradient in fp64 from a slice of a summed total; the order of operations is fixed.

    int64 -> fp64 -> x (2^-44 / tokens); fp32 -> fp64 -> x (1 / tokens).
    """
    unit = 2.0**-SCALE_BITS if total.dtype == torch.int64 else 1.0
    view = out[: total.numel()]
    return view.copy_(total).mul_(unit / tokens)


def square_sum(total: Tensor, tokens: int) -> tuple[int, int]:
    """Squared L2 norm of the mean gradient of one stage as `(q, e)`, meaning q / 2^e.

    Each fp32 value is squared in fp64 (exact), scaled by 2^e and rounded to an integer, so the result depends
    neither on order nor on how the stage is cut (protocol.md, answer b). e follows from the largest value alone.
    A fast sum promises equal replicas only, so it takes one plain fp64 pass.
    """
    if total.dtype == torch.float32:
        return _plain_square_sum(total, tokens)
    buffer = torch.empty(_CHUNK_ELEMENTS, dtype=torch.float64)
    peak = max(
        (
            float(mean_gradient(piece, tokens, buffer).float().abs().amax())
            for piece in _pieces(total)
        ),
        default=0.0,
    )
    _, exponent_of_peak = torch.frexp(torch.tensor(peak, dtype=torch.float64))
    exponent = max(0, min(1000, _SQUARE_BITS - 2 * int(exponent_of_peak))) if peak > 0.0 else 0
    scale = 2.0**exponent
    whole = 0
    for piece in _pieces(total):
        mean = mean_gradient(piece, tokens, buffer).float().double()
        whole += int(mean.square_().mul_(scale).round_().to(torch.int64).sum())
    return whole, exponent


def _plain_square_sum(total: Tensor, tokens: int) -> tuple[int, int]:
    squares = sum(float(piece.double().square_().sum()) for piece in _pieces(total))
    numerator, denominator = (squares / tokens**2).as_integer_ratio()
    return numerator, denominator.bit_length() - 1


def _pieces(flat: Tensor) -> Iterable[Tensor]:
    return (
        flat[start : start + _CHUNK_ELEMENTS] for start in range(0, flat.numel(), _CHUNK_ELEMENTS)
    )
