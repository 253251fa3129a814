"""How well the swarm fills its lanes, in virtual time: beside the ideal of 1F1B, and with early answers."""

import asyncio

import pytest

import swarmtrain.experiments.virtual as virtual_module
from swarmtrain.compute.lane import Task, VirtualLane
from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.types import EDGE_STAGE
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, simulate
from swarmtrain.peer.position import Positions

FORWARD_SECONDS, BACKWARD_SECONDS = 0.05, 0.1
KEYS = 8


class CheapEdge(VirtualLane):
    """Embedding and head cost next to nothing, as they do beside real stages."""

    def __init__(self, cost_seconds, observe=None) -> None:  # type: ignore[no-untyped-def]
        def cost(task: Task) -> float:
            return float(cost_seconds(task)) * (0.001 if task.stage == EDGE_STAGE else 1.0)

        super().__init__(cost, observe)


def config_of(stages: int) -> RunConfig:
    settings = ["model.width=16", "model.heads=2", "model.kv_heads=1", "model.ffn_width=16"]
    settings += [f"model.stages={stages}", f"train.microbatches={KEYS}", "run.steps=3"]
    settings += ["train.microbatch_size=1", "train.sequence_length=8", "optimizer.warmup_steps=0"]
    return load_config([], settings)


def step_seconds(layout: list[tuple[int, ...]]) -> float:
    """Virtual seconds of the last step; `layout` gives each peer's stages."""
    config = config_of(max(map(max, layout)))
    peers = tuple(VirtualPeer(f"p{index}", stages) for index, stages in enumerate(layout))
    scenario = Scenario(peers, 0.0005, 1e9, FORWARD_SECONDS, BACKWARD_SECONDS)
    run = simulate(config, scenario, load_corpus(config.data, None))
    return run.commits[-1].seconds


@pytest.mark.parametrize(
    ("layout", "stages_each", "most"),
    [
        ([(0, 1), (2,)], 1, 1.10),
        ([(0, 1, 2), (3, 4)], 2, 1.10),
        ([(0, 1), (2,), (3,), (4,)], 1, 1.10),
    ],
)
def test_a_step_takes_about_as_long_as_1f1b(
    monkeypatch: pytest.MonkeyPatch, layout: list[tuple[int, ...]], stages_each: int, most: float
) -> None:
    monkeypatch.setattr(virtual_module, "VirtualLane", CheapEdge)
    stage_seconds = stages_each * (FORWARD_SECONDS + BACKWARD_SECONDS)
    ideal_seconds = (KEYS + len(layout) - 1) * stage_seconds
    assert step_seconds(layout) <= most * ideal_seconds


def test_freeze_waits_for_what_was_answered_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weight gradients that take very long on one peer are neither lost nor computed again: no key is replayed."""
    backward = Positions.backward

    async def late(self, opening, entry, tape, early):  # type: ignore[no-untyped-def]
        work = await backward(self, opening, entry, tape, early)
        if entry.stage == 2:
            await asyncio.sleep(5.0)
        return work

    monkeypatch.setattr(Positions, "backward", late)
    config = config_of(2)
    layout = (VirtualPeer("p0", (0, 1)), VirtualPeer("p1", (2,)))
    run = simulate(config, Scenario(layout), load_corpus(config.data, None))
    kinds = {event.kind for _, _, event in run.events}
    assert len(run.commits) == config.run.steps
    assert "replayed" not in kinds and "duplicate_dropped" not in kinds
