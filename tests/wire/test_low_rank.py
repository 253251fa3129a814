"""Low rank: near the best of its rank, equal bits whatever the order of sums, state that is passed."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from swarmtrain.wire.codecs import codec_named
from swarmtrain.wire.low_rank import HIGHEST_RANK, LowRankCodec
from swarmtrain.wire.scales import read_halves, scales_bytes
from swarmtrain.wire.tensors import is_finite


def falling(rows: int, columns: int, seed: int = 1) -> Tensor:
    """A matrix whose singular values fall as 1 / k."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(rows, rows, generator=generator)).Q[:, :columns]
    right = torch.linalg.qr(torch.randn(columns, columns, generator=generator)).Q
    values = 1 / torch.arange(1, columns + 1)
    return (left * values[: left.shape[1]]) @ right.T


def error(x: Tensor, out: Tensor) -> float:
    return float((x - out).double().square().sum() / x.double().square().sum())


@pytest.mark.parametrize("rank", [8, 16, 32])
def test_error_is_near_that_of_the_best_matrix_of_the_rank(rank: int) -> None:
    x = falling(160, 96)
    squares = torch.linalg.svdvals(x).double() ** 2
    best = float(squares[rank:].sum() / squares.sum())
    codec = LowRankCodec(rank)
    found = error(x, codec.decode(codec.encode(x), (160, 96)))
    # The iteration's loss and 4 bits in either factor.
    assert best < found < 1.05 * best + 0.03


def test_a_matrix_of_low_rank_loses_only_its_rounding() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(128, 4, generator=generator) @ torch.randn(4, 200, generator=generator)
    codec = LowRankCodec(8)
    assert error(x, codec.decode(codec.encode(x), (128, 200))) < 0.04


def test_a_decoded_element_is_the_exact_sum_rounded_once() -> None:
    """By rational arithmetic: no order of additions can give other bits."""
    x = torch.randn(40, 48, generator=torch.Generator().manual_seed(6)) * 1e-5
    codec = LowRankCodec(8)
    payload = codec.encode(x)
    out = codec.decode(payload, (40, 48))
    head_bytes = scales_bytes(8)
    half_R1, unit = read_halves(payload[:head_bytes], "rank8")
    nibbles = payload[head_bytes:]
    levels = torch.stack((nibbles & 15, nibbles >> 4), dim=1).view(-1).int() - 8
    left_RM, right_RN = levels[:320].view(8, 40), levels[320:].view(8, 48)
    for row in range(0, 40, 3):
        for column in range(0, 48, 5):
            total = sum(
                Fraction(half_R1[k].item()) * int(left_RM[k, row]) * int(right_RN[k, column])
                for k in range(8)
            )
            exact = float(total * Fraction(unit))  # a float64 holds it whole
            assert Fraction(exact) == total * Fraction(unit)
            assert out[row, column].item() == torch.tensor(exact).float().item()


def test_sums_at_the_highest_rank_are_exact() -> None:
    """The largest numerators there are, as bytes that a liar may send: permuted sums are equal."""
    rank = HIGHEST_RANK
    codec = LowRankCodec(rank)
    shape = (700, 720)
    payload = torch.full((codec.encoded_bytes(*shape),), 0xFF, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(7)
    halves = torch.rand(rank, generator=generator).mul_(30_000).add_(35_000).half()
    halves[::2] = 2.0**-24
    payload[:2] = torch.tensor([0], dtype=torch.int16).view(torch.uint8)
    payload[2 : 2 + 2 * rank] = halves.view(torch.uint8)
    out = codec.decode(payload, shape)
    exact = float(sum(Fraction(half.item()) for half in halves) * 49 / 2**15)
    assert out.eq(torch.tensor(exact).float()).all()


def test_the_next_round_may_start_from_the_last_one() -> None:
    x = falling(120, 100)
    codec = LowRankCodec(8)
    start = codec.start((120, 100))
    assert torch.equal(start, codec.start((120, 100))), "drawn from a fixed seed"
    errors = []
    for _ in range(4):
        payload, start = codec.encode_from(x, start)
        errors.append(error(x, codec.decode(payload, (120, 100))))
    assert errors[3] < errors[0] - 0.005, "each start is better than the one before"
    assert torch.equal(codec.encode(x), codec.encode(x)), "and encode itself keeps nothing"


@pytest.mark.parametrize("shape", [(5000,), (), (3, 4096), (10, 10), (1, 1, 1), (10, 60)])
def test_what_would_not_get_smaller_is_int4(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(LowRankCodec(8).encode(x), codec_named("int4").encode(x))


def test_more_dimensions_are_rows_of_the_first() -> None:
    x = torch.randn(64, 8, 12, generator=torch.Generator().manual_seed(1))
    codec = LowRankCodec(8)
    assert torch.equal(codec.encode(x), codec.encode(x.view(64, 96)))
    assert codec.decode(codec.encode(x), (64, 8, 12)).shape == (64, 8, 12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_value_is_seen_everywhere(bad: float) -> None:
    codec = LowRankCodec(8)
    x = falling(64, 64)
    x[3, 4] = bad
    assert codec.decode(codec.encode(x), (64, 64)).isnan().all()


@pytest.mark.parametrize("exponent", [-149, -126, 60, 108, 127])
def test_extreme_magnitudes(exponent: int) -> None:
    x = (torch.randn(64, 64, generator=torch.Generator().manual_seed(1)).sign().double()).mul(
        2.0**exponent
    )
    codec = LowRankCodec(16)
    out = codec.decode(codec.encode(x.float()), (64, 64))
    if is_finite(out):
        assert (x - out.double()).norm() <= (1 + 2.0**-10) * x.norm() + 64 * 2.0**-149
    else:
        assert exponent >= 110


def test_a_rank_that_sums_could_not_hold_is_refused() -> None:
    for rank in (0, HIGHEST_RANK + 1):
        with pytest.raises(ValueError, match="rank"):
            LowRankCodec(rank)
