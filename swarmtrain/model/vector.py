"""The smallest model that can show a wrong count: for simulations that run the protocol tens of thousands of times.

A block is one parameter vector and an elementwise map, the edge a table of rows and a linear head without a norm. It
learns little and slowly, but every gradient depends on all weights before and after it and on the samples, so that a
contribution which is missing, repeated or of another step changes bits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swarmtrain.core.config import ModelSection
from swarmtrain.model.edge import EdgeStage, Embedding, NamedParameters
from swarmtrain.model.projection import Projection

INITIAL_STD = 0.5


class VectorBlock(nn.Module):
    """x + weight * tanh(x): (B, T, D) to (B, T, D). Parameter `weight` (D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        return torch.addcmul(x_BTD, self.weight, x_BTD.tanh())


class VectorEdge(EdgeStage):
    """Parameters `embed.weight` (V, D) and, unless tied, `head.weight` (V, D); no norm."""

    def __init__(self, model: ModelSection, vocab_size: int) -> None:
        nn.Module.__init__(self)
        self.embed = Embedding(vocab_size, model.width)
        self.head = None if model.tied else Projection(model.width, vocab_size)

    def logits(self, x_BTD: Tensor) -> Tensor:
        return F.linear(x_BTD, self._head_weight_VD)

    def head_parameters(self) -> NamedParameters:
        name = "embed.weight" if self.head is None else "head.weight"
        return [(name, self._head_weight_VD)]

    @property
    def _head_weight_VD(self) -> nn.Parameter:
        return self.embed.weight if self.head is None else self.head.weight


class VectorFamily:
    """`model.family = "vector"`; heads, ffn_width and rope_base mean nothing to it."""

    def build_block(self, model: ModelSection, layer_index: int) -> nn.Module:
        return VectorBlock(model.width)

    def initialise_block(
        self, block: VectorBlock, model: ModelSection, generator: torch.Generator
    ) -> None:
        with torch.no_grad():
            block.weight.normal_(0.0, INITIAL_STD, generator=generator)

    def build_edge(self, model: ModelSection, vocab_size: int) -> EdgeStage:
        edge = VectorEdge(model, vocab_size)
        with torch.no_grad():
            for parameter in edge.parameters():
                parameter.normal_(0.0, INITIAL_STD)
        return edge
