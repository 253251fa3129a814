"""Gradient sums: free of order, of partition and of retraction; bounded; and the norm that goes with them."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swarmtrain.compute.accumulate import (
    RANGE_BITS,
    SCALE_BITS,
    Contribution,
    ExactAccumulator,
    FastAccumulator,
    contribution_limit,
    is_summable,
    mean_gradient,
    new_accumulator,
    square_sum,
)

ELEMENTS = 48
CHUNK = 65536

seeds = st.integers(0, 2**32 - 1)


def contributions(seed: int, count: int, elements: int = ELEMENTS) -> list[Contribution]:
    """Values over many magnitudes in two spans that leave a gap of 3 elements, as a stage's layout may."""
    generator = torch.Generator().manual_seed(seed)
    half = elements // 2
    found = []
    for _ in range(count):
        exponents = torch.randint(-40, 8, (elements,), generator=generator).float()
        flat = torch.randn(elements, generator=generator) * torch.exp2(exponents)
        spans = [(0, half - 3), (half, elements - half)]
        found.append(Contribution(spans, [flat[: half - 3], flat[half:].reshape(2, -1)]))
    return found


def exact_sum(parts: list[Contribution], elements: int = ELEMENTS) -> Tensor:
    accumulator = ExactAccumulator(elements)
    for part in parts:
        accumulator.add(part)
    return accumulator.total


@given(seed=seeds, order=st.permutations(range(7)))
@settings(max_examples=40, deadline=None)
def test_an_exact_sum_does_not_depend_on_order(seed: int, order: list[int]):
    parts = contributions(seed, 7)
    assert torch.equal(exact_sum(parts), exact_sum([parts[index] for index in order]))


@given(seed=seeds, owners=st.lists(st.integers(0, 3), min_size=9, max_size=9))
@settings(max_examples=40, deadline=None)
def test_an_exact_sum_does_not_depend_on_who_summed_what(seed: int, owners: list[int]):
    parts = contributions(seed, 9)
    shares = [
        exact_sum([p for p, owner in zip(parts, owners, strict=True) if owner == peer])
        for peer in range(4)
    ]
    assert torch.equal(exact_sum(parts), shares[3] + shares[0] + shares[2] + shares[1])


@given(seed=seeds, gone=st.sets(st.integers(0, 6)))
@settings(max_examples=40, deadline=None)
def test_retraction_leaves_no_trace_in_an_exact_sum(seed: int, gone: set[int]):
    parts = contributions(seed, 7)
    accumulator = ExactAccumulator(ELEMENTS)
    for index, part in enumerate(parts):
        accumulator.add(part)
        if index in gone:
            accumulator.retract(parts[index])
    assert torch.equal(
        accumulator.total, exact_sum([p for i, p in enumerate(parts) if i not in gone])
    )


def test_float_sums_depend_on_order():
    """What the tests above would find if exact sums were floats."""
    parts = contributions(1, 7)
    totals = []
    for ordered in (parts, parts[::-1]):
        accumulator = FastAccumulator(ELEMENTS)
        for part in ordered:
            accumulator.add(part)
        totals.append(accumulator.total)
    assert not torch.equal(*totals)
    assert torch.allclose(*totals, rtol=1e-4, atol=1e-6)


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_each_contribution_is_rounded_once_to_nearest_even(seed: int):
    (part,) = contributions(seed, 1)
    total = exact_sum([part])
    for (offset, elements), gradient in zip(part.spans, part.gradients, strict=True):
        for index, value in enumerate(gradient.reshape(-1).tolist()):
            assert int(total[offset + index]) == round(Fraction(value) * 2**SCALE_BITS)
        assert elements == gradient.numel()
    assert total[ELEMENTS // 2 - 3 : ELEMENTS // 2].tolist() == [0, 0, 0]


def test_a_span_of_several_chunks_is_summed_whole():
    elements = 2 * CHUNK + 5
    values = torch.randn(elements, generator=torch.Generator().manual_seed(3))
    total = exact_sum([Contribution([(0, elements)], [values])], elements)
    assert torch.equal(total, (values.double() * 2.0**SCALE_BITS).round().long())


@pytest.mark.parametrize("kind", ["exact", "fast"])
def test_clear_starts_over(kind: str):
    accumulator = new_accumulator(kind, ELEMENTS)
    accumulator.add(contributions(5, 1)[0])
    accumulator.clear()
    assert not accumulator.total.any()
    assert accumulator.total.dtype == (torch.int64 if kind == "exact" else torch.float32)


# ---- what may be summed ---------------------------------------------------------------------------------------------


@given(microbatches=st.integers(1, 4096), sign=st.sampled_from([-1.0, 1.0]))
@settings(max_examples=60, deadline=None)
def test_a_step_of_contributions_just_below_the_limit_cannot_overflow(
    microbatches: int, sign: float
):
    """Embedding and head of a tied edge both add for each microbatch; the sum stays exact in 64 bits."""
    limit = contribution_limit(microbatches)
    largest = torch.nextafter(torch.tensor(limit), torch.tensor(0.0))
    part = Contribution([(0, 1)], [sign * largest.reshape(1)])
    assert is_summable(part, limit)
    one = int(exact_sum([part], 1))
    assert abs(one * 2 * microbatches) < 2 ** (SCALE_BITS + RANGE_BITS) <= 2**63
    several = min(microbatches, 16)
    assert int(exact_sum([part] * several, 1)) == several * one


@pytest.mark.parametrize("microbatches", [1, 6, 4096])
def test_the_limit_is_within_a_factor_of_two_of_what_fits(microbatches: int):
    assert contribution_limit(microbatches) * 2 * microbatches > 2 ** (RANGE_BITS - 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "limit", "-limit"])
