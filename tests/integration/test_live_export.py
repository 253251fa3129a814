"""A run that goes on gives its weights away: a committed state, the reference's to the bit, and no step is lost."""

from pathlib import Path

from safetensors.numpy import load_file

from swarmtrain.checkpoint.llama_names import stage_tensors
from swarmtrain.core.layout import flat_layout
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.injections import Trial
from swarmtrain.experiments.live_export import export_live
from swarmtrain.experiments.reference import Reference
from tests.integration.processes import Workplace
from tests.integration.trials import ENDLESS, PATIENT_LINKS, config_of, tried

SNAPSHOTS = ("recovery.snapshot_steps=20",)


def test_a_live_run_is_exported_while_it_trains(loopback: Workplace) -> None:
    folder, steps = loopback.folder / "model", []

    async def script(trial: Trial) -> None:
        await trial.until_steps(25)
        before = trial.step
        exported = await export_live(
            trial.swarm.coordinator.address, folder, False, lambda *_: None
        )
        steps.append(exported.step)
        assert exported.step % 20 == 0 and exported.step >= before - before % 20
        await trial.until_steps(5)

    config = config_of(*ENDLESS, *SNAPSHOTS, *PATIENT_LINKS)
    tried(loopback, config, ("0:1", "1:2"), {}, script)
    loop = Reference(config, load_corpus(config.data, None), 257)
    while loop.step < steps[0]:
        loop.advance()
    assert_parameters(loop, folder)


def assert_parameters(loop: Reference, folder: Path) -> None:
    values = load_file(folder / "model.safetensors")
    for stage in range(loop.config.model.stages + 1):
        state = loop.state(stage)
        tensors = stage_tensors(loop.config.model, 257, stage)
        offsets, _ = flat_layout([tensor.shape for tensor in tensors])
        for offset, tensor in zip(offsets, tensors, strict=True):
            array = values[tensor.hub]
            expected = state.parameters[offset : offset + array.size]
            assert array.ravel().tobytes() == expected.tobytes(), tensor.hub
