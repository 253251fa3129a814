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

SHAPES = st.sampled_from(
    [
        (1,),
        (255,),
        (256,),
        (257,),
        (3, 5, 7),
        (2, 256),
        (),
        (1, 1, 513),
        (40, 70),
        (64, 66),
        (4099,),
    ]
)


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
    assert payload.ndim == 1
    most_bytes = codec.encoded_bytes(*x.shape)
    assert len(payload) == most_bytes if codec.exact_size else 0 < len(payload) <= most_bytes
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


@settings(deadline=None)
@given(TENSORS)
def test_fp16_error_is_within_its_bound(x: Tensor) -> None:
    out = decoded(x, "fp16")
    fits = x.abs() < 65520
    error = (x.double() - out.double()).abs()
    assert (error <= (x.double().abs() * 2.0**-11).clamp_min(2.0**-25))[fits].all()
    assert out[~fits].isinf().all()


def test_fp16_does_not_saturate_silently() -> None:
    assert decoded(torch.tensor([65519.0, -65519.0]), "fp16").tolist() == [65504.0, -65504.0]
    assert decoded(torch.tensor([65520.0, -1e9]), "fp16").tolist() == [math.inf, -math.inf]


@settings(deadline=None)
@given(TENSORS, st.sampled_from(["ternary", "rank16", "rank8", "top128", "top64"]))
def test_none_is_farther_from_x_than_zero_is(x: Tensor, name: str) -> None:
    """The bound that the codecs of few bits share: sending is never worse than sending nothing."""
    out = decoded(x, name)
    if not is_finite(out):
        assert x.abs().max() >= 2.0**110, "sums beyond float32 are seen, not lost"
        return
    error = (x.double() - out.double()).norm()
    slack = 2.0**-100 * math.sqrt(x.numel())  # what int4 may lose, which low rank falls back on
    assert error <= (1 + 2.0**-10) * x.double().norm() + slack


@pytest.mark.parametrize("name", sorted(CODECS))
@pytest.mark.parametrize("shape", [(1,), (257,), (4096 * 40,), (300, 500), (96, 8, 64), (5000,)])
def test_stated_bits_are_those_of_actual_bytes(name: str, shape: tuple[int, ...]) -> None:
    codec = codec_named(name)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    actual_bits = 8 * len(codec.encode(x)) / x.numel()
    stated_bits = codec.bits_per_parameter(*shape)
    if codec.exact_size:
        assert actual_bits == stated_bits
    elif x.numel() > 10_000:
        assert actual_bits == pytest.approx(stated_bits, rel=0.01)
    assert actual_bits <= 8 * codec.encoded_bytes(*shape) / x.numel()


BITS = {
    "none": 32,
    "bf16": 16,
    "fp16": 16,
    "int8": 8.125,
    "int4": 4.0625,
    "ternary": 1.6625,
    "rank32": 0.25,
    "rank16": 0.125,
    "rank8": 0.0626,
    "top128": 0.268,
    "top64": 0.152,
}


def test_bits_of_a_large_tensor() -> None:
    """The figures by which one chooses: of a matrix of 2^20 elements, before zstd."""
    assert set(BITS) == set(CODECS)
    for name, bits in BITS.items():
        assert codec_named(name).bits_per_parameter(1024, 1024) == pytest.approx(bits, rel=5e-3)


def test_error_feedback_is_off_but_for_top_k() -> None:
    """Measured under outer Nesterov: it made ternary, low rank and top-k worse (`outer.residual`)."""
    assert {name for name, codec in CODECS.items() if codec.error_feedback} == {"top128", "top64"}
    gathered = {name for name, codec in CODECS.items() if codec.gathers}
    assert gathered == {"rank32", "rank16", "rank8", "top128", "top64"}


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


@pytest.mark.parametrize("name", sorted(CODECS))
def test_threads_change_no_bit(name: str) -> None:
    """Members of a group decode alike on any machine; low rank alone may encode otherwise."""
    codec = codec_named(name)
    shape = (512, 1200)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    payloads, decodings = [], []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            payloads.append(codec.encode(x))
            decodings.append(codec.decode(payloads[0], shape))
    finally:
        torch.set_num_threads(threads)
    for payload, out in zip(payloads, decodings, strict=True):
        assert torch.equal(out, decodings[0])
        assert torch.equal(payload, payloads[0]) or name.startswith("rank")


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


@pytest.mark.parametrize("name", sorted(CODECS))
@pytest.mark.parametrize("shape", [(300,), (64, 64), (5, 4096)])
def test_zeros_stay_zeros(name: str, shape: tuple[int, ...]) -> None:
    assert decoded(torch.zeros(shape), name).eq(0).all()


@pytest.mark.parametrize("name", ["", "INT8", "zstd", "x" * 100_000])
def test_unknown_codec_is_a_short_wire_error(name: str) -> None:
    with pytest.raises(WireError, match="codec") as caught:
        codec_named(name)
    assert len(str(caught.value)) < 300
