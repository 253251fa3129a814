"""Checkpoints on disk: `checkpoint/step-00000042/` with a file for each stage and a manifest.

A checkpoint is written into a folder of another name, every file is on disk before the manifest is,
and one rename makes it a checkpoint: a crash at any point leaves the older ones as they were. One
process writes to a folder.
"""

import logging
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from swarmtrain.checkpoint.manifest import (
    MANIFEST_FILE,
    Manifest,
    manifest_bytes,
    model_digest,
    read_manifest,
)
from swarmtrain.checkpoint.stage_file import (
    StageEntry,
    StageState,
    read_parameters,
    read_stage,
    verify_size,
    verify_stage,
    write_stage,
)
from swarmtrain.core.config import config_from_json
from swarmtrain.core.errors import StateError

logger = logging.getLogger(__name__)

KEEP = 3
"""Checkpoints kept when nothing else is asked for."""

_PARTIAL = ".partial-"
_REPLACED = ".replaced"
_STEP_FOLDER = re.compile(rf"step-(\d{{8,}})({re.escape(_REPLACED)})?")
_ISLAND_FOLDER = re.compile(r"island-(\d{4})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint; `load_stage(checkpoint.folder, stage)` reads its states one by one.

    `skipped` says which newer checkpoints were passed over, and why: the caller makes events of it
    (I7).
    """

    folder: Path
    manifest: Manifest
    skipped: tuple[str, ...]


def save(
    folder: Path,
    *,
    step: int,
    base: bytes,
    config_json: str,
    states: Iterable[StageState],
    keep: int = KEEP,
) -> Path:
    """Write the checkpoint of `step` and return its folder; then drop all but the `keep` newest.

    `states` is consumed one stage at a time, in any order. A checkpoint of the same step is
    replaced. Raises StateError, with the older checkpoints as they were, when the disk is full or a
    state is not well formed.
    """
    run = config_from_json(config_json).hash
    target = step_folder(folder, step)
    partial = folder / f"{_PARTIAL}{target.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_partials(folder)
        partial.mkdir()
        stages = tuple(sorted((write_stage(partial, state) for state in states), key=_stage_of))
        manifest = Manifest(step, base, run, config_json, stages, model_digest(stages))
        _write_manifest(partial, manifest)
        _publish(partial, target)
    except StateError:
        _remove_partials(folder)
        raise
    except OSError as error:
        _remove_partials(folder)
        raise StateError(
            f"the checkpoint of step {step} was not written to {folder}",
            str(error),
            "free space on that disk or pass another folder; older checkpoints are untouched",
        ) from error
    _drop_older(folder, target, keep)
    return target


def load(folder: Path) -> Checkpoint:
    """The newest whole checkpoint in `folder`, or the one that `folder` itself is, verified.

    A damaged checkpoint is passed over for the one before it, and named in `skipped`. Raises
    StateError when none is left.
    """
    if (folder / MANIFEST_FILE).exists():
        return Checkpoint(folder, _verified_manifest(folder), ())
    skipped: list[str] = []
    for candidate in _candidates(folder):
        try:
            return Checkpoint(candidate, _verified_manifest(candidate), tuple(skipped))
        except StateError as error:
            logger.warning("checkpoint %s is passed over: %s", candidate, error)
            skipped.append(str(error))
    raise _none_whole(folder, skipped)


def known_steps(folder: Path) -> list[int]:
    """The steps of which there is something named like a checkpoint in `folder`, whole or not."""
    return [int(match[1]) for path in _candidates(folder) if (match := _named(path)) is not None]


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies in `folder`."""
    return folder / f"step-{step:08d}"


def island_folder(folder: Path, island: int) -> Path:
    """Where the checkpoints of `island` lie when those of the first one, 0, lie in `folder`."""
    return folder / f"island-{island:04d}" if island else folder


def island_folders(folder: Path) -> dict[int, Path]:
    """Those below `folder`, by their islands: of all but the first one."""
    found = ((_ISLAND_FOLDER.fullmatch(path.name), path) for path in folder.glob("island-*"))
    return {int(match[1]): path for match, path in found if match is not None}


def furthest(folder: Path) -> Path:
    """Where the whole checkpoint of the highest step lies, in `folder` or in that of another island below it.

    Of equal ones it is the lowest island's; `folder` itself where no other island has any.
    """
    found, most = folder, -1
    others = island_folders(folder)
    for place in (folder, *(others[island] for island in sorted(others))) if others else ():
        newest = latest(place)
        named = _named(newest) if newest is not None else None
        if named is not None and int(named[1]) > most:
            found, most = place, int(named[1])
    return found


def load_stage(folder: Path, stage: int) -> StageState:
    """One stage's state, verified, from the checkpoint `folder` is, or from the latest in it.

    Only this stage's file is read. Raises StateError when it is damaged or the stage is not there.
    """
    folder, entry = _entry_of(folder, stage)
    return read_stage(folder, entry)


def load_parameters(folder: Path, stage: int) -> StageState:
    """As `load_stage`, but the parameters alone: to use a model, not to train it on."""
    folder, entry = _entry_of(folder, stage)
    return read_parameters(folder, entry)


def _entry_of(folder: Path, stage: int) -> tuple[Path, StageEntry]:
    """The checkpoint that holds the stage, and the stage's entry in its manifest."""
    if not (folder / MANIFEST_FILE).exists():
        newest = latest(folder)
        if newest is None:
            raise _none_whole(folder, [])
        folder = newest
    manifest = read_manifest(folder)
    entry = next((entry for entry in manifest.stages if entry.stage == stage), None)
    if entry is None:
        raise StateError(
            f"the checkpoint {folder} has no stage {stage}",
            f"it holds {', '.join(str(entry.stage) for entry in manifest.stages) or 'none'}",
            "check that model.stages is the run's",
        )
    return folder, entry


def latest(folder: Path) -> Path | None:
    """The checkpoint of the highest step that has a whole manifest and all files in full size."""
    for candidate in _candidates(folder):
        try:
            for entry in read_manifest(candidate).stages:
                verify_size(candidate, entry)
        except StateError as error:
            logger.warning("checkpoint %s is passed over: %s", candidate, error)
            continue
        return candidate
    return None


def _stage_of(entry: StageEntry) -> int:
    return entry.stage


def _verified_manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    for entry in manifest.stages:
        verify_stage(folder, entry)
    return manifest


def _none_whole(folder: Path, skipped: Sequence[str]) -> StateError:
    return StateError(
        f"there is no whole checkpoint in {folder}",
        "; ".join(skipped) or "no folder step-... in it has a manifest",
        "pass a folder that a run wrote to, or start the run without a checkpoint",
    )


def _named(path: Path) -> "re.Match[str] | None":
    return _STEP_FOLDER.fullmatch(path.name)


def _candidates(folder: Path) -> list[Path]:
    """All that is named like a checkpoint, newest first; a replaced one after its successor."""
    if not folder.is_dir():
        return []
    ranked = [
        (int(match[1]), match[2] is None, path)
        for path in folder.iterdir()
        if (match := _named(path)) is not None
    ]
    return [path for _, _, path in sorted(ranked, reverse=True)]


def _write_manifest(partial: Path, manifest: Manifest) -> None:
    with open(partial / MANIFEST_FILE, "xb") as file:
        file.write(manifest_bytes(manifest))
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(partial)


def _publish(partial: Path, target: Path) -> None:
    """Give `partial` its name; an old `target` steps aside first, as folders cannot be swapped."""
    replaced = target.with_name(target.name + _REPLACED)
    if target.exists():
        _discard(replaced)
        os.replace(target, replaced)
    os.replace(partial, target)
    _sync_folder(target.parent)
    _discard(replaced)


def _sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable, as fsync of a file does for its content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _drop_older(folder: Path, written: Path, keep: int) -> None:
    """Keep the `keep` highest steps, and `written` too when a rollback left higher ones."""
    for candidate in _candidates(folder)[keep:]:
        if candidate != written:
            _discard(candidate)


def _discard(path: Path) -> None:
    """Remove a checkpoint; renamed first, so that a crash leaves no half of one under its name."""
    doomed = path.with_name(f"{_PARTIAL}{path.name}.old")
    try:
        if path.exists():
            os.replace(path, doomed)
            shutil.rmtree(doomed)
    except OSError as error:
        logger.warning("the old checkpoint %s was not removed: %s", path, error)


def _remove_partials(folder: Path) -> None:
    """Remove what an earlier crash left behind."""
    for path in sorted(folder.glob(f"{_PARTIAL}*")):
        shutil.rmtree(path, ignore_errors=True)
