"""Carries a fault plan out on the virtual world: stops machines, holds lines, changes what travels (design.md 3).

Every fault becomes an event of the world, so that a journal shows what its run had to bear (I7).
"""

import asyncio
import contextvars
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from swarmtrain.compute.lane import Kind as LaneKind
from swarmtrain.compute.lane import Task
from swarmtrain.core.events import (
    Event,
    FaultEnded,
    FaultInjected,
    FaultMissed,
    FaultPlanned,
    Record,
)
from swarmtrain.experiments.faults import ALL_POINTS, MESSAGES, Fault
from swarmtrain.experiments.machines import MachineLoop
from swarmtrain.experiments.traffic import Shown, Traffic, flipped, repeating
from swarmtrain.transport.link import Handler
from swarmtrain.transport.memory import MemoryNetwork

K = TypeVar("K")

FLAP_SECONDS = 0.5
"""How long each cut of a flapping connection lasts, and each pause between cuts."""


@dataclass(slots=True)
class Conditions:
    """What faults do to figures: factors on compute seconds by machine, on link figures by pair of names."""

    slowness: Counter[str] = field(default_factory=Counter)
    link_slowness: Counter[tuple[str, str]] = field(default_factory=Counter)

    def compute(self, name: str) -> float:
        return self.slowness[name] or 1.0

    def link(self, sender: str, receiver: str) -> float:
        return self.link_slowness[(sender, receiver)] or 1.0


@dataclass(slots=True)
class _Armed:
    """A fault of messages that waits for `left` more of them."""

    number: int
    fault: Fault
    left: int

    def fits(self, sender: str, receiver: str) -> bool:
        return self.fault.peers in ((sender,), (sender, receiver))


