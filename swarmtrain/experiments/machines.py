"""Machines that can stand still: a virtual loop that knows which machine each callback belongs to.

Tasks and timers inherit the machine of the code that makes them. A machine that stands still runs none of them,
like a stopped process: what arrives waits, its timers are late, and everybody else goes on.
"""

import asyncio
import contextvars
from collections.abc import Callable
from typing import TypeVar

from swarmtrain.core.clock import VirtualLoop

T = TypeVar("T")

MOST_TURNS = 200_000
"""Turns of the loop at one instant after which the world is taken to go round in circles."""

_machine: contextvars.ContextVar[str] = contextvars.ContextVar("machine", default="")


class Livelock(RuntimeError):
    """Something runs again and again and the clock never moves."""


def on_machine(name: str, work: Callable[[], T]) -> T:
    """Run `work` so that every task and timer it makes belongs to machine `name`."""
    context = contextvars.copy_context()
    context.run(_machine.set, name)
    return context.run(work)


class MachineLoop(VirtualLoop):
    """A virtual loop whose machines can be stopped and let go on, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self._parked: dict[str, list[asyncio.Handle]] = {}

    def stop_machine(self, name: str) -> None:
        """Machine `name` runs nothing from here on, apart from the callback that may be running now."""
        self._parked.setdefault(name, [])

    def go_on(self, name: str) -> None:
        """What became due while the machine stood still runs now, in the order in which it became due."""
        self._ready.extend(self._parked.pop(name, []))  # type: ignore[attr-defined]

    @property
    def stopped(self) -> tuple[str, ...]:
        """The machines that stand still."""
        return tuple(self._parked)

    def _set_time(self, now_seconds: float) -> None:
        self._turns = 0
        super()._set_time(now_seconds)

    def _run_once(self) -> None:
        if self._parked:
            self._park()
        super()._run_once()
        self._turns += 1
        if self._turns > MOST_TURNS:
            self._turns = 0
            due = next(iter(self._scheduled), None)  # type: ignore[attr-defined]
            raise Livelock(f"the clock stands at {self.time():.6f} s; the next timer is {due!r}")

    def _park(self) -> None:
        """Set aside what belongs to machines that stand still; advance the clock past what only they wait for."""
        while True:
            self._take_due()
            waiting = list(self._ready)  # type: ignore[attr-defined]
            self._ready.clear()  # type: ignore[attr-defined]
            for handle in waiting:
                parked = self._parked.get(handle._context.get(_machine, ""))
                (self._ready if parked is None else parked).append(handle)  # type: ignore[attr-defined]
            if self._ready or self._stopping:  # type: ignore[attr-defined]
                return
            self._advance()
