"""Families of one's own: a good one trains, bad ones are refused with a reason, none comes from the network."""

import sys
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from swarmtrain.core.config import ModelSection
from swarmtrain.core.errors import ModelError
from swarmtrain.model import registry
from swarmtrain.model.edge import EdgeStage, initialise_edge
from swarmtrain.model.registry import check_family, load_family
from swarmtrain.model.stages import build_edge, build_middle, stage_parameter_shapes

MODEL = ModelSection(family="homemade:Family", stages=2, blocks_per_stage=2, width=12, heads=2)


class Residual(nn.Module):
    """A block as a newcomer would write it: nn.Linear with its own initial values."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD + self.down(torch.relu(self.up(self.norm(x_BTD))))


class OwnEdge(EdgeStage):
    """Scales the logits."""

    def __init__(self, model: ModelSection, vocab_size: int) -> None:
        super().__init__(model, vocab_size)
        self.scale = nn.Parameter(torch.ones(()))
        if self.embed.weight.device.type != "meta":
            initialise_edge(self, torch.Generator().manual_seed(torch.initial_seed()))

    def logits(self, x_BTD: Tensor) -> Tensor:
        return super().logits(x_BTD) * self.scale


class Good:
    def build_block(self, model: ModelSection, layer_index: int) -> nn.Module:
        return Residual(model.width, 20)


class GoodWithEdge(Good):
    def build_edge(self, model: ModelSection, vocab_size: int) -> EdgeStage:
        return OwnEdge(model, vocab_size)


def family_of(build: Callable[[ModelSection, int], object]) -> type:
    return type("Made", (), {"build_block": lambda self, model, index: build(model, index)})


class Narrowing(Residual):
    def forward(self, x_BTD: Tensor) -> Tensor:
        return super().forward(x_BTD)[..., :-1]


class HalfPrecise(Residual):
    def forward(self, x_BTD: Tensor) -> Tensor:
        return super().forward(x_BTD).bfloat16()


class Idle(Residual):
    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD + self.norm(x_BTD)


class Absorbing(Residual):
    def forward(self, x_BTD: Tensor) -> Tensor:
        return super().forward(torch.zeros_like(x_BTD))


class Pair(Residual):
    def forward(self, x_BTD: Tensor) -> Tensor:
        return super().forward(x_BTD), x_BTD  # type: ignore[return-value]


class Remembering(Residual):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden)
        self.register_buffer("mean", torch.zeros(width))


def frozen(model: ModelSection, index: int) -> nn.Module:
    return Residual(model.width, 20).requires_grad_(False)


def failing(model: ModelSection, index: int) -> nn.Module:
    raise ZeroDivisionError("no such layer")


BAD = [
    (lambda model, index: Residual(model.width, 20 + index), "layer 1 has other parameters"),
    (lambda model, index: Narrowing(model.width, 20), r"maps \(2, 8, 12\) .* to \(2, 8, 11\)"),
    (lambda model, index: HalfPrecise(model.width, 20), "to .* torch.bfloat16"),
    (lambda model, index: Idle(model.width, 20), "up.weight has no part in the output"),
    (lambda model, index: Absorbing(model.width, 20), "the input has no part in the output"),
    (lambda model, index: Pair(model.width, 20), "to tuple"),
    (lambda model, index: Remembering(model.width, 20), "mean is state beside the parameters"),
    (lambda model, index: Residual(model.width + 1, 20), "forward of a .* input raises"),
    (lambda model, index: Residual(model.width, 20).double(), "is not trained in fp32"),
    (frozen, "is not trained in fp32"),
    (failing, "building layer 0 raises ZeroDivisionError"),
    (lambda model, index: "block", "build_block returns str"),
]


@pytest.fixture
def homemade(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An importable module `homemade`; what gets registered is forgotten after the test."""
    monkeypatch.setattr(registry, "_families", dict(registry._families))
    module = types.ModuleType("homemade")
    monkeypatch.setitem(sys.modules, "homemade", module)
    return module


def test_the_built_in_family_keeps_its_contract() -> None:
    check_family(load_family("llama"), ModelSection(stages=2, blocks_per_stage=3))


@pytest.mark.parametrize("family", [Good, GoodWithEdge])
def test_good_family_is_built_alike_by_everyone(homemade: types.ModuleType, family: type) -> None:
    homemade.Family = family  # type: ignore[attr-defined]
    check_family(load_family(MODEL.family, allow_import=True), MODEL)
    before = torch.random.get_rng_state()
    edge, first, second = (
        build_edge(MODEL, 7, 1),
        build_middle(MODEL, 1, 1),
        build_middle(MODEL, 2, 1),
    )
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(5)
    for built, again in [(edge, build_edge(MODEL, 7, 1)), (second, build_middle(MODEL, 2, 1))]:
        for ours, theirs in zip(built.parameters(), again.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    assert not torch.equal(first.blocks[0].up.weight, second.blocks[0].up.weight)  # type: ignore[union-attr,arg-type]
    for stage, module in enumerate([edge, first]):
        shapes = [(name, tuple(p.shape)) for name, p in module.named_parameters()]
        assert stage_parameter_shapes(MODEL, 7, stage) == shapes
    assert ("scale" in dict(edge.named_parameters())) == (family is GoodWithEdge)


@pytest.mark.parametrize(("build", "says"), BAD)
def test_bad_family(build: Callable[[ModelSection, int], object], says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        check_family(family_of(build)(), MODEL)
    assert caught.value.remedy


def test_edge_must_be_an_edge_stage() -> None:
    family = Good()
    family.build_edge = lambda model, vocab_size: nn.Linear(2, 2)  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="no EdgeStage"):
        check_family(family, MODEL)


def test_checking_leaves_the_global_generator_alone() -> None:
    def build(model: ModelSection, index: int) -> nn.Module:
        torch.rand(3, device="cpu")
        return Residual(model.width, 20)

    before = torch.random.get_rng_state()
    check_family(family_of(build)(), MODEL)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_name_from_the_network_imports_nothing(homemade: types.ModuleType) -> None:
    homemade.Family = Good  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="not told to trust it"):
        load_family(MODEL.family)
    with pytest.raises(ModelError, match="not told to trust it"):
        build_middle(MODEL, 1, 1)
    loaded = load_family(MODEL.family, allow_import=True)
    assert load_family(MODEL.family) is loaded


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpt", "is not known"),
        ("homemade:", "is not known"),
        (":Family", "is not known"),
        ("nowhere.at.all:Family", "ModuleNotFoundError"),
        ("homemade:Missing", "AttributeError"),
        ("homemade:Needy", "TypeError"),
        ("homemade:Empty", "no method build_block"),
    ],
)
def test_family_that_cannot_be_loaded(homemade: types.ModuleType, name: str, says: str) -> None:
    homemade.Needy = type("Needy", (), {"__init__": lambda self, size: None})  # type: ignore[attr-defined]
    homemade.Empty = type("Empty", (), {})  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=says) as caught:
        load_family(name, allow_import=True)
    assert caught.value.remedy
