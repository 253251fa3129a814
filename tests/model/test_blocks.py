"""The decoder block against plain formulas: attention, rotary positions, causality, initial values."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from swarmtrain.core.config import ModelSection
from swarmtrain.model.blocks import (
    INITIAL_STD,
    Attention,
    Block,
    Norm,
    initialise_block,
    rope_tables,
    rotate,
)

MODEL = ModelSection(stages=3, blocks_per_stage=2, width=48, heads=6, kv_heads=2, ffn_width=80)
CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_block() -> Block:
    block = Block(MODEL)
    initialise_block(block, MODEL, generator())
    return block


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(1))


def naive_attention(attention: Attention, x_BTD: Tensor) -> Tensor:
    """Head by head, in fp64, with complex rotations: nothing shared with the module but its weights."""
    x = x_BTD.double()
    sequence_length, half = x.shape[1], attention.head_width // 2
    group = MODEL.heads // MODEL.kv_heads
    angle = torch.outer(
        torch.arange(sequence_length).double(),
        MODEL.rope_base ** (-torch.arange(half).double() / half),
    )
    turn = torch.polar(torch.ones_like(angle), angle)

    def head(weight: Tensor, number: int, turned: bool) -> Tensor:
        rows = weight.double()[number * 2 * half : (number + 1) * 2 * half]
        values = x @ rows.T
        if not turned:
            return values
        pairs = torch.complex(values[..., :half], values[..., half:]) * turn
        return torch.cat((pairs.real, pairs.imag), -1)

    mask = torch.ones(sequence_length, sequence_length).tril().bool()
    heads = []
    for h in range(MODEL.heads):
        query = head(attention.query.weight, h, turned=True)
        key = head(attention.key.weight, h // group, turned=True)
        value = head(attention.value.weight, h // group, turned=False)
        scores = query @ key.transpose(1, 2) / math.sqrt(2 * half)
        heads.append(scores.masked_fill(~mask, -math.inf).softmax(-1) @ value)
    return torch.cat(heads, -1) @ attention.output.weight.double().T


def test_attention_equals_the_naive_one_with_gradients() -> None:
    attention = make_block().attention
    x_BTD = randn(2, 11, MODEL.width).requires_grad_()
    weights = list(attention.parameters())
    for weight in weights:
        weight.data *= 20  # sharp scores, so that a wrong mask or group shows
    ours, theirs = attention(x_BTD), naive_attention(attention, x_BTD)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
    upstream = randn(*ours.shape)
    gradients = torch.autograd.grad(ours, [x_BTD, *weights], upstream)
    expected = torch.autograd.grad(theirs, [x_BTD, *weights], upstream.double())
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_block_is_causal() -> None:
    block = make_block()
    x_BTD = randn(1, 10, MODEL.width)
    changed = x_BTD.clone()
    changed[:, 6] += 1.0
    with torch.no_grad():
        before, after = block(x_BTD), block(changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_rotated_products_depend_on_distance_alone() -> None:
    cos_T1C, sin_T1C = rope_tables(64, 8, 10_000.0, CPU)
    query = rotate(randn(8).expand(1, 64, 1, 8), cos_T1C, sin_T1C)[0, :, 0]
    key = rotate(randn(16)[8:].expand(1, 64, 1, 8), cos_T1C, sin_T1C)[0, :, 0]
    products = query @ key.T
    for distance in (0, 1, 17):
        diagonal = products.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
    assert not torch.allclose(products[0, 0], products[17, 0], atol=1e-3)


def test_rotation_keeps_length_dtype_and_place_zero() -> None:
    tables = rope_tables(5, 8, 10_000.0, CPU)
    x_BTHC = randn(2, 5, 3, 8)
    turned = rotate(x_BTHC, *tables)
    torch.testing.assert_close(turned.norm(dim=-1), x_BTHC.norm(dim=-1))
    assert torch.equal(turned[:, 0], x_BTHC[:, 0])
    assert rotate(x_BTHC.bfloat16(), *tables).dtype == torch.bfloat16


def test_tables_first_made_without_gradients_serve_training_later() -> None:
    rope_tables.cache_clear()
    block = make_block()
    x_BTD = randn(1, 7, MODEL.width).requires_grad_()
    with torch.inference_mode():
        block(x_BTD)
    block(x_BTD).sum().backward()
    assert x_BTD.grad is not None


def test_tables_are_real_also_under_the_meta_device() -> None:
    rope_tables.cache_clear()
    with torch.device("meta"):
        cos_T1C, _ = rope_tables(4, 8, 10_000.0, CPU)
    assert cos_T1C.device == CPU


def test_norm_formula() -> None:
    norm = Norm(6, 1e-2)
    norm.weight.data = randn(6)
    x = randn(3, 6)
    expected = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-2) * norm.weight
    torch.testing.assert_close(norm(x), expected)


def test_feed_forward_formula() -> None:
    ffn = make_block().ffn
    x = randn(3, MODEL.width)
    gate, up = x @ ffn.gate.weight.T, x @ ffn.up.weight.T
    torch.testing.assert_close(ffn(x), (F.sigmoid(gate) * gate * up) @ ffn.down.weight.T)


@pytest.mark.parametrize("residual", [True, False])
def test_initial_spread(residual: bool) -> None:
    block = make_block()
    assert torch.equal(block.attention_norm.weight, torch.ones(MODEL.width))
    if residual:
        weights = [block.attention.output.weight, block.ffn.down.weight]
    else:
        weights = [block.attention.query.weight, block.attention.key.weight, block.ffn.up.weight]
    std = INITIAL_STD / math.sqrt(2 * 6) if residual else INITIAL_STD
    for weight in weights:
        assert weight.std().item() == pytest.approx(std, rel=0.1)
        assert abs(weight.mean().item()) < std / 10
