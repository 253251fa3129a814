"""The store: a crash, a full disk or damage at any point leaves the older checkpoint loadable."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarmtrain.checkpoint import stage_file, store
from swarmtrain.checkpoint.manifest import MANIFEST_FILE
from swarmtrain.checkpoint.store import latest, load, load_parameters, load_stage, save
from swarmtrain.core.config import config_from_json
from swarmtrain.core.errors import ConfigError, StateError
from tests.checkpoint.states import BASE, CONFIG_JSON, NAMES_SHAPES, assert_same, stage_state

ROOT = Path(__file__).parents[2]


def write(folder: Path, step: int, seed: int | None = None, keep: int = 3) -> Path:
    states = [stage_state(stage, step if seed is None else seed) for stage in (1, 0, 2)]
    return save(
        folder, step=step, base=BASE, config_json=CONFIG_JSON, states=iter(states), keep=keep
    )


def assert_holds(folder: Path, step: int, seed: int | None = None) -> None:
    """`folder` loads, and what it loads is the checkpoint of `step` in full."""
    checkpoint = load(folder)
    assert checkpoint.manifest.step == step
    for stage in range(3):
        expected = stage_state(stage, step if seed is None else seed)
        assert_same(load_stage(checkpoint.folder, stage), expected)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Killed(BaseException):
    """Stands for the end of the process: no handler of ours catches it."""


class Fault:
    """Raises `error` at the n-th call of the patched functions that change the disk; counts them all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
        self.calls = 0
        self.at, self.error = at, error
        for owner, name in [
            (os, "replace"),
            (os, "fsync"),
            (os, "open"),
            (Path, "mkdir"),
        ]:
            monkeypatch.setattr(owner, name, self.wrap(getattr(owner, name)))
        monkeypatch.setattr(shutil, "rmtree", self.wrap_rmtree(shutil.rmtree))
        for module in (store, stage_file):
            monkeypatch.setattr(module, "open", self.wrap_open, raising=False)

    def tick(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise self.error

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            return function(*args, **kwargs)

        return wrapped

    def wrap_rmtree(self, rmtree: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Path, ignore_errors: bool = False) -> None:
            (path / MANIFEST_FILE).unlink(missing_ok=True)  # a fault strikes half way through
            self.tick()
            rmtree(path, ignore_errors=ignore_errors)

        return wrapped

    def wrap_open(self, path: Path, mode: str) -> Any:
        self.tick()
        return FaultyFile(open(path, mode), self) if "x" in mode else open(path, mode)


class FaultyFile:
    """A file whose writes may fail, half written, as on a full disk."""

    def __init__(self, file: Any, fault: Fault) -> None:
        self.file, self.fault = file, fault

    def __enter__(self) -> "FaultyFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: Any) -> None:
        half = len(data) // 2
        self.file.write(data[:half])
        self.file.flush()
        self.fault.tick()
        self.file.write(data[half:])

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        return int(self.file.fileno())


def test_save_and_load(tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint", 42)
    assert folder.name == "step-00000042"
    stages = [f"stage-00{stage}.safetensors" for stage in range(3)]
    assert names(folder) == [MANIFEST_FILE, *stages]
    manifest = load(tmp_path / "checkpoint").manifest
    assert (manifest.step, manifest.base, manifest.config_json) == (42, BASE, CONFIG_JSON)
    assert manifest.run == config_from_json(CONFIG_JSON).hash
    assert [entry.stage for entry in manifest.stages] == [0, 1, 2]
    assert_holds(tmp_path / "checkpoint", 42)
    assert_holds(folder, 42)
    assert_same(load_stage(tmp_path / "checkpoint", 1), stage_state(1, 42))


def test_the_newest_is_loaded_and_keep_is_held(tmp_path: Path) -> None:
    for step in (5, 10, 100_000_000, 20):
        write(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-00000020", "step-100000000"]
    assert_holds(tmp_path, 100_000_000)


def test_what_was_just_written_is_never_dropped(tmp_path: Path) -> None:
    """After a rollback the new step is below those that are there."""
    for step in (8, 9):
        write(tmp_path, step, keep=2)
    written = write(tmp_path, 3, keep=1)
    assert names(tmp_path) == ["step-00000003", "step-00000009"]
    assert_holds(written, 3)


def test_the_same_step_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, 4, seed=1)
    write(tmp_path, 4, seed=2)
    assert names(tmp_path) == ["step-00000004"]
    assert_holds(tmp_path, 4, seed=2)


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a", 4), write(tmp_path / "b", 4)
    for name in names(one):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def count_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> int:
    """How many places a save of `step` over step 4 has for a fault."""
    write(tmp_path / "count", 4, seed=1)
    with monkeypatch.context() as patch:
        fault = Fault(patch, 0, Killed())
        write(tmp_path / "count", step, seed=2, keep=1)
    return fault.calls


@pytest.mark.parametrize("step", [4, 5])
@pytest.mark.parametrize(
    "error", [Killed(), OSError(errno.ENOSPC, "No space left on device")], ids=["killed", "full"]
)
def test_a_fault_at_any_point_keeps_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException
) -> None:
    """Step 4 is there; saving step 4 again (replace) or step 5 (new, drops 4) dies at every point in turn."""
    points = count_calls(tmp_path, monkeypatch, step)
    assert points > 40
    kept_old = 0
    for at in range(1, points + 1):
        folder = tmp_path / f"at-{at}"
        write(folder, 4, seed=1)
        with monkeypatch.context() as patch:
            Fault(patch, at, error)
            try:
                write(folder, step, seed=2, keep=1)
            except Killed:
                pass
            except StateError as refused:
                assert "No space left" in str(refused) and "free space" in str(refused)
        for path in folder.glob("step-*"):
            load(path)  # nothing half there bears the name of a checkpoint
        checkpoint = load(folder)
        seed = 2 if checkpoint.manifest.step == 5 else None
        if seed is None:
            same = load_stage(checkpoint.folder, 0).parameters[0]
            seed = 1 if same == stage_state(0, 1).parameters[0] else 2
        assert_holds(folder, checkpoint.manifest.step, seed)
        kept_old += seed == 1
        # And the next save works, and leaves nothing of the accident behind.
        write(folder, 6, keep=1)
        assert names(folder) == ["step-00000006"]
        assert_holds(folder, 6)
        shutil.rmtree(folder)
    assert 0 < kept_old < points


def test_a_full_disk_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 4)
    with monkeypatch.context() as patch:
        Fault(patch, 12, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(StateError, match="step 5 was not written"):
            write(tmp_path, 5)
    assert names(tmp_path) == ["step-00000004"]


def test_a_file_size_limit_of_the_system(tmp_path: Path) -> None:
    """The same with a real refusal by the kernel, in a process of its own."""
    write(tmp_path, 4)
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from swarmtrain.core.errors import StateError\n"
        "from tests.checkpoint.test_store import write\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
        "try: write(Path(sys.argv[1]), 5)\n"
        "except StateError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "File too large" in done.stdout, done.stdout + done.stderr
    assert names(tmp_path) == ["step-00000004"]
    assert_holds(tmp_path, 4)


def test_everything_is_on_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power loss is not a crash: files and names must be synced, the manifest last, before the rename."""
    seen: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        seen.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        seen.append(f"-> {target.name}")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write(tmp_path / "checkpoint", 1)
    stages = [f"stage-00{stage}.safetensors" for stage in (1, 0, 2)]
    folder = ".partial-step-00000001"
    assert seen == [*stages, MANIFEST_FILE, folder, "-> step-00000001", "checkpoint"]


@pytest.mark.parametrize("name", [MANIFEST_FILE, *(f"stage-00{n}.safetensors" for n in range(3))])
@pytest.mark.parametrize("where", [0, 8, 100, -1, "cut 0", "cut 7", "cut 8", "cut -1", "gone"])
def test_a_damaged_checkpoint_is_passed_over_and_named(
    tmp_path: Path, name: str, where: int | str
) -> None:
    write(tmp_path, 4)
    path = write(tmp_path, 5) / name
    data = bytearray(path.read_bytes())
    if where == "gone":
        path.unlink()
    elif isinstance(where, str):
        path.write_bytes(data[: int(where.split()[1])])
    else:
        data[where] ^= 0x41
        path.write_bytes(data)
    if name == MANIFEST_FILE and where == "cut -1":
        assert load(tmp_path).skipped == ()  # only the newline at the end is gone
        return
    checkpoint = load(tmp_path)
    assert checkpoint.manifest.step == 4
    assert len(checkpoint.skipped) == 1 and name in checkpoint.skipped[0]
    if path.with_name(MANIFEST_FILE).exists():
        with pytest.raises(StateError, match="damaged"):
            load(path.parent)


def test_every_byte_of_a_stage_file_counts(tmp_path: Path) -> None:
    path = write(tmp_path, 5) / "stage-001.safetensors"
    good = path.read_bytes()
    for position in range(0, len(good), 11):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(StateError, match="damaged"):
            load_stage(path.parent, 1)
    path.write_bytes(good)
    assert_same(load_stage(path.parent, 1), stage_state(1, 5))


def test_one_stage_can_be_read_when_another_is_damaged(tmp_path: Path) -> None:
    folder = write(tmp_path, 5)
    (folder / "stage-001.safetensors").write_bytes(b"")
    assert_same(load_stage(folder, 2), stage_state(2, 5))


def test_latest_looks_at_sizes_and_manifests(tmp_path: Path) -> None:
    assert latest(tmp_path / "nowhere") is None
    older, newer = write(tmp_path, 4), write(tmp_path, 5)
    assert latest(tmp_path) == newer
    (newer / "stage-002.safetensors").unlink()
    assert latest(tmp_path) == older
    (older / MANIFEST_FILE).unlink()
    assert latest(tmp_path) is None


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no whole checkpoint") as caught:
        load(tmp_path)
    assert caught.value.remedy
    with pytest.raises(StateError, match="no whole checkpoint"):
        load_stage(tmp_path, 0)
    folder = write(tmp_path, 1)
    with pytest.raises(StateError, match="no stage 9") as caught:
        load_stage(folder, 9)
    assert "0, 1, 2" in caught.value.why


def test_a_bad_state_or_config_is_refused_before_the_old_one_is_touched(tmp_path: Path) -> None:
    write(tmp_path, 4)
    twice = [stage_state(0), stage_state(0)]
    with pytest.raises(StateError):
        save(tmp_path, step=5, base=BASE, config_json=CONFIG_JSON, states=twice)
    bad = stage_state(0)
    bad.parameters[-1] = 1.0
    with pytest.raises(StateError, match="padding"):
        save(tmp_path, step=5, base=BASE, config_json=CONFIG_JSON, states=[bad])
    with pytest.raises(ConfigError):
        save(tmp_path, step=5, base=BASE, config_json="{]", states=[stage_state(0)])
    assert names(tmp_path) == ["step-00000004"]


def test_a_checkpoint_is_written_and_read_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.modules['torch'] = None\n"
        "from tests.checkpoint.test_store import assert_holds, write\n"
        "write(Path(sys.argv[1]), 3); assert_holds(Path(sys.argv[1]), 3); print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "done", done.stderr


def test_parameters_alone_are_held_to_their_digest(tmp_path: Path) -> None:
    written = save(
        tmp_path,
        step=1,
        base=BASE,
        config_json=CONFIG_JSON,
        states=[stage_state(0), stage_state(1)],
    )
    found = load_parameters(tmp_path, 1)
    assert found.parameters.tobytes() == stage_state(1).parameters.tobytes()
    assert (found.names_shapes, found.moment1, found.moment2) == (NAMES_SHAPES, None, None)
    path = written / "stage-001.safetensors"
    data = bytearray(path.read_bytes())
    header_bytes = 8 + int.from_bytes(data[:8], "little")
    data[header_bytes + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(StateError, match="digest in the manifest"):
        load_parameters(tmp_path, 1)
    assert load_parameters(tmp_path, 0).stage == 0