@pytest.mark.parametrize("place", [0, 1])
def test_one_bad_value_anywhere_makes_a_contribution_unsummable(bad: float | str, place: int):
    limit = contribution_limit(8)
    value = {"limit": limit, "-limit": -limit}.get(bad, bad) if isinstance(bad, str) else bad
    gradients = [torch.ones(4), torch.ones(2, 2)]
    assert is_summable(Contribution([(0, 4), (4, 4)], gradients), limit)
    gradients[place].view(-1)[3] = value
    assert not is_summable(Contribution([(0, 4), (4, 4)], gradients), limit)


# ---- the norm -------------------------------------------------------------------------------------------------------


def value_of(square: tuple[int, int]) -> float:
    return float(Fraction(square[0], 2 ** square[1]))


@given(seed=seeds, exact=st.booleans())
@settings(max_examples=8, deadline=None)
def test_the_square_sum_depends_neither_on_order_nor_on_cuts(seed: int, exact: bool):
    """Each replica may see the stage's elements cut at other places; q is a plain sum over elements."""
    generator = torch.Generator().manual_seed(seed)
    elements = CHUNK + 1000
    values = torch.randn(elements, generator=generator)
    total = (values * 2.0**30).long() if exact else values
    shuffled = total[torch.randperm(elements, generator=generator)]
    padded = torch.cat([torch.zeros(17, dtype=total.dtype), total])
    for other in (shuffled, padded):
        if exact:
            assert square_sum(other, 640) == square_sum(total, 640)
        else:
            # Fast promises equal replicas, which hold equal sums, and no more.
            expected = value_of(square_sum(total, 640))
            assert math.isclose(value_of(square_sum(other, 640)), expected, rel_tol=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e4])
def test_the_square_sum_is_the_squared_norm_of_the_mean_gradient(scale: float):
    total = (
        torch.randn(100_000, generator=torch.Generator().manual_seed(1)) * scale * 2.0**SCALE_BITS
    ).long()
    mean = total.double() * (2.0**-SCALE_BITS / 384)
    expected = float(mean.float().double().square().sum())
    assert math.isclose(value_of(square_sum(total, 384)), expected, rel_tol=1e-9)


@pytest.mark.parametrize("total", [torch.zeros(100, dtype=torch.int64), torch.zeros(100)])
def test_nothing_has_the_norm_zero(total: Tensor):
    assert square_sum(total, 5) == (0, 0)


def test_the_largest_sums_do_not_overflow_the_norm():
    full = torch.full((3 * CHUNK,), 2**62, dtype=torch.int64)
    mean = float(torch.tensor(2.0**62 * 2.0**-SCALE_BITS))
    assert value_of(square_sum(full, 1)) == 3 * CHUNK * mean**2


def test_the_mean_is_the_sum_over_the_divisor():
    out = torch.empty(8, dtype=torch.float64)
    units = torch.tensor([3 * 2**SCALE_BITS, -(2**SCALE_BITS)])
    assert mean_gradient(units, 4, out).tolist() == [0.75, -0.25]
    assert mean_gradient(torch.tensor([3.0, -1.0]), 4, out).tolist() == [0.75, -0.25]
