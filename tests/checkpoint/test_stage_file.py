"""Stage files: what is read is what was written, any reader reads it, nothing unsound is written."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.checkpoint.stage_file import (
    NamesShapes,
    StageEntry,
    StageState,
    read_stage,
    stage_file_name,
    write_stage,
)
from swarmtrain.core.errors import StateError
from swarmtrain.core.layout import flat_layout
from tests.checkpoint.states import NAMES_SHAPES, assert_same, flat, stage_state

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
SHAPED = st.lists(
    st.tuples(NAMES, st.lists(st.integers(1, 9), max_size=3).map(tuple)),
    min_size=1,
    max_size=6,
    unique_by=lambda entry: entry[0],
).map(tuple)


@settings(deadline=None, max_examples=50)
@given(SHAPED, st.integers(0, 9), st.booleans(), st.booleans())
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    names_shapes: NamesShapes,
    seed: int,
    first: bool,
    second: bool,
) -> None:
    folder = tmp_path_factory.mktemp("stage")
    state = stage_state(2, seed, names_shapes)
    state = replace(
        state,
        moment1=state.moment1 if first else None,
        moment2=state.moment2 if second else None,
    )
    entry = write_stage(folder, state)
    assert entry.parameters_sha256 == hashlib.sha256(state.parameters.tobytes()).hexdigest()
    assert_same(read_stage(folder, entry), state)


def test_values_keep_their_bits(tmp_path: Path) -> None:
    state = stage_state(0)
    state.parameters[:4] = np.array([np.nan, np.inf, -0.0, 1e-45], dtype=np.float32)
    assert_same(read_stage(tmp_path, write_stage(tmp_path, state)), state)


def test_any_safetensors_reader_reads_it(tmp_path: Path) -> None:
    state = stage_state(1)
    tensors = safetensors.numpy.load_file(tmp_path / write_stage(tmp_path, state).file)
    assert len(tensors) == 9
    weight = tensors["parameters/zeta.weight"]
    assert weight.shape == (5, 7) and weight.dtype == np.float32
    assert weight.tobytes() == state.parameters[:35].tobytes()
    assert tensors["moment2/norm/scale"].shape == ()


def entry_of(path: Path, parameters_sha256: str) -> StageEntry:
    data = path.read_bytes()
    return StageEntry(0, path.name, len(data), hashlib.sha256(data).hexdigest(), parameters_sha256)


X = np.ones(16, dtype=np.float32)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"parameters/x": X, "secret/x": X}, "does not belong"),
        ({"parameters/x": X.astype(np.float64)}, "does not belong"),
        ({"parameters/x": X, "moment1/y": X}, "do not match"),
        ({"parameters/x": X, "moment1/x": X[:8]}, "do not match"),
        ({"moment1/x": X}, "do not match"),
        ({}, "no parameters"),
        ({"parameters/x": X * 2}, "digest"),
    ],
)
def test_an_honest_hash_over_a_foreign_file_is_not_enough(
    tmp_path: Path, tensors: dict[str, np.ndarray], why: str
) -> None:
    path = tmp_path / stage_file_name(0)
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(StateError, match=why):
        read_stage(tmp_path, entry_of(path, hashlib.sha256(X.tobytes()).hexdigest()))


@pytest.mark.parametrize("data", [b"", b"\x80\x04}q\x00.", b"\xff" * 64, bytes(8)])
def test_bytes_that_are_no_safetensors_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / stage_file_name(0)
    path.write_bytes(data)
    with pytest.raises(StateError, match=r"not a safetensors file|no parameters"):
        read_stage(tmp_path, entry_of(path, "00" * 32))


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    good = stage_state(0)
    _, total_elements = flat_layout([shape for _, shape in NAMES_SHAPES])
    dirty, negative = flat(NAMES_SHAPES, 1), flat(NAMES_SHAPES, 1)
    dirty[total_elements - 1] = 1.0
    negative[35] = -0.0
    twice = (("a", (16,)), ("a", (16,)))
    bad: list[tuple[StageState, str]] = [
        (replace(good, parameters=good.parameters[:-1]), "not float32"),
        (replace(good, moment1=good.parameters.astype(np.float64)), "not float32"),
        (replace(good, moment2=good.parameters.reshape(1, -1)), "not float32"),
        (replace(good, parameters=dirty), "padding"),
        (replace(good, moment1=negative), "padding"),
        (stage_state(0, names_shapes=twice), "one name"),
        (stage_state(0, names_shapes=()), "no parameters"),
    ]
    for state, why in bad:
        with pytest.raises(StateError, match=why):
            write_stage(tmp_path, state)
    assert list(tmp_path.iterdir()) == []
