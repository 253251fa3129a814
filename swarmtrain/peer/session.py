"""A peer's life: join, measure, choose stages, serve, leave. The only place that joins discovery and the island."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import torch

from swarmtrain.compute.bench import capacity_stages, measure
from swarmtrain.compute.lane import Lane
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import DirectoryError, LinkError
from swarmtrain.core.events import (
    Lost,
    Measured,
    Noted,
    PeerJoined,
    PeerLeft,
    Placed,
    Record,
    RunStopped,
    Traffic,
    Waiting,
)  # fmt: skip
from swarmtrain.core.messages import NewTerm, StepMessage
from swarmtrain.core.sizes import check_memory
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.core.version import VERSION
from swarmtrain.data.stream import Corpus, microbatch
from swarmtrain.peer.links import Links
from swarmtrain.peer.runtime import Runtime, Setting, build_runtime
from swarmtrain.peer.service import Calls, Service
from swarmtrain.plan.assign import Assignment, Candidate, assign
from swarmtrain.swarm.directory import Directory
from swarmtrain.swarm.records import PeerRecord, State
from swarmtrain.transport.link import PROTOCOL, Hello, Transport
from swarmtrain.transport.requests import Description

LOOK_SECONDS = 0.25
"""How often a peer that waits for the run to start looks into the directory."""


@dataclass(frozen=True, slots=True)
class World:
    """What differs between the internet, this machine and virtual time."""

    transport: Transport
    directory: Directory
    lane: Lane


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """A volunteer's choices. `stages` None means auto; `memory_bytes` is what the peer may use."""

    me: PeerId
    name: str
    stages: tuple[int, ...] | None
    listen: str
    announce: str
    memory_bytes: int
    kernel_class: str
    coordinator: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a peer's run ended."""

    finished: bool
    reason: str
    step: int


