"""One stage's forward and backward on this machine: what a peer computes for a position of a route.

Every function here runs on the compute lane, one at a time; what comes in and goes out is fp32 on the CPU, wherever
the stage is computed. Shapes: B microbatch, T sequence, D width, V vocab.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from swarmtrain.compute.accumulate import Contribution
from swarmtrain.compute.flat import FlatParameters
from swarmtrain.compute.place import HERE, Place
from swarmtrain.core.config import RunConfig
from swarmtrain.core.types import EDGE_STAGE
from swarmtrain.model.projection import weights_wait
from swarmtrain.model.stages import EdgeStage, build_edge, build_middle

Module = TypeVar("Module", bound=nn.Module)


@dataclass(slots=True)
class Tape:
    """What backward needs of a forward: input, output and the graph between them; `sent_BTD` is what others get."""

    x_BTD: Tensor | None
    y_BTD: Tensor
    sent_BTD: Tensor


class EdgeCompute:
    """Stage 0: embedding at position 0, final norm, head and loss at the last position."""

    def __init__(self, config: RunConfig, vocab_size: int, place: Place = HERE) -> None:
        self._place = place
        self.module: EdgeStage = build_edge(config.model, vocab_size, config.run.seed)
        self.flat = FlatParameters(_moved(self.module, place), place.device)
        self._embed = [parameter for _, parameter in self.module.embed_parameters()]
        self._head = [parameter for _, parameter in self.module.head_parameters()]
        self._embed_spans = self.flat.spans(self._embed)
        self._head_spans = self.flat.spans(self._head)

    def embed(self, tokens_BT: Tensor) -> Tape:
        y_BTD = self.module.embed(self._place.take(tokens_BT))
        return Tape(None, y_BTD, self._place.give(y_BTD))

    def embed_backward(self, tape: Tape, gradient_BTD: Tensor) -> Contribution:
        gradients = torch.autograd.grad(tape.y_BTD, self._embed, self._place.take(gradient_BTD))
        return Contribution(self._embed_spans, [self._place.give(one) for one in gradients])

    def loss(self, x_BTD: Tensor, targets_BT: Tensor) -> tuple[float, Tensor, Contribution]:
        """Summed loss in nats, its gradient for the input, and the head's contribution."""
        place = self._place
        x_BTD = place.take(x_BTD.detach()).requires_grad_()
        with place.arithmetic():
            loss = self.module.loss_sum(x_BTD, place.take(targets_BT))
        gradient_BTD, *gradients = map(place.give, torch.autograd.grad(loss, [x_BTD, *self._head]))
        return float(loss.detach()), gradient_BTD, Contribution(self._head_spans, gradients)


class MiddleCompute:
    """Stages 1..S: a run of blocks that maps x_BTD to y_BTD."""

    def __init__(self, config: RunConfig, stage: int, place: Place = HERE) -> None:
        self._place = place
        self.module: nn.Module = build_middle(config.model, stage, config.run.seed)
        self.flat = FlatParameters(_moved(self.module, place), place.device)
        self._parameters = list(self.module.parameters())
        self._spans = self.flat.spans(self._parameters)

    def forward(self, x_BTD: Tensor) -> Tape:
        x_BTD = self._place.take(x_BTD.detach()).requires_grad_()
        with self._place.arithmetic():
            y_BTD = self.module(x_BTD)
        return Tape(x_BTD, y_BTD, self._place.give(y_BTD))

    def backward(self, tape: Tape, gradient_BTD: Tensor) -> tuple[Tensor, Contribution]:
        """The input gradient and the contribution, from the output gradient."""
        input_gradient_BTD, rest = self.split_backward(tape, gradient_BTD)
        return input_gradient_BTD, rest()

    def split_backward(
        self, tape: Tape, gradient_BTD: Tensor
    ) -> tuple[Tensor, Callable[[], Contribution]]:
        """The input gradient, and what computes the contribution afterwards; equal bits to the whole."""
        assert tape.x_BTD is not None
        place, inputs = self._place, [tape.x_BTD, *self._parameters]
        gradient = place.take(gradient_BTD).to(tape.y_BTD.dtype)
        with weights_wait(self._parameters) as waiting:
            input_gradient_BTD, *known = torch.autograd.grad(
                tape.y_BTD, inputs, gradient, allow_unused=True
            )

        def rest() -> Contribution:
            gradients = waiting.complete(self._parameters, known)
            return Contribution(self._spans, [place.give(one) for one in gradients])

        return place.give(input_gradient_BTD), rest


def _moved(module: Module, place: Place) -> Module:
    return module if place.device is None else module.to(place.device)


StageCompute = EdgeCompute | MiddleCompute


def build_compute(
    config: RunConfig, vocab_size: int, stage: int, place: Place = HERE
) -> StageCompute:
    """The compute of `stage` with its initial parameters, which follow from (seed, stage) alone."""
    if stage == EDGE_STAGE:
        return EdgeCompute(config, vocab_size, place)
    return MiddleCompute(config, stage, place)
