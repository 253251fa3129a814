"""Coded integers: a plain loop over bits says the same, the best modulus is the best, bad streams are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.errors import WireError
from swarmtrain.wire.golomb import (
    best_modulus,
    decode_integers,
    encode_integers,
    expected_bits,
    most_bytes,
    pack_bits,
    unpack_bits,
)

VALUES = st.lists(st.integers(0, 5000), min_size=1, max_size=60)
MODULI = st.sampled_from([3, 4, 5, 22, 31, 32, 33, 44, 64, 100])


def golomb_bits(value: int, modulus: int) -> int:
    """Bits of one integer by the textbook: unary quotient, truncated binary remainder."""
    width = (modulus - 1).bit_length()
    is_short = value % modulus < (1 << width) - modulus
    return value // modulus + 1 + width - is_short


@settings(deadline=None)
@given(VALUES, MODULI)
def test_integers_come_back(values: list[int], modulus: int) -> None:
    coded = encode_integers(np.array(values), modulus)
    assert decode_integers(coded, len(values), modulus, "x").tolist() == values
    assert len(coded) <= most_bytes(len(values), sum(values), modulus)
    bits = sum(golomb_bits(value, modulus) for value in values)
    assert bits <= 8 * len(coded) < bits + 3 * 8, "three streams, each filled up to bytes"


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(1, 30), MODULI)
def test_any_bytes_are_integers_or_refused(data: bytes, count: int, modulus: int) -> None:
    payload = np.frombuffer(data, np.uint8)
    try:
        values = decode_integers(payload, count, modulus, "x")
    except WireError:
        return
    assert len(values) == count and values.min() >= 0
    assert values.sum() < 8 * modulus * len(data) + modulus * count
    assert encode_integers(values, modulus).tobytes() == data, "one spelling each"


@pytest.mark.parametrize(("density", "modulus"), [(1 / 64, 44), (1 / 32, 22), (0.1, 7)])
def test_the_best_modulus_is_the_best(density: float, modulus: int) -> None:
    assert best_modulus(density) == modulus
    bits = {other: expected_bits(density, other) for other in range(3, 100)}
    assert min(bits, key=lambda other: bits[other]) == modulus


def test_expected_bits_are_those_of_independent_positions() -> None:
    rng = np.random.default_rng(1)
    gaps = rng.geometric(1 / 64, 200_000) - 1
    for modulus in (32, 44):
        bits = 8 * len(encode_integers(gaps, modulus)) / len(gaps)
        assert bits == pytest.approx(expected_bits(1 / 64, modulus), rel=2e-3)


@settings(deadline=None)
@given(st.integers(1, 8), st.data())
def test_bits_pack_tightly(width: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=40))
    packed = pack_bits(np.array(values, dtype=np.int64), width)
    assert len(packed) == -(-len(values) * width // 8)
    assert int.from_bytes(packed.tobytes(), "little") == sum(
        value << width * place for place, value in enumerate(values)
    )
    assert unpack_bits(packed, len(values), width, "x").tolist() == values
    stray = packed.copy()
    if len(values) * width % 8:
        stray[-1] |= 0x80
        with pytest.raises(WireError, match="stream"):
            unpack_bits(stray, len(values), width, "x")
