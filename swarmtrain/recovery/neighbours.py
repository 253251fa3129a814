"""A lost middle stage made from its neighbours: CheckFree and CheckFree+ (arXiv 2506.15461). Numpy only, pure.

What comes out is another model than the fault-free run's, so whoever uses it flags the run (I2). Which stages may be
averaged is `core.neighbours`; the paper's code is not followed where it takes norms after clipping, which
saturates the weights at 1 to 1 (reliability_security.md, section 1.1).
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from swarmtrain.checkpoint.stage_file import Flat, StageState
from swarmtrain.core.errors import StateError
from swarmtrain.core.messages import StageSum


def gradient_weight(facts: StageSum) -> float:
    """A stage's weight: the squared L2 norm of its mean gradient in the last committed step, before clipping."""
    return float(Fraction(int(facts.square_sum), 2**facts.exponent))


def neighbour_state(stage: int, neighbours: Sequence[tuple[StageState, float]]) -> StageState:
    """The state that replaces the lost `stage`: its neighbours' parameters, each by its weight, with empty moments.

    `neighbours` are middle stages with the weights of `gradient_weight`; one alone is copied. The average is summed
    in fp64 in the given order and rounded to fp32 once, so that all who compute it hold the same bits. Weights that
    are all zero count alike: a step in which no key counted says nothing about who still moves.

    Raises:
        StateError: there is no neighbour, or they are not of one shape.
    """
    states = [state for state, _ in neighbours]
    layouts = {state.names_shapes for state in states}
    if len(layouts) != 1:
        raise StateError(
            f"stage {stage} cannot be made from its neighbours",
            f"stages {', '.join(str(state.stage) for state in states) or 'none'} have "
            f"{len(layouts)} different layouts",
            "neighbours of one shape are needed; use a snapshot or a checkpoint instead",
        )
    return StageState(
        stage=stage,
        names_shapes=states[0].names_shapes,
        parameters=_average(neighbours),
        moment1=None if states[0].moment1 is None else np.zeros_like(states[0].moment1),
        moment2=None if states[0].moment2 is None else np.zeros_like(states[0].moment2),
    )


def _average(neighbours: Sequence[tuple[StageState, float]]) -> Flat:
    total_weight = sum(weight for _, weight in neighbours)
    shares = [
        weight / total_weight if total_weight > 0.0 else 1.0 / len(neighbours)
        for _, weight in neighbours
    ]
    parts = [
        state.parameters.astype(np.float64) * share
        for (state, _), share in zip(neighbours, shares, strict=True)
    ]
    average = parts[0]
    for part in parts[1:]:
        average += part
    return average.astype(np.float32)
