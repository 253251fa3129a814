"""summary.json: the contract's keys, whole or not there."""

import errno
import json
import os
from pathlib import Path

import pytest

from swarmtrain.core.errors import StateError
from swarmtrain.monitor.summary import SUMMARY_KEYS, write_summary

SUMMARY = {key: index for index, key in enumerate(SUMMARY_KEYS)}


def test_the_contract() -> None:
    """design.md section 11, spelt out once more so that a change here is a decision."""
    assert " ".join(SUMMARY_KEYS) == (
        "steps tokens seconds loss_first loss_last eval_loss tokens_per_second bytes_sent peers "
        "faults recoveries replayed_keys duplicate_keys_dropped parameters_sha256"
    )


def test_written_sorted_with_further_keys(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_summary(path, {**SUMMARY, "world": "virtual", "loss_last": float("inf")})
    text = path.read_text()
    summary = json.loads(text)
    assert list(summary) == sorted([*SUMMARY_KEYS, "world"])
    assert summary["loss_last"] == "inf" and summary["tokens"] == 1
    assert text.startswith('{\n  "bytes_sent"') and text.endswith("}\n")


@pytest.mark.parametrize("key", SUMMARY_KEYS)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    short = {name: value for name, value in SUMMARY.items() if name != key}
    with pytest.raises(StateError, match=f"lacks {key}$|lacks {key}\n"):
        write_summary(tmp_path / "summary.json", short)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_keeps_the_old_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "summary.json"
    write_summary(path, SUMMARY)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(StateError, match="No space left"):
            write_summary(path, {**SUMMARY, "steps": 99})
    assert path.read_bytes() == before