class Nemesis:
    """One plan on one network. `begin` starts the clock of the plan; `finish` says what never happened."""

    def __init__(
        self, network: MemoryNetwork, record: Record, killed: Callable[[str], None]
    ) -> None:
        self._network, self._record, self._killed = network, record, killed
        self._loop = asyncio.get_running_loop()
        # Faults belong to no machine: stopping one must not stop the fault that lets it go on.
        self._context = contextvars.Context()
        self.conditions = Conditions()
        self.plan: tuple[Fault, ...] = ()
        self.injected: dict[int, float] = {}
        self.dead: dict[str, None] = {}
        self._held: Counter[tuple[str, str]] = Counter()
        self._stopped: Counter[str] = Counter()
        self._passed: Counter[tuple[str, str]] = Counter()
        self._pending: dict[str, list[tuple[int, Fault]]] = {}
        self._armed: list[_Armed] = []
        self._chance = random.Random(0)
        self._is_over = False
        self.traffic = Traffic()

    # ---- the plan -----------------------------------------------------------------------------------------------

    def begin(self, plan: tuple[Fault, ...], chance: random.Random) -> None:
        """From here on the plan's seconds count."""
        self._chance = chance
        for fault in plan:
            number = self._enter(fault)
            if fault.at_point:
                self._pending.setdefault(fault.peers[0], []).append((number, fault))
            else:
                self._later(fault.at_seconds, lambda n=number: self._inject(n, ""))  # type: ignore[misc]

    def strike(self, fault: Fault) -> None:
        """One fault more, which the world decides on now."""
        self._inject(self._enter(fault), "")

    def _enter(self, fault: Fault) -> int:
        number, self.plan = len(self.plan), (*self.plan, fault)
        seconds, amount = fault.duration_seconds, fault.amount
        self._record(FaultPlanned(number, fault.kind, fault.peers, fault.when, seconds, amount))
        return number

    def finish(self) -> None:
        """The run is over: note what its end forestalled. Nothing is injected while peers say goodbye."""
        self._is_over = True
        for number, fault in enumerate(self.plan):
            if number not in self.injected:
                reason = "the run ended before it was due, or its peer was gone"
                self._record(FaultMissed(number, fault.kind, reason))

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        self._loop.call_later(seconds, work, context=self._context)

    # ---- points -------------------------------------------------------------------------------------------------

    def at_event(self, name: str, event: Event) -> None:
        if name in self._pending:
            self._pass(name, f"{event.kind}.recorded")

    def at_task(self, name: str, task: Task) -> None:
        """A lane task of machine `name` ended."""
        if name in self._pending:
            what = task.name if task.kind is LaneKind.STATE else task.kind.name.lower()
            self._pass(name, f"{what}.done")

    def _pass(self, name: str, observation: str) -> None:
        """Machine `name` was seen at a point; inject what waits for that."""
        for entry in list(self._pending.get(name, ())):
            number, fault = entry
            if observation not in ALL_POINTS[fault.at_point]:
                continue
            self._passed[(name, f"{number}")] += 1
            if self._passed[(name, f"{number}")] == fault.nth:
                self._pending[name].remove(entry)
                self._inject(number, observation)

    # ---- wires --------------------------------------------------------------------------------------------------

    def tap(self, sender: str, receiver: str) -> "_Wire":
        return _Wire(self, sender, receiver)

    def wrap(self, name: str, handler: Handler) -> Handler:
        return repeating(handler, lambda: self._take_repeat(name))

    def _take_repeat(self, receiver: str) -> bool:
        """Whether the call that just reached `receiver` is delivered twice."""
        for armed in self._armed:
            if self._is_over:
                return False
            if armed.fault.kind == "duplicate" and armed.fault.peers == (receiver,):
                self._hit(armed, f"a call to {receiver}")
                return True
        return False

    def sent(self, sender: str, receiver: str, frame: bytes) -> list[tuple[float, bytes]]:
        if sender in self._pending:
            for observation in self.traffic.sent(sender, receiver, frame):
                self._pass(sender, observation)
        if sender in self.dead:
            return []
        for armed in () if self._is_over else self._armed:
            if armed.fits(sender, receiver):
                shown = self.traffic.show(frame)
                if self._is_fit(armed.fault, shown):
                    self._hit(armed, f"{shown.what} from {sender} to {receiver}")
                    return self._changed(armed.fault, frame, shown)
        return [(0.0, frame)]

    def received(self, sender: str, receiver: str, frame: bytes) -> None:
        if receiver in self._pending:
            for observation in self.traffic.received(sender, receiver, frame):
                self._pass(receiver, observation)

    def _is_fit(self, fault: Fault, shown: Shown) -> bool:
        match fault.kind:
            case "corrupt":
                return shown.payload_bytes > 0
            case "drop" | "late":
                return shown.is_tell or shown.is_small
            case _:
                return shown.is_tell

    def _changed(self, fault: Fault, frame: bytes, shown: Shown) -> list[tuple[float, bytes]]:
        match fault.kind:
            case "drop":
                return []
            case "duplicate":
                return [(0.0, frame), (fault.duration_seconds, frame)]
            case "corrupt":
                return [(0.0, flipped(frame, shown.payload_bytes, self._chance))]
            case _:
                return [(fault.duration_seconds, frame)]

    def _hit(self, armed: _Armed, what: str) -> None:
        if armed.number not in self.injected:
            self._note(armed.number, armed.fault, what)
        armed.left -= 1
        if not armed.left:
            self._armed.remove(armed)
            self._record(FaultEnded(armed.number, armed.fault.kind))

    # ---- faults -------------------------------------------------------------------------------------------------

    def _note(self, number: int, fault: Fault, detail: str) -> None:
        self.injected[number] = self._loop.time()
        self._record(FaultInjected(number, fault.kind, detail))

    def _inject(self, number: int, detail: str) -> None:
        fault = self.plan[number]
        if self._is_over:
            return
        if fault.kind in MESSAGES:
            self._armed.append(_Armed(number, fault, int(fault.amount)))
            return
        if fault.kind != "partition" and any(peer in self.dead for peer in fault.peers):
            return
        self._note(number, fault, detail or f"{', '.join(fault.peers)}")
        match fault.kind:
            case "kill":
                self.kill(fault.peers[0])
            case "flap":
                self._flap(number, fault, int(fault.amount))
            case _:
                end = self._begin(fault)
                self._later(fault.duration_seconds, lambda: self._end(number, fault, end))

    def _begin(self, fault: Fault) -> Callable[[], None]:
        """Start a fault that lasts; returns what ends it."""
        match fault.kind:
            case "freeze":
                return self._freeze(fault.peers[0])
            case "straggler":
                return _raise(self.conditions.slowness, [fault.peers[0]], fault.amount)
            case "slow_link":
                return _raise(self.conditions.link_slowness, _both(*fault.peers), fault.amount)
            case "one_way":
                return self._hold([(fault.peers[0], fault.peers[1])])
            case "partition":
                others = [name for name in self._network.names if name not in fault.peers]
                return self._hold(
                    [pair for a in fault.peers for b in others for pair in _both(a, b)]
                )
            case _:
                return self._hold(_both(*fault.peers))

    def _end(self, number: int, fault: Fault, end: Callable[[], None]) -> None:
        end()
        self._record(FaultEnded(number, fault.kind))

    def kill(self, name: str) -> None:
        """Machine `name` is gone: nothing of it runs again, its links break."""
        loop = self._loop
        assert isinstance(loop, MachineLoop), "only machines of a MachineLoop can be stopped"
        self.dead[name] = None
        loop.stop_machine(name)
        self._context.copy().run(self._network.kill, name)
        self._killed(name)

    def _freeze(self, name: str) -> Callable[[], None]:
        loop = self._loop
        assert isinstance(loop, MachineLoop), "only machines of a MachineLoop can be stopped"
        self._stopped[name] += 1
        loop.stop_machine(name)

        def wake() -> None:
            self._stopped[name] -= 1
            if not self._stopped[name] and name not in self.dead:
                loop.go_on(name)

        return wake

    def _flap(self, number: int, fault: Fault, cuts: int) -> None:
        release = self._hold(_both(*fault.peers))

        def pause() -> None:
            release()
            if cuts > 1:
                self._later(FLAP_SECONDS, lambda: self._flap(number, fault, cuts - 1))
            else:
                self._record(FaultEnded(number, fault.kind))

        self._later(FLAP_SECONDS, pause)

    def _hold(self, pairs: list[tuple[str, str]]) -> Callable[[], None]:
        """Let nothing through in these directions until the returned call; holds of several faults add up."""
        for pair in pairs:
            self._held[pair] += 1
            self._network.line(*pair).hold()

        def release() -> None:
            for pair in pairs:
                self._held[pair] -= 1
                if not self._held[pair]:
                    self._network.line(*pair).release()

        return release


@dataclass(slots=True)
class _Wire:
    """The nemesis at one direction between two names."""

    nemesis: Nemesis
    sender: str
    receiver: str

    def sent(self, frame: bytes) -> list[tuple[float, bytes]]:
        return self.nemesis.sent(self.sender, self.receiver, frame)

    def received(self, frame: bytes) -> None:
        self.nemesis.received(self.sender, self.receiver, frame)


def _both(a: str, b: str) -> list[tuple[str, str]]:
    return [(a, b), (b, a)]


def _raise(factors: "Counter[K]", keys: Sequence[K], amount: float) -> Callable[[], None]:
    """Add `amount` to the factors of `keys`; returns what takes it back."""
    for key in keys:
        factors[key] += amount  # type: ignore[assignment]

    def lower() -> None:
        for key in keys:
            factors[key] -= amount  # type: ignore[assignment]

    return lower
