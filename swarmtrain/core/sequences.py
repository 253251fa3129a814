"""Which middle stages a microbatch visits, in which order: a pure function of the configuration and the step (R14).

The swarm and the plain loop use it alike.
"""

from swarmtrain.core.sections import RunConfig

Sequences = tuple[tuple[int, ...], ...]
"""One entry that serves all keys of a step, or one per key."""


def stage_sequences(config: RunConfig, step: int) -> Sequences:
    """The sequences of `step`: every middle stage in order.

    With `train.swap_ends` every odd key visits the first two and the last two middle stages in swapped order, so
    that their weights learn each other's part (CheckFree+, arXiv 2506.15461).
    """
    straight = tuple(range(1, config.model.stages + 1))
    if not config.train.swap_ends or len(straight) < 2:
        return (straight,)
    swapped = _swap_ends(straight)
    return tuple(swapped if key % 2 else straight for key in range(config.train.microbatches))


def _swap_ends(stages: tuple[int, ...]) -> tuple[int, ...]:
    first, second, *rest = stages
    if len(rest) < 2:
        return (second, first, *rest)
    *middle, before_last, last = rest
    return (second, first, *middle, last, before_last)
