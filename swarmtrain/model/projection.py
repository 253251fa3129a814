"""A linear map whose weight gradient can wait: the input gradient is what other machines wait for.

The gradients are computed by the same two matrix products that autograd would call, on the same memory layouts, so
that whole and split backward give equal bits.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class WaitingGradients:
    """The weight gradients that a backward left out: their factors, in the order of the backward."""

    def __init__(self) -> None:
        self._factors: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, weight: Tensor, x: Tensor, dy: Tensor) -> None:
        self._factors.append((weight, x, dy))

    @torch.no_grad()
    def complete(
        self, parameters: Sequence[nn.Parameter], known: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """The gradient of every parameter, from `known` and from what waits here. Call it once."""
        gradients = {id(one): known[index] for index, one in enumerate(parameters)}
        for weight, x, dy in self._factors:
            gradient, earlier = weight_gradient(x, dy).to(weight.dtype), gradients[id(weight)]
            gradients[id(weight)] = gradient if earlier is None else earlier + gradient
        self._factors.clear()
        whole = [gradients[id(one)] for one in parameters]
        assert all(gradient is not None for gradient in whole), "a parameter without any part"
        return [gradient for gradient in whole if gradient is not None]


_waiting: dict[int, WaitingGradients] = {}
"""By the identity of their weight, as autograd calls backwards on a GPU in threads of its own."""


@contextmanager
def weights_wait(parameters: Iterable[nn.Parameter]) -> Iterator[WaitingGradients]:
    """Backwards inside leave the gradients of projections' weights among `parameters` to the yielded object."""
    waiting, weights = WaitingGradients(), [id(one) for one in parameters]
    _waiting.update(dict.fromkeys(weights, waiting))
    try:
        yield waiting
    finally:
        for weight in weights:
            del _waiting[weight]


def weight_gradient(x: Tensor, dy: Tensor) -> Tensor:
    """(outputs, inputs) from the projection's input (..., inputs) and output gradient (..., outputs).

    The product is taken in the type of `dy`, which under autocast is the narrower one.
    """
    return dy.reshape(-1, dy.shape[-1]).t().mm(x.reshape(-1, x.shape[-1]).to(dy.dtype))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(x, weight)
        return F.linear(x, weight)

    @staticmethod
    @once_differentiable
    def backward(context: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = context.saved_tensors
        needs_dx, needs_weight = context.needs_input_grad
        waiting = _waiting.get(id(weight))
        dx = None
        if needs_dx:
            # Autocast narrowed the factors in forward and is not on here; without it nothing is converted.
            dx = dy.reshape(-1, dy.shape[-1]).mm(weight.to(dy.dtype)).view(x.shape).to(x.dtype)
        if needs_weight and waiting is not None:
            waiting.add(weight, x.detach(), dy)
            return dx, None
        return dx, weight_gradient(x, dy).to(weight.dtype) if needs_weight else None


class Projection(nn.Module):
    """A linear map without bias. Unlike nn.Linear it does not draw from torch's global generator."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Linear.apply(x, self.weight)
        return y
