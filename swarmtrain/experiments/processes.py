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
from swarmtrain.core.events import Event, Noted, Traffic
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.data.stream import Corpus
from swarmtrain.experiments.children import Child
from swarmtrain.experiments.churn import Churn
from swarmtrain.experiments.faults import Fault, random_plan, survivable
from swarmtrain.experiments.figures import Figures
from swarmtrain.experiments.gantt import shown_steps
from swarmtrain.experiments.local import LocalSwarm
from swarmtrain.experiments.peak_memory import peak_bytes
from swarmtrain.experiments.process_nemesis import ProcessNemesis
from swarmtrain.experiments.staging import arguments_of, island_file, staging_of
from swarmtrain.experiments.virtual import RECKLESS, WORLD, Scenario, VirtualPeer, identity_seed
from swarmtrain.monitor.journal import read_journal
from swarmtrain.monitor.lines import json_line
from swarmtrain.peer.staging import write_staging
from swarmtrain.swarm.identity import Identity

LOOK_SECONDS = 0.5
FIRST_ISLAND = 0


@dataclass(slots=True)
class ProcessRun:
    """What a run of processes left behind, beside its folder. Seconds are those of the journal.

    `cut_short` says why it ended before its last step, empty when it did not, `risk` why the plan may not be survived.
    `islands` says which machine is in which, `island_risks` why one need not have got to its end (empty: it must).
    `peers_peak_bytes` adds up what each process took at its most.
    """

    state: RunState
    seconds: float
    plan: tuple[Fault, ...]
    injected: dict[int, float]
    last_commit_seconds: float
    lines: list[str]
    islands: dict[str, int]
    island_risks: dict[int, str]
    names: dict[str, PeerId]
    peers_peak_bytes: int
    cut_short: str = ""
    risk: str = ""


