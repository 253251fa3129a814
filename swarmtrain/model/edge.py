"""Stage 0: the embedding that opens every route, and the final norm, head and loss that close it.

Embedding and head are separate positions of a route (rule R4) and may run on different peers, so they are
called apart and differentiated apart: each has its own graph and its own group of parameters. With tied
embeddings `embed.weight` is in both groups and its two gradients are added by the step protocol.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swarmtrain.core.config import ModelSection
from swarmtrain.model.blocks import INITIAL_STD, Norm
from swarmtrain.model.projection import Projection

NamedParameters = list[tuple[str, nn.Parameter]]


class Embedding(nn.Module):
    """Token ids to rows of a table. Unlike nn.Embedding it does not draw from torch's global generator."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, width))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return F.embedding(tokens_BT, self.weight)


class EdgeStage(nn.Module):
    """Parameters `embed.weight` (V, D), `norm.weight` (D) and, unless tied, `head.weight` (V, D).

    `embed(tokens_BT) -> x_BTD` is the first position of a route, `loss_sum` the last.
    """

    def __init__(self, model: ModelSection, vocab_size: int) -> None:
        super().__init__()
        self.embed = Embedding(vocab_size, model.width)
        self.norm = Norm(model.width, model.norm_epsilon)
        self.head = None if model.tied else Projection(model.width, vocab_size)

    def logits(self, x_BTD: Tensor) -> Tensor:
        """Unnormalised log probabilities of the next token, (B, T, V)."""
        weight_VD = self.embed.weight if self.head is None else self.head.weight
        return F.linear(self.norm(x_BTD), weight_VD)

    def loss_sum(self, x_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Cross entropy in nats, summed over all B x T targets: an fp32 scalar."""
        logits_NV = self.logits(x_BTD).flatten(0, 1).float()
        return F.cross_entropy(logits_NV, targets_BT.flatten(), reduction="sum")

    def embed_parameters(self) -> NamedParameters:
        """What `embed` uses, with the names of named_parameters()."""
        return [("embed.weight", self.embed.weight)]

    def head_parameters(self) -> NamedParameters:
        """What `logits` and `loss_sum` use, with the names of named_parameters()."""
        if self.head is None:
            return [("embed.weight", self.embed.weight), ("norm.weight", self.norm.weight)]
        return [("norm.weight", self.norm.weight), ("head.weight", self.head.weight)]


@torch.no_grad()
def initialise_edge(edge: EdgeStage, generator: torch.Generator) -> None:
    """Norm 1, embedding and head normal."""
    for parameter in edge.parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, INITIAL_STD, generator=generator)
