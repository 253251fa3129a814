"""Feeding a sink: training never waits for one, and what it misses is an event (I7, I8)."""

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest

from swarmtrain.coordinator import feed as feeding
from swarmtrain.coordinator.feed import Feed
from swarmtrain.coordinator.state import RunState, apply
from swarmtrain.core.events import Event, Noted, PeerJoined, StepCommitted

FLOOD = 5000


class Collector:
    """A sink that keeps what it is told, once `gate` is open; `error` is raised at the first step."""

    def __init__(self, error: Exception | None = None) -> None:
        self.gate = threading.Event()
        self.steps: list[int] = []
        self.figures: list[Mapping[str, float]] = []
        self.marks: list[tuple[int, str]] = []
        self.closed = False
        self._error = error

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        self.gate.wait()
        if self._error is not None:
            raise self._error
        self.steps.append(step)
        self.figures.append(figures)

    def mark(self, step: int, text: str) -> None:
        self.marks.append((step, text))

    def close(self) -> None:
        self.closed = True


def committed(step: int, loss: Any = 5.0) -> dict[str, Any]:
    return StepCommitted(step, loss, 100, 0.5, 1e-3, 1.0, (), "sha").to_json()


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A real loop: the sink's thread is a real one."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


class Scene:
    def __init__(self, sink: Collector) -> None:
        self.events: list[Event] = []
        self.heard = asyncio.Event()
        self.feed = Feed("board", sink, self.record, 0)

    def record(self, event: Event) -> None:
        self.events.append(event)
        self.heard.set()

    @property
    def notes(self) -> list[tuple[str, str]]:
        return [(event.what, event.detail) for event in self.events if isinstance(event, Noted)]


@in_a_loop
async def test_every_step_comes_in_order_with_figures_that_are_finite() -> None:
    sink = Collector()
    sink.gate.set()
    scene = Scene(sink)
    for step in range(100):
        scene.feed.committed(committed(step, "nan" if step == 7 else 5.0), RunState(tokens=100))
    await scene.feed.close()
    assert sink.steps == [*range(100)] and sink.closed and not scene.events
    assert "loss_nats_per_token" not in sink.figures[7]
    assert sink.figures[8]["loss_nats_per_token"] == 5.0
    assert sink.figures[8]["tokens_per_second"] == 200.0


@in_a_loop
async def test_marks_come_once() -> None:
    sink = Collector()
    sink.gate.set()
    scene = Scene(sink)
    state = RunState()
    for event in (PeerJoined("b", "bea", "b:1", ()), committed(0)):
        value = event.to_json() if isinstance(event, Event) else event
        state = apply(state, {"event": value, "peer": "b", "time_seconds": 1.0})
    for number in range(3):
        lost = {"kind": "lost", "peer": "b", "reason": "killed"}
        state = apply(state, {"event": lost, "peer": "a", "time_seconds": 2.0 + number})
        scene.feed.marks(state)
    await scene.feed.close()
    assert [step for step, _ in sink.marks] == [1]
    assert "bea" in sink.marks[0][1]


@in_a_loop
async def test_a_sink_that_stands_still_holds_nobody_up_and_loses_what_does_not_fit() -> None:
    sink = Collector()
    scene = Scene(sink)
    for step in range(FLOOD):  # would never return if this waited for the sink
        scene.feed.committed(committed(step), RunState())
    assert [what for what, _ in scene.notes] == ["a sink is too slow"]
    sink.gate.set()
    await scene.feed.close()
    assert sink.closed and len(sink.steps) <= feeding.MOST_QUEUED + 1
    what, detail = scene.notes[-1]
    assert what == "a sink missed entries"
    assert f"{FLOOD - len(sink.steps)} were dropped" in detail


class Slow(Collector):
    """Takes one entry in for each release of `one`, and then releases `took`."""

    def __init__(self) -> None:
        super().__init__()
        self.gate.set()
        self.one, self.took = threading.Semaphore(0), threading.Semaphore(0)

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        self.one.acquire()
        super().step(step, figures)
        self.took.release()


@in_a_loop
async def test_a_sink_that_is_always_a_little_too_slow_is_one_event_not_one_a_step() -> None:
    sink = Slow()
    scene = Scene(sink)
    for step in range(FLOOD):
        scene.feed.committed(committed(step), RunState())
    for step in range(FLOOD, FLOOD + 20):  # one place is free each time, and one entry too many
        sink.one.release()
        await asyncio.to_thread(sink.took.acquire, timeout=10)
        scene.feed.committed(committed(step), RunState())
        scene.feed.committed(committed(step), RunState())
    assert [what for what, _ in scene.notes] == ["a sink is too slow"]
    sink.one.release(FLOOD)
    await scene.feed.close()
    assert [what for what, _ in scene.notes] == ["a sink is too slow", "a sink missed entries"]


@in_a_loop
async def test_a_sink_that_breaks_is_left_alone() -> None:
    sink = Collector(OSError("disk full"))
    sink.gate.set()
    scene = Scene(sink)
    scene.feed.committed(committed(0), RunState())
    async with asyncio.timeout(10):
        await scene.heard.wait()
    for step in range(1, FLOOD):
        scene.feed.committed(committed(step), RunState())
    await scene.feed.close()
    assert scene.notes == [("a sink broke", "board: OSError: disk full")]


@in_a_loop
async def test_the_end_of_a_run_waits_for_a_sink_for_so_long_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeding, "CLOSE_SECONDS", 0.05)
    sink = Collector()
    scene = Scene(sink)
    scene.feed.committed(committed(0), RunState())
    async with asyncio.timeout(10):
        await scene.feed.close()
    assert [what for what, _ in scene.notes] == ["a sink did not close"]
    sink.gate.set()
