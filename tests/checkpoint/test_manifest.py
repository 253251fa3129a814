"""The manifest: round trip, and no damaged or hostile one is believed."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from swarmtrain.checkpoint.manifest import (
    MANIFEST_FILE,
    Manifest,
    _content_sha256,
    manifest_bytes,
    model_digest,
    read_manifest,
)
from swarmtrain.checkpoint.stage_file import StageEntry
from swarmtrain.core.errors import StateError
from tests.checkpoint.states import BASE, CONFIG_JSON

STAGES = tuple(
    StageEntry(stage, f"stage-{stage:03d}.safetensors", 100, "ab" * 32, f"{stage:064x}")
    for stage in range(3)
)
MANIFEST = Manifest(7, BASE, "cd" * 32, CONFIG_JSON, STAGES, model_digest(STAGES))


def read(folder: Path, data: bytes) -> Manifest:
    (folder / MANIFEST_FILE).write_bytes(data)
    return read_manifest(folder)


def sealed(content: dict[str, Any]) -> bytes:
    return json.dumps({**content, "manifest_sha256": _content_sha256(content)}).encode()


def content() -> dict[str, Any]:
    return {"format": 1, **asdict(MANIFEST), "base": BASE.hex()}


def test_round_trip_and_the_promised_keys(tmp_path: Path) -> None:
    data = manifest_bytes(MANIFEST)
    assert read(tmp_path, data) == MANIFEST
    keys = {"format", "step", "base", "run", "config_json", "stages", "parameters_sha256"}
    assert keys <= set(json.loads(data))
    stage_keys = {"stage", "file", "bytes", "sha256", "parameters_sha256"}
    assert stage_keys == set(json.loads(data)["stages"][0])


def test_no_flipped_bit_changes_what_is_read(tmp_path: Path) -> None:
    good = manifest_bytes(MANIFEST)
    refused = 0
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 7
        try:
            assert read(tmp_path, bytes(bad)) == MANIFEST  # white space alone may change
        except StateError:
            refused += 1
    assert refused > 0.8 * len(good.replace(b" ", b""))


def test_every_cut_is_refused(tmp_path: Path) -> None:
    good = manifest_bytes(MANIFEST)
    for length_bytes in range(0, len(good) - 1, 5):
        with pytest.raises(StateError, match="damaged"):
            read(tmp_path, good[:length_bytes])


@pytest.mark.parametrize(
    "data",
    [b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"step": ' + b"9" * 5000 + b"}", b"\x80\x04N."],
    ids=["list", "null", "not utf-8", "deep", "digits", "pickle"],
)
def test_what_is_not_a_manifest(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(StateError, match="damaged"):
        read(tmp_path, data)


def test_a_huge_manifest_is_not_read_into_memory(tmp_path: Path) -> None:
    with open(tmp_path / MANIFEST_FILE, "wb") as file:
        file.truncate(2**33)
    with pytest.raises(StateError, match="larger"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": 2}, "format"),
        ({"step": -1}, "step"),
        ({"step": "7"}, "step"),
        ({"step": True}, "step"),
        ({"base": "xy"}, "hex"),
        ({"run": None}, "run"),
        ({"config_json": {}}, "config_json"),
        ({"parameters_sha256": "00" * 32}, "does not follow"),
        ({"parameters_sha256": "zz" * 32}, "not a SHA-256"),
        ({"stages": {}}, "stages"),
        ({"stages": [7]}, "not a JSON object"),
    ],
)
def test_a_well_sealed_lie_is_refused(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    with pytest.raises(StateError, match=why):
        read(tmp_path, sealed({**content(), **change}))


@pytest.mark.parametrize(
    "file", ["../../etc/passwd", "/etc/passwd", "stage-001.safetensors", "stage-000.pt", ""]
)
def test_a_manifest_cannot_point_elsewhere(tmp_path: Path, file: str) -> None:
    stages = (replace(STAGES[0], file=file), *STAGES[1:])
    with pytest.raises(StateError, match="lies in"):
        read(tmp_path, manifest_bytes(replace(MANIFEST, stages=stages)))


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 0, 1)])
def test_stages_ascend(tmp_path: Path, order: tuple[int, ...]) -> None:
    stages = tuple(STAGES[index] for index in order)
    lie = replace(MANIFEST, stages=stages, parameters_sha256=model_digest(stages))
    with pytest.raises(StateError, match="ascend"):
        read(tmp_path, manifest_bytes(lie))
