"""Tensors in safetensors files that others wrote or will read: one file, or several with an index.

Read as float32 from F32, F16 or BF16, one tensor at a time; written as F32 in one pass, so that a process holds one
stage at a time, whatever the size of the model. Files may come from anybody (I5): the safetensors library checks their
layout, names in an index cannot leave the folder.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from swarmtrain.checkpoint.stage_file import Flat
from swarmtrain.core.errors import ModelError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
"""Above this a model is written as several files."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.safetensors")
_LARGEST_INDEX_BYTES = 1 << 26
_ELEMENT_BYTES = {"F32": 4, "F16": 2, "BF16": 2}

Names = Sequence[tuple[str, tuple[int, ...]]]
"""Tensors by name and shape, in the order of a file."""


class TensorFiles:
    """The tensors of the model in `folder`; each file is opened when it is read."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelError when there are no weights, or they are not safetensors."""
        self._places: dict[str, Path] = {}
        self.paths = _weight_files(folder)
        for path in self.paths:
            try:
                with safe_open(path, framework="numpy") as file:
                    self._places |= dict.fromkeys(file.keys(), path)
            except (SafetensorError, OSError) as error:
                raise _damaged(path, str(error)) from error

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._places)

    def read(self, name: str, shape: tuple[int, ...]) -> Flat:
        """A tensor as a new float32 array. Raises ModelError when it is missing or of another shape or kind."""
        path = self._places.get(name)
        if path is None:
            raise _misfit(name, "it is missing")
        try:
            with open(path, "rb") as file:
                header_bytes = int.from_bytes(file.read(8), "little")
                entry = json.loads(file.read(header_bytes))[name]
                kind, found = entry["dtype"], tuple(entry["shape"])
                if kind not in _ELEMENT_BYTES:
                    raise _misfit(name, f"it is {kind}; F32, F16 and BF16 are read")
                if found != shape:
                    raise _misfit(
                        name, f"it is {list(found)}, the configuration says {list(shape)}"
                    )
                file.seek(8 + header_bytes + entry["data_offsets"][0])
                data = file.read(_ELEMENT_BYTES[kind] * math.prod(shape))
        except OSError as error:
            raise _damaged(path, str(error)) from error
        return _as_float32(data, kind).reshape(shape)


def weights_sha256(folder: Path) -> str:
    """Hex SHA-256 of the weights in `folder`: over names and hashes of its files. Raises ModelError."""
    digest = hashlib.sha256(b"swarmtrain weights 1")
    for path in _weight_files(folder):
        try:
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256")
        except OSError as error:
            raise _damaged(path, str(error)) from error
        digest.update(content.digest())
    return digest.hexdigest()


class ShardWriter:
    """Writes a model's tensors, one after the other, in the order of `shards`, as files into `folder`."""

    def __init__(self, folder: Path, shards: Sequence[Names]) -> None:
        self._folder, self._shards = folder, shards
        self._left = [
            (number, name, shape) for number, names in enumerate(shards) for name, shape in names
        ]
        self._left.reverse()
        self._file: BinaryIO | None = None
        self._number = -1

    def add(self, name: str, array: Flat) -> None:
        """The next tensor. Raises OSError; ValueError when it is not the one that was announced."""
        number, expected, shape = self._left.pop()
        if (name, array.shape) != (expected, shape):
            raise ValueError(f"{name} {array.shape} came instead of {expected} {shape}")
        if number != self._number:
            self.close()
            self._number = number
            path = self._folder / _shard_name(number, len(self._shards))
            self._file = open(path, "xb")  # noqa: SIM115
            self._file.write(_header(self._shards[number]))
        assert self._file is not None
        self._file.write(np.ascontiguousarray(array, dtype="<f4").view(np.uint8).data)

    def finish(self) -> None:
        """All files are on disk, and the index beside several. Raises OSError; ValueError when tensors are missing."""
        if self._left:
            raise ValueError(f"{len(self._left)} tensors did not come")
        self.close()
        if len(self._shards) > 1:
            text = json.dumps(_index(self._shards), indent=2) + "\n"
            (self._folder / INDEX_FILE).write_text(text, encoding="utf-8")

    def close(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None


def plan_shards(tensors: Names, shard_bytes: int) -> list[Names]:
    """`tensors` in order, cut into files of at most `shard_bytes` each, or of one tensor that is larger."""
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled_bytes = 0
    for name, shape in tensors:
        tensor_bytes = 4 * math.prod(shape)
        if shards[-1] and filled_bytes + tensor_bytes > shard_bytes:
            shards.append([])
            filled_bytes = 0
        shards[-1].append((name, shape))
        filled_bytes += tensor_bytes
    return list(shards)


def _shard_name(number: int, count: int) -> str:
    if count == 1:
        return SINGLE_FILE
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _header(names: Names) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position_bytes = 0
    for name, shape in names:
        end_bytes = position_bytes + 4 * math.prod(shape)
        where = [position_bytes, end_bytes]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": where}
        position_bytes = end_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _index(shards: Sequence[Names]) -> Mapping[str, Any]:
    total_bytes = sum(4 * math.prod(shape) for names in shards for _, shape in names)
    places = {
        name: _shard_name(number, len(shards))
        for number, names in enumerate(shards)
        for name, _ in names
    }
    return {"metadata": {"total_size": total_bytes}, "weight_map": places}


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, in the order of their names."""
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    index = folder / INDEX_FILE
    if not index.is_file():
        raise ModelError(
            f"there are no weights in {folder}",
            f"it has neither {SINGLE_FILE} nor {INDEX_FILE}",
            "save the model as safetensors: files of other formats can run code and are not read",
        )
    try:
        if index.stat().st_size > _LARGEST_INDEX_BYTES:
            raise ValueError("it is too large")
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(index, repr(error)) from error
    if not all(isinstance(name, str) and _FILE_NAME.fullmatch(name) for name in names):
        raise _damaged(index, "it names files outside of its folder")
    return [folder / name for name in sorted(names)]


def _as_float32(data: bytes, kind: str) -> Flat:
    if kind == "BF16":
        # The upper half of a float32.
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, "<f2" if kind == "F16" else "<f4").astype(np.float32)


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(f"{path} cannot be read", why, "copy it again; only safetensors are read")


def _misfit(name: str, why: str) -> ModelError:
    return ModelError(
        f"the tensor {name} cannot be imported",
        why,
        "config.json and the weights must be of one model",
    )
