"""Which middle stages a microbatch visits, in which order: a pure function of the configuration and the step (R14).

The swarm and the plain loop use it alike.
"""

from swarmtrain.core.sections import RunConfig

Sequence = tuple[int, ...]
Sequences = tuple[Sequence, ...]
"""One entry that serves all keys of a step, or one per key."""


def stage_sequences(config: RunConfig, step: int) -> Sequences:
    """The sequences of `step`: every middle stage in order.

    With `train.swap_ends` every second microbatch of the run visits the first two and the last two middle stages in
    swapped order, so that their weights learn each other's part (CheckFree+, arXiv 2506.15461). Three stages have
    one in the middle that belongs to both pairs: there the pairs take turns.
    """
    straight = tuple(range(1, config.model.stages + 1))
    if not config.train.swap_ends or len(straight) < 2:
        return (straight,)
    # Counted over the whole run: with one microbatch a step, every second step is swapped.
    microbatches = config.train.microbatches
    counts = range(step * microbatches, (step + 1) * microbatches)
    return tuple(_swapped(straight, count // 2) if count % 2 else straight for count in counts)


def sequence_of(sequences: Sequences, key: int) -> Sequence:
    """The middle stages that microbatch `key` of the step visits."""
    return sequences[key if len(sequences) > 1 else 0]


def _swapped(stages: Sequence, turn: int) -> Sequence:
    if len(stages) == 3 and turn % 2:
        first, second, last = stages
        return (first, last, second)
    first, second, *rest = stages
    if len(rest) < 2:
        return (second, first, *rest)
    *middle, before_last, last = rest
    return (second, first, *middle, last, before_last)
