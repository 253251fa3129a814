"""`rank8`, `rank16`, `rank32`: a matrix as the product of two thin ones, their entries in 4 bits.

PowerSGD (arXiv 1905.13727, algorithm 1), with the factors quantised as in DiLoCoX (arXiv 2506.21263):

    P = orthonormal(M Q);  Q = M^T P                    repeated; Q starts from a seed, or from the last one
    A = round(7 P / max|P_k|)                           levels -7..7, column by column
    B = M^T A (A^T A)^-1                                so that B makes up for the rounding of A
    M ~ A diag(c) C^T,  c_k = max|B_k| / 7,  C = round(B / c)

Members of a group must decode the same bits, and a product of floats has none in common between
machines. Here A and C are small integers and c an integer times a power of two: in float64 every sum of
a decoded element is exact, and it is rounded once.
"""

import math

import torch
from torch import Tensor

from swarmtrain.wire.blocks import (
    Int4Codec,
    nibbles_bytes,
    pack_nibbles,
    to_levels,
    unpack_nibbles,
)
from swarmtrain.wire.codec import FixedSize, check_size
from swarmtrain.wire.scales import read_halves, scales_bytes, write_scales

HIGHEST_RANK = 128
"""Above it a sum of `rank` products of up to 7 * 7 * 2^40 need not be exact in float64."""

_SEED = 0x5EED
_ITERATIONS = 2
_LOWEST_EXPONENT = -100
_CHUNK_ELEMENTS = 1 << 18
_WORTH_SHARE = 0.75


class LowRankCodec(FixedSize):
    """Tensors of two or more dimensions as [first, rest] matrices of at most `rank`; others as `int4`.

    So are matrices that factors would not make a quarter smaller. The squared error is at most
    (1 + 2^-10) times the squared norm; how much less depends on the spectrum. [M, N] takes
    4 (M + N) rank + 16 rank + 16 bits. A tensor with a value that is not finite decodes to NaN
    throughout, and so may one with a value of 2^110 or more. Encoding multiplies floats, so the same
    input gives the same bytes on one machine with one number of threads; decoding gives the same bits
    everywhere.
    """

    lossy = True
    plane_bytes = 1
    gathers = True

    def __init__(self, rank: int) -> None:
        if not 1 <= rank <= HIGHEST_RANK:
            raise ValueError(f"a rank of {rank} is not between 1 and {HIGHEST_RANK}")
        self.name = f"rank{rank}"
        self.rank = rank
        self._dense = Int4Codec()

    def encoded_bytes(self, *shape: int) -> int:
        rows, columns, rank = self._sizes(shape)
        if not rank:
            return self._dense.encoded_bytes(*shape)
        return _factor_bytes(rows, columns, rank)

    def encode(self, x: Tensor) -> Tensor:
        return self.encode_from(x, self.start(tuple(x.shape)), _ITERATIONS)[0]

    def start(self, shape: tuple[int, ...]) -> Tensor:
        """The right factor to begin with, drawn from a fixed seed: float32 [N, rank]."""
        _, columns, rank = self._sizes(shape)
        return torch.randn(columns, rank, generator=torch.Generator().manual_seed(_SEED))

    def encode_from(
        self, x: Tensor, start_NR: Tensor, iterations: int = 1
    ) -> tuple[Tensor, Tensor]:
        """The payload, and the right factor to start the next round from, when it is likely to be alike."""
        rows, columns, rank = self._sizes(tuple(x.shape))
        if not rank:
            return self._dense.encode(x), start_NR
        x_MN = x.reshape(rows, columns)
        largest = float(torch.maximum(x_MN.amax(), -x_MN.amin()))
        if not math.isfinite(largest):
            zeros = torch.full((rank * (rows + columns),), 8, dtype=torch.uint8)
            return _payload(torch.full((rank, 1), math.nan), zeros), start_NR
        exponent = max(math.frexp(largest)[1], _LOWEST_EXPONENT)
        x_MN = x_MN * 2.0**-exponent
        right_NR, left_MR = start_NR, x_MN.new_empty(0)
        for _ in range(iterations):
            left_MR = torch.linalg.qr(x_MN @ right_NR).Q
            right_NR = x_MN.T @ left_MR
        level_RM, level_RN, scale_R1 = _quantised(x_MN, left_MR)
        levels = torch.cat((level_RM.view(-1), level_RN.view(-1)))
        return _payload(scale_R1.double() * 2.0**exponent, levels), right_NR

    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        check_size(self, payload, shape)
        rows, columns, rank = self._sizes(shape)
        if not rank:
            return self._dense.decode(payload, shape)
        head_bytes = scales_bytes(rank)
        half_R1, unit = read_halves(payload[:head_bytes], self.name)
        levels = unpack_nibbles(payload[head_bytes:], rank * (rows + columns), self.name)
        level_R = levels.double().sub_(8)
        left_RM = level_R[: rank * rows].view(rank, rows) * half_R1.double()
        right_RN = level_R[rank * rows :].view(rank, columns)
        out_MN = torch.empty(rows, columns)
        chunk_rows = max(1, _CHUNK_ELEMENTS // columns)
        for start in range(0, rows, chunk_rows):
            part = slice(start, start + chunk_rows)
            out_MN[part] = (left_RM[:, part].T @ right_RN).mul_(unit)
        return out_MN.reshape(shape)

    def _sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Rows, columns and rank of the matrix; rank 0 when it is not to be factored."""
        if len(shape) < 2:
            return 1, math.prod(shape), 0
        rows, columns = shape[0], math.prod(shape[1:])
        rank = min(self.rank, rows, columns)
        worth_bytes = _WORTH_SHARE * self._dense.encoded_bytes(*shape)
        return rows, columns, rank if _factor_bytes(rows, columns, rank) <= worth_bytes else 0


def _factor_bytes(rows: int, columns: int, rank: int) -> int:
    return scales_bytes(rank) + nibbles_bytes(rank * (rows + columns))


def _payload(scale_R1: Tensor, levels: Tensor) -> Tensor:
    head, _ = write_scales(scale_R1.float())
    if levels.numel() % 2:
        levels = torch.cat((levels, levels.new_full((1,), 8)))
    return torch.cat((head, pack_nibbles(levels)))


def _quantised(x_MN: Tensor, left_MR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Levels of the left factor uint8 [R, M], of the right one [R, N], and the scales of their products [R, 1].

    All scales are zero where the product would be farther from x than zero is.
    """
    left_RM = left_MR.T.contiguous()
    level_RM = to_levels(left_RM, left_RM.abs().amax(1, keepdim=True) / 7)
    rounded_RM = level_RM.float() - 8
    projected_RN = (rounded_RM @ x_MN).double()
    gram_RR = (rounded_RM @ rounded_RM.T).double()
    right_RN = torch.linalg.pinv(gram_RR, hermitian=True) @ projected_RN
    _, scale_R1 = write_scales((right_RN.abs().amax(1, keepdim=True) / 7).float(), round_up=True)
    level_RN = to_levels(right_RN, scale_R1)
    decoded_RN = (level_RN.double() - 8) * scale_R1
    gained = 2 * (projected_RN * decoded_RN).sum() - (gram_RR * (decoded_RN @ decoded_RN.T)).sum()
    return level_RM, level_RN, scale_R1 * float(gained > 0)
