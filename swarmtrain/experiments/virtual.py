"""The virtual world: real peers, real tensors, in one process on a virtual clock with modelled links and compute.

It swaps clock, transport, directory and lane for their in-memory twins, nothing else; a fault plan may stop its
machines, cut its lines and change its messages. Two runs of one configuration and seed write equal journals byte
for byte.
"""

import asyncio
import contextlib
import gc
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from swarmtrain.compute.lane import Span, VirtualLane
from swarmtrain.core.clock import Deadlock
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.events import Event, Noted, Record, StepCommitted, StepOpened
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.data.stream import Corpus
from swarmtrain.experiments.churn import Churn
from swarmtrain.experiments.costs import Charged
from swarmtrain.experiments.faults import Chances, Fault, random_plan, survivable
from swarmtrain.experiments.figures import Figures
from swarmtrain.experiments.machines import Livelock, MachineLoop, on_machine
from swarmtrain.experiments.nemesis import Nemesis
from swarmtrain.experiments.profiles import ChurnProfile, MachineProfile, NetworkProfile
from swarmtrain.monitor.journal import MemoryJournal
from swarmtrain.peer.options import Outcome, PeerOptions, World
from swarmtrain.peer.session import Session
from swarmtrain.steps.member import StepMember
from swarmtrain.swarm.identity import Identity
from swarmtrain.swarm.memory_directory import MemoryDirectoryHub
from swarmtrain.transport.link import LinkLimits
from swarmtrain.transport.memory import MemoryNetwork

NO_CHANCES = Chances()
WORLD = PeerId("world")
"""Who records what the world does to its peers."""
RECKLESS = "machines are taken whatever is left"
"""Why a run of churn that asks nobody need not be survived."""


