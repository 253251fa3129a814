"""A family of one's own, as a run owner would write it: gated blocks without attention."""

import torch
from torch import Tensor, nn

from swarmtrain.core.config import ModelSection


class GatedBlock(nn.Module):
    """x + down(tanh(up(norm(x))) * gate(norm(x))), mixed with the token before: (B, T, D) to (B, T, D)."""

    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.up = nn.Linear(width, ffn_width, bias=False)
        self.gate = nn.Linear(width, ffn_width, bias=False)
        self.down = nn.Linear(ffn_width, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        before_BTD = torch.cat([torch.zeros_like(x_BTD[:, :1]), x_BTD[:, :-1]], dim=1)
        normed_BTD = self.norm(x_BTD + before_BTD)
        return x_BTD + self.down(torch.tanh(self.up(normed_BTD)) * self.gate(normed_BTD))


class GatedFamily:
    """Named in a RUN.toml as model.family = "tests.model.own_family:GatedFamily"."""

    def build_block(self, model: ModelSection, layer_index: int) -> nn.Module:
        return GatedBlock(model.width, model.ffn_width)
