"""Feeds a sink from the coordinator's events, in a thread of its own: training never waits for it.

What the sink has not taken in stands in a queue of `MOST_QUEUED`; what comes while it is full is dropped: an event
says so, and another how many they were once the sink has caught up with half of the queue. A sink that breaks is told
nothing more.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from swarmtrain.coordinator.state import RunState
from swarmtrain.core.events import Noted, Record
from swarmtrain.monitor.sinks import Sink, finite

MOST_QUEUED = 1000
CLOSE_SECONDS = 20.0
"""For a sink to take in what it was told, at the end of a run."""

Telling = Callable[[Sink], None]


class Feed:
    """One sink, called `name` in events. `marked` is the number of the last mark that it need not hear of."""

    def __init__(self, name: str, sink: Sink, record: Record, marked: int) -> None:
        self._name, self._sink, self._record, self._marked = name, sink, record, marked
        self._queue: queue.Queue[Telling | None] = queue.Queue(MOST_QUEUED)
        self._dropped = 0
        self._is_broken = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name=f"sink {name}", daemon=True)
        self._thread.start()

    def committed(self, event: Mapping[str, Any], state: RunState) -> None:
        """The shown island committed the step of `event`, with which the run came to `state`."""
        step, figures = int(event["step"]), figures_of(event, state)
        self._offer(lambda sink: sink.step(step, figures))

    def marks(self, state: RunState) -> None:
        """Pass on what is new on the curves."""
        known = state.history.marks
        if not known or known[-1].number <= self._marked:
            return
        for mark in known:
            if mark.number > self._marked:
                self._marked = mark.number
                self._offer(partial(_tell_mark, step=mark.step, text=mark.text))

    async def close(self) -> None:
        """Let the sink take in what stands in the queue, for `CLOSE_SECONDS`."""
        while not self._put(None):
            with contextlib.suppress(queue.Empty):
                self._queue.get_nowait()
                self._dropped += 1
        await asyncio.to_thread(self._thread.join, CLOSE_SECONDS)
        if self._thread.is_alive():
            why = f"{self._name}: not within {CLOSE_SECONDS:g} s; its last figures may be missing"
            self._record(Noted("a sink did not close", why))
        if self._dropped:
            self._caught_up()

    def _offer(self, telling: Telling) -> None:
        if self._is_broken:
            return
        if not self._put(telling):
            self._dropped += 1
            if self._dropped == 1:
                why = f"{self._name}: {MOST_QUEUED} entries wait for it; what comes is dropped"
                self._record(Noted("a sink is too slow", why))
        elif self._dropped and self._queue.qsize() <= MOST_QUEUED // 2:
            self._caught_up()  # not at the first place that is free: a slow sink would be an event a step

    def _caught_up(self) -> None:
        dropped, self._dropped = self._dropped, 0
        self._record(Noted("a sink missed entries", f"{self._name}: {dropped} were dropped"))

    def _put(self, telling: Telling | None) -> bool:
        try:
            self._queue.put_nowait(telling)
        except queue.Full:
            return False
        return True

    def _work(self) -> None:
        """In the sink's thread."""
        try:
            while (telling := self._queue.get()) is not None:
                telling(self._sink)
            self._sink.close()
        except Exception as error:  # whatever the library raises: it costs this sink, never the run
            with contextlib.suppress(
                RuntimeError
            ):  # the loop is gone: nobody is there to hear of it
                self._loop.call_soon_threadsafe(self._broke, error)

    def _broke(self, error: Exception) -> None:
        self._is_broken = True
        self._record(Noted("a sink broke", f"{self._name}: {type(error).__name__}: {error}"))


def _tell_mark(sink: Sink, step: int, text: str) -> None:
    sink.mark(step, text)


def figures_of(event: Mapping[str, Any], state: RunState) -> dict[str, float]:
    """What a sink is told of a committed step; figures that are not finite are left out."""
    seconds, tokens = float(event["seconds"]), int(event["tokens"])
    return finite(
        {
            "loss_nats_per_token": float(event["loss"]),
            "learning_rate": float(event["learning_rate"]),
            "gradient_norm": float(event["gradient_norm"]),
            "step_seconds": seconds,
            "tokens": state.tokens,
            "tokens_per_second": tokens / seconds if seconds > 0 else None,
            "peers": len(state.live_peers),
            "bytes_sent": state.bytes_sent,
            "bytes_per_token": state.bytes_per_token,
            "faults": state.faults,
            "recoveries": state.recoveries,
        }
    )
