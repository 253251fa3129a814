"""Where a run's figures may go besides its folder: TensorBoard, Weights & Biases, trackio. Each is an optional extra.

A sink is told of committed steps and of what explains them. It may be slow or break: whoever feeds it (the
coordinator's `feed`) sees to it that training never waits for it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from swarmtrain.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SinkRun:
    """The run that a sink shows: `folder` is its own, and `id` (hex) is this run's alone, also when it goes on later.

    `is_offline` keeps everything on this machine, for sinks that could send it elsewhere. `wall_seconds` is the time of
    day, which some of them show.
    """

    name: str
    id: str
    config: Mapping[str, Any]
    folder: Path
    is_offline: bool
    wall_seconds: Callable[[], float]


class Sink(Protocol):
    """Takes a run's figures; every method may block, and may raise whatever the library behind it raises."""

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """`step` is committed; figures by name, with their units in it."""

    def mark(self, step: int, text: str) -> None:
        """Something that explains the curves happened after `step` steps: a loss, a recovery, an outer round."""

    def close(self) -> None:
        """Everything told so far is kept when this returns."""


ToOpen = tuple[tuple[str, Callable[[], Sink]], ...]
"""Sinks by name, each opened by whoever feeds it from then on, and closes it."""


class TensorBoardSink:
    """Event files that `tensorboard --logdir FOLDER` shows. A resumed run hides the steps that it trains again."""

    def __init__(self, folder: str, run: SinkRun) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb
        from tensorboard.plugins.text.summary_v2 import text_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._scalar, self._text, self._event = scalar_pb, text_pb, Event
        self._wall_seconds = run.wall_seconds
        self._writer = EventFileWriter(folder, flush_secs=5)
        self._begin: SessionLog | None = SessionLog(status=SessionLog.START)

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        if self._begin is not None:
            # Hides what an earlier process wrote of this step and later ones, which are trained again.
            self._add(step, session_log=self._begin)
            self._begin = None
        for name, value in figures.items():
            self._add(step, summary=self._scalar(name, value))

    def mark(self, step: int, text: str) -> None:
        self._add(step, summary=self._text("events", text))

    def close(self) -> None:
        self._writer.close()

    def _add(self, step: int, **content: Any) -> None:
        event = self._event(wall_time=self._wall_seconds(), step=step, **content)
        self._writer.add_event(event)


class WandbSink:
    """A run of Weights & Biases. Offline, which needs no account, it lies in the run's folder for `wandb sync`.

    Each process writes a folder of its own; the id in all of them makes one run of them there.
    """

    def __init__(self, project: str, run: SinkRun) -> None:
        import wandb

        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
        self._run = wandb.init(
            project=project,
            name=run.name,
            id=run.id,
            resume="allow",
            config=dict(run.config),
            dir=str(run.folder),
            mode="offline" if run.is_offline else "online",
            settings=settings,
        )
        self._run.define_metric("*", step_metric="committed_step")

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({**figures, "committed_step": step})

    def mark(self, step: int, text: str) -> None:
        self._run.log({"events": text, "committed_step": step})

    def close(self) -> None:
        self._run.finish()


class TrackioSink:
    """A run in trackio's database on this machine, which `trackio show` shows."""

    def __init__(self, project: str, run: SinkRun) -> None:
        import trackio

        self._run = trackio.init(
            project=project,
            # The name is what a resumed run is found by, so it must be one run's alone.
            name=f"{run.name}-{run.id}",
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def mark(self, step: int, text: str) -> None:
        self._run.log({"events": text}, step=step)

    def close(self) -> None:
        self._run.finish()


SINKS: Mapping[str, Callable[[str, SinkRun], Sink]] = {
    "tensorboard": TensorBoardSink,
    "wandb": WandbSink,
    "trackio": TrackioSink,
}
"""By what `--sink` calls them, which is also the extra that brings their library."""


def parse_sink(text: str) -> tuple[str, str]:
    """`tensorboard:FOLDER` as (kind, target). Raises ConfigError."""
    kind, _, target = text.partition(":")
    if kind in SINKS and target:
        return kind, target
    raise ConfigError(
        f"--sink {text!r} names no sink",
        f"it is KIND:TARGET, with a kind of {', '.join(SINKS)}, and a folder or project behind it",
        "write for example --sink tensorboard:runs/board",
    )


def open_sink(text: str, run: SinkRun) -> Sink:
    """The sink that `text` names, as `parse_sink` reads it. Raises ConfigError when it cannot be opened."""
    kind, target = parse_sink(text)
    try:
        return SINKS[kind](target, run)
    except ImportError as error:
        raise ConfigError(
            f"--sink {text} needs a library that is not installed",
            str(error),
            f"run: pip install 'swarmtrain[{kind}]'",
        ) from error
    except Exception as error:  # each library has errors of its own, and all mean the same here
        raise ConfigError(
            f"--sink {text} cannot be opened",
            f"{type(error).__name__}: {error}",
            "correct what stands behind the colon, or leave --sink out",
        ) from error


def finite(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are known and finite: not every sink takes the others."""
    return {
        name: float(value)
        for name, value in figures.items()
        if value is not None and math.isfinite(value)
    }
