"""The Llama layout: names and shapes are the modules', configurations go there and back, what does not fit is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swarmtrain.checkpoint.initial import InitialModel
from swarmtrain.checkpoint.llama_config import (
    check_fits,
    cut,
    llama_config,
    model_settings,
    read_llama_config,
)
from swarmtrain.checkpoint.llama_names import check_is_llama, stage_tensors
from swarmtrain.checkpoint.tensor_files import weights_sha256
from swarmtrain.core.config import ModelSection
from swarmtrain.core.errors import ModelError
from swarmtrain.core.presets import PRESETS
from swarmtrain.model.stages import stage_parameter_shapes
from tests.checkpoint.llamas import MODEL, tensors_of, write_llama

TIED = MODEL.model_copy(update={"tied": True})
TWO_BLOCKS = MODEL.model_copy(update={"blocks_per_stage": 2})


@pytest.mark.parametrize("preset", PRESETS)
def test_names_and_shapes_are_those_of_the_modules(preset: str) -> None:
    model, vocab_size = ModelSection(preset=preset), 300
    hub = []
    for stage in (0, 1, model.stages):
        tensors = stage_tensors(model, vocab_size, stage)
        own = [(tensor.own, tensor.shape) for tensor in tensors]
        assert own == stage_parameter_shapes(model, vocab_size, stage)
        hub += [tensor.hub for tensor in tensors]
    assert len(set(hub)) == len(hub)
    last_layer = model.stages * model.blocks_per_stage - 1
    assert f"model.layers.{last_layer}.mlp.down_proj.weight" in hub


@pytest.mark.parametrize("model", [MODEL, TIED, TWO_BLOCKS])
def test_a_configuration_comes_back(model: ModelSection, tmp_path: Path) -> None:
    write_llama(tmp_path, model)
    found = model_settings(tmp_path, read_llama_config(tmp_path))
    layers = found.pop("stages") * found.pop("blocks_per_stage")
    assert layers == model.stages * model.blocks_per_stage
    assert found == {key: getattr(model, key) for key in found}
    check_fits(tmp_path, model)


def test_layers_are_cut_evenly() -> None:
    assert [cut(layers) for layers in (1, 4, 8, 16, 22, 13)] == [
        (1, 1),
        (4, 1),
        (8, 1),
        (8, 2),
        (2, 11),
        (1, 13),
    ]


def test_older_spellings_are_read(tmp_path: Path) -> None:
    write_llama(tmp_path, rope_parameters=None, rope_theta=5e5, num_key_value_heads=None)
    found = model_settings(tmp_path, read_llama_config(tmp_path))
    assert (found["rope_base"], found["kv_heads"]) == (5e5, MODEL.heads)


UNFIT: dict[str, Any] = {
    "model_type": "mamba",
    "hidden_act": "gelu",
    "attention_bias": True,
    "mlp_bias": True,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
    "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4},
    "quantization_config": {"bits": 4},
    "partial_rotary_factor": 0.5,
    "head_dim": 64,
    "hidden_size": "16",
    "num_hidden_layers": 0,
    "intermediate_size": None,
    "num_key_value_heads": -1,
    "vocab_size": True,
    "tie_word_embeddings": "yes",
    "rms_norm_eps": "small",
}


@pytest.mark.parametrize("key", UNFIT)
def test_what_does_not_fit_is_named(key: str, tmp_path: Path) -> None:
    write_llama(tmp_path, **{key: UNFIT[key]})
    with pytest.raises(ModelError) as caught:
        model_settings(tmp_path, read_llama_config(tmp_path))
    assert key in caught.value.what and caught.value.why and caught.value.remedy


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model"):
        read_llama_config(tmp_path)
    for text in ("{", "[]", "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelError, match=r"config\.json is"):
            read_llama_config(tmp_path)


def test_other_families_have_no_llama_layout() -> None:
    with pytest.raises(ModelError, match="no Llama layout"):
        llama_config(ModelSection(family="vector"), 257, 32, 256)
    check_is_llama(MODEL)


# ---- the state a run starts from -----------------------------------------------------------------------------------


def named(folder: Path, model: ModelSection = MODEL) -> ModelSection:
    names = {"initial": str(folder), "initial_sha256": weights_sha256(folder)}
    return model.model_copy(update=names)


def test_every_stage_holds_its_tensors_and_empty_moments(tmp_path: Path) -> None:
    write_llama(tmp_path, TWO_BLOCKS)
    initial, values = InitialModel(named(tmp_path, TWO_BLOCKS)), tensors_of(TWO_BLOCKS)
    seen = 0
    for stage in range(TWO_BLOCKS.stages + 1):
        state = initial.stage(stage)
        assert list(state.names_shapes) == stage_parameter_shapes(TWO_BLOCKS, 257, stage)
        wanted = [values[t.hub] for t in stage_tensors(TWO_BLOCKS, 257, stage)]
        assert state.parameters.sum(dtype=np.float64) == pytest.approx(
            sum(array.sum(dtype=np.float64) for array in wanted), abs=1e-3
        )
        assert state.parameters[: wanted[0].size].tobytes() == wanted[0].tobytes()
        assert state.moment1 is not None and state.moment2 is not None
        assert not state.moment1.any() and not state.moment2.any()
        seen += len(wanted)
    assert seen == len(values)


def test_other_weights_than_the_runs_are_refused(tmp_path: Path) -> None:
    model = named(write_llama(tmp_path))
    write_llama(tmp_path, tensors=tensors_of(MODEL, seed=1))
    with pytest.raises(ModelError, match="are not those of the run"):
        InitialModel(model)


def test_another_shape_than_the_runs_is_refused(tmp_path: Path) -> None:
    model = named(write_llama(tmp_path)).model_copy(update={"rope_base": 5e5})
    with pytest.raises(ModelError, match=r"model\.rope_base"):
        InitialModel(model)
    with pytest.raises(ModelError, match="whose product is 2"):
        InitialModel(model.model_copy(update={"rope_base": 1e4, "stages": 3}))


def test_bad_tensors_are_found_before_a_run_waits_for_them(tmp_path: Path) -> None:
    def refused(tensors: dict[str, np.ndarray]) -> str:
        model = named(write_llama(tmp_path, tensors=tensors))
        with pytest.raises(ModelError) as caught:
            InitialModel(model).check()
        return str(caught.value)

    name = "model.layers.1.mlp.up_proj.weight"
    whole = tensors_of(MODEL)
    assert name in refused({key: value for key, value in whole.items() if key != name})
    assert f"{name} cannot be imported" in refused({**whole, name: whole[name].T.copy()})
    assert "I64" in refused({**whole, name: whole[name].astype(np.int64)})
    spoilt = whole[name].copy()
    spoilt[3, 3] = np.nan
    assert "infinity or NaN" in refused({**whole, name: spoilt})
    InitialModel(named(write_llama(tmp_path))).check()


def test_the_base_names_the_weights(tmp_path: Path) -> None:
    one = InitialModel(named(write_llama(tmp_path / "one"))).base
    again = InitialModel(named(write_llama(tmp_path / "again"))).base
    changed = write_llama(tmp_path / "changed", tensors=tensors_of(MODEL, seed=2))
    assert one == again != InitialModel(named(changed)).base
