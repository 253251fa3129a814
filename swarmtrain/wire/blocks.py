"""Codecs of blocks with one scale each: `int8`, `int4`, `ternary`.

A payload is all scales, then all elements. A block with a value that is not finite decodes to NaN
throughout. Measured on the change of 20 steps of deploy/runs/demo.toml after 40, with zstd-3, bytes an
element and squared error over squared norm:

    int4 in blocks of 64, 128, 256       0.466 0.0115    0.433 0.0142    0.404 0.0174
    ternary in blocks of 128, 256, 512   0.193 0.203     0.185 0.208     0.181 0.213
"""

import math

import torch
from torch import Tensor

from swarmtrain.wire.codec import FixedSize, bad_payload, check_size
from swarmtrain.wire.scales import SMALLEST_SCALE, read_scales, scales_bytes, write_scales

BLOCK_ELEMENTS = 256
"""Elements that share one scale."""


class Int8Codec(FixedSize):
    """Blocks of 256 elements, each with a float32 scale = max|x| / 127, rounded half to even.

    |x - decoded| <= (1 + 2^-14) max(blockmax / 254, 2^-101) for blockmax < 2^127. The last block may
    be short.
    """

    name = "int8"
    lossy = True
    plane_bytes = 1

    def encoded_bytes(self, *shape: int) -> int:
        numel = math.prod(shape)
        return 4 * _blocks(numel) + numel

    def encode(self, x: Tensor) -> Tensor:
        numel = x.numel()
        blocks_NB = in_blocks(x.reshape(-1))
        scale_N1 = _largest(blocks_NB).div_(127).clamp_min_(SMALLEST_SCALE)
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
        check_size(self, payload, shape)
        numel = math.prod(shape)
        scale_bytes = 4 * _blocks(numel)
        scale_N1 = payload[:scale_bytes].view(torch.float32).view(-1, 1)
        blocks_NB = in_blocks(payload[scale_bytes:].view(torch.int8)).float().mul_(scale_N1)
        return blocks_NB.view(-1)[:numel].reshape(shape)


class Int4Codec(FixedSize):
    """Blocks of 256 elements, each with a half precision scale = max|x| / 7, two elements a byte.

    |x - decoded| <= (1 + 2^-9) blockmax / 14 + 2^-38 max|x| + 2^-100, the middle term for blocks
    that are tiny beside the largest. The default of outer rounds, with zstd, which finds that small
    elements are frequent: 4-bit pseudo-gradients cost nothing measurable (Streaming DiLoCo,
    arXiv 2501.18512, section 3.3), and uniform levels beat its E3M0 on size and on error.
    """

    name = "int4"
    lossy = True
    plane_bytes = 1

    def encoded_bytes(self, *shape: int) -> int:
        numel = math.prod(shape)
        return scales_bytes(_blocks(numel)) + nibbles_bytes(numel)

    def encode(self, x: Tensor) -> Tensor:
        numel = x.numel()
        blocks_NB = in_blocks(x.reshape(-1))
        # Rounded up, so that no quotient passes 7.
        head, scale_N1 = write_scales(
            _largest(blocks_NB).div_(7).clamp_min_(SMALLEST_SCALE), round_up=True
        )
        levels_NB = to_levels(blocks_NB, scale_N1)
        return torch.cat((head, pack_nibbles(levels_NB.view(-1)[: numel + numel % 2])))

    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        check_size(self, payload, shape)
        numel = math.prod(shape)
        head_bytes = scales_bytes(_blocks(numel))
        scale_N1 = read_scales(payload[:head_bytes], self.name)
        levels = unpack_nibbles(payload[head_bytes:], numel, self.name)
        blocks_NB = in_blocks(levels).float().sub_(8).mul_(scale_N1)
        return blocks_NB.view(-1)[:numel].reshape(shape)


