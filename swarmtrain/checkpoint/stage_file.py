"""One stage's state as a safetensors file of float32 tensors.

They are called `parameters/<name>`, `moment1/<name>` and `moment2/<name>`; what outer rounds keep besides is one more,
`rounds`. The file is written and
hashed in one pass straight from the flat arrays, so nothing is held twice, and it needs numpy
alone: a process without torch can keep a checkpoint. Any safetensors reader can read it.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from swarmtrain.core.errors import StateError
from swarmtrain.core.layout import ALIGN_ELEMENTS, flat_layout

Flat = npt.NDArray[np.float32]
NamesShapes = tuple[tuple[str, tuple[int, ...]], ...]

SECTIONS = ("parameters", "moment1", "moment2")
ROUNDS = "rounds"


@dataclass(frozen=True, slots=True, eq=False)
class StageState:
    """A stage's parameters and inner moments, each one flat array in the layout of `core.layout`.

    The moments are None for an inner optimizer that keeps none. `rounds` is what outer rounds keep, as one array of
    words that `swarmtrain.outer.stage` reads and writes; None in a run without them.
    """

    stage: int
    names_shapes: NamesShapes
    parameters: Flat
    moment1: Flat | None
    moment2: Flat | None
    rounds: Flat | None = None

    def arrays(self) -> Iterator[tuple[str, Flat]]:
        """All arrays that are there, with their names: the sections, and what outer rounds keep."""
        yield from self.sections()
        if self.rounds is not None:
            yield ROUNDS, self.rounds

    def sections(self) -> Iterator[tuple[str, Flat]]:
        """The arrays in the flat layout that are there, with their section's name."""
        for name in SECTIONS:
            array: Flat | None = getattr(self, name)
            if array is not None:
                yield name, array


@dataclass(frozen=True, slots=True)
class StageEntry:
    """What the manifest says of one stage file; digests are hex."""

    stage: int
    file: str
    bytes: int
    sha256: str
    parameters_sha256: str


def stage_file_name(stage: int) -> str:
    return f"stage-{stage:03d}.safetensors"


def write_stage(folder: Path, state: StageState) -> StageEntry:
    """Write `state` into `folder`, on disk when this returns. Raises StateError or OSError."""
    _check_state(state)
    path = folder / stage_file_name(state.stage)
    digest = hashlib.sha256()
    file_bytes = 0
    with open(path, "xb") as file:
        for piece in _pieces(state):
            file.write(piece)
            digest.update(piece)
            file_bytes += len(piece)
        file.flush()
        os.fsync(file.fileno())
    parameters_sha256 = hashlib.sha256(state.parameters.data).hexdigest()
    return StageEntry(state.stage, path.name, file_bytes, digest.hexdigest(), parameters_sha256)


def read_stage(folder: Path, entry: StageEntry) -> StageState:
    """The state behind `entry`, every byte verified. Raises StateError."""
    verify_stage(folder, entry)
    return _read(folder, entry, (*SECTIONS, ROUNDS))


def read_parameters(folder: Path, entry: StageEntry) -> StageState:
    """The parameters alone behind `entry`, a third of the file, held to their digest. Raises StateError."""
    verify_size(folder, entry)
    return _read(folder, entry, (SECTIONS[0],))


def _read(folder: Path, entry: StageEntry, sections: Sequence[str]) -> StageState:
    path = folder / entry.file
    try:
        with safe_open(path, framework="numpy") as file:
            state = _assemble(path, entry.stage, file, sections)
    except SafetensorError as error:
        raise damaged(path, f"not a safetensors file: {error}") from error
    if hashlib.sha256(state.parameters.data).hexdigest() != entry.parameters_sha256:
        raise damaged(path, "its parameters do not have the digest in the manifest")
    return state


def verify_stage(folder: Path, entry: StageEntry) -> None:
    """Raise StateError unless the file has the size and the hash of `entry`."""
    path = folder / entry.file
    verify_size(folder, entry)
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    except OSError as error:
        raise damaged(path, str(error)) from error
    if digest.hexdigest() != entry.sha256:
        raise damaged(path, "its SHA-256 is not the one in the manifest")


def verify_size(folder: Path, entry: StageEntry) -> None:
    """Raise StateError unless the file is there with the size of `entry`."""
    path = folder / entry.file
    if not path.is_file():
        raise damaged(path, "the file is missing")
    if path.stat().st_size != entry.bytes:
        raise damaged(path, f"it has {path.stat().st_size} bytes, the manifest says {entry.bytes}")


