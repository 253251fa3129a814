"""What a member's payloads left out, or what a round lost, kept to be sent later (error feedback).

As in SparseLoCo (arXiv 2508.15706, algorithm 1): what is sent is encoded from the pseudo-gradient plus the
kept share of the residual, and the residual is what the payload then lacks. Feedback helped no codec under
outer Nesterov 0.7 / 0.9 in our measurements, so `Codec.error_feedback` is on for top-k alone, to be used
without outer momentum. A payload that missed its round is put back either way.
"""

import torch
from torch import Tensor

from swarmtrain.core.errors import StateError
from swarmtrain.wire.tensors import is_finite


class Residual:
    """The residual of one fragment in one island: float32 [elements], zero at first and after a move.

    `take` before encoding, `sent` after, and `restore` should the round end without the payload, also
    when the next one was taken meanwhile. Belongs to the island: its replicas of the stage have it alike,
    and no other island may have it.
    """

    def __init__(self, elements: int, feedback: bool, kept_share: float = 0.95) -> None:
        """`feedback` keeps what payloads leave out, `kept_share` of it from round to round."""
        self.feedback = feedback
        self.kept_share = kept_share
        self._left_out = torch.zeros(elements)
        self._lost = torch.zeros(elements)

    @property
    def flats(self) -> tuple[Tensor, Tensor]:
        """What payloads left out, and what rounds lost: float32 [elements] each, as they are kept here."""
        return self._left_out, self._lost

    @property
    def value(self) -> Tensor:
        """All that is still to be sent: float32 [elements], a copy."""
        return self._left_out + self._lost

    def take(self, delta: Tensor, rate_ratio: float = 1.0) -> Tensor:
        """What to encode now: `delta` (float32 [elements]) and the residual, which is then empty.

        `rate_ratio` is the inner learning rate now over that of the last payload: without it a residual
        made at a high rate is replayed at full size when the rate has decayed. Leave it at 1 where there
        is no outer momentum. Raises StateError, with nothing changed, when `delta` is not finite.
        """
        _check_finite(delta, "leave this stage out of the round")
        # In place, as memory that is touched first costs more than the arithmetic.
        taken = (self._left_out * self.kept_share).add_(self._lost).mul_(rate_ratio).add_(delta)
        self.clear()
        return taken

    def sent(self, taken: Tensor, decoded: Tensor) -> None:
        """What `take` gave is on its way, and `decoded` is what the others read.

        Raises StateError, with nothing changed, when `decoded` is not finite, as `taken` was beyond the
        codec's range.
        """
        _check_finite(decoded, "do not send it: restore what was taken, and take another codec")
        if self.feedback:
            torch.sub(taken, decoded, out=self._left_out)

    def restore(self, decoded: Tensor) -> None:
        """The payload that decodes to `decoded` did not make the commit list: send it again, whole.

        Once for a payload. What it had left out stays in the residual as well, where feedback is on.
        """
        self._lost += decoded

    def clear(self) -> None:
        """All of it has been counted: nothing is to be sent later."""
        self._left_out.zero_()
        self._lost.zero_()


def _check_finite(values: Tensor, remedy: str) -> None:
    if not is_finite(values):
        raise StateError(
            "values that are not finite have no residual",
            "a pseudo-gradient, or what is decoded from it, holds infinity or NaN",
            remedy,
        )
