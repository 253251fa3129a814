"""The manifest: what a checkpoint holds, written last, with a hash of itself.

It is JSON and may come from anybody (I5): sizes are bounded, every field is checked, and a stage's
file name follows from its number, so a manifest cannot point outside its folder.
"""

import hashlib
import json
import string
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from swarmtrain.checkpoint.stage_file import StageEntry, damaged, stage_file_name
from swarmtrain.core.layout import parameters_sha256

MANIFEST_FILE = "manifest.json"
FORMAT = 1
_LARGEST_BYTES = 2**24

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checkpoint's record.

    `base` digests the decisions up to `step`, `run` is the run hash in hex, `stages` ascend,
    `parameters_sha256` is the whole model's digest (core.layout).
    """

    step: int
    base: bytes
    run: str
    config_json: str
    stages: tuple[StageEntry, ...]
    parameters_sha256: str


def model_digest(stages: tuple[StageEntry, ...]) -> str:
    """`parameters_sha256` over the stages' digests; `stages` ascend."""
    return parameters_sha256([bytes.fromhex(entry.parameters_sha256) for entry in stages])


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as it is written."""
    content = {"format": FORMAT, **asdict(manifest), "base": manifest.base.hex()}
    sealed = {**content, "manifest_sha256": _content_sha256(content)}
    return json.dumps(sealed, indent=2, sort_keys=True).encode() + b"\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of `folder`, or StateError: missing, damaged or of another format."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise damaged(path, "the file is missing, so the checkpoint was never finished")
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise damaged(path, str(error)) from error
    if len(data) > _LARGEST_BYTES:
        raise damaged(path, f"it is larger than {_LARGEST_BYTES} bytes")
    try:
        return _parse(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)[:500]) from error


def _content_sha256(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _parse(sealed: object) -> Manifest:
    """Raises ValueError saying what is wrong."""
    if not isinstance(sealed, dict):
        raise ValueError("it is not a JSON object")
    content = dict(sealed)
    if content.pop("manifest_sha256", None) != _content_sha256(content):
        raise ValueError("its SHA-256 does not fit its content")
    if content.get("format") != FORMAT:
        raise ValueError(f"its format is {content.get('format')!r}, this version reads {FORMAT}")
    manifest = Manifest(
        step=_count(content, "step"),
        base=bytes.fromhex(_field(content, "base", str)),
        run=_field(content, "run", str),
        config_json=_field(content, "config_json", str),
        stages=tuple(_entry(value) for value in _field(content, "stages", list)),
        parameters_sha256=_digest(content, "parameters_sha256"),
    )
    numbers = [entry.stage for entry in manifest.stages]
    if numbers != sorted(set(numbers)):
        raise ValueError("its stages do not ascend")
    if manifest.parameters_sha256 != model_digest(manifest.stages):
        raise ValueError("parameters_sha256 does not follow from the stages' digests")
    return manifest


def _entry(value: object) -> StageEntry:
    if not isinstance(value, dict):
        raise ValueError("a stage is not a JSON object")
    entry = StageEntry(
        stage=_count(value, "stage"),
        file=_field(value, "file", str),
        bytes=_count(value, "bytes"),
        sha256=_digest(value, "sha256"),
        parameters_sha256=_digest(value, "parameters_sha256"),
    )
    if entry.file != stage_file_name(entry.stage):
        raise ValueError(f"stage {entry.stage} lies in {entry.file[:200]!r}")
    return entry


def _field(values: dict[str, Any], name: str, kind: type[T]) -> T:
    value = values.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is missing or of the wrong type")
    return value


def _count(values: dict[str, Any], name: str) -> int:
    value = _field(values, name, int)
    if value < 0:
        raise ValueError(f"{name} is negative")
    return value


def _digest(values: dict[str, Any], name: str) -> str:
    value = _field(values, name, str)
    if len(value) != 64 or not set(value) <= set(string.hexdigits):
        raise ValueError(f"{name} is not a SHA-256 digest in hex")
    return value