@dataclass(frozen=True, slots=True)
class VirtualPeer:
    """One machine of the virtual world; `slowness` multiplies its modelled compute seconds.

    With a `machine` those seconds, its memory and its access line follow from that profile. `region` is one of the
    network's, `island` the swarm that it is in, None to find one itself; `churn` says when it leaves and what comes
    in its place.
    """

    name: str
    stages: tuple[int, ...] | None = None
    slowness: float = 1.0
    machine: MachineProfile | None = None
    region: str = ""
    churn: ChurnProfile | None = None
    island: int | None = 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens around a run. Compute seconds are those of one microbatch through one position; `pass_seconds` those
    of one value of a stage that is updated and digested, or is coded or merged in an outer round.

    Each frame takes up to `jitter_seconds` longer; a share `loss` of frames arrives a timeout later, as behind TCP.
    `network` replaces latency and bandwidth between machines (looking into the directory still takes
    `latency_seconds`); `charged` is a model to charge machines and lines with instead of the run's.

    `faults` are fixed, `chances` draws more from the run's seed when the first step opens. A world in which no
    step is acknowledged for `stall_seconds` has stalled. Once a peer has finished, the others have
    `patience_seconds` to end as well.
    """

    peers: tuple[VirtualPeer, ...]
    latency_seconds: float = 0.02
    bytes_per_second: float = 100e6
    forward_seconds: float = 0.05
    backward_seconds: float = 0.1
    pass_seconds: float = 0.0
    jitter_seconds: float = 0.0
    loss: float = 0.0
    faults: tuple[Fault, ...] = ()
    chances: Chances = NO_CHANCES
    stall_seconds: float = 3600.0
    patience_seconds: float = 60.0
    network: NetworkProfile | None = None
    charged: Charged | None = None

    @property
    def has_faults(self) -> bool:
        return bool(self.faults) or self.chances.count > 0 or self.has_churn

    @property
    def has_churn(self) -> bool:
        """Whether things happen that are decided while the run goes."""
        return self.chances.every_seconds > 0 or any(peer.churn for peer in self.peers)


@dataclass(slots=True)
class VirtualRun:
    """What a virtual run left behind.

    `outcomes` are those of the peers that ended by themselves, `errors` what no peer may do: end in an exception.
    `left_behind` are the peers that lived and had not ended when the world ended; `stalled` says why it gave up.
    `risk` says why the plan may not be survived, empty when it must be;
    `island_risks` the same of each island by itself, `islands` which machine is in which.
    """

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    errors: dict[str, BaseException] = field(default_factory=dict)
    left_behind: tuple[str, ...] = ()
    stalled: str = ""
    risk: str = ""
    islands: dict[str, int] = field(default_factory=dict)
    island_risks: dict[int, str] = field(default_factory=dict)
    plan: tuple[Fault, ...] = ()
    injected: dict[int, float] = field(default_factory=dict)
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

    @property
    def recoveries(self) -> int:
        """Faults after which the island acknowledged another step."""
        last = max(
            (at for at, _, event in self.events if isinstance(event, StepCommitted)), default=0
        )
        return sum(at < last for at in self.injected.values())


def simulate(
    config: RunConfig, scenario: Scenario, corpus: Corpus, stage: "type[Stage] | None" = None
) -> VirtualRun:
    """Run `config` with the scenario's peers to its end in virtual time, on a `stage` of one's own if given."""
    loop, scene = MachineLoop(), list[Stage]()

    async def main() -> VirtualRun:
        scene.append((stage or Stage)(config, scenario, corpus))
        return await scene[0].play(None)

    with _rare_collections(), asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            return runner.run(main())
        except (Deadlock, Livelock) as error:
            for name in loop.stopped:
                loop.go_on(name)
            return scene[0].broken(str(error))


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Many peers keep millions of objects, which the collector would walk again and again: a fifth of the time."""
    usual = gc.get_threshold()
    gc.set_threshold(200_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


async def play(
    config: RunConfig,
    scenario: Scenario,
    corpus: Corpus,
    script: Callable[["Stage"], "asyncio.Future[None] | None"] | None = None,
) -> VirtualRun:
    """`simulate` inside a running virtual loop. `script` may act on the world once all peers run.

    Faults that stop a machine need a MachineLoop.
    """
    stage = Stage(config, scenario, corpus)
    return await stage.play(script)


class Stage:
    """The scene: network, directory, one session per peer, and what is done to them."""

    def __init__(self, config: RunConfig, scenario: Scenario, corpus: Corpus) -> None:
        if config.model.initial:
            raise ConfigError(
                "a run that continues a model cannot be simulated",
                "in virtual time there is no coordinator to serve model.initial",
                "simulate it without model.initial and model.initial_sha256: its timing is the same",
            )
        self.config = config
        self.scenario, self.corpus = scenario, corpus
        limits = LinkLimits(
            message_bytes=config.limits.message_bytes,
            heartbeat_seconds=config.links.heartbeat_seconds,
        )
        self.figures = Figures(scenario, config, corpus.tokenizer.vocab_size)
        self.network = MemoryNetwork(
            self.figures.delay_seconds, self.figures.bytes_per_second, limits
        )
        self.nemesis = Nemesis(self.network, self.record_for(WORLD), self._killed)
        self.figures.conditions = self.nemesis.conditions
        if scenario.has_faults:
            self.network.tap, self.network.wrap = self.nemesis.tap, self.nemesis.wrap
        if self.figures.has_ways:
            self.network.way = self.figures.way
        self.hub = MemoryDirectoryHub(scenario.latency_seconds)
        self.run = VirtualRun()
        self.sessions: dict[str, Session] = {}
        self.names: dict[str, PeerId] = {}
        self._running: dict[str, asyncio.Task[Outcome]] = {}
        self._changed = asyncio.Event()
        self._closed: dict[str, None] = {}
        self._churn: Churn | None = None
        self._first_roster = Roster.of(0, ())
        self._is_over = self._is_ending = self._has_begun = False
        self._progress_seconds = 0.0

    async def play(
        self, script: Callable[["Stage"], "asyncio.Future[None] | None"] | None
    ) -> VirtualRun:
        for peer in self.scenario.peers:
            self.sessions[peer.name] = on_machine(peer.name, lambda peer=peer: self._session(peer))  # type: ignore[misc]
        for name, session in self.sessions.items():
            self._running[name] = on_machine(name, lambda n=name, s=session: self._start(n, s))  # type: ignore[misc]
        acting = script(self) if script is not None else None
        try:
            await self._until_over()
            if self._churn is not None:
                self._churn.stop()
            self.nemesis.finish()
            self.run.plan = self.nemesis.plan
        finally:
            if acting is not None:
                acting.cancel()
            await self._close()
        self.run.seconds = asyncio.get_running_loop().time()
        return self.run

    def add(self, peer: VirtualPeer) -> None:
        """Start a machine while the run goes, or start one again after it ended."""
        name = peer.name
        self._running.pop(name, None)
        self.sessions[name] = on_machine(name, lambda: self._session(peer))
        self._running[name] = on_machine(name, lambda: self._start(name, self.sessions[name]))

    def drain(self, name: str, reason: str) -> None:
        """Machine `name` is asked to leave between two steps."""
        on_machine(name, lambda: self.sessions[name].drain(reason))

    def is_running(self, name: str) -> bool:
        return name in self._running and not self._running[name].done()

    def behind(self) -> list[str]:
        """Living machines that have not the newest parameters: newcomers that still fetch them, for one."""
        members = self._members()
        newest = max((member.step for member in members.values()), default=0)
        return [name for name, member in members.items() if member.step < newest]

    def _members(self) -> dict[str, StepMember]:
        return {
            name: self.sessions[name].runtime.member  # type: ignore[union-attr]
            for name in self._running
            if self.sessions[name].runtime is not None
        }

    def newest_rosters(self) -> tuple[Roster, Roster] | None:
        """The newest roster that a living peer knows, and that of the last decision (or the first of all)."""
        first, members = self._first_roster, self._members().values()
        known = [(m.roster, m.last.roster if m.last else first) for m in members if m.roster]
        return max(known, key=lambda pair: pair[0].version, default=None)

    def record_for(self, peer: PeerId, name: str = "") -> Record:
        def record(event: Event) -> None:
            if self._is_over or name in self.nemesis.dead:
                return
            self._write(peer, event)
            if isinstance(event, StepCommitted):
                self._progress_seconds = asyncio.get_running_loop().time()
            if isinstance(event, StepOpened) and not self._has_begun:
                self._begin()
            if name:
                self.nemesis.at_event(name, event)

        return record

    def _write(self, peer: PeerId, event: Event) -> None:
        now = asyncio.get_running_loop().time()
        self.run.events.append((now, peer, event))
        self.run.journal.write(event, now, peer)

    def broken(self, reason: str) -> VirtualRun:
        """What is left of a world whose clock cannot move any more."""
        self._is_over = True
        self.run.stalled = reason
        return self.run

    # ---- the end ------------------------------------------------------------------------------------------------

    async def _until_over(self) -> None:
        """Wait for every living peer to end; give up on a stall, and on stragglers once one has finished."""
        loop = asyncio.get_running_loop()
        finished_seconds: float | None = None
        while True:
            ended = [name for name, task in self._running.items() if task.done()]
            for name in ended:
                self._take_outcome(name, self._running.pop(name))
            if not self._running:
                return
            if finished_seconds is None and any(o.finished for o in self.run.outcomes.values()):
                finished_seconds = loop.time()
            begin, patience = self._progress_seconds, self.scenario.stall_seconds
            if finished_seconds is not None:
                begin, patience = finished_seconds, self.scenario.patience_seconds
            if loop.time() >= begin + patience:
                self._give_up(finished_seconds is not None)
                return
            self._changed.clear()
            try:
                async with asyncio.timeout_at(begin + patience):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _take_outcome(self, name: str, task: "asyncio.Task[Outcome]") -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.run.errors[name] = error
        else:
            self.run.outcomes[name] = task.result()

    def _give_up(self, has_finished: bool) -> None:
        self.run.left_behind = tuple(self._running)
        record = self.record_for(WORLD)
        if has_finished:
            record(Noted("left behind", ", ".join(self.run.left_behind)))
            return
        self.run.stalled = (
            f"no step was acknowledged for {self.scenario.stall_seconds:g} s; "
            f"{', '.join(self.run.left_behind)} still ran"
        )
        record(Noted("stalled", self.run.stalled))

    async def _close(self) -> None:
        """End what still runs. The dead say nothing more, and nobody waits for them."""
        loop = asyncio.get_running_loop()
        self._is_ending = True
        self._count_bytes()
        if isinstance(loop, MachineLoop):
            for name in self.sessions:
                if name not in self.nemesis.dead:
                    loop.go_on(name)
        for task in self._running.values():
            task.cancel()
        gone = {**self.nemesis.dead, **self._closed}
        living = [name for name in self.sessions if name not in gone]
        if self.run.stalled or self.run.left_behind or self.run.errors:
            self._is_over = True
        for name in living:
            await self.sessions[name].close()
        self._is_over = True
        if isinstance(loop, MachineLoop) and self.nemesis.dead:
            await self._bury(loop)

    async def _bury(self, loop: MachineLoop) -> None:
        """Cancel what the dead left, so that the loop can be closed."""
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        for name in self.nemesis.dead:
            loop.go_on(name)
        await asyncio.gather(*left, return_exceptions=True)

    def _killed(self, name: str) -> None:
        self._running.pop(name, None)
        self._changed.set()

    # ---- peers --------------------------------------------------------------------------------------------------

    def _start(self, name: str, session: Session) -> "asyncio.Task[Outcome]":
        task = asyncio.create_task(self._live(name, session), name=name)
        task.add_done_callback(lambda _: self._changed.set())
        return task

    async def _live(self, name: str, session: Session) -> Outcome:
        """A peer that gives up is gone, as its process would be; one that finished serves until the world ends."""
        is_finished = False
        try:
            outcome = await session.run()
            is_finished = outcome.finished
            return outcome
        finally:
            if not is_finished and not self._is_ending:
                self._closed[name] = None
                await session.close()

    def _session(self, peer: VirtualPeer) -> Session:
        identity = Identity.from_seed(identity_seed(self.config.run.seed, peer.name))
        self.names[peer.name] = identity.peer_id
        self.figures.place(peer)
        record = self.record_for(identity.peer_id, peer.name)
        world = World(
            transport=self.network.transport(peer.name),
            directory=self.hub.directory(self.config.hash, identity, record),
            lane=VirtualLane(
                lambda task: self.figures.cost_seconds(peer, task), self._observer(peer.name)
            ),
        )
        options = PeerOptions(
            identity=identity,
            name=peer.name,
            stages=peer.stages,
            listen=f"{peer.name}:0",
            announce="",
            memory_bytes=self.figures.memory_bytes(peer),
            kernel_class="virtual",
            region=peer.region,
            island=peer.island,
        )
        return Session(self._config_of(peer.island), options, world, self.corpus, record)

    def _config_of(self, island: int | None) -> RunConfig:
        """An island starts when all its peers are there, or when enough have found it."""
        if island is None:
            return self.config
        count = sum(peer.island == island for peer in self.scenario.peers)
        swarm = self.config.swarm.model_copy(update={"min_peers": count})
        return self.config.model_copy(update={"swarm": swarm})

    def _observer(self, name: str) -> Callable[[Span], None]:
        def observe(span: Span) -> None:
            self.nemesis.at_task(name, span.task)

        return observe

    def _count_bytes(self) -> None:
        self.run.bytes_sent = sum(
            link.stats.bytes_sent
            for session in self.sessions.values()
            for link in session.links.open_links
        )

    # ---- faults -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """The first step opens: draw the plan for the peers that are there, and start its clock."""
        self._has_begun = True
        found = {name: session.island for name, session in self.sessions.items()}
        self.run.islands = {name: its for name, its in found.items() if its is not None}
        islands = sorted(set(self.run.islands.values()))
        if not self.scenario.has_faults:
            self.run.island_risks = dict.fromkeys(islands, "")
            return
        if self.scenario.has_churn:
            chance = random.Random(f"churn {self.config.run.seed}")
            self._churn = Churn(self, chance, self.record_for(WORLD))
            self._churn.begin()
        members = [
            Member(self.names[name], session.runtime.member.stages, session.address)
            for name, session in self.sessions.items()
            if session.runtime is not None
        ]
        roster, stages = Roster.of(1, members), self.config.model.stages
        self._first_roster = roster
        names = {name: peer for name, peer in self.names.items() if peer in roster}
        chance = random.Random(f"faults {self.config.run.seed}")
        plan = random_plan(chance, self.scenario.chances, roster, names, self.scenario.faults)
        self.run.injected = self.nemesis.injected
        whole_stages = self.scenario.chances.whole_stages
        self.run.risk = survivable(plan, roster, names, stages, whole_stages)
        for island in islands:
            mine = {self.names[name] for name, its in self.run.islands.items() if its == island}
            part = Roster.of(1, [member for member in members if member.peer in mine])
            risk = survivable(plan, part, names, stages, whole_stages)
            self.run.island_risks[island] = risk
        if self._churn is not None and not self.scenario.chances.survivable:
            self.run.risk = self.run.risk or RECKLESS
        self.nemesis.begin(plan, chance)


def identity_seed(run_seed: int, name: str) -> bytes:
    """Of the machine called `name`: the same peer id in every world."""
    return hashlib.sha256(f"{run_seed} {name}".encode()).digest()


def peers(count: int) -> tuple[VirtualPeer, ...]:
    """`count` equal peers that choose their stages themselves."""
    return tuple(replace(VirtualPeer(""), name=f"peer-{index}") for index in range(count))
