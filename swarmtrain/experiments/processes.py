"""World two for experiments: a scenario with real peers on this machine, one process each.

Peers have the identities that they have in virtual time. Lines and compute are made as slow as the scenario says
(experiments.staging), machines are killed, stopped and let go on by signals, and lines are cut by changing what their
senders' files say. Everything else is what `swarmtrain up` runs.
"""

import asyncio
import random
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmtrain.coordinator.state import RunState
from swarmtrain.core.config import RunConfig, to_toml
from swarmtrain.core.errors import Stopped
from swarmtrain.core.events import (
    Event,
    FaultEnded,
    FaultInjected,
    FaultMissed,
    FaultPlanned,
    Traffic,
)
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.data.stream import Corpus
from swarmtrain.experiments.children import Child
from swarmtrain.experiments.faults import Fault, random_plan
from swarmtrain.experiments.figures import Figures
from swarmtrain.experiments.gantt import shown_steps
from swarmtrain.experiments.local import LocalSwarm
from swarmtrain.experiments.nemesis import FLAP_SECONDS
from swarmtrain.experiments.staging import Pair, arguments_of, island_file, staging_of
from swarmtrain.experiments.virtual import WORLD, Scenario, VirtualPeer, identity_seed
from swarmtrain.monitor.journal import read_journal
from swarmtrain.monitor.lines import json_line
from swarmtrain.peer.staging import write_staging
from swarmtrain.swarm.identity import Identity

LOOK_SECONDS = 0.5
FIRST_ISLAND = 0


@dataclass(slots=True)
class ProcessRun:
    """What a run of processes left behind, beside its folder. Seconds are those of the journal."""

    state: RunState
    seconds: float
    plan: tuple[Fault, ...]
    injected: dict[int, float]
    last_commit_seconds: float
    lines: list[str]


