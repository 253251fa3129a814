"""What a conductor must know of the run that it conducts."""

from collections.abc import Callable
from dataclasses import dataclass

from swarmtrain.core.messages import Commit, Prepared, Scalars
from swarmtrain.core.types import Digest
from swarmtrain.steps.restoring import RecoveryPolicy


@dataclass(frozen=True, slots=True)
class Plan:
    """What a conductor must know of the run. `tokens` is the divisor of a whole step."""

    steps: int
    stages: int
    microbatches: int
    tokens: int
    sequences: Callable[[int], tuple[tuple[int, ...], ...]]
    scalars: Callable[[int], Scalars]
    recovery: RecoveryPolicy

    def commit(self, prepared: Prepared, step: int, base: Digest) -> Commit:
        """The decision that the conductor of the prepared seal would have sent."""
        return Commit(
            term=prepared.term,
            step=step,
            seal=prepared.seal,
            base=base,
            roster=prepared.roster,
            stages=prepared.stages,
            scalars=self.scalars(step),
            tokens=self.tokens,
            loss=prepared.loss,
            void=prepared.void,
        )
