"""Faults in real processes: a run on this machine whose peers a script ends, stops, and starts again.

Peers have identities known beforehand, journals of their own and, where asked for, armed fault points. What the
script does is an event in the coordinator's journal. All times are those of event loops, which on one machine have
one clock (CLOCK_MONOTONIC), so that times of different processes compare.
"""

import asyncio
import hashlib
import signal
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from swarmtrain.coordinator.state import RunState
from swarmtrain.core.config import RunConfig, to_toml
from swarmtrain.core.errors import StateError
from swarmtrain.core.events import FaultEnded, FaultInjected, FaultPlanned
from swarmtrain.core.types import PeerId
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.children import Child
from swarmtrain.experiments.local import LocalSwarm
from swarmtrain.experiments.reference import Reference
from swarmtrain.swarm.identity import Identity

T = TypeVar("T")

POLL_SECONDS = 0.02
"""How often a condition is looked at that no event announces, such as the state of a process."""

FIRED = "fault fired: "
"""What a process prints before an armed fault happens."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One entry of the coordinator's journal: its place in the order of arrival, when it was recorded by its
    recorder's clock, and when it arrived by this process's."""

    index: int
    at_seconds: float
    arrived_seconds: float
    peer: PeerId
    event: Mapping[str, Any]


@dataclass(slots=True)
class Trial:
    """A run on this machine with pinned `stages` by peer, and what was seen of it.

    `faults` are armed when a peer is first started, by its number from 0. Peer ids ascend with the numbers: the
    lowest edge, which conducts first, is the first peer that hosts stage 0.
    """

    config: RunConfig
    folder: Path
    stages: Sequence[str]
    faults: Mapping[int, Sequence[str]] = field(default_factory=dict)
    entries: list[Seen] = field(default_factory=list)
    ids: list[PeerId] = field(default_factory=list)
    swarm: LocalSwarm = field(init=False)
    _by_kind: dict[str, list[Seen]] = field(default_factory=dict)
    _started: set[int] = field(default_factory=set)
    _injections: int = 0
    _seen: asyncio.Event = field(default_factory=asyncio.Event)

    async def play(self, script: "Callable[[Trial], Awaitable[None]] | None" = None) -> RunState:
        """Run to the end, or until `script`, which starts when the first step is committed, is done."""
        swarm = self.config.swarm.model_copy(update={"min_peers": len(self.stages)})
        self.config = self.config.model_copy(update={"swarm": swarm})
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.toml").write_text(to_toml(self.config))
        self.ids = write_keys(self.folder / "keys", len(self.stages))
        self.swarm = LocalSwarm(
            self.config,
            len(self.stages),
            self.folder,
            self._changed,
            stages=tuple(self.stages),
            more=self._arguments,
        )
        running = asyncio.create_task(self.swarm.run())
        acting = asyncio.create_task(self._act(script)) if script is not None else None
        try:
            if acting is not None:
                await asyncio.wait([running, acting], return_when=asyncio.FIRST_COMPLETED)
                if acting.done() and not running.done():
                    self.swarm.drain()
            state = await running
            if acting is not None and acting.done():
                acting.result()
            return state
        finally:
            ends = [task for task in (acting, running) if task is not None and not task.done()]
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def _act(self, script: "Callable[[Trial], Awaitable[None]]") -> None:
        await self.until(lambda: self.step > 0, 300.0, "a step is committed")
        await script(self)

    def _arguments(self, index: int) -> list[str]:
        """A peer that is started again has no faults any more."""
        name = f"peer-{index + 1}"
        more = ["--identity", str(self.folder / "keys" / name)]
        more += ["--out", str(self.folder / "peers" / name)]
        for fault in self.faults.get(index, ()) if index not in self._started else ():
            more += ["--fault", fault]
        self._started.add(index)
        return more

    def _changed(self, state: RunState, entry: dict[str, Any]) -> None:
        at_seconds, index = float(entry["time_seconds"]), len(self.entries)
        recorder = PeerId(entry["peer"])
        seen = Seen(index, at_seconds, self.now_seconds, recorder, entry["event"])
        self.entries.append(seen)
        self._by_kind.setdefault(seen.event["kind"], []).append(seen)
        self._seen.set()

    # ---- what was seen ------------------------------------------------------------------------------------------

    @property
    def now_seconds(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def step(self) -> int:
        """Committed steps."""
        return self.swarm.coordinator.state.step if self.entries else 0

    @property
    def conductor(self) -> int:
        """The number of the peer that conducts, as far as is known here."""
        return self.ids.index(PeerId(self.swarm.coordinator.state.conductor))

    def seen(self, kind: str, since_index: int = 0) -> list[Seen]:
        """Events of one kind, in order of arrival."""
        found = self._by_kind.get(kind, [])
        return found[bisect_left(found, since_index, key=lambda entry: entry.index) :]

    def child(self, peer: int) -> Child:
        return self.swarm.children[peer]

    def fired(self, peer: int) -> list[str]:
        """The armed faults that happened in a peer's processes, as they printed them."""
        lines = (self.folder / "logs" / f"peer-{peer + 1}.log").read_text().splitlines()
        return [line.removeprefix(FIRED) for line in lines if line.startswith(FIRED)]

    async def until(self, true: Callable[[], T | None], seconds: float, what: str) -> T:
        """The first true value of `true()`. Raises StateError after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    value = true()
                    if value:
                        return value
                    self._seen.clear()
                    await self._look()
        except TimeoutError:
            raise StateError(f"not within {seconds:g} s: {what}", f"step {self.step}") from None

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._seen.wait()
        except TimeoutError:
            return

    async def until_steps(self, steps: int, seconds: float = 120.0) -> None:
        """Wait for so many more committed steps."""
        goal = self.step + steps
        await self.until(lambda: self.step >= goal, seconds, f"step {goal} is committed")

    async def until_back(self, peer: int, after_seconds: float, seconds: float = 120.0) -> Seen:
        """Wait for a seal after that time which counts `peer` in: it is in the roster and has the state."""
        return await self.until(
            lambda: self.sealed_with(peer, after_seconds), seconds, f"peer-{peer + 1} works again"
        )

    def sealed_with(self, peer: int, after_seconds: float) -> Seen | None:
        """The newest seal after that time whose roster has `peer`."""
        for entry in reversed(self._by_kind.get("sealed", [])):
            if entry.at_seconds <= after_seconds:
                return None
            if any(owner == self.ids[peer] for owner, _ in entry.event["owners"]):
                return entry
        return None

    def is_stopped(self, peer: int) -> bool:
        """Whether the peer's process stands still after SIGSTOP."""
        return psutil.Process(self.child(peer).pid).status() == psutil.STATUS_STOPPED

    # ---- what is done -------------------------------------------------------------------------------------------

    def inject(self, fault: str, peer: int) -> float:
        """Do `fault` (kill, freeze, leave) to a peer's process now; the time at which it was done."""
        number, name = self._injections, f"peer-{peer + 1}"
        self._injections += 1
        record = self.swarm.coordinator.record
        record(FaultPlanned(number, fault, (name,), "now", 0.0, 1.0))
        at_seconds = self.now_seconds
        self.child(peer).process.send_signal(SIGNALS[fault])
        record(FaultInjected(number, fault, f"{name}, process {self.child(peer).pid}"))
        if fault != "freeze":
            record(FaultEnded(number, fault))
        return at_seconds

    def wake(self, peer: int) -> float:
        """End a freeze; the time at which it ended."""
        at_seconds = self.now_seconds
        self.child(peer).process.send_signal(signal.SIGCONT)
        return at_seconds

    async def restart(self, peer: int) -> float:
        """Start a peer again under the same identity, once its process has ended; the time at which it started."""
        await self.child(peer).process.wait()
        at_seconds = self.now_seconds
        await self.swarm.start_peer(peer)
        return at_seconds


SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "leave": signal.SIGTERM}


def reference_sha256(config: RunConfig, steps: int) -> str:
    """The parameters of the plain loop after the first `steps` steps of `config`, with one thread."""
    torch.set_num_threads(config.limits.threads)
    corpus = load_corpus(config.data, None)
    loop = Reference(config, corpus, config.model.vocab_size or corpus.tokenizer.vocab_size)
    for done in loop.train():
        if done.step + 1 == steps:
            break
    return loop.parameters_sha256()


def write_keys(folder: Path, peers: int) -> list[PeerId]:
    """Key files of peers whose ids ascend; the same for the same number of peers."""
    folder.mkdir(exist_ok=True)
    seeds = [hashlib.sha256(f"peer {index}".encode()).digest() for index in range(peers)]
    seeds.sort(key=lambda seed: Identity.from_seed(seed).peer_id)
    for index, seed in enumerate(seeds):
        (folder / f"peer-{index + 1}").write_text(seed.hex() + "\n")
    return [Identity.from_seed(seed).peer_id for seed in seeds]
