"""The edge: its two positions, their parameter groups, and tied embeddings."""

import math

import pytest
import torch
from torch import Tensor

from swarmtrain.core.config import ModelSection
from swarmtrain.model.edge import EdgeStage
from swarmtrain.model.stages import build_edge

VOCAB_SIZE = 29


def make_edge(tied: bool) -> EdgeStage:
    return build_edge(ModelSection(width=16, heads=2, kv_heads=1, tied=tied), VOCAB_SIZE, seed=1)


def batch() -> tuple[Tensor, Tensor]:
    tokens_BT1 = torch.randint(VOCAB_SIZE, (3, 8), generator=torch.Generator().manual_seed(0))
    return tokens_BT1[:, :-1], tokens_BT1[:, 1:]


@pytest.mark.parametrize(
    ("tied", "names", "head_names"),
    [
        (False, ["embed.weight", "norm.weight", "head.weight"], ["norm.weight", "head.weight"]),
        (True, ["embed.weight", "norm.weight"], ["embed.weight", "norm.weight"]),
    ],
)
def test_names_and_groups(tied: bool, names: list[str], head_names: list[str]) -> None:
    edge = make_edge(tied)
    parameters = dict(edge.named_parameters())
    assert list(parameters) == names
    assert [name for name, _ in edge.embed_parameters()] == ["embed.weight"]
    assert [name for name, _ in edge.head_parameters()] == head_names
    for name, parameter in edge.embed_parameters() + edge.head_parameters():
        assert parameter is parameters[name]


def test_loss_is_the_sum_over_all_targets() -> None:
    edge = make_edge(tied=False)
    tokens_BT, targets_BT = batch()
    x_BTD = edge.embed(tokens_BT)
    assert torch.equal(x_BTD, edge.embed.weight[tokens_BT])
    loss = edge.loss_sum(x_BTD, targets_BT)
    logits_BTV = edge.logits(x_BTD)
    assert logits_BTV.shape == (3, 7, VOCAB_SIZE)
    chosen = logits_BTV.log_softmax(-1).gather(-1, targets_BT[..., None])
    torch.testing.assert_close(loss, -chosen.sum())
    assert (loss.dtype, loss.shape) == (torch.float32, ())
    assert loss.item() / 21 == pytest.approx(math.log(VOCAB_SIZE), rel=0.05)


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_of_both_positions_taken_apart_sum_to_those_taken_together(tied: bool) -> None:
    edge = make_edge(tied)
    tokens_BT, targets_BT = batch()
    edge.loss_sum(edge.embed(tokens_BT), targets_BT).backward()

    x_BTD = edge.embed(tokens_BT)
    boundary = x_BTD.detach().requires_grad_()
    head_names, head = zip(*edge.head_parameters(), strict=True)
    loss = edge.loss_sum(boundary, targets_BT)
    upstream, *head_gradients = torch.autograd.grad(loss, [boundary, *head])
    (embed_gradient,) = torch.autograd.grad(x_BTD, [edge.embed.weight], upstream)
    sums = dict(zip(head_names, head_gradients, strict=True))
    sums["embed.weight"] = sums.get("embed.weight", torch.zeros(())) + embed_gradient
    for name, parameter in edge.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(sums[name], parameter.grad)


def test_tied_head_follows_the_embedding() -> None:
    edge = make_edge(tied=True)
    x_BTD = torch.ones(1, 1, 16)
    before = edge.logits(x_BTD)
    with torch.no_grad():
        edge.embed.weight[5] *= 2
    after = edge.logits(x_BTD)
    torch.testing.assert_close(after[..., 5], 2 * before[..., 5])
    assert torch.equal(after[..., :5], before[..., :5])