class ProcessStage:
    """The scene: one folder, one process for each machine, and what is done to them."""

    def __init__(self, config: RunConfig, scenario: Scenario, corpus: Corpus, folder: Path) -> None:
        self.config, self.scenario, self._folder = config, scenario, folder
        self.figures = Figures(scenario, config, corpus.tokenizer.vocab_size)
        # Without its first island no round is decided: it begins when the others have contributions.
        self.machines = sorted(scenario.peers, key=lambda peer: peer.island == FIRST_ISLAND)
        self.names: dict[str, PeerId] = {}
        self._loop = asyncio.get_running_loop()
        self._begin_seconds = self._progress_seconds = self._loop.time()
        self._events: list[tuple[float, Event]] = []
        self._traced: list[dict[str, Any]] = []
        self.nemesis = ProcessNemesis(self.names, self._signal, self._restage, self._note)
        self.figures.conditions = self.nemesis.conditions
        self._churn: Churn | None = None
        self._first_roster, self._risk = Roster.of(1, []), ""
        self._heard_rounds: set[int] = set()
        self._others_ready = asyncio.Event()
        self._peaks: dict[int, int] = {}
        self._has_begun = False
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
        """Run to the last step, or to where the faults led. Raises Stopped when nothing happened any more or nothing
        ever began, StateError when no checkpoint could be kept."""
        self._prepare()
        cut_short = ""
        held = [number for number, peer in enumerate(self.machines) if self._is_held(peer)]
        if held:
            self._tasks.spawn(self._start_later(held), "first island")
        self._tasks.spawn(self._watch(), "watch")
        try:
            state = await self._swarm.run()
        except Stopped as error:
            if not self._first_roster.members:
                raise
            state, cut_short = self._swarm.coordinator.state, f"{error.what}: {error.why}"
        finally:
            if self._churn is not None:
                self._churn.stop()
            await self.nemesis.finish()
            self._wake_all()
            await self._tasks.cancel_all()
        if self._failure is not None:
            raise self._failure
        lines, begin = self._rewrite_journal(), self._begin_seconds
        injected = {number: at - begin for number, at in self.nemesis.injected.items()}
        last_seconds = max(
            (at - begin for at, e in self._events if isinstance(e, Traffic)), default=0.0
        )
        return ProcessRun(
            state=state,
            seconds=self._loop.time() - begin,
            plan=self.nemesis.plan,
            injected=injected,
            last_commit_seconds=last_seconds,
            lines=lines,
            islands=self._islands(),
            island_risks=self._island_risks(),
            names=self.names,
            peers_peak_bytes=sum(self._peaks.values()),
            cut_short=cut_short,
            risk=self._risk,
        )

    def _islands(self) -> dict[str, int]:
        """Which machine is in which island; those that choose theirs said it when they joined."""
        state = self._swarm.coordinator.state
        return {
            peer.name: state.island_of(self.names[peer.name])
            if peer.island is None
            else peer.island
            for peer in self.machines
        }

    def _island_risks(self) -> dict[int, str]:
        """As in virtual time: by whom the plan may cost of those who were there when faults began."""
        risks, islands = dict[int, str](), self._islands()
        stages, whole_stages = self.config.model.stages, self.scenario.chances.whole_stages
        for island in sorted(set(islands.values())):
            names = {name: self.names[name] for name, its in islands.items() if its == island}
            mine = [m for m in self._first_roster.members if m.peer in names.values()]
            plan = [fault for fault in self.nemesis.plan if names.keys() & set(fault.may_lose)]
            risk = RECKLESS if self._is_reckless else ""
            if plan and not risk:
                risk = survivable(plan, Roster.of(1, mine), names, stages, whole_stages)
            risks[island] = risk
        return risks

    @property
    def _is_reckless(self) -> bool:
        return self._churn is not None and not self.scenario.chances.survivable

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
            self._admit(peer)
        self._restage()

    def _admit(self, peer: VirtualPeer) -> None:
        seed = identity_seed(self.config.run.seed, peer.name)
        (self._folder / "keys" / peer.name).write_text(seed.hex() + "\n", encoding="ascii")
        self.names[peer.name] = Identity.from_seed(seed).peer_id
        self.figures.place(peer)

    def _restage(self) -> None:
        """Write what every machine is made to be under the conditions of this moment."""
        cut = self.nemesis.cut
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
                self._tasks.spawn(self._begin_faults(at), "begin faults")
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
        """End a run in which nothing happens any more; besides, note what each process takes."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for child in self._swarm.children:
                self._peaks[child.pid] = peak_bytes(child.pid) or self._peaks.get(child.pid, 0)
            patience_seconds = self.scenario.stall_seconds
            if self._loop.time() - self._progress_seconds > patience_seconds:
                self._fail(_stalled(patience_seconds, self._folder))

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._swarm.drain()

    def _note(self, event: Event) -> None:
        self._events.append((self._loop.time(), event))

    # ---- faults, and machines that come and go ------------------------------------------------------------------

    async def _begin_faults(self, opened_seconds: float) -> None:
        """Draw and start what goes wrong, once all who are there have told the coordinator."""
        await asyncio.sleep(LOOK_SECONDS)
        roster = self._roster(self._swarm.coordinator.state)
        self._first_roster = roster
        names = {name: peer for name, peer in self.names.items() if peer in roster}
        chance, chances = random.Random(f"faults {self.config.run.seed}"), self.scenario.chances
        plan = random_plan(chance, chances, roster, names, self.scenario.faults)
        stages = self.config.model.stages
        if plan:
            self._risk = survivable(plan, roster, names, stages, chances.whole_stages)
        self.nemesis.begin(plan, opened_seconds)
        if self.scenario.has_churn:
            self._churn = Churn(self, random.Random(f"churn {self.config.run.seed}"), self._note)
            self._churn.begin()
            self._risk = self._risk or (RECKLESS if self._is_reckless else "")

    def _roster(self, state: RunState) -> Roster:
        """Those that serve, as the coordinator knows."""
        serving = [view for view in state.live_peers if view.state == "serving" and view.stages]
        return Roster.of(1, [Member(view.peer, view.stages, view.address) for view in serving])

    def newest_rosters(self) -> tuple[Roster, Roster] | None:
        """Who serves, twice: the coordinator does not know who decided last."""
        roster = self._roster(self._swarm.coordinator.state)
        return (roster, roster) if roster.members else None

    def behind(self) -> list[str]:
        """Machines that do not serve yet."""
        views = self._swarm.coordinator.state.peers
        return [n for n, p in self.names.items() if p in views and views[p].state == "joining"]

    def is_running(self, name: str) -> bool:
        child = self._child(name)
        return child is not None and child.exit_code is None

    def drain(self, name: str, reason: str) -> None:
        """Ask a machine to leave between two steps, as its owner would by Ctrl+C."""
        self._note(Noted("machine is asked to leave", f"{name}: {reason}"))
        self._signal(name, signal.SIGINT)

    def add(self, peer: VirtualPeer) -> None:
        """Start a machine while the run goes."""
        self.machines.append(peer)
        self._admit(peer)
        self._restage()
        number = len(self.machines) - 1
        self._tasks.spawn(self._swarm.start_peer(number), f"start {peer.name}")

    def _child(self, name: str) -> Child | None:
        number = next(n for n, peer in enumerate(self.machines) if peer.name == name)
        children = self._swarm.children
        return children[number] if number < len(children) else None

    def _signal(self, name: str, number: signal.Signals) -> bool:
        child = self._child(name)
        if child is None or child.exit_code is not None:
            return False
        child.process.send_signal(number)
        return True

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


def run_processes(
    config: RunConfig, scenario: Scenario, corpus: Corpus, folder: Path
) -> ProcessRun:
    """Run `config` with the scenario's peers to its end in real time. `folder` is empty. As `ProcessStage.play`."""

    async def main() -> ProcessRun:
        return await ProcessStage(config, scenario, corpus, folder).play()

    return asyncio.run(main())
