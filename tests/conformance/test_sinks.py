"""What every sink must do, read back from what its library wrote; skipped where that library is not installed."""

import json
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmtrain.core.errors import ConfigError
from swarmtrain.monitor.sinks import SINKS, Sink, SinkRun, open_sink

Row = tuple[int, str, float | str]
"""Step, name, value."""
BLOCK_BYTES, FULL, LAST = 32768, 1, 4
LOSS, MARK = "loss_nats_per_token", "peer b was lost <script>"


class World:
    """Sinks of one kind that write below `folder`, and what a reader of that library finds there."""

    def __init__(self, kind: str, target: str, read: Callable[[Path], Iterator[Row]]) -> None:
        self.kind, self.target, self.read = kind, target, read
        self.folder = Path()

    def open(self, run_id: str = "ab12cd34") -> Sink:
        run = SinkRun("demo", run_id, {"run": {"seed": 7}}, self.folder, True, lambda: 1e9)
        return open_sink(f"{self.kind}:{self.target.format(self.folder)}", run)

    def rows(self) -> list[Row]:
        return sorted(self.read(self.folder), key=str)


def tensorboard_rows(folder: Path) -> Iterator[Row]:
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder / "board"))
    events.Reload()
    for tag in events.Tags()["tensors"]:
        for event in events.Tensors(tag):
            assert event.wall_time == 1e9
            value = make_ndarray(event.tensor_proto).reshape(-1)[0]
            yield event.step, tag, value.decode() if isinstance(value, bytes) else float(value)


def wandb_rows(folder: Path) -> Iterator[Row]:
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in log_records(path.read_bytes()[7:]):
            items = Record.FromString(data).history.item
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
            step = row.pop("committed_step", -1)
            yield from ((step, k, v) for k, v in row.items() if not k.startswith("_"))


def log_records(data: bytes) -> Iterator[bytes]:
    """LevelDB's log format, behind a header of 7 bytes that counts as part of the first block."""
    at, parts, first_block_bytes = 0, b"", BLOCK_BYTES - 7
    while at + 7 <= len(data):
        left_bytes = (first_block_bytes - at) % BLOCK_BYTES
        if left_bytes and left_bytes < 7:
            at += left_bytes
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (FULL, LAST):
            yield parts
            parts = b""


def trackio_rows(folder: Path) -> Iterator[Row]:
    (path,) = (folder / "trackio").glob("*.db")
    with sqlite3.connect(path) as database:
        for step, metrics in database.execute("select step, metrics from metrics"):
            yield from ((step, name, value) for name, value in json.loads(metrics).items())


WORLDS = {
    "tensorboard": ("{}/board", tensorboard_rows),
    "wandb": ("project", wandb_rows),
    "trackio": ("project", trackio_rows),
}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    pytest.importorskip(request.param, reason=f"the extra {request.param} is not installed")
    # Without an account, and leaving nothing in the home folder.
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    if request.param == "trackio":
        monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    made = World(request.param, *WORLDS[request.param])
    made.folder = tmp_path
    return made


def test_every_sink_is_tested() -> None:
    assert WORLDS.keys() == SINKS.keys()


def test_steps_and_marks_can_be_read_back(world: World) -> None:
    sink = world.open()
    sink.step(0, {LOSS: 5.5, "peers": 4.0})
    sink.mark(1, MARK)
    sink.step(1, {LOSS: 5.25, "peers": 3.0})
    sink.close()
    expected: list[Row] = [(0, LOSS, 5.5), (0, "peers", 4.0), (1, "events", MARK)]
    expected += [(1, LOSS, 5.25), (1, "peers", 3.0)]
    assert world.rows() == sorted(expected, key=str)


def test_a_run_that_goes_on_is_shown_once(world: World) -> None:
    """A resumed run trains its last steps again."""
    for steps in (range(4), range(2, 6)):
        sink = world.open()
        for step in steps:
            sink.step(step, {LOSS: 5.0 - step})
        sink.close()
        if world.kind == "wandb":
            time.sleep(1.1)  # its folders are named by the second in which they begin
    losses: dict[int, Any] = {step: value for step, name, value in world.rows() if name == LOSS}
    assert losses == {step: 5.0 - step for step in range(6)}
    if world.kind == "tensorboard":
        assert len(world.rows()) == 6, "what is trained again hides what was"
    assert len(runs_of(world)) <= 1, "by its id both parts are one run"


def test_runs_of_one_name_are_kept_apart(world: World) -> None:
    if world.kind == "tensorboard":
        pytest.skip("a run of TensorBoard is its folder")
    for run_id in ("ab12cd34", "0077ff00"):
        sink = world.open(run_id)
        sink.step(0, {LOSS: 5.0})
        sink.close()
    assert len(runs_of(world)) == 2


def runs_of(world: World) -> set[str]:
    """The ids of the runs that its library wrote; none for TensorBoard, where folders are runs."""
    if world.kind == "wandb":
        return {path.name.rpartition("-")[2] for path in world.folder.glob("wandb/offline-run-*")}
    paths = list((world.folder / "trackio").glob("*.db")) if world.kind == "trackio" else []
    names = set[str]()
    for path in paths:
        with sqlite3.connect(path) as database:
            names |= {name for (name,) in database.execute("select run_name from metrics")}
    return names


def test_a_sink_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    run = SinkRun("demo", "ab12cd34", {}, tmp_path, True, lambda: 1e9)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_sink(f"tensorboard:{tmp_path}/file/below", run)


@pytest.mark.parametrize("text", ["tensorboard", "tensorboard:", "mlflow:x", ""])
def test_what_names_no_sink_is_refused(text: str, tmp_path: Path) -> None:
    run = SinkRun("demo", "ab12cd34", {}, tmp_path, True, lambda: 1e9)
    with pytest.raises(ConfigError, match="names no sink"):
        open_sink(text, run)


def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    run = SinkRun("demo", "ab12cd34", {}, tmp_path, True, lambda: 1e9)
    with pytest.raises(ConfigError) as error:
        open_sink("wandb:project", run)
    assert "swarmtrain[wandb]" in error.value.remedy
