"""A soak: real peers train for many minutes while one after the other is killed, frozen, or asked to leave (F27).

The plan follows from a seed. What would not be survivable waits: every stage keeps a replica in peers that are
well, and so does a majority. Afterwards everything is accounted for: parameters, journals, processes, memory.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import psutil

from swarmtrain.core.tasks import Tasks
from swarmtrain.experiments.injections import Trial

KINDS = ("kill", "freeze", "leave")
BACK_SECONDS = 180.0
"""For a restarted process to import what it needs and to be counted in, on a machine that is busy."""
SAMPLE_SECONDS = 2.0
SETTLED_LOOKS = 45
"""Samples after which a process has imported, joined and trained."""
LAST_STEPS = 5
"""Steps that follow when everybody is back."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One fault of a soak. `victims` are all peers by number, from 0, in the order in which they are considered.

    `pause_seconds` pass before a killed or departed peer is started again, or a frozen one wakes.
    """

    at_seconds: float
    fault: str
    victims: tuple[int, ...]
    pause_seconds: float


def soak_plan(
    seconds: float, every_seconds: float, peers: int, chance: random.Random
) -> tuple[Disturbance, ...]:
    """Faults at random times, about one every `every_seconds`, for `seconds`."""
    plan, at_seconds = list[Disturbance](), 0.0
    while True:
        at_seconds += every_seconds * chance.uniform(0.5, 1.5)
        if at_seconds >= seconds:
            return tuple(plan)
        fault = chance.choice(KINDS)
        victims = tuple(chance.sample(range(peers), peers))
        longest_seconds = 15.0 if fault == "freeze" else 5.0
        pause_seconds = chance.uniform(0.5, longest_seconds)
        plan.append(Disturbance(at_seconds, fault, victims, pause_seconds))


def stages_of(peers: int, middle_stages: int) -> tuple[str, ...]:
    """Who hosts what: a third, at least three, host the whole model, the others one middle stage each in turn."""
    whole = min(max(peers // 3, 3), peers)
    rest = [str(index % middle_stages + 1) for index in range(peers - whole)]
    return (*[f"0:{middle_stages}"] * whole, *rest)


def hosted(stages: str) -> set[int]:
    """`0:2` is the stages 0, 1 and 2."""
    first, _, last = stages.partition(":")
    return set(range(int(first), int(last or first) + 1))


def is_safe(victim: int, down: Iterable[int], stages: Sequence[str]) -> bool:
    """Whether the peers that are well go on without `victim`: every stage twice, and two in three of them."""
    gone = {victim, *down}
    well = [hosted(text) for peer, text in enumerate(stages) if peer not in gone]
    replicas = Counter(stage for stages_of_peer in well for stage in stages_of_peer)
    every = set().union(*map(hosted, stages))
    return min(replicas[stage] for stage in every) >= 2 and 3 * len(well) >= 2 * len(stages)


@dataclass(slots=True)
class Soak:
    """Carries a plan out on a trial; `script` is the trial's. `done` counts what happened, by kind."""

    plan: Sequence[Disturbance]
    done: Counter[str] = field(default_factory=Counter)
    late_seconds: float = 0.0
    failures: list[BaseException] = field(default_factory=list)
    _down: set[int] = field(default_factory=set)

    async def script(self, trial: Trial) -> None:
        begin_seconds, tasks = trial.now_seconds, Tasks(self.failures.append)
        try:
            running = []
            for disturbance in self.plan:
                due_seconds = begin_seconds + disturbance.at_seconds
                await asyncio.sleep(due_seconds - trial.now_seconds)
                victim = await trial.until(
                    lambda d=disturbance: self._choose(trial, d),  # type: ignore[misc]
                    2 * BACK_SECONDS,
                    "a fault would be survivable",
                )
                self.late_seconds += max(trial.now_seconds - due_seconds, 0.0)
                self._down.add(victim[0])
                work = self._disturb(trial, victim[0], disturbance)
                running.append(tasks.spawn(work, f"{disturbance.fault} {victim[0]}"))
            await asyncio.gather(*running, return_exceptions=True)
            await trial.until_steps(LAST_STEPS)
        finally:
            await tasks.cancel_all()
        if self.failures:
            raise self.failures[0]

    def _choose(self, trial: Trial, disturbance: Disturbance) -> tuple[int] | None:
        if self.failures:
            raise self.failures[0]
        for victim in disturbance.victims:
            if victim not in self._down and is_safe(victim, self._down, trial.stages):
                return (victim,)
        return None

    async def _disturb(self, trial: Trial, victim: int, disturbance: Disturbance) -> None:
        trial.inject(disturbance.fault, victim)
        self.done[disturbance.fault] += 1
        if disturbance.fault == "freeze":
            await asyncio.sleep(disturbance.pause_seconds)
            back_seconds = trial.wake(victim)
        else:
            await trial.child(victim).process.wait()
            await asyncio.sleep(disturbance.pause_seconds)
            back_seconds = await trial.restart(victim)
        await trial.until_back(victim, back_seconds, BACK_SECONDS)
        self._down.discard(victim)


@dataclass(slots=True)
class Footprint:
    """What the processes that this one started take and leave: looked at now and then while they run."""

    looks: Counter[int] = field(default_factory=Counter)
    first_rss_bytes: dict[int, int] = field(default_factory=dict)
    peak_rss_bytes: dict[int, int] = field(default_factory=dict)
    _seen: dict[int, psutil.Process] = field(default_factory=dict)
    _before: set[int] = field(default_factory=lambda: {p.pid for p in _descendants()})

    async def watch(self) -> None:
        """Look every few seconds until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(SAMPLE_SECONDS)

    def look(self) -> None:
        for process in _descendants():
            pid = process.pid
            if pid in self._before:
                continue
            try:
                rss_bytes = process.memory_info().rss
            except psutil.Error:
                continue
            self._seen.setdefault(pid, process)
            self.looks[pid] += 1
            # One that has served for a while has allocated what it needs.
            if self.looks[pid] == SETTLED_LOOKS:
                self.first_rss_bytes[pid] = rss_bytes
            self.peak_rss_bytes[pid] = max(self.peak_rss_bytes.get(pid, 0), rss_bytes)

    @property
    def growth_bytes(self) -> int:
        """The most that any process grew by after it had settled."""
        first = self.first_rss_bytes
        return max((self.peak_rss_bytes[pid] - first[pid] for pid in first), default=0)

    @property
    def largest_bytes(self) -> int:
        return max(self.peak_rss_bytes.values(), default=0)

    def left(self) -> list[str]:
        """Processes that still live, and ports that this one still listens on; call it when all should be gone."""
        own = psutil.Process().net_connections("tcp")
        ports = [entry.laddr.port for entry in own if entry.status == psutil.CONN_LISTEN]
        alive = [pid for pid, process in self._seen.items() if _lives(process)]
        return [f"process {pid}" for pid in alive] + [f"port {port}" for port in ports]


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