class TernaryCodec(FixedSize):
    """Blocks of 256 elements, each -scale, 0 or +scale; five a byte, so 1.66 bits an element.

    What is kept is above a threshold, a multiple of the block's mean magnitude; the scale is the mean
    of what is kept, which minimises the squared error (Ternary Weight Networks, arXiv 1605.04711,
    section 2.2). The multiple is set, once a tensor, so that `KEPT_SHARE` of the elements is kept:
    the trits then hold at most 1.45 bits, which zstd finds, whatever the distribution but for ties. The threshold
    that minimises the error would keep 50 to 55 %, for 4 to 16 % less error and 0.195 to 0.2 bytes.

    |x - decoded| <= (1 + 2^-10) blockmax + 2^-38 max|x|, and the squared error of the whole is at most
    (1 + 2^-10) times the squared norm. A block whose magnitudes sum to more than float32 holds counts
    as not finite.
    """

    name = "ternary"
    lossy = True
    plane_bytes = 1

    def encoded_bytes(self, *shape: int) -> int:
        numel = math.prod(shape)
        return scales_bytes(_blocks(numel)) + -(-numel // TRITS_A_BYTE)

    def encode(self, x: Tensor) -> Tensor:
        numel = x.numel()
        blocks_NB = in_blocks(x.reshape(-1))
        size_NB = blocks_NB.abs()
        mean_N1 = size_NB.mean(dim=1, keepdim=True)
        threshold_N1 = mean_N1 * _multiple(size_NB, mean_N1)
        # The largest of every block is kept, and all where all are alike.
        kept_NB = size_NB >= threshold_N1.minimum(_JUST_BELOW_1 * _largest(blocks_NB))
        kept_N1 = kept_NB.sum(dim=1, keepdim=True).clamp_min_(1)
        scale_N1 = size_NB.mul_(kept_NB).sum(dim=1, keepdim=True) / kept_N1
        head, scale_N1 = write_scales(scale_N1.where(mean_N1.isfinite(), math.nan))
        trits_NB = blocks_NB.sign().mul_(kept_NB)
        finite_N1 = scale_N1.isfinite()
        if not finite_N1.all():
            trits_NB = trits_NB.where(finite_N1, 0.0)
        return torch.cat((head, _pack_trits(trits_NB.view(-1)[:numel])))

    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        check_size(self, payload, shape)
        numel = math.prod(shape)
        head_bytes = scales_bytes(_blocks(numel))
        scale_N1 = read_scales(payload[:head_bytes], self.name)
        packed_M = payload[head_bytes:]
        if packed_M.amax() >= 3**TRITS_A_BYTE:
            raise bad_payload(self.name, "a byte of 243 or more does not hold five trits")
        trits = torch.empty(max(scale_N1.numel() * BLOCK_ELEMENTS, len(packed_M) * TRITS_A_BYTE))
        used = trits[: len(packed_M) * TRITS_A_BYTE].view(-1, TRITS_A_BYTE)
        torch.index_select(_TRITS_OF_BYTE, 0, packed_M.int(), out=used)
        trits[used.numel() :] = 0.0
        blocks_NB = trits[: scale_N1.numel() * BLOCK_ELEMENTS].view(-1, BLOCK_ELEMENTS)
        return blocks_NB.mul_(scale_N1).view(-1)[:numel].reshape(shape)


KEPT_SHARE = 0.45
"""Elements that `ternary` keeps: trits of 1.443 bits at most, 0.19 bytes with scales and Huffman's loss."""

_JUST_BELOW_1 = 1.0 - 2.0**-20

TRITS_A_BYTE = 5
_TRIT_PLACES = (1.0, 3.0, 9.0, 27.0, 81.0)
_TRIT_OFFSET = 121  # five trits of zero
_TRITS_OF_BYTE = (
    torch.arange(256).view(-1, 1) // torch.tensor(_TRIT_PLACES, dtype=torch.int64) % 3 - 1
).float()

_SAMPLED_ELEMENTS = 65_536
"""Elements, evenly spread, that set the threshold of `ternary`: the share is met within 0.6 % of all."""


def _multiple(size_NB: Tensor, mean_N1: Tensor) -> float:
    """The multiple of a block's mean magnitude that `KEPT_SHARE` of the elements that are not zero exceed."""
    # Odd, so that every place in a block has its turn.
    every = max(1, size_NB.numel() // _SAMPLED_ELEMENTS) | 1
    sampled = torch.arange(0, size_NB.numel(), every)
    ratio = size_NB.view(-1)[sampled] / mean_N1.view(-1)[sampled // BLOCK_ELEMENTS]
    ratio = ratio[(ratio > 0) & ratio.isfinite()]
    if not len(ratio):
        return 1.0
    return float(ratio.kthvalue(max(1, int(len(ratio) * (1 - KEPT_SHARE)))).values)


def _pack_trits(trits: Tensor) -> Tensor:
    """-1.0, 0.0, 1.0 [numel] -> uint8 [ceil(numel / 5)]; places missing in the last byte are zero."""
    whole = len(trits) // TRITS_A_BYTE * TRITS_A_BYTE
    places = torch.tensor(_TRIT_PLACES)
    packed = trits[:whole].view(-1, TRITS_A_BYTE) @ places
    if whole < len(trits):
        packed = torch.cat((packed, (trits[whole:] * places[: len(trits) - whole]).sum().view(1)))
    return packed.add_(_TRIT_OFFSET).to(torch.uint8)


def nibbles_bytes(numel: int) -> int:
    """Bytes of `numel` packed levels."""
    return -(-numel // 2)


def to_levels(blocks_NB: Tensor, scale_N1: Tensor) -> Tensor:
    """Round to multiples -7..7 of the scales: uint8 [N, B], 8 more than the multiple, 8 where a scale is 0 or NaN."""
    usable_N1 = (scale_N1 > 0) & scale_N1.isfinite()
    levels_NB = blocks_NB / scale_N1.where(usable_N1, 1.0)
    if not usable_N1.all():
        levels_NB = levels_NB.where(usable_N1, 0.0)
    return levels_NB.round_().add_(8).to(torch.uint8)


def pack_nibbles(levels: Tensor) -> Tensor:
    """uint8 [even number] of 0..15 -> uint8 [half of it], the first of a pair in the low bits."""
    pairs = levels.view(torch.int16)
    return (pairs | pairs >> 4).to(torch.uint8)


def unpack_nibbles(packed: Tensor, numel: int, codec: str) -> Tensor:
    """The inverse of `pack_nibbles`: uint8 [numel] of 1..15. Raises WireError for a 0, which is never written."""
    pairs = packed.to(torch.int16)
    levels = ((pairs | pairs << 4) & 0x0F0F).view(torch.uint8)
    if levels.amin() == 0:
        raise bad_payload(codec, "a level of -8 is never written")
    return levels[:numel]


def in_blocks(flat: Tensor) -> Tensor:
    """[numel] -> [blocks, 256], the last block filled up with zeros; no copy when it is whole."""
    missing = -flat.numel() % BLOCK_ELEMENTS
    if missing:
        flat = torch.cat((flat, flat.new_zeros(missing)))
    return flat.view(-1, BLOCK_ELEMENTS)


def _blocks(numel: int) -> int:
    return -(-numel // BLOCK_ELEMENTS)


def _largest(blocks_NB: Tensor) -> Tensor:
    """The largest magnitude of each block, [N, 1]; NaN where there is one. Nine times faster than `abs().amax()`."""
    return torch.maximum(blocks_NB.amax(1, keepdim=True), -blocks_NB.amin(1, keepdim=True))
