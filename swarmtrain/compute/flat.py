"""One stage's parameters as views of one flat fp32 tensor, so that sums, moments and digests share its layout."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from swarmtrain.core.layout import flat_layout
from swarmtrain.core.types import Digest


class FlatParameters:
    """Binds a module's parameters to a flat tensor. Every parameter starts on a 64-byte boundary.

    Alignment is part of the arithmetic: kernels may give other bits on unaligned memory.

    The flat tensor is always on the CPU, where sums, optimizer, digests and transfers work. With `elsewhere`, the
    module computes there, on a copy that `bind` brings up to date.
    """

    def __init__(self, module: nn.Module, elsewhere: torch.device | None = None) -> None:
        named = list(module.named_parameters())
        self.names = tuple(name for name, _ in named)
        self.shapes = tuple(tuple(parameter.shape) for _, parameter in named)
        self.offsets, self.total = flat_layout(self.shapes)
        self._parameters = [parameter for _, parameter in named]
        self._slots = {id(parameter): index for index, parameter in enumerate(self._parameters)}
        self.values = torch.zeros(self.total)
        for view, parameter in zip(self.views(self.values), self._parameters, strict=True):
            view.copy_(parameter.detach())
        self._copy = torch.empty(self.total, device=elsewhere) if elsewhere is not None else None
        self.bind(self.values)

    def views(self, flat: Tensor) -> list[Tensor]:
        """The parameters' shapes as views of `flat` (elements: `total`)."""
        return [
            flat[offset : offset + _elements(shape)].view(shape)
            for offset, shape in zip(self.offsets, self.shapes, strict=True)
        ]

    def bind(self, flat: Tensor) -> None:
        """Let the module compute with the values in `flat` from now on."""
        self.values = flat
        used = flat if self._copy is None else self._copy.copy_(flat)
        for view, parameter in zip(self.views(used), self._parameters, strict=True):
            parameter.data = view

    def spans(self, parameters: Sequence[nn.Parameter]) -> list[tuple[int, int]]:
        """`(offset, elements)` of each given parameter in the flat tensor."""
        slots = [self._slots[id(parameter)] for parameter in parameters]
        return [(self.offsets[slot], _elements(self.shapes[slot])) for slot in slots]

    def decayed_spans(self) -> list[tuple[int, int, bool]]:
        """`(offset, elements, decayed)` of every parameter; matrices are decayed, gains are not."""
        return [
            (offset, _elements(shape), len(shape) >= 2)
            for offset, shape in zip(self.offsets, self.shapes, strict=True)
        ]


def flat_digest(flat: Tensor) -> Digest:
    """SHA-256 of the raw little-endian bytes of a flat tensor, padding included."""
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).digest()


def _elements(shape: tuple[int, ...]) -> int:
    elements = 1
    for extent in shape:
        elements *= extent
    return elements