class Session:
    """One peer in one run. `run()` returns when the run ended here; `close()` gives everything back."""

    def __init__(
        self, config: RunConfig, options: PeerOptions, world: World, corpus: Corpus, record: Record
    ) -> None:
        self.config, self.options, self.world = config, options, world
        self.corpus, self._record = corpus, record
        self.vocab_size = config.model.vocab_size or corpus.tokenizer.vocab_size
        self.address = ""
        self.runtime: Runtime | None = None
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.released = asyncio.Event()
        self._assignment = Assignment((), "")
        self._addresses: dict[PeerId, str] = {}
        self._avoided: dict[PeerId, int] = {}
        self._sequences: dict[PeerId, int] = {}
        self._obstacle_reported = ""
        self._queued: list[tuple[PeerId, StepMessage]] = []
        self._locking: asyncio.Task[None] | None = None
        self._tasks = Tasks(self._failed)
        calls = Calls(self._hello, self._describe, self._on_step, self.leave, self._on_finish)
        self.service = Service(calls, record)
        connect_seconds = config.links.connect_seconds
        self.links = Links(
            world.transport, self.service, connect_seconds, lambda peer: self._addresses.get(peer)
        )
        self.service.links = self.links
        self.links.unreachable = self._unreachable

    # ---- the life -----------------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Join, take stages and serve until the run ends. Raises SwarmError when that is impossible."""
        options = self.options
        listening = await self.world.transport.listen(options.listen, self.service)
        self.address = options.announce or listening
        capacity = capacity_stages(self.config, self.vocab_size, options.memory_bytes)
        self._check_capacity(capacity)
        measured = await measure(self.config, self.world.lane, options.memory_bytes)
        self._record(measured)
        self._record(PeerJoined(options.me, options.name, self.address, options.stages or ()))
        placing = self._tasks.spawn(self._place(measured, capacity), "place")
        try:
            return await asyncio.shield(self.outcome)
        finally:
            placing.cancel()

    async def close(self, farewell: Callable[[], Awaitable[None]] | None = None) -> None:
        """Withdraw, close links, end all tasks; `farewell` runs while the links still stand."""
        await self._tasks.cancel_all()
        if self.runtime is not None:
            await self.runtime.close()
        try:
            await self.world.directory.withdraw()
        except DirectoryError as error:
            self._record(Noted("could not withdraw from the directory", error.what))
        self._record(self._traffic())
        self._record(PeerLeft(self.options.me, self._reason()))
        if farewell is not None:
            await farewell()
        await self.links.close()
        await self.world.transport.close()
        await self.world.lane.close()
        await self.world.directory.close()

    def leave(self, reason: str) -> None:
        """End this peer's part of the run; a conductor ends the run with it."""
        if self.runtime is not None:
            self.runtime.island.stop(reason, finished=False)
        self._end(False, reason)

    async def linger(self, seconds: float) -> None:
        """Serve state and last messages until the coordinator has what it needs, or for `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self.released.wait()
        except TimeoutError:
            self._record(
                Noted("not released", f"nobody asked for this peer's state in {seconds:g} s")
            )

    def _traffic(self) -> Traffic:
        stats = self.links.totals()
        return Traffic(self.options.me, stats.bytes_sent, stats.bytes_received, stats.calls)

    def _reason(self) -> str:
        done = self.outcome.done() and not self.outcome.cancelled()
        if done and self.outcome.exception() is None:
            return self.outcome.result().reason
        return "stopped before the run ended"

    # ---- placement ----------------------------------------------------------------------------------------------

    async def _place(self, measured: Measured, capacity: int) -> None:
        """Publish, look, choose; stand as conductor when everybody needed is there and this is the lowest edge."""
        directory, life_seconds = self.world.directory, self.config.swarm.announce_seconds
        before: tuple[PeerRecord, ...] = ()
        published: tuple[object, float] = (None, 0.0)
        while True:
            serving: State = "serving" if self.runtime is not None else "joining"
            record = self._own_record(measured, capacity, serving)
            now = directory.now()
            if published[0] != record or now > published[1] + life_seconds / 3:
                await directory.publish(record, life_seconds)
                published = (record, now)
            records = await directory.records()
            self._addresses.update({entry.peer: entry.address for entry in records})
            if self.runtime is None and self._locking is None:
                self._choose(records)
                self._wait_for(self._obstacle(records))
                if _alike(records, before):
                    self._stand_if_ready(records)
            before = records
            await asyncio.sleep(LOOK_SECONDS if self.runtime is None else life_seconds / 3)

    def _own_record(self, measured: Measured, capacity: int, state: State) -> PeerRecord:
        options = self.options
        return PeerRecord(
            run=self.config.hash,
            peer=options.me,
            name=options.name,
            address=self.address,
            stages=options.stages or self._assignment.stages,
            state=state,
            pinned=options.stages is not None,
            capacity_stages=capacity,
            seconds_per_stage=measured.forward_seconds + measured.backward_seconds,
            edge_capable=True,
            version=VERSION,
            sequence=0,
            expires=0.0,
        )

    def _choose(self, records: tuple[PeerRecord, ...]) -> None:
        """Take the stages that the placement over everybody in the directory gives this peer."""
        self._sequences = {entry.peer: entry.sequence for entry in records}
        self._assignment = self._assign(records).get(self.options.me, self._assignment)

    def _assign(self, records: tuple[PeerRecord, ...]) -> dict[PeerId, Assignment]:
        wanted = [entry for entry in records if self._avoided.get(entry.peer, -1) < entry.sequence]
        candidates = [
            Candidate(
                entry.peer,
                entry.stages if entry.pinned else None,
                entry.capacity_stages,
                entry.seconds_per_stage,
                entry.edge_capable,
            )
            for entry in wanted
        ]
        return assign(candidates, self.config.model.stages)

    def _obstacle(self, records: tuple[PeerRecord, ...]) -> str:
        """Why the run cannot start with what the directory shows; empty when it can."""
        if any(entry.state == "serving" for entry in records):
            return "the run has started without this peer; it can join when it starts again"
        missing_peers = self.config.swarm.min_peers - len(records)
        if missing_peers > 0:
            return f"{missing_peers} more peers must join: {len(records)} are here"
        hosted = {stage for entry in self._assign(records).values() for stage in entry.stages}
        missing = [s for s in range(self.config.model.stages + 1) if s not in hosted]
        if missing:
            stages = ", ".join(map(str, missing))
            return f"no peer has room for stages {stages}; more or larger peers must join"
        return ""

    def _wait_for(self, obstacle: str) -> None:
        if obstacle and obstacle != self._obstacle_reported:
            self._record(Waiting(obstacle))
        self._obstacle_reported = obstacle

    def _stand_if_ready(self, records: tuple[PeerRecord, ...]) -> None:
        assignments = self._assign(records)
        members = [
            Member(entry.peer, assignments[entry.peer].stages, entry.address)
            for entry in records
            if entry.peer in assignments and assignments[entry.peer].stages
        ]
        roster = Roster.of(1, members)
        if self._obstacle(records) or roster.edges[0] != self.options.me:
            return
        self._locking = self._tasks.spawn(self._stand(roster), "stand")

    async def _stand(self, roster: Roster) -> None:
        mine = roster.member(self.options.me)
        assert mine is not None
        await self._lock(mine.stages)
        if self.runtime is not None and self.runtime.member.term == 0:
            self.runtime.island.stand(roster, "lowest edge peer, and every stage is covered")

    # ---- messages -----------------------------------------------------------------------------------------------

    def _on_step(self, sender: PeerId, message: StepMessage) -> None:
        if isinstance(message, NewTerm):
            for member in message.roster.members:
                self._addresses[member.peer] = member.address
            mine = message.roster.member(self.options.me)
            if mine is not None and self._must_lock(mine.stages):
                self._locking = self._tasks.spawn(self._lock(mine.stages), "lock")
        if self.runtime is None:
            self._queued.append((sender, message))
        else:
            self.runtime.island.receive(sender, message)

    def _must_lock(self, stages: tuple[int, ...]) -> bool:
        """A roster decides this peer's stages until the first step is open."""
        if self._locking is not None and not self._locking.done():
            return False
        if self.runtime is None:
            return True
        member = self.runtime.member
        return member.stages != stages and member.step == 0 and member.ledger.open is None

    async def _lock(self, stages: tuple[int, ...]) -> None:
        """Build the stages that a roster gives this peer."""
        if self.runtime is not None:
            old, self.runtime = self.runtime, None
            await old.close()
        if stages != self._assignment.stages:
            reason = "Takes what the conductor saw fit when it looked into the directory."
            self._assignment = Assignment(stages, reason)
        self._record(Placed(self.options.me, stages, self._assignment.reason))
        setting = Setting(
            me=self.options.me,
            config=self.config,
            vocab_size=self.vocab_size,
            lane=self.world.lane,
            links=self.links,
            samples=self._samples,
            record=self._record,
        )
        self.runtime = await build_runtime(setting, stages, self._end, self._failed)
        self.service.runtime = self.runtime
        queued, self._queued = self._queued, []
        self._locking = None
        for sender, message in queued:
            self._on_step(sender, message)

    def _samples(self, step: int, index: int) -> torch.Tensor:
        train = self.config.train
        tokens_BT = microbatch(
            self.corpus,
            seed=self.config.run.seed,
            step=step,
            index=index,
            microbatch_size=train.microbatch_size,
            sequence_length=train.sequence_length,
        )
        return torch.from_numpy(tokens_BT)

    # ---- losses and ends ----------------------------------------------------------------------------------------

    def _unreachable(self, peer: PeerId, reason: str) -> None:
        if not self.outcome.done():
            self._tasks.spawn(self._confirm_lost(peer, reason), f"confirm {peer}")

    async def _confirm_lost(self, peer: PeerId, reason: str) -> None:
        """A broken link is dialled once more before the protocol hears of a loss."""
        try:
            await self.links.to(peer)
        except LinkError:
            runtime = self.runtime
            if runtime is None or self.outcome.done():
                return
            if runtime.island.conducting.candidate is not None and runtime.member.step == 0:
                await self._start_without(peer)
                return
            if runtime.member.roster is not None and peer in runtime.member.roster:
                self._record(Lost(peer, reason))
            runtime.island.lost(peer)

    async def _start_without(self, peer: PeerId) -> None:
        """The directory named a peer that cannot be reached: choose again without it until it says more."""
        self._record(
            Lost(peer, "named by the directory, but out of reach; choosing stages without it")
        )
        self._avoided[peer] = self._sequences.get(peer, 0)
        old, self.runtime, self.service.runtime = self.runtime, None, None
        if old is not None:
            await old.close()

    def _on_finish(self, reason: str) -> None:
        """The coordinator has what it needs of this peer."""
        self.leave(reason)
        self.released.set()

    def _end(self, finished: bool, reason: str) -> None:
        if self.outcome.done():
            return
        step = self.runtime.member.step if self.runtime is not None else 0
        self._record(RunStopped(step, finished, reason))
        self.outcome.set_result(Outcome(finished, reason, step))

    def _failed(self, error: BaseException) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)

    # ---- small things -------------------------------------------------------------------------------------------

    def _check_capacity(self, capacity: int) -> None:
        stages = self.options.stages or (1,)
        if capacity < len(stages):
            check_memory(self.config, self.vocab_size, stages, self.options.memory_bytes)

    def _hello(self) -> Hello:
        return Hello(
            protocol=PROTOCOL,
            version=VERSION,
            run=bytes.fromhex(self.config.hash),
            peer=self.options.me,
            corpus=self.corpus.digest,
            kernel_class=self.options.kernel_class,
            address=self.address,
            role="peer",
        )

    def _describe(self) -> Description:
        return Description(
            version=VERSION,
            config_json=self.config.to_json(),
            run=bytes.fromhex(self.config.hash),
            directory=self.world.directory.bootstrap,
            addresses=(self.address,),
            coordinator=self.options.coordinator,
            corpus=self.corpus.digest,
        )


def _alike(records: tuple[PeerRecord, ...], before: tuple[PeerRecord, ...]) -> bool:
    """Whether two looks into the directory show the same peers with the same figures."""
    plain = [
        replace(entry, sequence=0, expires=0.0, stages=(), state="joining") for entry in records
    ]
    return plain == [
        replace(entry, sequence=0, expires=0.0, stages=(), state="joining") for entry in before
    ]
