"""One peer's copy of one stage: parameters, moments, the step's sum, and the move from step to step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from swarmtrain.compute.accumulate import Contribution, new_accumulator, square_sum
from swarmtrain.compute.flat import flat_digest
from swarmtrain.compute.inner import Buffers, Update, adamw
from swarmtrain.compute.stage import StageCompute
from swarmtrain.core.config import RunConfig
from swarmtrain.core.faultpoints import reached
from swarmtrain.core.messages import Commit, StageSum
from swarmtrain.core.schedule import clip_factor
from swarmtrain.core.types import Digest


@dataclass(slots=True)
class ReducedSum:
    """The sum over all replicas of a stage for one seal, and what REDUCED says of it."""

    total: Tensor
    facts: StageSum


class Replica:
    """State of one stage. Lane-only: no method may run beside another."""

    def __init__(self, config: RunConfig, stage: int, compute: StageCompute) -> None:
        self.stage, self.compute = stage, compute
        self._optimizer = config.optimizer
        self._accumulator = new_accumulator(config.train.accumulation, compute.flat.total)
        zeros = torch.zeros_like
        values = compute.flat.values
        self.current = Buffers(values, zeros(values), zeros(values))
        self._spare: Buffers | None = None
        self._is_shared = False

    @property
    def elements(self) -> int:
        return self.compute.flat.total

    @property
    def total(self) -> Tensor:
        """This replica's own sum of the step; int64 units in exact mode, fp32 in fast mode."""
        return self._accumulator.total

    def snapshot(self) -> Tensor:
        """The sum as it is now, for good (R5): whatever changes the sum later works on a copy."""
        self._is_shared = True
        return self._accumulator.total

    def add(self, contribution: Contribution) -> None:
        self._own_sum()
        self._accumulator.add(contribution)

    def retract(self, contribution: Contribution) -> None:
        self._own_sum()
        self._accumulator.retract(contribution)

    def _own_sum(self) -> None:
        if self._is_shared:
            self._accumulator.total = self._accumulator.total.clone()
            self._is_shared = False

    def sealed(self, total: Tensor, tokens: int) -> ReducedSum:
        """The facts of a reduced sum: digest and squared norm of the mean gradient."""
        square, exponent = square_sum(total, tokens)
        return ReducedSum(total, StageSum(self.stage, flat_digest(total), str(square), exponent))

    def apply(self, reduced: ReducedSum, commit: Commit, clip_norm: float) -> None:
        """Move to the next step in the second buffer; the old one stays as undo.

        A stage that saw no token keeps its parameters and moments (diloco.md section 5.3): Adam would go on in the old
        direction, and shrink the weights, for nothing. All replicas agreed on the norm that tells it. The bias
        corrections go by the steps of the island, not of the stage, so after such steps the next few move it less.
        Clears the sum in place: nobody reads a snapshot of a decided step any more.
        """
        after = self._spare if self._spare is not None else Buffers.like(self.current.parameters)
        update = Update(
            reduced.total, commit.tokens, clip_factor(commit.stages, clip_norm), commit.scalars
        )
        if reduced.facts.square_sum == "0":
            after.copy(self.current)
        else:
            spans = self.compute.flat.decayed_spans()
            adamw(self.current, after, update, spans, self._optimizer)
        reached("apply.middle")
        self.current, self._spare = after, self.current
        self.compute.flat.bind(after.parameters)
        self._accumulator.clear()
        self._is_shared = False

    def load(self, flats: Sequence[Tensor]) -> None:
        """Take over a whole state: parameters and both moments in the flat layout. Clears the sum."""
        for mine, theirs in zip(self.current.flats, flats, strict=True):
            if mine is not theirs:
                mine.copy_(theirs)
        self.compute.flat.bind(self.current.parameters)
        self._accumulator.clear()
        self._is_shared = False

    def digest(self) -> Digest:
        """SHA-256 of the flat parameters."""
        return flat_digest(self.current.parameters)
