"""Scalars that all replicas must compute alike: learning rate, bias corrections, norm and clipping."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.config import OptimizerSection
from swarmtrain.core.messages import StageSum
from swarmtrain.core.schedule import clip_factor, gradient_norm, learning_rate, scalars_of

OPTIMIZER = OptimizerSection(
    learning_rate=0.5, warmup_steps=4, min_learning_rate_ratio=0.1, beta1=0.9, beta2=0.95
)

sums = st.lists(st.tuples(st.integers(0, 2**120), st.integers(0, 200)), min_size=1, max_size=6).map(
    lambda pairs: [
        StageSum(stage, bytes([stage]) * 32, str(square), exponent)
        for stage, (square, exponent) in enumerate(pairs)
    ]
)


def sum_of(square: int, exponent: int = 0) -> StageSum:
    return StageSum(0, b"", str(square), exponent)


# ---- learning rate ----------------------------------------------------------------------------------------------


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    rates = [learning_rate(OPTIMIZER, step, 20) for step in range(4)]
    assert rates == [0.125, 0.25, 0.375, 0.5]


def test_the_cosine_starts_at_the_peak_and_ends_at_the_floor() -> None:
    assert learning_rate(OPTIMIZER, 4, 20) == 0.5
    assert learning_rate(OPTIMIZER, 19, 20) == pytest.approx(0.05, rel=1e-15)
    assert learning_rate(OPTIMIZER, 25, 20) == learning_rate(OPTIMIZER, 19, 20)


def test_the_cosine_halves_in_the_middle_and_only_falls() -> None:
    rates = [learning_rate(OPTIMIZER, step, 25) for step in range(4, 25)]
    assert rates[10] == pytest.approx((0.5 + 0.05) / 2)
    assert all(later < earlier for earlier, later in pairwise(rates))


@pytest.mark.parametrize("steps", [1, 2, 4, 5])
def test_a_run_that_ends_with_its_warm_up_has_a_rate(steps: int) -> None:
    rates = [learning_rate(OPTIMIZER, step, steps) for step in range(steps)]
    assert all(0 < rate <= 0.5 for rate in rates)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    optimizer = OPTIMIZER.model_copy(update={"warmup_steps": 0})
    assert learning_rate(optimizer, 0, 10) == 0.5


def test_bias_corrections_count_from_the_first_step() -> None:
    first, third = scalars_of(OPTIMIZER, 0, 20), scalars_of(OPTIMIZER, 2, 20)
    assert first.bias_correction1 == 1.0 - 0.9
    assert third.bias_correction1 == 1.0 - 0.9**3
    assert third.bias_correction2 == 1.0 - 0.95**3
    assert third.learning_rate == learning_rate(OPTIMIZER, 2, 20)


# ---- norm and clipping ------------------------------------------------------------------------------------------


@given(sums, st.randoms(use_true_random=False))
def test_the_norm_does_not_depend_on_the_order_of_stages(
    stages: list[StageSum], chance: object
) -> None:
    shuffled = list(stages)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert gradient_norm(shuffled) == gradient_norm(stages)
    assert clip_factor(shuffled, 1.0) == clip_factor(stages, 1.0)


@given(sums)
def test_the_norm_is_exact_until_the_last_root(stages: list[StageSum]) -> None:
    total = sum(Fraction(int(entry.square_sum)) / 2**entry.exponent for entry in stages)
    assert gradient_norm(stages) == math.sqrt(float(total))


def test_small_stages_are_not_swallowed_by_a_big_one() -> None:
    """2^53 + 1 + 1 is lost in floats that are added one by one, and kept in integers."""
    stages = [sum_of(2**53), sum_of(1), sum_of(1)]
    assert gradient_norm(stages) ** 2 != float(2**53)
    assert gradient_norm(stages) == math.sqrt(float(2**53 + 2))


def test_big_integers_and_exponents_cancel() -> None:
    assert gradient_norm([sum_of(9 << 1000, 1000)]) == 3.0
    assert gradient_norm([sum_of(9 << 900, 900), sum_of(16 << 1000, 1000)]) == 5.0
    assert gradient_norm([]) == 0.0


@given(sums, st.floats(1e-3, 1e3))
def test_clipping_brings_the_norm_to_its_bound_or_leaves_it(
    stages: list[StageSum], clip_norm: float
) -> None:
    norm, factor = gradient_norm(stages), clip_factor(stages, clip_norm)
    if norm <= clip_norm:
        assert factor == 1.0
    else:
        assert factor == clip_norm / norm
        assert factor * norm == pytest.approx(clip_norm, rel=1e-15)


def test_clip_norm_zero_turns_clipping_off() -> None:
    assert clip_factor([sum_of(10**30)], 0.0) == 1.0
