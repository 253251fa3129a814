"""Which codec a stage or tensor gets: the fewest bits that keep the error of the mean within a budget.

The error is the squared error of the mean of all members' decoded payloads over the squared norm of the
exact mean: that is what an outer step gets to see. Errors of members partly cancel, so it is lower than
that of one payload.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from swarmtrain.core.errors import StateError
from swarmtrain.wire.codec import Codec
from swarmtrain.wire.tensors import decode_tensor, encode_tensor

Name = TypeVar("Name", str, int)

DEFAULT_BUDGET = 0.02
"""A fiftieth of the energy of the mean."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a codec does to one stage or tensor."""

    codec: str
    bits_per_parameter: float
    relative_error: float
    """Squared error of the mean over its squared norm."""


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


def choose_each(measured: Mapping[Name, Sequence[Measured]], budget: float) -> dict[Name, Choice]:
    """`choose` for every stage or tensor by itself, so that the whole keeps the budget too."""
    return {name: choose(entries, budget) for name, entries in measured.items()}


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
