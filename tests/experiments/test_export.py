"""Exports: whole or not there, from verified states only, merged parameters where rounds made some."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from swarmtrain.checkpoint.stage_file import Flat, StageState
from swarmtrain.checkpoint.store import load, load_stage, save
from swarmtrain.core.config import RunConfig, config_from_json, load_config
from swarmtrain.core.errors import ConfigError, CorpusError, ModelError, StateError
from swarmtrain.core.layout import flat_layout
from swarmtrain.experiments.export import Weights, checkpoint_weights, export
from swarmtrain.experiments.imported import config_of, settings_of
from swarmtrain.experiments.reference import Reference
from swarmtrain.experiments.trained import TrainedModel
from swarmtrain.experiments.virtual import Scenario, Stage, peers, simulate
from swarmtrain.outer.stage import StageRounds, fragments_of, outer_parameters
from swarmtrain.peer.stage_rounds import settings_of as settings_of_rounds
from swarmtrain.recovery.snapshots import copy_of
from tests.checkpoint.llamas import MODEL, write_llama
from tests.experiments.island_worlds import config_of as islands_config
from tests.experiments.island_worlds import islands_of, run_islands
from tests.experiments.runs import corpus, small_config


def quiet(done_bytes: int, total_bytes: int) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a few trained steps."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    loop = Reference(small_config(steps=3), corpus(), corpus().tokenizer.vocab_size)
    list(loop.train())
    loop.save(folder)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_an_exported_model_computes_the_same(checkpoint: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    exported = export(
        checkpoint_weights(checkpoint), tmp_path / "out", False, lambda *at: seen.append(at)
    )
    ours, theirs = TrainedModel.load(checkpoint), TrainedModel.load(tmp_path / "out")
    # Batches of four rows there, of two here.
    assert theirs.held_out_loss(2) == pytest.approx(ours.held_out_loss(4), abs=1e-6)
    assert theirs.sample("import ", 20, temperature=0.0) == ours.sample("import ", 20, 0.0)
    assert (exported.step, exported.which) == (3, "the parameters as trained")
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (4 * exported.parameters,) * 2
    assert not list(tmp_path.glob(".*")), "nothing is left beside it"


def test_several_files_hold_the_same(checkpoint: Path, tmp_path: Path) -> None:
    weights = checkpoint_weights(checkpoint)
    export(weights, tmp_path / "one", False, quiet)
    exported = export(weights, tmp_path / "many", False, quiet, shard_bytes=100_000)
    assert len([name for name in exported.files if name.endswith(".safetensors")]) > 3
    one, many = TrainedModel.load(tmp_path / "one"), TrainedModel.load(tmp_path / "many")
    assert one.held_out_loss(1) == many.held_out_loss(1)


def test_only_an_earlier_export_is_replaced(checkpoint: Path, tmp_path: Path) -> None:
    weights, folder = checkpoint_weights(checkpoint), tmp_path / "out"
    folder.mkdir()
    export(weights, folder, False, quiet)
    before = contents(folder)
    with pytest.raises(ConfigError, match="is not empty"):
        export(weights, folder, False, quiet)
    (folder / "config.json").write_text("{}")
    export(weights, folder, True, quiet)
    assert contents(folder) == before
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="other things"):
        export(weights, folder, True, quiet)
    assert (folder / "thesis.tex").exists()


def test_a_damaged_checkpoint_is_not_exported(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "checkpoint"
    found = load(checkpoint)
    states = [load_stage(found.folder, stage) for stage in range(3)]
    config_json = found.manifest.config_json
    folder = save(copy, step=3, base=bytes(32), config_json=config_json, states=states)
    path = folder / "stage-001.safetensors"
    spoilt = bytearray(path.read_bytes())
    spoilt[-5] ^= 1
    path.write_bytes(spoilt)
    with pytest.raises(StateError, match="no whole checkpoint"):
        checkpoint_weights(copy)
    with pytest.raises(StateError, match="is damaged"):
        config = config_from_json(config_json)
        late = Weights(config, 3, lambda stage: load_stage(folder, stage))
        export(late, tmp_path / "out", False, quiet)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_what_has_no_llama_layout_is_refused(tmp_path: Path) -> None:
    config = load_config((), ["model.family=vector"])
    with pytest.raises(ModelError, match="no Llama layout"):
        export(
            Weights(config, 1, lambda stage: pytest.fail("read")), tmp_path / "out", False, quiet
        )
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_is_gone_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    weights = checkpoint_weights(checkpoint)
    gone = load_config((), [f"data.tokenizer={tmp_path}/gone.json", "model.vocab_size=257"])
    with pytest.raises(CorpusError):
        export(Weights(gone, 3, weights.read), tmp_path / "out", False, quiet)
    assert not list(tmp_path.iterdir())


# ---- outer rounds ---------------------------------------------------------------------------------------------------


def island_states(rounds: str) -> tuple[RunConfig, dict[int, list[StageState]]]:
    """The last states of two islands after virtual steps, by island."""
    config, scenes = islands_config("outer.codec=int4", rounds, steps=9), list[Stage]()

    def watch(scene: Stage) -> None:
        scenes.append(scene)

    run_islands(config, islands_of(2), watch)
    states: dict[int, list[StageState]] = {0: [], 1: []}
    for session in scenes[0].sessions.values():
        assert session.runtime is not None
        parts = session.runtime.island.parts
        states[parts.island] += [copy_of(parts.state_of(stage)) for stage in parts.replicas]
    return config, states


def exported_from(
    config: RunConfig, states: list[StageState], folder: Path
) -> tuple[str, dict[str, np.ndarray]]:
    """Which parameters they are, and the parameters by their names in the layout."""
    json_text = config.to_json()
    save(folder / "checkpoint", step=9, base=bytes(32), config_json=json_text, states=states)
    exported = export(checkpoint_weights(folder / "checkpoint"), folder / "out", False, quiet)
    return exported.which, load_file(folder / "out" / "model.safetensors")


def test_islands_give_what_they_have_in_common(tmp_path: Path) -> None:
    config, states = island_states("outer.fragments=2")
    (which, one), (_, other) = [
        exported_from(config, states[island], tmp_path / str(island)) for island in (0, 1)
    ]
    assert which == "outer parameters, merged over the islands"
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    own = {state.stage: state.parameters for state in states[0]}
    assert own[1].tobytes() != {s.stage: s.parameters for s in states[1]}[1].tobytes()
    assert one["model.embed_tokens.weight"].ravel()[:100].tobytes() != own[0][:100].tobytes()


def before_any_round(config: RunConfig, state: StageState) -> Flat:
    """What outer rounds keep of a stage as it begins."""
    offsets, elements = flat_layout([shape for _, shape in state.names_shapes])
    tensors = [(at, shape) for at, (_, shape) in zip(offsets, state.names_shapes, strict=True)]
    fragments = fragments_of(state.stage, tensors, elements, config.outer.fragments)
    rounds = StageRounds(
        0, fragments, torch.from_numpy(state.parameters), settings_of_rounds(config)
    )
    return rounds.pack([[(0, 0)]] * len(fragments))


def test_before_the_first_round_an_island_gives_its_own(tmp_path: Path) -> None:
    config, states = island_states("outer.fragments=2")
    fresh = [replace(state, rounds=before_any_round(config, state)) for state in states[0]]
    # One stage without a round is enough: a mixture would be nobody's model.
    which, values = exported_from(config, [*states[0][:-1], fresh[-1]], tmp_path)
    assert which.startswith("one island's own parameters")
    own = {state.stage: state.parameters for state in states[0]}
    assert values["model.embed_tokens.weight"].ravel()[:100].tobytes() == own[0][:100].tobytes()


def test_a_senseless_outer_state_is_refused() -> None:
    _, states = island_states("outer.fragments=2")
    rounds = states[0][0].rounds
    assert rounds is not None
    with pytest.raises(StateError, match="of the stage's"):
        outer_parameters(rounds, states[0][0].parameters.size + 16)
    with pytest.raises(StateError):
        outer_parameters(rounds[: rounds.size // 3], states[0][0].parameters.size)


# ---- what an imported model says of its run -------------------------------------------------------------------------


def test_an_exported_model_is_imported_as_it_was(checkpoint: Path, tmp_path: Path) -> None:
    weights = checkpoint_weights(checkpoint)
    export(weights, tmp_path / "out", False, quiet)
    config = config_of(tmp_path / "out")
    assert (config.data.tokenizer, config.train.sequence_length) == ("bytes", 32)
    loop = Reference(config, corpus(), config.model.vocab_size)
    for stage in range(config.model.stages + 1):
        assert loop.state(stage).parameters.tobytes() == weights.read(stage).parameters.tobytes()


def test_a_model_without_tokenizer_must_have_room_for_bytes(tmp_path: Path) -> None:
    small = MODEL.model_copy(update={"vocab_size": 100})
    with pytest.raises(ModelError, match="brings no tokenizer"):
        settings_of(write_llama(tmp_path, small))


def test_an_imported_run_is_not_simulated(tmp_path: Path) -> None:
    config = config_of(write_llama(tmp_path))
    with pytest.raises(ConfigError, match="cannot be simulated"):
        simulate(config, Scenario(peers(1)), corpus())
