"""Carries a fault plan out on real processes: signals to machines, and lines and compute made worse by their files."""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from swarmtrain.core.events import FaultEnded, FaultInjected, FaultMissed, FaultPlanned, Record
from swarmtrain.core.tasks import Tasks
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.nemesis import FLAP_SECONDS, Conditions
from swarmtrain.experiments.staging import Pair

Signal = Callable[[str, signal.Signals], bool]
"""Sends a signal to the machine of this name; False when it does not run."""

_FIRST_SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}
"""What faults of processes begin with."""


class ProcessNemesis:
    """`injected` says when each fault of the `plan` began, in loop seconds; `dead` are the machines killed by it.

    `restage` is called when what machines are made to be has changed: by `conditions`, or by `cut`.
    """

    def __init__(
        self, names: Collection[str], send: Signal, restage: Callable[[], None], record: Record
    ) -> None:
        self._names, self._send, self._restage, self._record = names, send, restage, record
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._held: Counter[Pair] = Counter()
        self.conditions = Conditions()
        self.plan: tuple[Fault, ...] = ()
        self.injected: dict[int, float] = {}
        self._missed: dict[int, None] = {}
        self.dead: dict[str, None] = {}

    @property
    def cut(self) -> list[Pair]:
        """Directions in which nothing arrives now."""
        return [pair for pair, holds in self._held.items() if holds]

    def begin(self, plan: tuple[Fault, ...], at_seconds: float) -> None:
        """The plan's seconds count from the loop's `at_seconds`."""
        for fault in plan:
            self._enter(fault, at_seconds + fault.at_seconds)

    def strike(self, fault: Fault) -> None:
        """One fault more, now."""
        self._enter(fault, self._loop.time())

    async def finish(self) -> None:
        """The run is over: note what its end forestalled."""
        await self._tasks.cancel_all()
        for number, fault in enumerate(self.plan):
            if number not in self.injected and number not in self._missed:
                self._miss(number, fault, "the run ended before it was due")

    def _miss(self, number: int, fault: Fault, reason: str) -> None:
        self._missed[number] = None
        self._record(FaultMissed(number, fault.kind, reason))

    def _enter(self, fault: Fault, due_seconds: float) -> None:
        number, self.plan = len(self.plan), (*self.plan, fault)
        values = (fault.kind, fault.peers, fault.when, fault.duration_seconds, fault.amount)
        self._record(FaultPlanned(number, *values))
        self._tasks.spawn(self._carry_out(number, fault, due_seconds), f"fault {number}")

    async def _carry_out(self, number: int, fault: Fault, due_seconds: float) -> None:
        await asyncio.sleep(max(0.0, due_seconds - self._loop.time()))
        dead = [name for name in fault.peers if name in self.dead]
        if dead and fault.kind != "partition":
            self._miss(number, fault, f"{dead[0]} had been killed before")
            return
        first = _FIRST_SIGNALS.get(fault.kind)
        if first is not None and not self._send(fault.peers[0], first):
            self._miss(number, fault, f"{fault.peers[0]} did not run")
            return
        self.injected[number] = self._loop.time()
        self._record(FaultInjected(number, fault.kind, ", ".join(fault.peers)))
        if fault.kind == "kill":
            self.dead[fault.peers[0]] = None
            return
        await self._last(fault)
        self._record(FaultEnded(number, fault.kind))

    async def _last(self, fault: Fault) -> None:
        """A fault that begins and ends."""
        match fault.kind:
            case "freeze":
                await asyncio.sleep(fault.duration_seconds)
                self._send(fault.peers[0], signal.SIGCONT)
            case "flap":
                for _ in range(int(fault.amount)):
                    await self._hold(_both(*fault.peers), FLAP_SECONDS)
                    await asyncio.sleep(FLAP_SECONDS)
            case "straggler":
                await self._worsen(self.conditions.slowness, [fault.peers[0]], fault)
            case "slow_link":
                await self._worsen(self.conditions.link_slowness, _both(*fault.peers), fault)
            case _:
                await self._hold(self._pairs(fault), fault.duration_seconds)

    def _pairs(self, fault: Fault) -> list[Pair]:
        match fault.kind:
            case "one_way":
                return [(fault.peers[0], fault.peers[1])]
            case "partition":
                others = [name for name in self._names if name not in fault.peers]
                return [pair for a in fault.peers for b in others for pair in _both(a, b)]
        return _both(*fault.peers)

    async def _hold(self, pairs: list[Pair], seconds: float) -> None:
        self._held.update(pairs)
        self._restage()
        await asyncio.sleep(seconds)
        self._held.subtract(pairs)
        self._restage()

    async def _worsen(self, factors: "Counter[Any]", keys: list[Any], fault: Fault) -> None:
        for key in keys:
            factors[key] += fault.amount  # type: ignore[assignment]
        self._restage()
        await asyncio.sleep(fault.duration_seconds)
        for key in keys:
            factors[key] -= fault.amount  # type: ignore[assignment]
        self._restage()


def _both(a: str, b: str) -> list[Pair]:
    return [(a, b), (b, a)]
