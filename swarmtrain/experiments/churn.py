"""Machines that come and go, and faults that go on happening, for as long as a virtual run lasts.

Unlike a fault plan, which is drawn once for the machines that are there, this decides when each thing is due, and
looks at who is there then. What would not be survived is held back and noted, unless the scenario wants it (I2).
"""

import asyncio
import contextvars
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import Noted, Record
from swarmtrain.core.types import PeerId, Roster
from swarmtrain.experiments.faults import Chances, Fault, draw, survivable
from swarmtrain.experiments.profiles import ChurnEvent, ChurnProfile

if TYPE_CHECKING:
    from swarmtrain.experiments.virtual import Scenario, VirtualPeer

TRIES = 20
"""Draws of one fault until one can be survived."""


class Ground(Protocol):
    """A world whose machines come and go. `nemesis` strikes faults and knows the `dead`; `names` has all there were."""

    config: RunConfig
    scenario: "Scenario"
    names: dict[str, PeerId]

    @property
    def nemesis(self) -> Any: ...

    def add(self, peer: "VirtualPeer") -> None: ...

    def drain(self, name: str, reason: str) -> None: ...

    def is_running(self, name: str) -> bool: ...

    def behind(self) -> list[str]: ...

    def newest_rosters(self) -> tuple[Roster, Roster] | None: ...


