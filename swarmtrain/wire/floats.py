"""Codecs that keep each element by itself as a float: `none`, `bf16`, `fp16`."""

import math

import torch
from torch import Tensor

from swarmtrain.wire.codec import FixedSize, check_size


class Float32Codec(FixedSize):
    """The float32 bytes themselves: exact, no copy either way."""

    name = "none"
    lossy = False
    plane_bytes = 4

    def encoded_bytes(self, *shape: int) -> int:
        return 4 * math.prod(shape)

    def encode(self, x: Tensor) -> Tensor:
        return x.reshape(-1).view(torch.uint8)

    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        check_size(self, payload, shape)
        return payload.view(torch.float32).reshape(shape)


class _HalfSize(FixedSize):
    """Each element as a 16-bit float, rounded half to even."""

    lossy = True
    plane_bytes = 2
    name: str
    dtype: torch.dtype

    def encoded_bytes(self, *shape: int) -> int:
        return 2 * math.prod(shape)

    def encode(self, x: Tensor) -> Tensor:
        return x.reshape(-1).to(self.dtype).view(torch.uint8)

    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        check_size(self, payload, shape)
        return payload.view(self.dtype).to(torch.float32).reshape(shape)


class Bfloat16Codec(_HalfSize):
    """The upper half of each float32.

    |x - decoded| <= 2^-8 |x|, or 2^-134 for subnormal x. Magnitudes of 2^128 (1 - 2^-9) and more
    become infinite.
    """

    name = "bf16"
    dtype = torch.bfloat16


class Float16Codec(_HalfSize):
    """IEEE half precision: eight times finer than bf16, over a far smaller range.

    |x - decoded| <= max(2^-11 |x|, 2^-25). Magnitudes of 65520 and more become infinite, never
    65504: what does not fit stays visible.
    """

    name = "fp16"
    dtype = torch.float16
