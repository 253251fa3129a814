"""One Llama decoder block: RMSNorm, rotary positions, grouped-query attention, SwiGLU; no biases, no dropout.

Shape legend, used as a suffix of every tensor's name:
    B batch   T sequence   D width   H heads   K kv heads   C head width (D / H)   F ffn width   V vocabulary

    x + attention(norm(x)), then x + ffn(norm(x)); layouts and the rotary halves are those of Hugging Face Llama,
    so export is a renaming. Parameters are left empty by the constructors: see `initialise_block`.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swarmtrain.core.config import ModelSection
from swarmtrain.model.projection import Projection

INITIAL_STD = 0.02


class Norm(nn.Module):
    """Root-mean-square norm over the last dimension, with a gain."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.epsilon = epsilon

    def forward(self, x_BTD: Tensor) -> Tensor:
        return F.rms_norm(x_BTD, self.weight.shape, self.weight, self.epsilon)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions 0..T-1."""

    def __init__(self, model: ModelSection) -> None:
        super().__init__()
        self.head_width = model.width // model.heads
        self.rope_base = model.rope_base
        self.query = Projection(model.width, model.heads * self.head_width)
        self.key = Projection(model.width, model.kv_heads * self.head_width)
        self.value = Projection(model.width, model.kv_heads * self.head_width)
        self.output = Projection(model.heads * self.head_width, model.width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        heads = (-1, self.head_width)
        rope = rope_tables(x_BTD.shape[1], self.head_width, self.rope_base, x_BTD.device)
        q_BTHC = rotate(self.query(x_BTD).unflatten(-1, heads), *rope)
        k_BTKC = rotate(self.key(x_BTD).unflatten(-1, heads), *rope)
        v_BTKC = self.value(x_BTD).unflatten(-1, heads)
        y_BHTC = F.scaled_dot_product_attention(
            q_BTHC.transpose(1, 2),
            k_BTKC.transpose(1, 2),
            v_BTKC.transpose(1, 2),
            is_causal=True,
            enable_gqa=True,
        )
        return self.output(y_BHTC.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.gate = Projection(width, ffn_width)
        self.up = Projection(width, ffn_width)
        self.down = Projection(ffn_width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))


class Block(nn.Module):
    """One decoder block: (B, T, D) to (B, T, D)."""

    def __init__(self, model: ModelSection) -> None:
        super().__init__()
        self.attention_norm = Norm(model.width, model.norm_epsilon)
        self.attention = Attention(model)
        self.ffn_norm = Norm(model.width, model.norm_epsilon)
        self.ffn = FeedForward(model.width, model.ffn_width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        return x_BTD + self.ffn(self.ffn_norm(x_BTD))


@lru_cache(maxsize=8)
def rope_tables(
    sequence_length: int, head_width: int, base: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine of the rotary angles, fp32, (T, 1, C) each, kept for the lengths last used.

    The angles are worked out in fp64, where libraries agree to well below an fp32 digit.
    """
    # A table made under inference_mode could never enter a graph that is kept for backward.
    with torch.inference_mode(False), torch.no_grad():
        pair_C = torch.arange(0, head_width, 2, dtype=torch.float64, device="cpu")
        position_T = torch.arange(sequence_length, dtype=torch.float64, device="cpu")
        angle_TC = torch.outer(position_T, base ** (-pair_C / head_width))
        cos_TC, sin_TC = angle_TC.cos(), angle_TC.sin()
        cos_T1C = torch.cat((cos_TC, cos_TC), -1)[:, None].float().to(device)
        sin_T1C = torch.cat((-sin_TC, sin_TC), -1)[:, None].float().to(device)
    return cos_T1C, sin_T1C


def rotate(x_BTHC: Tensor, cos_T1C: Tensor, sin_T1C: Tensor) -> Tensor:
    """Rotate the pairs (c, c + C/2) of every head by its position's angles; keeps the dtype."""
    turned_BTHC = x_BTHC * cos_T1C + x_BTHC.roll(x_BTHC.shape[-1] // 2, -1) * sin_T1C
    return turned_BTHC.to(x_BTHC.dtype)


@torch.no_grad()
def initialise_block(block: Block, model: ModelSection, generator: torch.Generator) -> None:
    """Norms 1, weights normal; the two projections into the residual stream are scaled by 1/sqrt(2 layers)."""
    residual_std = INITIAL_STD / math.sqrt(2 * model.stages * model.blocks_per_stage)
    residual = (block.attention.output.weight, block.ffn.down.weight)
    for parameter in block.parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            std = residual_std if any(parameter is one for one in residual) else INITIAL_STD
            parameter.normal_(0.0, std, generator=generator)