class Churn:
    """One run's comings and goings. `record` is the world's; `begin` starts the clock, `stop` ends everything."""

    def __init__(self, stage: Ground, chance: random.Random, record: Record) -> None:
        self._stage, self._chance, self._record = stage, chance, record
        self._loop = asyncio.get_running_loop()
        self._chances: Chances = stage.scenario.chances
        links = stage.config.links
        self._return_seconds = 2 * (3 * links.heartbeat_seconds + links.silence_seconds)
        self._machines = {peer.name: peer for peer in stage.scenario.peers}
        self._first: dict[str, str] = {}
        self._shaky: list[tuple[float, Fault]] = []
        self._leaving: dict[str, None] = {}
        self._is_over = False

    def begin(self) -> None:
        for peer in self._stage.scenario.peers:
            self._follow(peer)
        for profile in dict.fromkeys(peer.churn for peer in self._stage.scenario.peers):
            for event in profile.event if profile is not None else ():
                self._later(event.at_seconds, lambda p=profile, e=event: self._happen(p, e))  # type: ignore[misc]
        if self._chances.every_seconds:
            self._await_fault()

    def stop(self) -> None:
        self._is_over = True

    # ---- comings and goings -------------------------------------------------------------------------------------

    def _follow(self, peer: "VirtualPeer") -> None:
        """Draw how long `peer` stays, if its trace is a drawn one."""
        if peer.churn is not None and peer.churn.mean_life_seconds is not None:
            seconds = self._chance.expovariate(1 / peer.churn.mean_life_seconds)
            self._later(seconds, lambda: self._due(peer))

    def _due(self, peer: "VirtualPeer") -> None:
        """The life of `peer` is over; a burst takes neighbours along."""
        churn = peer.churn
        if churn is None or not self._is_here(peer.name):
            return
        taken = [peer]
        if self._chance.random() < churn.burst_share:
            neighbours = [
                other
                for name, other in sorted(self._machines.items())
                if self._is_here(name) and (other.churn, other.region) == (churn, peer.region)
            ]
            neighbours.remove(peer)
            count = min(churn.burst_machines - 1, len(neighbours))
            taken += self._chance.sample(neighbours, count)
        for machine in taken:
            if not self._take(machine, churn.notice_seconds):
                if machine is peer:
                    self._follow(peer)
                continue
            away_seconds = churn.mean_absence_seconds * self._chance.expovariate(1.0)
            self._later(away_seconds, lambda m=machine: self._arrive(m))  # type: ignore[misc]

    def _happen(self, profile: ChurnProfile, event: ChurnEvent) -> None:
        """One entry of a recorded trace."""
        followers = [peer for _, peer in sorted(self._machines.items()) if peer.churn == profile]
        if event.kind == "arrive":
            for peer in self._chance.choices(followers, k=event.machines):
                self._arrive(peer)
            return
        here = [peer for peer in followers if self._is_here(peer.name)]
        for peer in self._chance.sample(here, min(event.machines, len(here))):
            self._take(peer, event.notice_seconds)

    def _take(self, peer: "VirtualPeer", notice_seconds: float) -> bool:
        """Let a machine go; False when the run would not survive that."""
        fault = Fault("kill", (peer.name,))
        risk = self._risk_of(fault)
        if risk:
            self._record(Noted("machine stays", f"{peer.name}: {risk}"))
            return False
        self._leaving[peer.name] = None
        self._shaky.append((self._loop.time() + notice_seconds + self._return_seconds, fault))
        if not notice_seconds:
            self._stage.nemesis.strike(fault)
            return True
        self._record(Noted("machine has notice", f"{peer.name}: {notice_seconds:g} s"))
        self._stage.drain(peer.name, "the machine will be taken away")
        self._later(notice_seconds, lambda: self._strike_if_here(fault))
        return True

    def _strike_if_here(self, fault: Fault) -> None:
        if self._stage.is_running(fault.peers[0]):
            self._stage.nemesis.strike(fault)

    def _arrive(self, before: "VirtualPeer") -> None:
        """A new machine of the same kind, under a name and an identity of its own."""
        first = self._first.get(before.name, before.name)
        numbers = itertools.count(1)
        name = next(n for i in numbers if (n := f"{first}.{i}") not in self._machines)
        self._first[name] = first
        peer = replace(before, name=name)
        self._machines[peer.name] = peer
        self._record(Noted("machine arrives", f"{peer.name}, after {before.name}"))
        self._stage.add(peer)
        self._follow(peer)

    # ---- faults -------------------------------------------------------------------------------------------------

    def _await_fault(self) -> None:
        seconds = self._chance.expovariate(1 / self._chances.every_seconds)
        self._later(seconds, self._fault_due)

    def _fault_due(self) -> None:
        """Strike now, whom it can be survived for, and wait for the next."""
        self._await_fault()
        here = sorted(name for name in self._machines if self._is_here(name))
        chances = replace(self._chances, points=())
        risk = "nobody is there"
        for _ in range(TRIES if len(here) > 1 else 0):
            fault = replace(draw(self._chance, chances, here), at_seconds=0.0)
            risk = self._risk_of(fault)
            if not risk:
                self._strike(fault)
                return
        self._record(Noted("fault held back", risk))

    def _strike(self, fault: Fault) -> None:
        until_seconds = self._loop.time() + fault.duration_seconds + self._return_seconds
        self._shaky.append((until_seconds, fault))
        self._stage.nemesis.strike(fault)
        if fault.kind == "kill" and self._chances.replace_seconds:
            victim = self._machines[fault.peers[0]]
            self._later(self._chances.replace_seconds, lambda: self._arrive(victim))

    def _risk_of(self, fault: Fault) -> str:
        """Why the run may not survive `fault` on top of what it is still recovering from; empty when it must."""
        rosters = self._stage.newest_rosters()
        if not self._chances.survivable or rosters is None:
            return ""
        newest, base = rosters
        now = self._loop.time()
        self._shaky = [entry for entry in self._shaky if entry[0] > now]
        # A newcomer that still fetches its state stands for nothing yet, though the roster has it.
        uncertain = [*self._stage.nemesis.dead, *self._stage.behind()]
        gone = [Fault("kill", (name,)) for name in uncertain]
        plan: Sequence[Fault] = [*gone, *(entry for _, entry in self._shaky), fault]
        names, stages = self._stage.names, self._stage.config.model.stages
        # Who conducts next asks the roster of the last decision; newcomers since then are not in it.
        whole = self._chances.whole_stages
        return survivable(plan, newest, names, stages, whole) or survivable(
            plan, base, names, stages, whole
        )

    # ---- small things -------------------------------------------------------------------------------------------

    def _is_here(self, name: str) -> bool:
        """Whether `name` runs and has not been told to leave."""
        return name not in self._leaving and self._stage.is_running(name)

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        """Of no machine: what stops one must not stop this."""

        def run() -> None:
            if not self._is_over:
                work()

        self._loop.call_later(seconds, run, context=contextvars.Context())
