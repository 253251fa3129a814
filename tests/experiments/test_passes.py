"""What virtual time charges for passes over a stage's values: updates, and contributions coded, summed and merged."""

import asyncio
from dataclasses import replace

import pytest

from swarmtrain.compute.lane import Kind, Task
from swarmtrain.core.config import ModelSection, RunConfig
from swarmtrain.core.events import RoundChosen, StepCommitted
from swarmtrain.core.sizes import stage_parameters
from swarmtrain.experiments.costs import Charged
from swarmtrain.experiments.figures import Figures
from swarmtrain.experiments.machines import MachineLoop
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, VirtualRun, play
from tests.experiments.island_worlds import config_of
from tests.experiments.runs import corpus, small_config

PASS_SECONDS = 1e-5
PEERS = tuple(VirtualPeer(str(island), (0, 1, 2), island=island) for island in range(2))
INNER, DELAY, STEPS = 6, 3, 20


def run_with(config: RunConfig, pass_seconds: float) -> VirtualRun:
    scenario = Scenario(PEERS, pass_seconds=pass_seconds)

    async def main() -> VirtualRun:
        return await play(config, scenario, corpus(), None)

    with asyncio.Runner(loop_factory=MachineLoop) as runner:
        return runner.run(main())


def seconds_by_step(run: VirtualRun) -> dict[int, float]:
    """Of one island."""
    found = [(peer, e) for _, peer, e in run.events if isinstance(e, StepCommitted)]
    return {e.step: e.seconds for peer, e in found if peer == found[0][0]}


def first_chosen_seconds(run: VirtualRun) -> float:
    """The result of the second round of the edge stage, since the first step was committed."""
    begin = next(at for at, _, e in run.events if isinstance(e, StepCommitted))
    return next(
        at - begin
        for at, _, e in run.events
        if isinstance(e, RoundChosen) and (e.stage, e.round) == (0, 0)
    )


def test_a_step_takes_a_pass_for_its_update_two_for_a_contribution_and_one_for_a_result() -> None:
    config = config_of(f"outer.inner_steps={INNER}", f"outer.delay_steps={DELAY}", steps=STEPS)
    free, charged = run_with(config, 0.0), run_with(config, PASS_SECONDS)
    vocabulary = corpus().tokenizer.vocab_size
    elements = sum(stage_parameters(config.model, vocabulary, stage) for stage in range(3))
    before, after = seconds_by_step(free), seconds_by_step(charged)
    passes = {
        step: (after[step] - before[step]) / (elements * PASS_SECONDS) for step in range(1, 15)
    }
    due = {INNER - 1: 3.0, 2 * INNER - 1: 3.0, INNER + DELAY - 1: 2.0, 2 * INNER + DELAY - 1: 2.0}
    assert passes == pytest.approx({step: due.get(step, 1.0) for step in passes}, abs=0.05)
    # Both contributions are decoded and summed beside the lane, which steps until then do not wait for.
    edge = stage_parameters(config.model, vocabulary, 0)
    steps_until = (INNER + 2) * elements * PASS_SECONDS
    longer = first_chosen_seconds(charged) - first_chosen_seconds(free)
    assert 2 * edge * PASS_SECONDS <= longer <= steps_until + 2 * elements * PASS_SECONDS


def test_passes_are_charged_for_the_model_that_a_scenario_states_and_by_the_machines_speed() -> (
    None
):
    config = small_config("model.stages=2", "model.width=8", "model.heads=2", "model.kv_heads=1")
    charged = Charged(ModelSection.model_validate({"preset": "1b"}), 1, 512, "bf16")
    slow = replace(PEERS[0], slowness=3.0)
    scenario = Scenario(PEERS, pass_seconds=PASS_SECONDS, charged=charged)
    found = Figures(scenario, config, 257)
    own = stage_parameters(config.model, 257, 1)
    task = Task(Kind.STATE, 1, name="apply", values=2 * own)
    parameters = charged.shape(config).parameters(1)
    assert found.cost_seconds(PEERS[0], task) == pytest.approx(2 * parameters * PASS_SECONDS)
    assert found.cost_seconds(slow, task) == pytest.approx(6 * parameters * PASS_SECONDS)
    assert found.cost_seconds(slow, Task(Kind.STATE, 1)) == 0.0
