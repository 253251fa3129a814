"""Split backward: the input gradient first, the weight gradients later, and the same bits as at once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swarmtrain.core.config import ModelSection
from swarmtrain.model.projection import Projection, weights_wait
from swarmtrain.model.stages import MiddleStage, build_middle

MODEL = ModelSection(stages=1, blocks_per_stage=2, width=32, heads=4, kv_heads=2, ffn_width=88)


@dataclass
class Case:
    module: nn.Module
    x_BTD: Tensor
    dy_BTD: Tensor

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.module.parameters())

    def at_once(self) -> list[Tensor]:
        y_BTD = self.module(self.x_BTD)
        return list(torch.autograd.grad(y_BTD, [self.x_BTD, *self.parameters], self.dy_BTD))

    def split(self) -> list[Tensor]:
        y_BTD = self.module(self.x_BTD)
        inputs = [self.x_BTD, *self.parameters]
        with weights_wait(self.parameters) as waiting:
            dx_BTD, *known = torch.autograd.grad(y_BTD, inputs, self.dy_BTD, allow_unused=True)
        return [dx_BTD, *waiting.complete(self.parameters, known)]


def case(module: nn.Module, width: int) -> Case:
    generator = torch.Generator().manual_seed(5)
    x_BTD = torch.randn(3, 7, width, generator=generator).requires_grad_()
    return Case(module, x_BTD, torch.randn(3, 7, width, generator=generator))


@pytest.fixture
def stage() -> MiddleStage:
    return build_middle(MODEL, 1, seed=3)


def test_a_stage_gets_equal_bits(stage: MiddleStage) -> None:
    mine = case(stage, MODEL.width)
    assert all(map(torch.equal, mine.at_once(), mine.split()))


def test_bits_are_those_of_torch_itself(
    stage: MiddleStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = case(stage, MODEL.width)
    ours = mine.at_once()
    monkeypatch.setattr(Projection, "forward", lambda self, x: F.linear(x, self.weight))
    assert all(map(torch.equal, ours, mine.at_once()))


class Shared(nn.Module):
    """One projection used twice: both parts belong to its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Projection(8, 8)
        nn.init.normal_(self.one.weight, generator=torch.Generator().manual_seed(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.one(torch.tanh(self.one(x)))


def test_a_shared_projection_gets_both_parts() -> None:
    mine = case(Shared(), 8)
    assert all(map(torch.equal, mine.at_once(), mine.split()))


def test_nothing_waits_outside_the_context(stage: MiddleStage) -> None:
    mine = case(stage, MODEL.width)
    with weights_wait(mine.parameters):
        pass
    assert len(mine.at_once()) == 1 + len(mine.parameters)


def test_weights_really_wait(stage: MiddleStage) -> None:
    """The input gradient must be there before any weight gradient is computed."""
    mine = case(stage, MODEL.width)
    weights = [parameter for parameter in mine.parameters if parameter.dim() == 2]
    y_BTD = stage(mine.x_BTD)
    with weights_wait(weights):
        gradients = torch.autograd.grad(y_BTD, weights, mine.dy_BTD, allow_unused=True)
    assert weights and all(gradient is None for gradient in gradients)


def test_weights_wait_in_threads_of_autograds_own(stage: MiddleStage) -> None:
    """Where tensors are on a GPU, autograd calls backwards in a thread of that device."""
    mine = case(stage, MODEL.width)
    y_BTD, inputs = stage(mine.x_BTD), [mine.x_BTD, *mine.parameters]
    with weights_wait(mine.parameters) as waiting, ThreadPoolExecutor(1) as device:
        backward = partial(torch.autograd.grad, y_BTD, inputs, mine.dy_BTD, allow_unused=True)
        dx_BTD, *known = device.submit(backward).result()
    matrices = [one for one, its in zip(known, mine.parameters, strict=True) if its.dim() == 2]
    assert matrices and all(gradient is None for gradient in matrices)
    whole = [dx_BTD, *waiting.complete(mine.parameters, known)]
    assert all(map(torch.equal, whole, mine.at_once()))


def test_waiting_gradients_carry_no_graph(stage: MiddleStage) -> None:
    assert not any(gradient.requires_grad for gradient in case(stage, MODEL.width).split())
