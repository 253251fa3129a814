"""World two: a coordinator and N peer processes on this machine, over loopback. `swarmtrain up` runs this."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swarmtrain.coordinator.service import Coordinator, RunFolder
from swarmtrain.coordinator.state import RunState
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import StateError, Stopped
from swarmtrain.core.events import Noted
from swarmtrain.core.sizes import MEMORY_SHARE
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.children import Child, start_child, stop_all, wait_all
from swarmtrain.experiments.emulated import Emulated, staged
from swarmtrain.monitor.sinks import ToOpen
from swarmtrain.swarm.dht import DhtDirectory, DhtOptions
from swarmtrain.swarm.identity import Identity
from swarmtrain.transport.grpc_transport import GrpcTransport
from swarmtrain.transport.link import LinkLimits

LEAVE_SECONDS = 15.0
DRAIN_SECONDS = 15.0
START_SECONDS = 30.0
"""For processes to import what they need, before the time to join counts."""
TAKEOVER_SECONDS = 2.0

Changed = Callable[[RunState, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill peer number `peer` (from 1) without warning once `step` steps are committed."""

    peer: int
    step: int


@dataclass(slots=True)
class LocalSwarm:
    """A run on this machine: `islands` of `peers` each. `stages` pins those of the first peers, as `--stage` would.

    `more` gives further arguments for peer number `index`, from 0. `resume` goes on from the newest checkpoint in
    the folder. `dashboard` is the address of its page (host:port, auto, or empty for none), which `shown_at` is told.
    `sinks` are told of its figures, by their names; `machines`, if any, say what each peer is made like.
    `drain()` ends the run early; `run()` always leaves nothing behind. `checkpoint` is what it kept at the end.
    """

    config: RunConfig
    peers: int
    folder: Path
    changed: Changed
    stages: tuple[str, ...] = ()
    kill: "Kill | None" = None
    more: Callable[[int], list[str]] = lambda index: []
    islands: int = 1
    resume: bool = False
    dashboard: str = ""
    shown_at: Callable[[str], None] = lambda url: None
    device: str = "auto"
    sinks: ToOpen = ()
    machines: Sequence[Emulated] = ()
    checkpoint: Path | None = None
    coordinator: Coordinator = field(init=False)
    children: list[Child] = field(default_factory=list)
    _share_bytes: int = 0
    _draining: asyncio.Event = field(default_factory=asyncio.Event)

    def drain(self) -> None:
        self._draining.set()

    async def run(self) -> RunState:
        """Run to the last step or until drained; the final checkpoint is in `folder/checkpoint`.

        Raises:
            Stopped: the run ended before its last step for a reason other than `drain`.
        """
        self.coordinator = new_coordinator(self.config, self.folder, self._changed)
        try:
            if self.resume:
                self.coordinator.resume()
            for name, open_sink in self.sinks:
                self.coordinator.add_sink(name, open_sink())
            await self.coordinator.start("127.0.0.1:0", "")
            where = f"{self.coordinator.address}, for swarmtrain status, export and peer --join"
            self.coordinator.record(Noted("coordinator", where))
            if self.dashboard:
                self.shown_at(await self.coordinator.serve_dashboard(self.dashboard))
            # Peers take seconds to import what they need; the directory opens meanwhile.
            await self._start_peers()
            await open_directory(self.coordinator, DhtOptions())
            await self._until_stopped()
            if not self.coordinator.state.conductor:
                return self.coordinator.state  # drained before anything began: nothing to keep
            await self._save()
            self.coordinator.finish("the run is over")
            left = await wait_all(self.children, LEAVE_SECONDS)
            if left:
                names = ", ".join(child.name for child in left)
                self.coordinator.record(Noted("peers did not leave by themselves", names))
            return self.coordinator.state
        finally:
            # Whoever still waits to hand over its state need not.
            self.coordinator.finish("the run is over")
            await stop_all(self.children)
            await self.coordinator.close()

    async def _start_peers(self) -> None:
        count = self.peers * self.islands
        self._share_bytes = int(MEMORY_SHARE * psutil.virtual_memory().available / count)
        self.machines = staged(self.machines, self.folder)
        for index, machine in enumerate(self.machines):
            self.coordinator.record(Noted("machine", f"peer-{index + 1} is like {machine.says}"))
        for index in range(count):
            await self.start_peer(index)

    async def start_peer(self, index: int) -> None:
        """Start peer number `index`, from 0; one that ended is started again."""
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        name = f"peer-{index + 1}"
        arguments = ["peer", "--join", self.coordinator.address, "--name", name, "--lifeline"]
        arguments += ["--listen", "127.0.0.1:0", "--config", str(self.folder / "config.toml")]
        arguments += ["--device", self.device, "--sharers", str(self.peers * self.islands)]
        # Not a volunteer's: at full priority, and its counts stay with the run.
        arguments += ["--nice", "0", "--state", str(self.folder / "state" / name)]
        memory_bytes = self._share_bytes
        if self.machines:
            machine = self.machines[index]
            arguments += machine.arguments
            memory_bytes = min(memory_bytes, machine.memory_bytes or memory_bytes)
        arguments += ["--max-memory", f"{memory_bytes}B"]
        island, place = divmod(index, self.peers)
        if island:
            arguments += ["--island", str(island)]
        if place < len(self.stages):
            arguments += ["--stage", self.stages[place]]
        arguments += self.more(index)  # of an option that is given twice the last counts
        child = await start_child(name, arguments, logs / f"{name}.log")
        self.children[index : index + 1] = [child]

    def _changed(self, state: RunState, entry: dict[str, Any]) -> None:
        self.changed(state, entry)
        if self.kill is not None and state.step >= self.kill.step:
            child = self.children[self.kill.peer - 1]
            self.kill = None
            child.process.kill()
            self.coordinator.record(
                Noted("killed on purpose", f"{child.name}, process {child.pid}")
            )

    async def _until_stopped(self) -> None:
        """Wait for the run's end, a drain request, or the death of so many peers that nothing can go on."""
        stopped = asyncio.create_task(self.coordinator.stopped.wait())
        drained = asyncio.create_task(self._draining.wait())
        watched = asyncio.create_task(self._watch_children())
        try:
            await asyncio.wait([stopped, drained, watched], return_when=asyncio.FIRST_COMPLETED)
            if drained.done() and not stopped.done() and self.coordinator.state.conductor:
                self.coordinator.drain("drained from the terminal")
                await asyncio.wait([stopped], timeout=DRAIN_SECONDS)
        finally:
            for task in (stopped, drained, watched):
                task.cancel()
        state = self.coordinator.state
        if not state.finished and not self._draining.is_set():
            raise Stopped(
                f"the run stopped after {state.step} of {self.config.run.steps} steps",
                state.stop_reason or self._obituary() or state.waiting_for,
                f"see {self.folder / 'journal.jsonl'} and {self.folder / 'logs'}",
            )

    async def _watch_children(self) -> None:
        """Return once a peer died before the run started, the run did not start in time, or all are gone."""
        ends = [asyncio.create_task(child.process.wait()) for child in self.children]
        started = asyncio.create_task(self.coordinator.started.wait())
        try:
            await asyncio.wait(
                [started, *ends],
                timeout=START_SECONDS + self.config.swarm.join_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            # Who dies as the run starts cannot say that it started; another one takes over and does.
            await asyncio.wait([started], timeout=TAKEOVER_SECONDS)
        finally:
            for task in (started, *ends):
                task.cancel()
        # A peer that was started again counts as well: the list changes meanwhile.
        while self.coordinator.started.is_set():
            running = [child for child in self.children if child.exit_code is None]
            if not running:
                return
            await running[0].process.wait()

    def _obituary(self) -> str:
        dead = [child for child in self.children if child.exit_code not in (None, 0)]
        return "\n".join(
            f"{child.name} ended with code {child.exit_code}:\n{child.last_lines()}"
            for child in dead
        )

    async def _save(self) -> None:
        if self.coordinator.state.step == 0:
            return
        try:
            self.checkpoint = await self.coordinator.save_checkpoint()
        except StateError as error:
            self.coordinator.record(Noted("no checkpoint", str(error)))
            raise


def new_coordinator(config: RunConfig, folder: Path, changed: Changed) -> Coordinator:
    """A coordinator over gRPC that writes to `folder`."""
    limits = LinkLimits(
        message_bytes=config.limits.message_bytes,
        heartbeat_seconds=config.links.heartbeat_seconds,
    )
    identity = Identity(Ed25519PrivateKey.generate())
    return Coordinator(config, identity, GrpcTransport(limits), RunFolder(folder), changed)


async def open_directory(coordinator: Coordinator, options: DhtOptions) -> None:
    """Start the run's directory and let peers join. Raises DirectoryError or CorpusError."""
    config = coordinator.config
    corpus = load_corpus(config.data, None)
    directory = await DhtDirectory.open(
        config.hash, coordinator.identity, coordinator.record, options
    )
    coordinator.open_run(directory, corpus.digest)
