"""Golomb-Rice coded integers, small ones in few bits, without a loop over them in either direction.

Made for the gaps between sorted positions: a quotient in unary and a remainder in truncated binary (Golomb
1966; Rice 1979 for a modulus that is a power of two). To be vectorised, the pieces travel as three streams:
the leading bits of all remainders (fixed width), the one further bit of those that have it, all quotients.
Each stream is filled up with zeros to whole bytes; bits count from the lowest.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from swarmtrain.wire.codec import bad_payload

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


def best_modulus(density: float) -> int:
    """The modulus, of 3 to 512, that takes the fewest bits for gaps between independent positions of `density`."""
    return min(max(3, math.ceil(math.log(2 - density) / -math.log(1 - density))), 512)


def expected_bits(density: float, modulus: int) -> float:
    """Bits a gap between independent positions of `density`: what is expected, not a bound."""
    width, short = _remainder(modulus)
    goes_on = (1 - density) ** modulus
    is_short = (1 - (1 - density) ** short) / (1 - goes_on)
    return width + (1 - is_short) + 1 / (1 - goes_on)


def most_bytes(count: int, total: int, modulus: int) -> int:
    """Bytes that `count` integers which sum to `total` take at most."""
    width, _ = _remainder(modulus)
    return _bytes(count * width) + _bytes(count) + _bytes(count + total // modulus)


def encode_integers(value_K: Integers, modulus: int) -> Bytes:
    """Integers of 0 and more, at least one -> bytes."""
    width, short = _remainder(modulus)
    quotient_K, remainder_K = np.divmod(value_K, modulus)
    is_long_K = remainder_K >= short
    long = remainder_K[is_long_K] + short
    remainder_K[is_long_K] = long >> 1
    ends_K = np.cumsum(quotient_K + 1) - 1
    unary = np.zeros(ends_K[-1] + 1, np.uint8)
    unary[ends_K] = 1
    streams = (pack_bits(remainder_K, width), pack_bits(long & 1, 1), pack_bits(unary, 1))
    return np.concatenate(streams)


def decode_integers(payload: Bytes, count: int, modulus: int, codec: str) -> Integers:
    """The inverse of `encode_integers`, for `count` integers, at least one.

    Their sum is below 8 * modulus * (bytes of `payload`), and so is the memory needed. Raises WireError,
    with the name of `codec`, for bytes that are no `count` integers.
    """
    width, short = _remainder(modulus)
    leading_bytes = _bytes(count * width)
    value_K = unpack_bits(payload[:leading_bytes], count, width, codec).astype(np.int64)
    is_long_K = value_K >= short
    rest = payload[leading_bytes:]
    longs = int(is_long_K.sum())
    further = unpack_bits(rest[: _bytes(longs)], longs, 1, codec)
    value_K[is_long_K] = (value_K[is_long_K] << 1) + further - short
    unary = rest[_bytes(longs) :]
    ends_K = np.flatnonzero(np.unpackbits(unary, bitorder="little"))
    if len(ends_K) != count or len(unary) != _bytes(int(ends_K[-1]) + 1):
        raise bad_payload(codec, f"its quotients are not {count}")
    value_K += (np.diff(ends_K, prepend=-1) - 1) * modulus
    return value_K


def pack_bits(values: npt.NDArray[Any], width: int) -> Bytes:
    """Integers of `width` bits (at most 8 are kept) -> their bits, lowest first, as bytes."""
    if width == 1:
        return np.packbits(values.astype(np.uint8), bitorder="little")
    bits_KW = values.astype(np.uint8)[:, None] >> np.arange(width, dtype=np.uint8) & 1
    return np.packbits(bits_KW, bitorder="little")


def unpack_bits(payload: Bytes, count: int, width: int, codec: str) -> Bytes:
    """The inverse of `pack_bits`: uint8 [count]. Raises WireError when `payload` has another size or stray bits."""
    bits = np.unpackbits(payload, bitorder="little")
    if len(payload) != _bytes(count * width) or bits[count * width :].any():
        raise bad_payload(codec, f"a stream does not hold {count} values of {width} bits")
    if width == 1:
        return bits[:count]
    return np.packbits(
        bits[: count * width].reshape(count, width), axis=1, bitorder="little"
    ).ravel()


def _remainder(modulus: int) -> tuple[int, int]:
    """Leading bits of a remainder, and how many of the smallest remainders need no further bit."""
    bits = (modulus - 1).bit_length()
    return bits - 1, (1 << bits) - modulus


def _bytes(bits: int) -> int:
    return -(-bits // 8)
