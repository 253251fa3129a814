"""The virtual world: real peers, real tensors, in one process on a virtual clock with modelled links and compute.

It swaps clock, transport, directory and lane for their in-memory twins, nothing else. Two runs of one
configuration write equal journals byte for byte.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from swarmtrain.compute.lane import Kind, Task, VirtualLane
from swarmtrain.core.clock import run_virtual
from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import Event, Record, StepCommitted
from swarmtrain.core.types import PeerId
from swarmtrain.data.stream import Corpus
from swarmtrain.monitor.journal import MemoryJournal
from swarmtrain.peer.session import Outcome, PeerOptions, Session, World
from swarmtrain.swarm.identity import Identity
from swarmtrain.swarm.memory_directory import MemoryDirectoryHub
from swarmtrain.transport.link import LinkLimits
from swarmtrain.transport.memory import MemoryNetwork

AMPLE_MEMORY_BYTES = 1 << 50


@dataclass(frozen=True, slots=True)
class VirtualPeer:
    """One machine of the virtual world; `slowness` multiplies its modelled compute seconds."""

    name: str
    stages: tuple[int, ...] | None = None
    slowness: float = 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens around a run. Compute seconds are those of one microbatch through one position."""

    peers: tuple[VirtualPeer, ...]
    latency_seconds: float = 0.02
    bytes_per_second: float = 100e6
    forward_seconds: float = 0.05
    backward_seconds: float = 0.1


@dataclass(slots=True)
class VirtualRun:
    """What a virtual run left behind."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    events: list[tuple[float, PeerId, Event]] = field(default_factory=list)
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    seconds: float = 0.0
    bytes_sent: int = 0

    @property
    def commits(self) -> list[StepCommitted]:
        """Acknowledged steps in order, each once."""
        found = {
            event.step: event for _, _, event in self.events if isinstance(event, StepCommitted)
        }
        return [found[step] for step in sorted(found)]


def simulate(config: RunConfig, scenario: Scenario, corpus: Corpus) -> VirtualRun:
    """Run `config` with the scenario's peers to its end in virtual time."""
    return run_virtual(play(config, scenario, corpus))


async def play(
    config: RunConfig,
    scenario: Scenario,
    corpus: Corpus,
    script: Callable[["Stage"], "asyncio.Future[None] | None"] | None = None,
) -> VirtualRun:
    """`simulate` inside a running virtual loop. `script` may act on the world once all peers run."""
    stage = Stage(config, scenario, corpus)
    return await stage.play(script)


class Stage:
    """The scene: network, directory, and one session per peer."""

    def __init__(self, config: RunConfig, scenario: Scenario, corpus: Corpus) -> None:
        self.config = config.model_copy(
            update={"swarm": config.swarm.model_copy(update={"min_peers": len(scenario.peers)})}
        )
        self.scenario, self.corpus = scenario, corpus
        limits = LinkLimits(
            message_bytes=config.limits.message_bytes,
            heartbeat_seconds=config.links.heartbeat_seconds,
        )
        self.network = MemoryNetwork(scenario.latency_seconds, scenario.bytes_per_second, limits)
        self.hub = MemoryDirectoryHub(scenario.latency_seconds)
        self.run = VirtualRun()
        self.sessions: dict[str, Session] = {}

    async def play(
        self, script: Callable[["Stage"], "asyncio.Future[None] | None"] | None
    ) -> VirtualRun:
        for peer in self.scenario.peers:
            self.sessions[peer.name] = self._session(peer)
        running = {
            name: asyncio.create_task(session.run(), name=name)
            for name, session in self.sessions.items()
        }
        acting = script(self) if script is not None else None
        try:
            for name, task in running.items():
                self.run.outcomes[name] = await task
        finally:
            if acting is not None:
                acting.cancel()
            for task in running.values():
                task.cancel()
            self._count_bytes()
            for session in self.sessions.values():
                await session.close()
        self.run.seconds = asyncio.get_running_loop().time()
        return self.run

    def record_for(self, peer: PeerId) -> Record:
        loop = asyncio.get_running_loop()

        def record(event: Event) -> None:
            self.run.events.append((loop.time(), peer, event))
            self.run.journal.write(event, loop.time(), peer)

        return record

    def _session(self, peer: VirtualPeer) -> Session:
        seed = hashlib.sha256(f"{self.config.run.seed} {peer.name}".encode()).digest()
        identity = Identity.from_seed(seed)
        record = self.record_for(identity.peer_id)
        scenario = self.scenario

        def cost_seconds(task: Task) -> float:
            if task.kind is Kind.STATE:
                return 0.0
            forward, backward = scenario.forward_seconds, scenario.backward_seconds
            seconds = forward if task.kind is Kind.FORWARD else backward
            return seconds * peer.slowness

        world = World(
            transport=self.network.transport(peer.name),
            directory=self.hub.directory(self.config.hash, identity, record),
            lane=VirtualLane(cost_seconds),
        )
        options = PeerOptions(
            me=identity.peer_id,
            name=peer.name,
            stages=peer.stages,
            listen=f"{peer.name}:0",
            announce="",
            memory_bytes=AMPLE_MEMORY_BYTES,
            kernel_class="virtual",
        )
        return Session(self.config, options, world, self.corpus, record)

    def _count_bytes(self) -> None:
        self.run.bytes_sent = sum(
            link.stats.bytes_sent
            for session in self.sessions.values()
            for link in session.links.open_links
        )


def peers(count: int) -> tuple[VirtualPeer, ...]:
    """`count` equal peers that choose their stages themselves."""
    return tuple(replace(VirtualPeer(""), name=f"peer-{index}") for index in range(count))
