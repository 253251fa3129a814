"""Which codec a stage or tensor gets: the fewest bits that keep the error of the mean within a budget.

The error is the squared error of the mean of all members' decoded payloads over the squared norm of the
exact mean: that is what an outer step gets to see. Errors of members partly cancel, so it is lower than
that of one payload.

A run with `outer.codec = "auto"` has each round choose, for every fragment by itself, in what the next one is sent.
Nobody knows the exact mean then, so each island offers what the codecs do to its own pseudo-gradient, and the mean of
these errors by tokens stands for the error of the mean. It is on the safe side: with four islands it was 0.011 for a
mean's 0.004 in int4, and 0.21 for 0.12 in ternary (diloco.md section 3.5). To choose from are `CANDIDATES` alone: all
that keep nothing for later, so that the outer optimizer (`optimizer.suggested`) suits every choice, and go element by
element, so that a part of the fragment is enough to measure. Low rank needs all of it, and its error on one island's
says little of that of the mean: 0.19 for 0.04 there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from swarmtrain.core.errors import StateError
from swarmtrain.core.rounds import Measured, RoundCodec
from swarmtrain.wire.codec import Codec
from swarmtrain.wire.codecs import codec_named
from swarmtrain.wire.tensors import decode_tensor, encode_tensor

DEFAULT_BUDGET = 0.02
"""A fiftieth of the energy of the mean."""

CANDIDATES: tuple[RoundCodec, ...] = tuple(name for name in get_args(RoundCodec) if name)
"""What rounds choose from: codecs that every peer knows, as another peer's choice must be none else (I5)."""

SAMPLED_ELEMENTS, _SAMPLES = 65536, 16
"""Codecs are measured on at most so many runs of so many elements, which lie evenly in the fragment."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A codec and why it was chosen."""

    codec: str
    reason: str


def choose(measured: Sequence[Measured], budget: float) -> Choice:
    """The codec of fewest bits whose error is at most `budget`; the least error when there is none.

    Equal bits go to the lower error, then to the name, so that all members choose alike from the same
    figures. Errors that are NaN never fit. Raises StateError when nothing was measured.
    """
    if not measured:
        raise StateError("no codec was measured", "", "measure at least one")
    fitting = [entry for entry in measured if entry.relative_error <= budget]
    if fitting:
        best = min(
            fitting, key=lambda entry: (entry.bits_per_parameter, entry.relative_error, entry.codec)
        )
        reason = f"fewest bits of {len(fitting)} codecs within {budget:g}"
    else:
        best = min(measured, key=_error_first)
        reason = f"least error, as none of {len(measured)} codecs is within {budget:g}"
    figures = f"{best.bits_per_parameter:.3f} bits a parameter, error {best.relative_error:.2g}"
    return Choice(best.codec, f"{reason}: {figures}")


def next_codec(
    offers: Sequence[tuple[int, Sequence[Measured]]], budget: float
) -> tuple[RoundCodec, str] | None:
    """In which of `CANDIDATES` the next round sends, and why; None where nobody measured what all others did.

    `offers` are the tokens of each contribution, and what was measured on it. Less than no bits and no error can only
    have been made up, and would draw the mean to itself.
    """
    possible = [(tokens, [m for m in found if _is_possible(m)]) for tokens, found in offers]
    weighed = [
        (tokens, {m.codec: m for m in found}) for tokens, found in possible if tokens and found
    ]
    total = sum(tokens for tokens, _ in weighed)
    means = [
        Measured(
            name,
            sum(tokens * found[name].bits_per_parameter for tokens, found in weighed) / total,
            sum(tokens * found[name].relative_error for tokens, found in weighed) / total,
        )
        for name in CANDIDATES
        if weighed and all(name in found for _, found in weighed)
    ]
    if not means:
        return None
    choice = choose(means, budget)
    (codec,) = (name for name in CANDIDATES if name == choice.codec)
    return codec, f"{codec}: {choice.reason}"


def measure(codec: Codec, deltas: Sequence[Tensor], zstd_level: int) -> Measured:
    """Encode and decode every member's pseudo-gradient: float32, all of one shape, at least one.

    Bits are those of the mean payload after zstd. The error is 0 where the exact mean is zero and
    decodes to zero, and infinite where it does not.
    """
    total_bytes = 0
    exact, decoded = torch.zeros(deltas[0].shape).double(), torch.zeros(deltas[0].shape).double()
    for delta in deltas:
        header, payload = encode_tensor(delta, codec, zstd_level)
        total_bytes += len(payload)
        exact += delta
        decoded += decode_tensor(
            header, payload, expect_shape=tuple(delta.shape), expect_codec=codec
        )
    bits = 8 * total_bytes / (len(deltas) * deltas[0].numel())
    return Measured(codec.name, bits, relative_error(exact, decoded))


def measure_candidates(delta: Tensor, zstd_level: int) -> tuple[Measured, ...]:
    """Each of `CANDIDATES` that can hold a pseudo-gradient, float32 [elements], on a part of it."""
    count = -(-delta.numel() // SAMPLED_ELEMENTS)
    runs = sorted({number * count // _SAMPLES for number in range(_SAMPLES)})
    starts = [run * SAMPLED_ELEMENTS for run in runs]
    sample = torch.cat([delta[start : start + SAMPLED_ELEMENTS] for start in starts])
    found = (measure(codec_named(name), [sample], zstd_level) for name in CANDIDATES)
    return tuple(entry for entry in found if math.isfinite(entry.relative_error))


def relative_error(exact: Tensor, decoded: Tensor) -> float:
    """Squared error over squared norm; shapes are equal. 0 for zero decoded as zero, else infinite for zero."""
    squared_error = float((exact.double() - decoded.double()).square().sum())
    squared_norm = float(exact.double().square().sum())
    if squared_norm == 0.0:
        return 0.0 if squared_error == 0.0 else float("inf")
    return squared_error / squared_norm


def _error_first(entry: Measured) -> tuple[bool, float, float, str]:
    error = entry.relative_error
    return error != error, error, entry.bits_per_parameter, entry.codec


def _is_possible(entry: Measured) -> bool:
    return entry.bits_per_parameter >= 0.0 and entry.relative_error >= 0.0
