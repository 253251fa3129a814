"""Block scales in half precision, with one exponent for all so that no tensor is too large or too small for them.

Layout: the exponent as int16, then the scales as float16 times 2^(15 - exponent), so that the largest
lies in [2^14, 2^15]. A scale below 2^-39 of the largest becomes zero.
"""

import math

import torch
from torch import Tensor

from swarmtrain.wire.codec import bad_payload

SMALLEST_SCALE = 2.0**-100
"""Keeps a scale a normal number: below it the quotient could leave the range of the levels."""

_TOP_EXPONENT = 15
_FARTHEST_EXPONENT = 200
"""Beyond that of any float32: no honest exponent is farther from zero."""


def scales_bytes(count: int) -> int:
    """Bytes that `count` scales take."""
    return 2 + 2 * count


def write_scales(scale_N1: Tensor, round_up: bool = False) -> tuple[Tensor, Tensor]:
    """float32 [N, 1], not negative -> uint8 [2 + 2 N], and float32 [N, 1] as `read_scales` will give them.

    Relative error at most 2^-11 (2^-10 rounded up) plus 2^-40 of the largest. What is not finite
    becomes NaN.
    """
    finite_N1 = scale_N1.isfinite()
    largest = float(scale_N1.where(finite_N1, 0.0).amax())
    exponent = math.frexp(largest)[1]
    exact_N1 = scale_N1.double() * 2.0 ** (_TOP_EXPONENT - exponent)
    half_N1 = exact_N1.to(torch.float16)
    if round_up:
        # The bits of a float that is not negative count up with it.
        half_N1 = (half_N1.view(torch.int16) + (half_N1 < exact_N1)).to(torch.int16)
        half_N1 = half_N1.view(torch.float16)
    half_N1 = half_N1.where(finite_N1, math.nan)
    head = torch.tensor([exponent], dtype=torch.int16).view(torch.uint8)
    return torch.cat((head, half_N1.view(-1).view(torch.uint8))), (
        half_N1.double() * 2.0 ** (exponent - _TOP_EXPONENT)
    ).float()


def read_scales(payload: Tensor, codec: str) -> Tensor:
    """uint8 [2 + 2 N] -> float32 [N, 1]. Raises WireError for what `write_scales` never writes."""
    half_N1, unit = read_halves(payload, codec)
    return (half_N1.double() * unit).float()


def read_halves(payload: Tensor, codec: str) -> tuple[Tensor, float]:
    """uint8 [2 + 2 N] -> float16 [N, 1], to be multiplied by the second result. Raises WireError."""
    exponent = int(payload[:2].view(torch.int16))
    half_N1 = payload[2:].view(torch.float16).view(-1, 1)
    if abs(exponent) > _FARTHEST_EXPONENT:
        raise bad_payload(codec, f"its scales claim an exponent of {exponent}")
    if half_N1.amin() < 0 or half_N1.isinf().any():
        raise bad_payload(codec, "a scale is negative or infinite")
    return half_N1, 2.0 ** (exponent - _TOP_EXPONENT)
