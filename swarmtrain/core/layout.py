"""How a stage's parameters lie in one flat float32 array, and the digests over it.

Every process that hosts a stage uses this layout, so equal parameters are equal bytes: a stage's
digest is the SHA-256 of its whole flat array, little-endian, zero padding included, in one pass and
without a copy.
"""

import hashlib
import math
from collections.abc import Sequence

ALIGN_ELEMENTS = 16
"""Tensors start on multiples of 16 float32 (64 bytes): unaligned memory may give other bits."""


def flat_layout(shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], int]:
    """Where each tensor starts in the flat array and how long that is, both in elements.

    Tensors keep their order; the gap after each is zero in parameters and moments alike.
    """
    offsets: list[int] = []
    total_elements = 0
    for shape in shapes:
        offsets.append(total_elements)
        total_elements += -(-math.prod(shape) // ALIGN_ELEMENTS) * ALIGN_ELEMENTS
    return tuple(offsets), total_elements


def parameters_sha256(stage_digests: Sequence[bytes]) -> str:
    """Hex digest of the whole model: SHA-256 of the stages' digests, joined in stage order."""
    return hashlib.sha256(b"".join(stage_digests)).hexdigest()
