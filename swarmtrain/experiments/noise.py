"""What seeds say: means with 95 % confidence intervals (Student's t), and whether two samples differ (Welch's t)."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swarmtrain.core.errors import SwarmError

CONFIDENCE = 0.95
ROUNDING = 1e-6
"""Relative; seconds of a virtual run depend on its seed by less: frames of equal tensors differ by a few bytes."""


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


def differ(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Welch's test of two samples that need not vary alike. Raises SwarmError when scipy is missing."""
    difference = statistics.fmean(second) - statistics.fmean(first)
    if min(len(first), len(second)) < 2:
        return Difference(difference, None, None)
    squares = [statistics.variance(sample) / len(sample) for sample in (first, second)]
    error = math.sqrt(sum(squares))
    if not error or (_repeats(first) and _repeats(second)):
        # Virtual time repeats some figures but for rounding: then there is no noise, and any difference is one.
        is_none = abs(difference) <= ROUNDING * abs(statistics.fmean(first))
        return Difference(difference, 0.0, 1.0 if is_none else 0.0)
    # Welch and Satterthwaite's degrees of freedom.
    shares = zip(squares, (first, second), strict=True)
    degrees = 1.0 / sum((square / sum(squares)) ** 2 / (len(at) - 1) for square, at in shares)
    p_value = 2.0 * float(_stats().t.sf(abs(difference) / error, degrees))
    return Difference(difference, _t_quantile(degrees) * error, p_value)


def _repeats(values: Sequence[float]) -> bool:
    return max(values) - min(values) <= ROUNDING * max(map(abs, values))


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
