"""Codecs: how a float32 tensor becomes payload bytes and back, with the error each may make.

A codec is deterministic and knows nothing of headers, digests or compression (`wire.tensors` does).
Values that are not finite never get lost: the decoded tensor then holds a value that is not finite
too, so the receiver's `is_finite` sees it and the key is voided. Payloads are little-endian, as all
machines we run on are.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from swarmtrain.core.errors import WireError

BLOCK_ELEMENTS = 256
"""Elements that share one int8 scale."""

SMALLEST_SCALE = 2.0**-100
"""Keeps the int8 scale a normal number: below it the quotient could leave the range of int8."""


class Codec(Protocol):
    """One way to write a tensor down; stateless."""

    @property
    def name(self) -> str: ...

    @property
    def lossy(self) -> bool: ...

    @property
    def plane_bytes(self) -> int:
        """Bytes of one element in the payload: the planes zstd splits it into."""
        ...

    def encoded_bytes(self, numel: int) -> int:
        """Payload bytes for `numel` elements, at least one."""
        ...

    def encode(self, x: Tensor) -> Tensor:
        """Contiguous float32 -> uint8 [encoded_bytes(numel)]; may share the memory of `x`."""
        ...

    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        """uint8 [encoded_bytes(numel)] -> contiguous float32; may share the memory."""
        ...


class Float32Codec:
    """The float32 bytes themselves: exact, no copy either way."""

    name = "none"
    lossy = False
    plane_bytes = 4

    def encoded_bytes(self, numel: int) -> int:
        return 4 * numel

    def encode(self, x: Tensor) -> Tensor:
        return x.reshape(-1).view(torch.uint8)

    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        return payload.view(torch.float32).reshape(shape)


class Bfloat16Codec:
    """The upper half of each float32, rounded half to even.

    |x - decoded| <= 2^-8 |x|, or 2^-134 for subnormal x. Magnitudes of 2^128 (1 - 2^-9) and more
    become infinite.
    """

    name = "bf16"
    lossy = True
    plane_bytes = 2

    def encoded_bytes(self, numel: int) -> int:
        return 2 * numel

    def encode(self, x: Tensor) -> Tensor:
        return x.reshape(-1).to(torch.bfloat16).view(torch.uint8)

    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        return payload.view(torch.bfloat16).to(torch.float32).reshape(shape)


class Int8Codec:
    """Blocks of 256 elements, each with a float32 scale = max|x| / 127, rounded half to even.

    |x - decoded| <= (1 + 2^-14) max(blockmax / 254, 2^-101) for blockmax < 2^127. The payload is
    all scales, then all elements; the last block may be short. A block with a value that is not
    finite decodes to NaN throughout.
    """

    name = "int8"
    lossy = True
    plane_bytes = 1

    def encoded_bytes(self, numel: int) -> int:
        return 4 * _blocks(numel) + numel

    def encode(self, x: Tensor) -> Tensor:
        numel = x.numel()
        blocks_NB = _in_blocks(x.reshape(-1))
        scale_N1 = blocks_NB.abs().amax(dim=1, keepdim=True).div_(127).clamp_min_(SMALLEST_SCALE)
        rounded_NB = (blocks_NB / scale_N1).round_()
        finite_N1 = scale_N1.isfinite()
        if not finite_N1.all():
            # NaN to int8 is undefined and may differ between machines: the scale alone tells.
            rounded_NB = rounded_NB.where(finite_N1, 0.0)
            scale_N1 = scale_N1.where(finite_N1, math.nan)
        payload = torch.empty(self.encoded_bytes(numel), dtype=torch.uint8)
        scale_bytes = 4 * len(scale_N1)
        payload[:scale_bytes].view(torch.float32).copy_(scale_N1.view(-1))
        payload[scale_bytes:].view(torch.int8).copy_(rounded_NB.view(-1)[:numel])
        return payload

    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        numel = math.prod(shape)
        scale_bytes = 4 * _blocks(numel)
        scale_N1 = payload[:scale_bytes].view(torch.float32).view(-1, 1)
        blocks_NB = _in_blocks(payload[scale_bytes:].view(torch.int8)).float().mul_(scale_N1)
        return blocks_NB.view(-1)[:numel].reshape(shape)


def _blocks(numel: int) -> int:
    return -(-numel // BLOCK_ELEMENTS)


def _in_blocks(flat: Tensor) -> Tensor:
    """[numel] -> [blocks, 256], the last block filled up with zeros; no copy when it is whole."""
    missing = -flat.numel() % BLOCK_ELEMENTS
    if missing:
        flat = torch.cat((flat, flat.new_zeros(missing)))
    return flat.view(-1, BLOCK_ELEMENTS)


CODECS: Mapping[str, Codec] = MappingProxyType(
    {codec.name: codec for codec in (Float32Codec(), Bfloat16Codec(), Int8Codec())}
)
"""Every codec by the name that the configuration and tensor headers use."""


def codec_named(name: str) -> Codec:
    """The codec called `name`. Raises WireError when there is none."""
    codec = CODECS.get(name)
    if codec is None:
        raise WireError(
            f"the codec {name[:40]!r} is not known",
            f"known are {', '.join(CODECS)}",
            "let both peers run the same version",
        )
    return codec
