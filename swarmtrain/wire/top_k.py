"""`top64`, `top128`: the largest of every 4096 elements, as coded positions and 2-bit values.

A value is a sign and one of two levels: the scale of its tile, or that times a ratio which all tiles
share; as in SparseLoCo (arXiv 2508.15706, section 3), whose positions take 12 bits. The ratio is
Lloyd's for the magnitudes over their tile's mean; a scale minimises the squared error of its tile.

A position is the gap to the one before it in its tile. For 64 of 4096 independent ones that is 7.44 bits
with modulus 44 (7.49 with 32, plain Rice; 7.36 is the entropy), 7.25 to 7.33 on pseudo-gradients. Gaps
repeat there, at the width of a matrix: as plain bytes under zstd they took 6.5 to 6.7, but 8.1 without.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from swarmtrain.wire import golomb
from swarmtrain.wire.codec import bad_payload, check_size
from swarmtrain.wire.scales import read_scales, scales_bytes, write_scales

TILE_ELEMENTS = 4096

_RATIO_BYTES = 2
_LLOYD_ROUNDS = 5

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class TopKCodec:
    """The `kept` largest of each 4096 elements, fewer in a short last tile; the others decode to zero.

    A kept x decodes with its sign; the squared error of the whole is at most (1 + 2^-10) times the
    squared norm. A tile with a value that is not finite decodes to NaN where it is not zero.
    With error feedback by default: what is left out is most of a pseudo-gradient, and the residual
    then is the momentum (SparseLoCo), so take an outer optimizer without.
    """

    lossy = True
    plane_bytes = 1
    exact_size = False
    error_feedback = True
    gathers = True

    def __init__(self, kept: int) -> None:
        self.name = f"top{kept}"
        self.kept = kept
        self.modulus = golomb.best_modulus(kept / TILE_ELEMENTS)

    def encoded_bytes(self, *shape: int) -> int:
        numel = math.prod(shape)
        count = self.count(numel)
        return self._head_bytes(numel) + golomb.most_bytes(count, numel - count, self.modulus)

    def bits_per_parameter(self, *shape: int) -> float:
        """As expected of independent positions; those of pseudo-gradients take a little less."""
        numel = math.prod(shape)
        count = self.count(numel)
        position_bits = golomb.expected_bits(count / numel, self.modulus)
        return (8 * self._head_bytes(numel) + count * position_bits) / numel

    def count(self, numel: int) -> int:
        """How many of `numel` elements are kept."""
        whole, rest = divmod(numel, TILE_ELEMENTS)
        return whole * self.kept + self._kept_of(rest)

    def encode(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1)
        position_K = self.positions(flat)
        value_K = flat[position_K].double().numpy()
        tile_K = position_K.numpy() // TILE_ELEMENTS
        size_K = np.abs(value_K)
        mean_N = _sums(tile_K, size_K) / _sums(tile_K, np.ones_like(size_K))
        is_big_K, ratio = _two_levels(size_K, mean_N[tile_K])
        level_K = np.where(is_big_K, float(ratio), 1.0)
        scale_N = _sums(tile_K, size_K * level_K) / _sums(tile_K, level_K**2)
        head, _ = write_scales(torch.from_numpy(scale_N).float().view(-1, 1))
        code_K = (value_K < 0) + 2 * is_big_K
        streams = (
            head.numpy(),
            np.array([ratio]).view(np.uint8),
            golomb.pack_bits(code_K, 2),
            golomb.encode_integers(self.gaps(position_K), self.modulus),
        )
        return torch.from_numpy(np.concatenate(streams))

    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        check_size(self, payload, shape)
        numel = math.prod(shape)
        count = self.count(numel)
        head_bytes = self._head_bytes(numel)
        after_scales = scales_bytes(_tiles(numel))
        if payload.numel() < head_bytes:
            raise bad_payload(self.name, "it ends before its positions")
        scale_N = read_scales(payload[:after_scales], self.name).view(-1).numpy()
        data = payload.numpy()
        ratio = np.frombuffer(data, np.float16, 1, after_scales)[0].astype(np.float32)
        if not 1.0 <= ratio < np.inf:
            raise bad_payload(self.name, f"its levels have a ratio of {ratio}")
        codes = data[after_scales + _RATIO_BYTES : head_bytes]
        code_K = golomb.unpack_bits(codes, count, 2, self.name)
        gap_K = golomb.decode_integers(data[head_bytes:], count, self.modulus, self.name)
        position_K = self._positions_of(gap_K, numel)
        level_4 = np.array([1.0, -1.0, ratio, -ratio], np.float32)
        out = torch.zeros(numel)
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and is seen
            out.numpy()[position_K] = level_4[code_K] * scale_N[position_K // TILE_ELEMENTS]
        return out.reshape(shape)

    def positions(self, flat: Tensor) -> Tensor:
        """Positions of the largest of every tile, ascending: int64 [count]. NaN counts as the largest."""
        whole = flat.numel() // TILE_ELEMENTS * TILE_ELEMENTS
        found = []
        for start, tiles_NT in (
            (0, flat[:whole].view(-1, TILE_ELEMENTS)),
            (whole, flat[whole:].view(1, -1)),
        ):
            if tiles_NT.numel():
                kept = self._kept_of(tiles_NT.shape[1])
                position_NK = tiles_NT.abs().topk(kept, dim=1, sorted=False).indices.sort().values
                position_NK += torch.arange(len(tiles_NT)).view(-1, 1) * TILE_ELEMENTS + start
                found.append(position_NK.view(-1))
        return torch.cat(found)

    def gaps(self, position_K: Tensor) -> Integers:
        """What `positions` found -> how many positions are skipped before each within its tile."""
        positions_K = position_K.numpy()
        gap_K = np.diff(positions_K, prepend=-1) - 1
        gap_K[:: self.kept] = positions_K[:: self.kept] % TILE_ELEMENTS
        return gap_K

    def _positions_of(self, gap_K: Integers, numel: int) -> Integers:
        """The inverse of `gaps`. Raises WireError when a tile's positions leave it."""
        in_row_K = np.cumsum(gap_K + 1)
        tile_K = np.arange(len(gap_K)) // self.kept
        before_N = np.concatenate(([0], in_row_K[self.kept - 1 :: self.kept]))
        inside_K = in_row_K - before_N[tile_K] - 1
        position_K = inside_K + tile_K * TILE_ELEMENTS
        if inside_K.max() >= TILE_ELEMENTS or position_K[-1] >= numel:
            raise bad_payload(self.name, "a position is outside its tile")
        return position_K

    def _head_bytes(self, numel: int) -> int:
        """All but the positions: scales, the ratio, codes."""
        return scales_bytes(_tiles(numel)) + _RATIO_BYTES + -(-2 * self.count(numel) // 8)

    def _kept_of(self, elements: int) -> int:
        return -(-elements * self.kept // TILE_ELEMENTS)


def _tiles(numel: int) -> int:
    return -(-numel // TILE_ELEMENTS)


def _sums(tile_K: Integers, value_K: Floats) -> Floats:
    """float64 [tiles]: the sum over each tile, in the order of positions; every tile has some."""
    return np.bincount(tile_K, weights=value_K).astype(np.float64, copy=False)


def _two_levels(size_K: Floats, mean_K: Floats) -> tuple[npt.NDArray[np.bool_], np.float16]:
    """Which magnitudes take the larger level, and how many times the smaller that is."""
    usable_K = np.isfinite(mean_K) & (mean_K > 0)
    share_K = np.divide(size_K, mean_K, out=np.zeros_like(size_K), where=usable_K)
    usable = share_K[usable_K]
    threshold, ratio = 1.2, np.float16(1.0)
    for _ in range(_LLOYD_ROUNDS):
        big, small = usable[usable >= threshold], usable[usable < threshold]
        if not len(big) or not len(small):
            break
        low, high = small.mean(), big.mean()
        threshold = (low + high) / 2
        ratio = np.float16(min(high / low, 1000.0)) if low > 0 else np.float16(1000.0)
    return share_K >= threshold, ratio
