"""What seeds say: means with 95 % confidence intervals (Student's t), and whether two samples differ.

Runs of the same seed have the same data and initial values, so samples of the same seeds are compared seed by seed
(paired t); others by Welch's t.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from swarmtrain.core.errors import SwarmError

CONFIDENCE = 0.95
ROUNDING = 1e-6
"""Relative; seconds of a virtual run depend on its seed by less: frames of equal tensors differ by a few bytes."""

Test = Literal["paired t", "Welch's t", "every seed the same", "none"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure by seed. `grain` is what it counts in, 0 of what is measured: 33 and 33 may be 32.6 and 33.4."""

    by_seed: Mapping[str, float]
    grain: float = 0.0

    @property
    def rounding_variance(self) -> float:
        """Of a number that is rounded to the grain."""
        return self.grain**2 / 12


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of `count` values; the true mean lies within `half_width` of it, None of a single value."""

    mean: float
    half_width: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Second minus first. `p_value` is the chance of a difference as large between equals; None: not known."""

    difference: float
    half_width: float | None
    p_value: float | None
    test: Test

    @property
    def is_real(self) -> bool | None:
        """Whether it is more than noise; None when too few seeds can tell."""
        return None if self.p_value is None else self.p_value < 1 - CONFIDENCE


def estimate(values: Sequence[float]) -> Estimate:
    """Raises SwarmError when scipy is missing."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Estimate(mean, None, count)
    width = _t_quantile(count - 1) * statistics.stdev(values) / math.sqrt(count)
    return Estimate(mean, width, count)


def differ(first: Sample, second: Sample) -> Difference:
    """Paired where both have the same seeds, by Welch's test otherwise. Raises SwarmError when scipy is missing."""
    values = [list(first.by_seed.values()), list(second.by_seed.values())]
    difference = statistics.fmean(values[1]) - statistics.fmean(values[0])
    if min(map(len, values)) < 2:
        return Difference(difference, None, None, "none")
    is_paired = first.by_seed.keys() == second.by_seed.keys()
    gaps = [second.by_seed[s] - first.by_seed[s] for s in first.by_seed] if is_paired else None
    largest = max(abs(value) for sample in values for value in sample)
    if max(first.grain, second.grain) <= ROUNDING * largest and _repeats(values, gaps, largest):
        # Virtual time repeats some figures but for rounding: then there is no noise, and any difference is one.
        is_none = abs(difference) <= ROUNDING * abs(statistics.fmean(values[0]))
        return Difference(difference, 0.0, 1.0 if is_none else 0.0, "every seed the same")
    # Whole numbers that agree by luck vary by their rounding still.
    floors = [sample.rounding_variance for sample in (first, second)]
    if gaps is not None:
        square = max(statistics.variance(gaps), sum(floors)) / len(gaps)
        return _judged(difference, math.sqrt(square), len(gaps) - 1, "paired t")
    squares = [
        max(statistics.variance(sample), floor) / len(sample)
        for sample, floor in zip(values, floors, strict=True)
    ]
    # Welch and Satterthwaite's degrees of freedom.
    shares = zip(squares, values, strict=True)
    degrees = 1.0 / sum((square / sum(squares)) ** 2 / (len(at) - 1) for square, at in shares)
    return _judged(difference, math.sqrt(sum(squares)), degrees, "Welch's t")


def _judged(difference: float, error: float, degrees: float, test: Test) -> Difference:
    """By Student's t; `error` is the standard error of the difference."""
    p_value = 2.0 * float(_stats().t.sf(abs(difference) / error, degrees))
    return Difference(difference, _t_quantile(degrees) * error, p_value, test)


def _repeats(
    values: Sequence[Sequence[float]], gaps: Sequence[float] | None, largest: float
) -> bool:
    """Whether seeds change nothing but the rounding: of the gaps between pairs, or of each sample."""
    spreads = values if gaps is None else [gaps]
    return all(
        # Squares of the smallest numbers are 0.
        max(spread) - min(spread) <= 2 * ROUNDING * largest or not statistics.variance(spread)
        for spread in spreads
    )


def _t_quantile(degrees: float) -> float:
    return float(_stats().t.ppf((1 + CONFIDENCE) / 2, degrees))


def _stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise missing("scipy") from error
    return stats


def missing(package: str) -> SwarmError:
    """The error for a package that only reports need."""
    return SwarmError(
        f"a report needs {package}",
        "it is not installed with swarmtrain itself",
        "pip install 'swarmtrain[report]'",
    )
