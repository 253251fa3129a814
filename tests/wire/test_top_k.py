"""Top-k: what is kept is the largest, values and positions as stated, positions within the goal of 7.5 bits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swarmtrain.core.errors import WireError
from swarmtrain.wire import golomb
from swarmtrain.wire.top_k import TILE_ELEMENTS, TopKCodec


def draw(numel: int, seed: int = 1) -> Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from([1, 2, 63, 64, 65, 4095, 4096, 4097, 8192, 10_000]),
    st.sampled_from([1, 64, 128, 600]),
    st.integers(0, 99),
)
def test_the_largest_of_every_tile_are_kept(numel: int, kept: int, seed: int) -> None:
    codec = TopKCodec(kept)
    x = draw(numel, seed)
    out = codec.decode(codec.encode(x), (numel,))
    assert int((out != 0).sum()) == codec.count(numel)
    for own, seen in zip(x.split(TILE_ELEMENTS), out.split(TILE_ELEMENTS), strict=True):
        is_kept = seen != 0
        assert int(is_kept.sum()) == math.ceil(len(own) * kept / TILE_ELEMENTS)
        assert (own.sign() == seen.sign())[is_kept].all()
        assert len(seen[is_kept].abs().unique()) <= 2
        if not is_kept.all():
            assert own[is_kept].abs().min() >= own[~is_kept].abs().max()


def test_two_levels_take_most_of_the_error_of_what_is_kept() -> None:
    x = draw(1 << 18)
    out = TopKCodec(64).decode(TopKCodec(64).encode(x), (1 << 18,))
    kept = out != 0
    error = (x - out)[kept].square().sum() / x[kept].square().sum()
    assert error < 0.006, "one level alone would leave 0.012"


@pytest.mark.parametrize("numel", [1 << 20, 4096, 100])
def test_positions_take_at_most_7_5_bits_at_one_in_64(numel: int) -> None:
    codec = TopKCodec(64)
    gaps = codec.gaps(codec.positions(draw(numel)))
    coded = golomb.encode_integers(gaps, codec.modulus)
    bits = 8 * len(coded) / len(gaps)
    if numel > 100_000:
        assert bits <= 7.5 and bits == pytest.approx(7.44, abs=0.02)
        assert bits == pytest.approx(golomb.expected_bits(1 / 64, codec.modulus), rel=0.01)
    assert 8 * len(coded) <= 8 * golomb.most_bytes(len(gaps), numel - len(gaps), codec.modulus)


def test_positions_at_the_far_end_still_fit_the_bound() -> None:
    """The worst there is for unary: one gap over all the rest of each tile."""
    for at in (0, TILE_ELEMENTS - 64):
        x = torch.zeros(3, TILE_ELEMENTS)
        x[:, at : at + 64] = 1.0
        codec = TopKCodec(64)
        payload = codec.encode(x)
        assert len(payload) <= codec.encoded_bytes(3, TILE_ELEMENTS)
        assert torch.equal(codec.decode(payload, (3, TILE_ELEMENTS)), x)


def test_a_bad_tile_does_not_spoil_the_others() -> None:
    x = draw(3 * TILE_ELEMENTS)
    x[TILE_ELEMENTS + 7] = math.nan
    x[TILE_ELEMENTS + 9] = -math.inf
    out = TopKCodec(64).decode(TopKCodec(64).encode(x), (len(x),)).view(3, -1)
    assert int(out[1].isnan().sum()) == 64 and out[1, 7].isnan()
    assert out[0].isfinite().all() and out[2].isfinite().all()


def test_a_position_outside_its_tile_is_refused() -> None:
    codec = TopKCodec(64)
    x = torch.zeros(2, TILE_ELEMENTS)
    x[:, :64] = 1.0
    payload = codec.encode(x)
    gaps = torch.zeros(128, dtype=torch.int64).numpy()
    for at, gap in ((63, TILE_ELEMENTS - 63), (127, TILE_ELEMENTS - 63), (0, 10**5)):
        gaps[:] = 0
        gaps[at] = gap
        coded = torch.from_numpy(golomb.encode_integers(gaps, codec.modulus))
        forged = torch.cat((payload[: codec._head_bytes(2 * TILE_ELEMENTS)], coded))
        with pytest.raises(WireError, match=r"tile|expected"):
            codec.decode(forged, (2, TILE_ELEMENTS))
    gaps[at], gaps[63] = 0, TILE_ELEMENTS - 64
    coded = torch.from_numpy(golomb.encode_integers(gaps, codec.modulus))
    forged = torch.cat((payload[: codec._head_bytes(2 * TILE_ELEMENTS)], coded))
    assert codec.decode(forged, (2, TILE_ELEMENTS))[0, -1] == 1.0, "the last place is inside"


@pytest.mark.parametrize("ratio", [0.5, math.nan, math.inf, -2.0])
def test_levels_that_no_encoder_writes_are_refused(ratio: float) -> None:
    codec = TopKCodec(64)
    payload = codec.encode(draw(TILE_ELEMENTS)).clone()
    payload[4:6] = torch.tensor([ratio], dtype=torch.float16).view(torch.uint8)
    with pytest.raises(WireError, match="ratio"):
        codec.decode(payload, (TILE_ELEMENTS,))
