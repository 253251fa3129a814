"""The family for simulations: small, within the contract, and sensitive to every contribution."""

import torch

from swarmtrain.core.config import ModelSection
from swarmtrain.experiments.virtual import peers
from swarmtrain.model.registry import BUILT_IN, check_family, load_family
from swarmtrain.model.stages import build_edge, build_middle, stage_parameter_shapes
from swarmtrain.model.vector import VectorEdge
from tests.experiments.runs import known_reference, sha_of, small_config, virtual

MODEL = ModelSection(family="vector", stages=2, width=6, heads=1, kv_heads=1)
TIED = MODEL.model_copy(update={"tied": True})


def test_it_is_built_in_and_keeps_the_contract():
    assert "vector" in BUILT_IN
    check_family(load_family("vector"), MODEL)
    check_family(load_family("vector"), TIED)


def test_a_stage_is_one_vector_and_the_edge_two_tables():
    assert stage_parameter_shapes(MODEL, 11, 1) == [("blocks.0.weight", (6,))]
    assert [shape for _, shape in stage_parameter_shapes(MODEL, 11, 0)] == [(11, 6), (11, 6)]
    assert [shape for _, shape in stage_parameter_shapes(TIED, 11, 0)] == [(11, 6)]


def test_gradients_depend_on_weights_and_inputs():
    edge = build_edge(MODEL, 11, seed=1)
    assert isinstance(edge, VectorEdge)

    def gradients(token: int, other_seed: int) -> list[torch.Tensor]:
        stages = [build_middle(MODEL, stage, seed=other_seed) for stage in (1, 2)]
        x_BTD = edge.embed(torch.tensor([[token, 3]]))
        for stage in stages:
            x_BTD = stage(x_BTD)
        loss = edge.loss_sum(x_BTD, torch.tensor([[3, 4]]))
        wanted = [edge.embed.weight, *(p for _, p in edge.head_parameters())]
        wanted += [p for stage in stages for p in stage.parameters()]
        return list(torch.autograd.grad(loss, wanted))

    base = gradients(1, 1)
    for changed in (gradients(2, 1), gradients(1, 2)):
        assert all(not torch.equal(a, b) for a, b in zip(base, changed, strict=True))


def test_the_swarm_ends_with_the_parameters_of_the_plain_loop():
    for tied in ("false", "true"):
        config = small_config(
            "model.family=vector", "model.width=20", "model.heads=2", f"model.tied={tied}", steps=3
        )
        run, yardstick = virtual(config, peers(3)), known_reference(config)
        assert sha_of(run) == yardstick.parameters_sha256
        assert len(set(yardstick.losses)) == 3, "steps must differ, or later ones show nothing"
