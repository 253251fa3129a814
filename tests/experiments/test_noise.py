"""What seeds can tell: intervals, and the tests of two samples, paired by seed or not."""

import random
import statistics
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from swarmtrain.experiments.noise import Sample, differ, estimate


def sample(values: Sequence[float], seeds: str = "s") -> Sample:
    """Two samples are of the same seeds when these have the same first letter."""
    return Sample({f"{seeds}{number}": value for number, value in enumerate(values)})


def test_an_interval_is_student_s() -> None:
    found = estimate([1.0, 2.0, 3.0, 4.0])
    # 3.182 is the table's value for three degrees of freedom; the deviation of 1 to 4 is 1.29099.
    assert (found.mean, found.count) == (2.5, 4)
    assert found.half_width == pytest.approx(3.182446 * 1.290994 / 2, rel=1e-5)
    assert estimate([5.0]).half_width is None


def test_intervals_hold_what_they_promise() -> None:
    chance, tries = random.Random(1), 400
    inside = false_alarms = paired_alarms = 0
    for _ in range(tries):
        first, second = ([chance.gauss(3.0, 1.0) for _ in range(4)] for _ in range(2))
        found = estimate(first)
        assert found.half_width is not None
        inside += abs(found.mean - 3.0) <= found.half_width
        false_alarms += differ(sample(first), sample(second, "z")).is_real is True
        paired_alarms += differ(sample(first), sample(second)).is_real is True
    assert 0.92 < inside / tries < 0.98
    assert false_alarms / tries < 0.08 and paired_alarms / tries < 0.08


@given(*[st.lists(st.floats(-5, 5), min_size=2, max_size=6, unique=True)] * 2)
def test_the_test_is_scipy_s(first: list[float], second: list[float]) -> None:
    found = differ(sample(first), sample(second, "z"))
    theirs = stats.ttest_ind(second, first, equal_var=False)
    assume(max(map(statistics.stdev, (first, second))) > 1e-3)
    interval = theirs.confidence_interval(0.95)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert found.half_width == pytest.approx((interval.high - interval.low) / 2, rel=1e-6)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=6, unique=True))
def test_seeds_are_paired_as_scipy_pairs_them(pairs: list[tuple[float, float]]) -> None:
    first, second = ([pair[at] for pair in pairs] for at in (0, 1))
    assume(statistics.stdev(b - a for a, b in pairs) > 1e-3)
    found, theirs = differ(sample(first), sample(second)), stats.ttest_rel(second, first)
    interval = theirs.confidence_interval(0.95)
    assert found.test == "paired t"
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert found.half_width == pytest.approx((interval.high - interval.low) / 2, rel=1e-6)


def test_pairs_are_of_equal_seeds_in_any_order() -> None:
    first, second = {"1": 2.0, "2": 5.0, "3": 9.0}, {"3": 9.12, "1": 2.11, "2": 5.1}
    found = differ(Sample(first), Sample(second))
    assert found.test == "paired t" and found.is_real is True
    # The same figures of other seeds, or of more: what a seed adds hides what the policy does.
    for other in ({"4": 9.12, "5": 2.11, "6": 5.1}, {**second, "4": 5.0}):
        found = differ(Sample(first), Sample(other))
        assert found.test == "Welch's t" and found.is_real is False


@pytest.mark.parametrize("seeds", ["ab", "yz"])
def test_whole_numbers_that_agree_by_luck_are_not_free_of_noise(seeds: str) -> None:
    first, second = Sample({"a": 33, "b": 33}, grain=1.0), (34, 34)
    found = differ(first, Sample(dict(zip(seeds, second, strict=True)), grain=1.0))
    assert found.is_real is False and found.half_width and found.half_width > 1.0
    far = Sample(dict(zip(seeds, (54, 54), strict=True)), grain=1.0)
    assert differ(first, far).is_real is True
    assert differ(first, Sample(first.by_seed, 1.0)).is_real is False


def test_whole_numbers_as_large_as_bytes_are_measured() -> None:
    first, second = Sample({"a": 4e9, "b": 4e9}, 1.0), Sample({"a": 4e9 + 9, "b": 4e9 + 9}, 1.0)
    assert differ(first, second).is_real is False


def test_a_difference_is_found_where_there_is_one_and_said_to_be_unknown_where_nothing_can_tell() -> (
    None
):
    for first, second, is_real in (
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], True),
        ([1.0, 1.4, 0.6], [1.1, 1.5, 0.7], False),
        ([1.0], [2.0], None),
        ([1.0, 1.0], [1.0, 1.0], False),
        ([1.0, 1.0], [1.5, 1.5], True),
        ([0.0, 3e-165], [0.0, 3e-165], False),
    ):
        assert differ(sample(first), sample(second, "z")).is_real is is_real
    # Seed by seed the second of these is the first and a tenth: that is no noise.
    assert differ(sample([1.0, 1.4, 0.6]), sample([1.1, 1.5, 0.7])).is_real is True
