"""Scalars that every replica and the reference must compute alike: learning rate, bias corrections, clipping.

Computed once per step with Python floats in a fixed order of operations (protocol.md, answers b and c).
"""

import math
from collections.abc import Iterable
from fractions import Fraction

from swarmtrain.core.closing import Scalars
from swarmtrain.core.config import OptimizerSection
from swarmtrain.core.messages import StageSum


def scalars_of(optimizer: OptimizerSection, step: int, steps: int) -> Scalars:
    """Scalars of step `step` (from 0) in a run of `steps`."""
    return Scalars(
        learning_rate=learning_rate(optimizer, step, steps),
        bias_correction1=1.0 - optimizer.beta1 ** (step + 1),
        bias_correction2=1.0 - optimizer.beta2 ** (step + 1),
    )


def learning_rate(optimizer: OptimizerSection, step: int, steps: int) -> float:
    """Linear warm-up to the peak, then a cosine down to `min_learning_rate_ratio` of it at the last step."""
    peak = optimizer.learning_rate
    if step < optimizer.warmup_steps:
        return peak * (step + 1) / optimizer.warmup_steps
    span = max(1, steps - 1 - optimizer.warmup_steps)
    progress = min(1.0, (step - optimizer.warmup_steps) / span)
    floor = optimizer.min_learning_rate_ratio
    return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def gradient_norm(stages: Iterable[StageSum]) -> float:
    """L2 norm of the mean gradient over all stages, each counted once; exact until the last square root."""
    total = sum(
        (Fraction(int(entry.square_sum), 2**entry.exponent) for entry in stages), Fraction(0)
    )
    return math.sqrt(total)


def clip_factor(stages: Iterable[StageSum], clip_norm: float) -> float:
    """What the mean gradient is multiplied by; 1.0 when clipping is off or the norm is within bounds."""
    norm = gradient_norm(stages)
    return clip_norm / norm if 0.0 < clip_norm < norm else 1.0
