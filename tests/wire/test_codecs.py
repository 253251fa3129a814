"""Codecs: stated error bounds hold, same input gives same bytes, what is not finite stays visible."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swarmtrain.core.errors import WireError
from swarmtrain.wire.codecs import BLOCK_ELEMENTS, CODECS, codec_named
from swarmtrain.wire.tensors import is_finite

SHAPES = st.sampled_from([(1,), (255,), (256,), (257,), (3, 5, 7), (2, 256), (), (1, 1, 513)])


def draw_tensor(shape: tuple[int, ...], seed: int, exponent: int) -> Tensor:
    """Values of mixed magnitude around 2**exponent, with some zeros, negatives and subnormals."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    spread = torch.randint(-12, 1, shape, generator=generator)
    keep = torch.rand(shape, generator=generator) > 0.1
    return (x * 2.0 ** (spread + exponent) * keep).float().clamp(-(2.0**126), 2.0**126)


TENSORS = st.builds(draw_tensor, SHAPES, st.integers(0, 2**32), st.integers(-149, 125))


def decoded(x: Tensor, name: str) -> Tensor:
    codec = codec_named(name)
    payload = codec.encode(x)
    assert payload.dtype == torch.uint8
    assert payload.shape == (codec.encoded_bytes(x.numel()),)
    out = codec.decode(payload, tuple(x.shape))
    assert out.dtype == torch.float32 and out.shape == x.shape and out.is_contiguous()
    return out


@settings(deadline=None)
@given(TENSORS)
def test_none_is_exact_and_shares_memory(x: Tensor) -> None:
    out = decoded(x, "none")
    assert torch.equal(out.view(torch.int32), x.view(torch.int32))
    assert out.data_ptr() == x.data_ptr()


@settings(deadline=None)
@given(TENSORS)
def test_bf16_error_is_within_its_bound(x: Tensor) -> None:
    error = (x.double() - decoded(x, "bf16").double()).abs()
    assert (error <= (x.double().abs() * 2.0**-8).clamp_min(2.0**-134)).all()


@settings(deadline=None)
@given(TENSORS)
def test_int8_error_is_within_its_bound(x: Tensor) -> None:
    error = (x.double() - decoded(x, "int8").double()).abs().view(-1)
    for start in range(0, x.numel(), BLOCK_ELEMENTS):
        block = slice(start, start + BLOCK_ELEMENTS)
        blockmax = x.view(-1)[block].double().abs().max().item()
        bound = (1 + 2.0**-14) * max(blockmax / 254, 2.0**-101)
        assert error[block].max().item() <= bound


def test_int8_bound_is_tight() -> None:
    """A bound twice as strict would fail: the test above is not vacuous."""
    x = torch.tensor([127.0, 0.5, 1.5, -2.5])
    assert decoded(x, "int8").tolist() == [127.0, 0.0, 2.0, -2.0]


@settings(deadline=None)
@given(TENSORS, st.sampled_from(sorted(CODECS)))
def test_encoding_is_deterministic(x: Tensor, name: str) -> None:
    codec = codec_named(name)
    # The clone also moves the data, so a dependence on the address would show.
    assert torch.equal(codec.encode(x), codec.encode(x.clone()))


@settings(deadline=None)
@given(TENSORS, st.sampled_from(["bf16", "int8"]))
def test_a_second_trip_changes_little(x: Tensor, name: str) -> None:
    """bf16 is idempotent; int8 keeps every value within one rounding of the scale."""
    once = decoded(x, name)
    twice = decoded(once, name)
    if name == "bf16":
        assert torch.equal(once, twice)
    else:
        assert torch.allclose(once, twice, rtol=1e-6, atol=0)


@settings(deadline=None)
@given(
    TENSORS,
    st.sampled_from(sorted(CODECS)),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.data(),
)
def test_not_finite_stays_not_finite(x: Tensor, name: str, bad: float, data: st.DataObject) -> None:
    x = x.clone()
    x.view(-1)[data.draw(st.integers(0, x.numel() - 1))] = bad
    assert not is_finite(decoded(x, name))


def test_int8_writes_defined_bytes_for_what_is_not_finite() -> None:
    codec = codec_named("int8")
    x = torch.ones(2 * BLOCK_ELEMENTS)
    x[3], x[4] = math.nan, math.inf
    payload = codec.encode(x)
    assert payload[8 : 8 + BLOCK_ELEMENTS].eq(0).all()
    out = codec.decode(payload, (2 * BLOCK_ELEMENTS,))
    assert out[:BLOCK_ELEMENTS].isnan().all()
    assert out[BLOCK_ELEMENTS:].eq(1).all()


def test_int8_writes_the_same_for_infinity_as_for_nan() -> None:
    """The quotient of infinities must not reach the conversion to int8, which is undefined for it."""
    x, y = torch.ones(BLOCK_ELEMENTS), torch.ones(BLOCK_ELEMENTS)
    x[3], y[3] = math.inf, math.nan
    codec = codec_named("int8")
    assert torch.equal(codec.encode(x), codec.encode(y))


def test_int8_zeros_stay_zeros() -> None:
    assert decoded(torch.zeros(300), "int8").eq(0).all()


@pytest.mark.parametrize("name", ["", "INT8", "zstd", "x" * 100_000])
def test_unknown_codec_is_a_short_wire_error(name: str) -> None:
    with pytest.raises(WireError, match="codec") as caught:
        codec_named(name)
    assert len(str(caught.value)) < 300
