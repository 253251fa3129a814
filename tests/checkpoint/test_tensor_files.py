"""Safetensors of others: three kinds of floats, several files, nothing outside of the folder; and our own."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from safetensors.torch import save_file

from swarmtrain.checkpoint.tensor_files import (
    INDEX_FILE,
    ShardWriter,
    TensorFiles,
    plan_shards,
    weights_sha256,
)
from swarmtrain.core.errors import ModelError

SHAPES = st.lists(st.lists(st.integers(1, 9), max_size=3).map(tuple), min_size=1, max_size=12)


def named(shapes: list[tuple[int, ...]]) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"t{number}", shape) for number, shape in enumerate(shapes)]


def values(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(math.prod(shape)).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_floats_are_read_exactly(kind: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.randn(5, 7, generator=torch.Generator().manual_seed(1)).to(kind)
    tensor[0, 0], tensor[0, 1] = -0.0, 1e-7
    save_file({"other": torch.zeros(3), "a": tensor}, tmp_path / "model.safetensors")
    found = TensorFiles(tmp_path).read("a", (5, 7))
    assert found.dtype == np.float32
    assert found.tobytes() == tensor.float().numpy().tobytes()


@given(SHAPES, st.integers(1, 2000))
def test_shards_hold_everything_once_in_order(shapes: list[tuple[int, ...]], limit: int) -> None:
    names = named(shapes)
    shards = plan_shards(names, limit)
    assert [entry for shard in shards for entry in shard] == names
    for shard in shards:
        total_bytes = sum(4 * math.prod(shape) for _, shape in shard)
        assert shard and (total_bytes <= limit or len(shard) == 1)


@pytest.mark.parametrize(("limit", "count"), [(10**9, 1), (200, 3)])
def test_what_is_written_is_read_by_others_and_by_us(
    limit: int, count: int, tmp_path: Path
) -> None:
    names = named([(5, 7), (16,), (), (3, 3, 3), (40,)])
    shards = plan_shards(names, limit)
    writer = ShardWriter(tmp_path, shards)
    for name, shape in names:
        writer.add(name, values(shape))
    writer.finish()
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == len(shards) == count
    theirs = {name: array for file in files for name, array in load_file(file).items()}
    ours = TensorFiles(tmp_path)
    assert ours.names == theirs.keys() == {name for name, _ in names}
    for name, shape in names:
        assert theirs[name].tobytes() == values(shape).tobytes()
        assert ours.read(name, shape).tobytes() == values(shape).tobytes()
    if count > 1:
        index = json.loads((tmp_path / INDEX_FILE).read_text())
        assert index["metadata"]["total_size"] == sum(4 * math.prod(shape) for _, shape in names)
        assert set(index["weight_map"].values()) == {file.name for file in files}


def test_a_writer_takes_only_what_was_announced(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, plan_shards(named([(2,), (3,)]), 100))
    with pytest.raises(ValueError, match="instead of t0"):
        writer.add("t1", values((3,)))
    writer = ShardWriter(tmp_path, plan_shards(named([(2,), (3,)]), 100))
    writer.add("t0", values((2,)))
    with pytest.raises(ValueError, match="1 tensors did not come"):
        writer.finish()
    writer.close()


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    before = weights_sha256(tmp_path)
    save_file({"a": torch.ones(3)}, path)
    assert weights_sha256(tmp_path) != before == weights_sha256_of_zeros(tmp_path)


def weights_sha256_of_zeros(folder: Path) -> str:
    other = folder / "other"
    other.mkdir()
    save_file({"a": torch.zeros(3)}, other / "model.safetensors")
    return weights_sha256(other)


@pytest.mark.parametrize("place", ["../secret.safetensors", "/etc/passwd", "..", "", 7])
def test_an_index_cannot_leave_its_folder(place: object, tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": place}}))
    with pytest.raises(ModelError, match=r"index\.json cannot be read"):
        TensorFiles(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": []}', "{}"])
def test_a_senseless_index_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).write_text(text)
    with pytest.raises(ModelError, match=r"index\.json cannot be read"):
        TensorFiles(tmp_path)


def test_weights_of_other_formats_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ModelError, match="there are no weights"):
        TensorFiles(tmp_path)


@pytest.mark.parametrize("keep_bytes", [0, 7, 40, 1000])
def test_a_cut_file_is_refused(keep_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(500)}, path)
    path.write_bytes(path.read_bytes()[:keep_bytes])
    with pytest.raises(ModelError, match="cannot be read"):
        TensorFiles(tmp_path)