def damaged(path: Path, why: str) -> StateError:
    """The error for a file that is not what the manifest says."""
    return StateError(
        f"the checkpoint file {path} is damaged",
        why,
        f"remove {path.parent} to use the checkpoint before it, or copy it again",
    )


def _check_state(state: StageState) -> None:
    """A state that would not come back as it is must not be written."""
    offsets, total_elements = flat_layout([shape for _, shape in state.names_shapes])
    names = [name for name, _ in state.names_shapes]
    if not names or len(set(names)) != len(names):
        raise _unsavable(state.stage, "it has no parameters, or two of one name")
    for section, array in state.sections():
        if array.dtype != np.float32 or array.shape != (total_elements,):
            raise _unsavable(
                state.stage,
                f"{section} is {array.dtype}{list(array.shape)}, not float32[{total_elements}]",
            )
        for offset, (name, shape) in zip(offsets, state.names_shapes, strict=True):
            end = offset + math.prod(shape)
            # Bits, not values: a negative zero would change the digest as well.
            if array[end : -(-end // ALIGN_ELEMENTS) * ALIGN_ELEMENTS].view(np.uint32).any():
                raise _unsavable(state.stage, f"the padding after {section}/{name} is not zero")


def _unsavable(stage: int, why: str) -> StateError:
    return StateError(
        f"the state of stage {stage} cannot be saved", why, "this is a bug: please report it"
    )


def _pieces(state: StageState) -> Iterator[bytes | memoryview]:
    """The file in order: header length, header, then the tensors without their padding."""
    offsets, _ = flat_layout([shape for _, shape in state.names_shapes])
    header: dict[str, Any] = {}
    position_bytes = 0
    for section, _ in state.sections():
        for name, shape in state.names_shapes:
            end_bytes = position_bytes + 4 * math.prod(shape)
            header[f"{section}/{name}"] = {
                "dtype": "F32",
                "shape": shape,
                "data_offsets": [position_bytes, end_bytes],
            }
            position_bytes = end_bytes
    if state.rounds is not None:
        end_bytes = position_bytes + state.rounds.nbytes
        extent, where = [state.rounds.size], [position_bytes, end_bytes]
        header[ROUNDS] = {"dtype": "F32", "shape": extent, "data_offsets": where}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, array in state.sections():
        for offset, (_, shape) in zip(offsets, state.names_shapes, strict=True):
            yield array[offset : offset + math.prod(shape)].view(np.uint8).data
    if state.rounds is not None:
        yield state.rounds.view(np.uint8).data


def _assemble(path: Path, stage: int, file: safe_open, sections: Sequence[str]) -> StageState:
    """The flat arrays of `sections` from the open file; its order of tensors is the order of the parameters."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    rounds: Flat | None = None
    for key in file.offset_keys():
        section, _, name = key.partition("/")
        piece = file.get_slice(key)
        if key == ROUNDS and piece.get_dtype() == "F32" and len(piece.get_shape()) == 1:
            rounds = np.ascontiguousarray(file.get_tensor(key)) if key in sections else None
            continue
        if section not in SECTIONS or piece.get_dtype() != "F32":
            raise damaged(path, f"the tensor {key[:200]!r} does not belong in a stage file")
        found.setdefault(section, {})[name] = tuple(piece.get_shape())
    names_shapes = tuple(found.get("parameters", {}).items())
    if any(tuple(entries.items()) != names_shapes for entries in found.values()):
        raise damaged(path, "its moments do not match its parameters")
    offsets, total_elements = flat_layout([shape for _, shape in names_shapes])
    arrays: dict[str, Flat] = {}
    for section in (section for section in found if section in sections):
        flat = arrays[section] = np.zeros(total_elements, dtype=np.float32)
        for offset, (name, shape) in zip(offsets, names_shapes, strict=True):
            flat[offset : offset + math.prod(shape)] = file.get_tensor(f"{section}/{name}").ravel()
    parameters = arrays.get("parameters")
    if parameters is None:
        raise damaged(path, "it holds no parameters")
    moments = (arrays.get("moment1"), arrays.get("moment2"))
    return StageState(stage, names_shapes, parameters, *moments, rounds)
