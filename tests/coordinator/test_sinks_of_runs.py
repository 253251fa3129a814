"""Whoever opens a sink closes it, also where the run does not come to its begin."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from swarmtrain.checkpoint.store import save
from swarmtrain.cli.host import CoordinatorOptions, _coordinate
from swarmtrain.core.errors import ConfigError, StateError
from swarmtrain.experiments.local import LocalSwarm
from swarmtrain.monitor.sinks import ToOpen
from tests.checkpoint.states import stage_state
from tests.experiments.runs import small_config

CONFIG = small_config()
Begin = Callable[[Path, bool, ToOpen], Coroutine[Any, Any, Any]]


def as_up(folder: Path, is_resumed: bool, sinks: ToOpen) -> Coroutine[Any, Any, Any]:
    swarm = LocalSwarm(CONFIG, 1, folder, lambda *_: None, resume=is_resumed, sinks=sinks)
    return swarm.run()


def as_coordinator(folder: Path, is_resumed: bool, sinks: ToOpen) -> Coroutine[Any, Any, Any]:
    options = CoordinatorOptions("127.0.0.1:0", "", "", is_resumed, 0, sinks)
    return _coordinate(CONFIG, folder, options)


class Sink:
    """Notes that it is open."""

    def __init__(self, open_sinks: list["Sink"]) -> None:
        self._open = open_sinks
        self._open.append(self)

    def step(self, *_: object) -> None: ...

    def mark(self, *_: object) -> None: ...

    def close(self) -> None:
        self._open.remove(self)


BOTH = pytest.mark.parametrize("begin", [as_up, as_coordinator])


@BOTH
def test_a_run_that_cannot_be_resumed_leaves_no_sink_open(tmp_path: Path, begin: Begin) -> None:
    other = small_config(steps=99)
    states = [stage_state(stage) for stage in range(3)]
    checkpoint, json_text = tmp_path / "checkpoint", other.to_json()
    save(checkpoint, step=1, base=bytes(32), config_json=json_text, states=states, keep=1)
    is_open: list[Sink] = []
    sinks: ToOpen = (("one", lambda: Sink(is_open)),)
    with pytest.raises(StateError, match="of another run"):
        asyncio.run(begin(tmp_path, True, sinks))
    assert not is_open


@BOTH
def test_a_sink_that_does_not_open_leaves_none_of_the_others_open(
    tmp_path: Path, begin: Begin
) -> None:
    is_open: list[Sink] = []
    seen: list[int] = []

    def broken() -> Sink:
        seen.append(len(is_open))
        raise ConfigError("--sink two cannot be opened", "test", "")

    with pytest.raises(ConfigError, match="cannot be opened"):
        asyncio.run(begin(tmp_path, False, (("one", lambda: Sink(is_open)), ("two", broken))))
    assert seen == [1] and not is_open
