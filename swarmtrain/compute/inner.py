"""The inner optimizer: AdamW over flat tensors, one pinned implementation for swarm and reference.

Fused and single-tensor AdamW differ in the last bits (protocol.md, answer c), so there is only this one. It
reads one set of buffers and writes another: the step before stays as undo until a majority is ready (R10).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from swarmtrain.compute.accumulate import mean_gradient
from swarmtrain.core.closing import Scalars
from swarmtrain.core.config import OptimizerSection

_CHUNK_ELEMENTS = 65536


@dataclass(slots=True)
class Buffers:
    """Parameters and both Adam moments of a stage, flat fp32."""

    parameters: Tensor
    moment1: Tensor
    moment2: Tensor

    @property
    def flats(self) -> tuple[Tensor, Tensor, Tensor]:
        """Parameters, first and second moment."""
        return self.parameters, self.moment1, self.moment2

    @staticmethod
    def like(parameters: Tensor) -> "Buffers":
        return Buffers(*(torch.zeros_like(parameters) for _ in range(3)))

    def copy(self, other: "Buffers") -> None:
        for mine, theirs in zip(self.flats, other.flats, strict=True):
            mine.copy_(theirs)


@dataclass(frozen=True, slots=True)
class Update:
    """What one step applies: the summed gradient, its divisor, and the scalars all replicas share."""

    total: Tensor
    tokens: int
    clip: float
    scalars: Scalars


def adamw(
    before: Buffers,
    after: Buffers,
    update: Update,
    spans: Iterable[tuple[int, int, bool]],
    optimizer: OptimizerSection,
) -> None:
    """Decoupled weight decay AdamW (Loshchilov and Hutter, 2019) from `before` into `after`.

    `spans` are `(offset, elements, decayed)`. The gradient of an exact sum is sum -> fp64 mean -> x clip -> fp32,
    in this order; a fast sum stays in fp32.
    """
    mean_buffer = torch.empty(_CHUNK_ELEMENTS, dtype=torch.float64)
    gradient_buffer, scratch = torch.empty(_CHUNK_ELEMENTS), torch.empty(_CHUNK_ELEMENTS)
    rate, scalars = update.scalars.learning_rate, update.scalars
    for offset, elements, decayed in spans:
        keep = 1.0 - rate * optimizer.weight_decay if decayed else 1.0
        for start in range(offset, offset + elements, _CHUNK_ELEMENTS):
            piece = slice(start, min(start + _CHUNK_ELEMENTS, offset + elements))
            size = piece.stop - piece.start
            gradient = gradient_buffer[:size]
            if update.total.dtype == torch.float32:
                torch.mul(update.total[piece], update.clip / update.tokens, out=gradient)
            else:
                mean = mean_gradient(update.total[piece], update.tokens, mean_buffer)
                gradient.copy_(mean.mul_(update.clip))
            moment1, moment2 = after.moment1[piece], after.moment2[piece]
            torch.mul(before.moment1[piece], optimizer.beta1, out=moment1)
            moment1.add_(gradient, alpha=1.0 - optimizer.beta1)
            torch.mul(before.moment2[piece], optimizer.beta2, out=moment2)
            moment2.add_(gradient.square_(), alpha=1.0 - optimizer.beta2)
            root = torch.div(moment2, scalars.bias_correction2, out=scratch[:size]).sqrt_()
            root.add_(optimizer.epsilon)
            step = torch.div(moment1, root, out=gradient)
            torch.mul(before.parameters[piece], keep, out=after.parameters[piece])
            after.parameters[piece].add_(step, alpha=-rate / scalars.bias_correction1)