class ProcessStage:
    """The scene: one folder, one process for each machine, and what is done to them."""

    def __init__(self, config: RunConfig, scenario: Scenario, corpus: Corpus, folder: Path) -> None:
        self.config, self.scenario, self._folder = config, scenario, folder
        self.figures = Figures(scenario, config, corpus.tokenizer.vocab_size)
        # Without its first island no round is decided: it begins when the others have contributions.
        self.machines = sorted(scenario.peers, key=lambda peer: peer.island == FIRST_ISLAND)
        self.names: dict[str, PeerId] = {}
        self.plan: tuple[Fault, ...] = ()
        self.injected: dict[int, float] = {}
        self._loop = asyncio.get_running_loop()
        self._begin_seconds = self._progress_seconds = self._loop.time()
        self._events: list[tuple[float, Event]] = []
        self._traced: list[dict[str, Any]] = []
        self._cut: Counter[Pair] = Counter()
        self._heard_rounds: set[int] = set()
        self._others_ready = asyncio.Event()
        self._has_begun = self._is_over = False
        self._failure: BaseException | None = None
        self._tasks = Tasks(self._fail)
        first = [peer for peer in self.machines if self._is_held(peer)]
        self._swarm = LocalSwarm(
            config,
            len(self.machines) - len(first),
            folder,
            self._changed,
            more=lambda index: arguments_of(self.machines[index], scenario, folder),
        )

    def _is_held(self, peer: VirtualPeer) -> bool:
        islands = {other.island for other in self.scenario.peers}
        return len(islands) > 1 and peer.island == FIRST_ISLAND

    async def play(self) -> ProcessRun:
        """Run to the last step. Raises Stopped when it ended earlier, StateError when no checkpoint could be kept."""
        self._prepare()
        held = [number for number, peer in enumerate(self.machines) if self._is_held(peer)]
        if held:
            self._tasks.spawn(self._start_later(held), "first island")
        self._tasks.spawn(self._watch(), "watch")
        try:
            state = await self._swarm.run()
        finally:
            self._is_over = True
            self._wake_all()
            await self._tasks.cancel_all()
        if self._failure is not None:
            raise self._failure
        for number, fault in enumerate(self.plan):
            if number not in self.injected:
                missed = FaultMissed(number, fault.kind, "the run ended before it was due")
                self._note(missed)
        lines, begin = self._rewrite_journal(), self._begin_seconds
        injected = {number: at - begin for number, at in self.injected.items()}
        last_seconds = max(
            (at - begin for at, e in self._events if isinstance(e, Traffic)), default=0.0
        )
        return ProcessRun(
            state, self._loop.time() - begin, self.plan, injected, last_seconds, lines
        )

    # ---- files --------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Settings, keys and stagings of all machines."""
        for name in ("keys", "staging", "peers"):
            (self._folder / name).mkdir()
        counts = Counter(peer.island for peer in self.machines)
        for island, count in counts.items():
            text = f"[swarm]\nmin_peers = {count}\n"
            island_file(self._folder, island).write_text(text, encoding="utf-8")
        (self._folder / "config.toml").write_text(to_toml(self.config), encoding="utf-8")
        for peer in self.machines:
            seed = identity_seed(self.config.run.seed, peer.name)
            (self._folder / "keys" / peer.name).write_text(seed.hex() + "\n", encoding="ascii")
            self.names[peer.name] = Identity.from_seed(seed).peer_id
            self.figures.place(peer)
        self._restage()

    def _restage(self) -> None:
        """Write what every machine is made to be under the conditions of this moment."""
        cut = [pair for pair, holds in self._cut.items() if holds]
        for peer in self.machines:
            staging = staging_of(peer, self.figures, self.config, self.names, cut)
            write_staging(staging, self._folder / "staging" / f"{peer.name}.json")

    def _rewrite_journal(self) -> list[str]:
        """All that the coordinator heard and the world's own events, in order of time from the start of this world."""
        path, begin = self._folder / "journal.jsonl", self._begin_seconds
        entries = [
            {**entry, "time_seconds": entry["time_seconds"] - begin}
            for entry in (*read_journal(path), *self._traced)
        ]
        entries += [
            {"event": event.to_json(), "peer": WORLD, "time_seconds": at - begin}
            for at, event in self._events
        ]
        entries.sort(key=lambda entry: float(entry["time_seconds"]))
        lines = [json_line(entry) for entry in entries]
        path.write_text("".join(lines), encoding="utf-8")
        return lines

    # ---- what the coordinator hears -----------------------------------------------------------------------------

    def _changed(self, state: RunState, entry: dict[str, Any]) -> None:
        event, at = entry["event"], float(entry["time_seconds"])
        match event["kind"]:
            case "step_opened" if not self._has_begun and self._is_last(state, entry["peer"]):
                self._has_begun = True
                self._begin_faults(state, at)
            case "step_committed":
                self._progress_seconds = self._loop.time()
                self._events.append((at, Traffic(WORLD, state.bytes_sent, 0, 0)))
            case "step_traced" if event["step"] in shown_steps(self.config.run.steps):
                self._traced.append(entry)
            case "round_sent":
                self._heard_rounds.add(state.island_of(entry["peer"]))
                others = {peer.island for peer in self.machines if not self._is_held(peer)}
                if others <= self._heard_rounds:
                    self._others_ready.set()

    def _is_last(self, state: RunState, peer: str) -> bool:
        """Whether with the step that `peer` opened all islands have begun: faults count from there."""
        is_held = any(self._is_held(machine) for machine in self.machines)
        return not is_held or state.island_of(peer) == FIRST_ISLAND

    async def _start_later(self, held: list[int]) -> None:
        await self._others_ready.wait()
        for number in held:
            await self._swarm.start_peer(number)

    async def _watch(self) -> None:
        """End a run in which nothing happens any more."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            patience_seconds = self.scenario.stall_seconds
            if self._loop.time() - self._progress_seconds > patience_seconds:
                self._fail(_stalled(patience_seconds, self._folder))

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._swarm.drain()

    def _note(self, event: Event) -> None:
        self._events.append((self._loop.time(), event))

    # ---- faults -------------------------------------------------------------------------------------------------

    def _begin_faults(self, state: RunState, opened_seconds: float) -> None:
        chance = random.Random(f"faults {self.config.run.seed}")
        members = [Member(v.peer, v.stages, v.address) for v in state.live_peers if v.stages]
        names = {name: peer for name, peer in self.names.items() if peer in state.peers}
        roster = Roster.of(1, members)
        self.plan = random_plan(chance, self.scenario.chances, roster, names, self.scenario.faults)
        for number, fault in enumerate(self.plan):
            values = (fault.kind, fault.peers, fault.when, fault.duration_seconds, fault.amount)
            self._note(FaultPlanned(number, *values))
            due_seconds = opened_seconds + fault.at_seconds
            self._tasks.spawn(self._fault(number, fault, due_seconds), f"fault {number}")

    async def _fault(self, number: int, fault: Fault, due_seconds: float) -> None:
        await asyncio.sleep(max(0.0, due_seconds - self._loop.time()))
        self.injected[number] = self._loop.time()
        self._note(FaultInjected(number, fault.kind, ", ".join(fault.peers)))
        match fault.kind:
            case "kill":
                self._signal(fault.peers[0], signal.SIGKILL)
                return
            case "flap":
                for _ in range(int(fault.amount)):
                    await self._hold(_both(*fault.peers), FLAP_SECONDS)
                    await asyncio.sleep(FLAP_SECONDS)
            case "freeze":
                self._signal(fault.peers[0], signal.SIGSTOP)
                await asyncio.sleep(fault.duration_seconds)
                self._signal(fault.peers[0], signal.SIGCONT)
            case "straggler":
                slowness = self.figures.conditions.slowness
                await self._worsen(slowness, [fault.peers[0]], fault)
            case "slow_link":
                slower = self.figures.conditions.link_slowness
                await self._worsen(slower, _both(*fault.peers), fault)
            case _:
                await self._hold(self._pairs(fault), fault.duration_seconds)
        self._note(FaultEnded(number, fault.kind))

    def _pairs(self, fault: Fault) -> list[Pair]:
        match fault.kind:
            case "one_way":
                return [(fault.peers[0], fault.peers[1])]
            case "partition":
                others = [name for name in self.names if name not in fault.peers]
                return [pair for a in fault.peers for b in others for pair in _both(a, b)]
        return _both(*fault.peers)

    async def _hold(self, pairs: list[Pair], seconds: float) -> None:
        self._cut.update(pairs)
        self._restage()
        await asyncio.sleep(seconds)
        self._cut.subtract(pairs)
        self._restage()

    async def _worsen(self, factors: "Counter[Any]", keys: list[Any], fault: Fault) -> None:
        for change in (fault.amount, -fault.amount):
            for key in keys:
                factors[key] += change  # type: ignore[assignment]
            self._restage()
            if change > 0:
                await asyncio.sleep(fault.duration_seconds)

    def _child(self, name: str) -> Child | None:
        number = next(n for n, peer in enumerate(self.machines) if peer.name == name)
        children = self._swarm.children
        return children[number] if number < len(children) else None

    def _signal(self, name: str, number: signal.Signals) -> None:
        child = self._child(name)
        if child is not None and child.exit_code is None:
            child.process.send_signal(number)

    def _wake_all(self) -> None:
        """A stopped process cannot end by itself."""
        for child in self._swarm.children:
            if child.exit_code is None:
                child.process.send_signal(signal.SIGCONT)


def _stalled(seconds: float, folder: Path) -> Stopped:
    return Stopped(
        f"no step was committed for {seconds:g} s",
        "world.stall_seconds says that a run has stalled then",
        f"see {folder}/journal.jsonl and {folder}/logs",
    )


def _both(a: str, b: str) -> list[Pair]:
    return [(a, b), (b, a)]


def run_processes(
    config: RunConfig, scenario: Scenario, corpus: Corpus, folder: Path
) -> ProcessRun:
    """Run `config` with the scenario's peers to its end in real time. `folder` is empty. As `ProcessStage.play`."""

    async def main() -> ProcessRun:
        return await ProcessStage(config, scenario, corpus, folder).play()

    return asyncio.run(main())
