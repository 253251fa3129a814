"""A peer's life: join, measure, choose stages, serve, leave. The only place that joins discovery and the island."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from swarmtrain.compute.bench import capacity_stages, measure
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import DirectoryError, Refused
from swarmtrain.core.events import (
    IslandChosen,
    IslandDissolved,
    Lost,
    Noted,
    PeerJoined,
    PeerLeft,
    Placed,
    Record,
    RunStopped,
)
from swarmtrain.core.live import Vitals
from swarmtrain.core.messages import CheckpointAt, NewTerm, Open, StepMessage
from swarmtrain.core.sizes import check_memory
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import EDGE_STAGE, PeerId, Roster
from swarmtrain.core.version import VERSION
from swarmtrain.data.stream import Corpus
from swarmtrain.peer.balancing import Balancing
from swarmtrain.peer.confirming import Confirming
from swarmtrain.peer.forming import PATIENT_LIVES, Forming
from swarmtrain.peer.island import GIVEN_UP
from swarmtrain.peer.links import Links
from swarmtrain.peer.moving import Moving, Seat
from swarmtrain.peer.options import Outcome, PeerOptions, World
from swarmtrain.peer.placing import Machine, Placing
from swarmtrain.peer.position import samples_of
from swarmtrain.peer.rosters import Rosters
from swarmtrain.peer.runtime import Runtime, Setting, build_runtime
from swarmtrain.peer.service import Calls, Service
from swarmtrain.plan.assign import Assignment
from swarmtrain.plan.formation import Avoided
from swarmtrain.steps.ballot import epoch_of
from swarmtrain.steps.effects import LEFT
from swarmtrain.steps.member import StepMember
from swarmtrain.steps.membership import FULL
from swarmtrain.swarm.checkups import Checkups
from swarmtrain.swarm.records import State
from swarmtrain.transport.link import PROTOCOL, Hello, Link
from swarmtrain.transport.requests import Description

MOST_QUEUED = 1000
"""Messages kept while the stages are being built."""

ASK_SECONDS = 1.0
"""How often a newcomer asks to be let into a run that has started."""

LOOK_SECONDS = 0.25
"""How often a peer that waits for the run to start looks into the directory."""


class Session:
    """One peer in one run. `run()` returns when the run ended here; `close()` gives everything back."""

    def __init__(
        self, config: RunConfig, options: PeerOptions, world: World, corpus: Corpus, record: Record
    ) -> None:
        self.config, self.options, self.world = config, options, world
        self.corpus, self._record = corpus, record
        self.vocab_size = config.model.vocab_size or corpus.tokenizer.vocab_size
        self._run_hash = bytes.fromhex(config.hash)
        self.address = ""
        self.runtime: Runtime | None = None
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.released = asyncio.Event()
        self.holds_final_state = False
        """The run ended while this peer was in it: the final checkpoint may need what it hosts."""
        self.island = options.island
        self.placing = self._new_placing()
        self._balancing = Balancing(config, options.me, self.vocab_size)
        self._queued: list[tuple[PeerId, StepMessage]] = []
        self._is_founding, self._past_term = False, 0
        self._capacity_stages = 0
        self.coordinator: Callable[[], Link | None] = lambda: None
        self._locking: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks(self._failed)
        seat = Seat(partial(self._build, None), self._take_over, self._ask_in)
        self._moving = Moving(config, self.vocab_size, seat, record, self._failed)
        self._is_draining = False
        told = (self.stop_run, self._on_finish, self._on_checkpoint)
        self.service = Service(Calls(self._hello, self._describe, *told), record)
        silence_seconds = config.links.silence_seconds
        self.rosters = Rosters(self._on_step, record, silence_seconds, self._failed)
        self.rosters.expected = lambda: self.placing.expected_roster
        self.service.rosters = self.rosters
        self.links = Links(world.transport, self.service, config.links.connect_seconds)
        self.service.links = self.links
        self.service.checkups = Checkups(world.transport, self._hello, world.directory.now)
        self.links.unreachable = self._unreachable
        self._confirming = Confirming(self.links.to, config.links.heartbeat_seconds)

    # ---- the life -----------------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Join, take stages and serve until the run ends. Raises SwarmError when that is impossible."""
        options = self.options
        listening = await self.world.transport.listen(options.listen, self.service)
        self.address = options.announce or listening
        capacity = capacity_stages(self.config, self.vocab_size, options.memory_bytes)
        self._check_capacity(capacity)
        self._capacity_stages = capacity
        measured = await measure(self.config, self.world.lane, options.memory_bytes, options.place)
        self._record(measured)
        placing = self._tasks.spawn(
            self._take_part(Machine(measured, capacity, self.world.lane.meter, self.links.rows)),
            "place",
        )
        try:
            return await asyncio.shield(self.outcome)
        finally:
            placing.cancel()

    async def close(self, farewell: Callable[[], Awaitable[None]] | None = None) -> None:
        """Withdraw, close links, end all tasks; `farewell` runs while the links still stand."""
        await self._tasks.cancel_all()
        await self._moving.close()
        await self.rosters.close()
        if self.runtime is not None:
            await self.runtime.close()
        try:
            await self.world.directory.withdraw()
        except DirectoryError as error:
            self._record(Noted("could not withdraw from the directory", error.what))
        for event in self.links.told(self.options.me):
            self._record(event)
        self._record(PeerLeft(self.options.me, self._reason()))
        if farewell is not None:
            await farewell()
        await self.links.close()
        await self.world.transport.close()
        await self.world.lane.close()
        await self.world.directory.close()

    def drain(self, reason: str) -> None:
        """Leave between two steps, so that nothing has to be replayed; at once if no step is open."""
        self._is_draining = True
        self._moving.stop()
        is_needed = self.is_in_roster and not (self.placing.given_up or self.outcome.done())
        if self.runtime is not None and is_needed:
            self.runtime.island.ask_out(reason)
        else:
            self._end(False, reason)

    def leave(self, reason: str) -> None:
        """Leave at once; the others replay what this peer held."""
        self._end(False, reason)

    def stop_run(self, reason: str) -> None:
        """End the run for everybody, if this peer conducts it; other peers hear of it from the conductor."""
        if self.runtime is not None:
            self.runtime.island.drain(reason)

    @property
    def served_bytes(self) -> int:
        """What other islands had of this peer's contributions, results and outer states."""
        rounds = self.runtime.island.rounds if self.runtime is not None else None
        return rounds.served_bytes if rounds is not None else 0

    def _joined(self) -> PeerJoined:
        options, stages, island = self.options, self.options.stages or (), self.island or 0
        where, what = options.region, options.kernel_class
        return PeerJoined(options.me, options.name, self.address, stages, island, where, what)

    def vitals(self, resident_bytes: int) -> Vitals:
        """How this peer does right now; its process takes `resident_bytes`."""
        stats, load = self.links.totals(), self.world.lane.meter.load(self._loop.time())
        sent, received = stats.bytes_sent, stats.bytes_received
        figures = (sent, received, round(load.busy_share, 4), resident_bytes)
        return Vitals(self.options.me, *figures, self.links.was_dialled)

    @property
    def roster_size(self) -> int:
        """Peers that the newest roster names, 0 before there is one."""
        roster = self.runtime.member.roster if self.runtime is not None else None
        return len(roster.members) if roster is not None else 0

    def _reason(self) -> str:
        done = self.outcome.done() and not self.outcome.cancelled()
        if done and self.outcome.exception() is None:
            return self.outcome.result().reason
        return "stopped before the run ended"

    # ---- formation ----------------------------------------------------------------------------------------------

    async def _take_part(self, machine: Machine) -> None:
        """Help the island that the owner named, or find one; another where that is full, or cannot start or go on."""
        avoided = Avoided()
        while True:
            chosen = await self._form(machine, avoided) if self.island is None else None
            self._record(self._joined())
            if chosen is not None:
                self._record(chosen)
            obstacle = await self._place(machine)
            assert self.island is not None
            self._record(IslandDissolved(self.options.me, self.island, obstacle))
            has_begun = bool(self.placing.given_up)
            avoided = avoided.and_also(self.island, obstacle == FULL, has_begun)
            await (self._dissolve() if has_begun else self._leave_island())

    async def _form(self, machine: Machine, avoided: Avoided) -> IslandChosen:
        wires = (self.world.transport, self.world.directory, self.service)
        own_record = partial(self.placing.own_record, machine, self.address, "forming")
        choice = await Forming(self.config, *wires, own_record, self._record, avoided).run()
        assert choice.island is not None
        self.island = choice.island
        await self.links.part("is in an island by now, which links from before do not say")
        self.placing = self._new_placing()
        return IslandChosen(self.options.me, choice.island, choice.reason)

    async def _leave_island(self) -> None:
        """Forget an island that never began, or had no place; it costs its others no more than a lost peer."""
        if self._locking is not None:
            self._locking.cancel()
        old, self.runtime, self.service.runtime = self.runtime, None, None
        self.island, self._locking, self._is_founding = None, None, False
        self._queued.clear()
        self.rosters.forget_waiting()
        self.placing = self._new_placing()
        if old is not None:
            await old.close()

    async def _dissolve(self) -> None:
        """Forget an island that trained. To all who knew this peer there it is lost, as one whose process ended: what
        it voted in rounds is forgotten, and whatever it says from now on it says as a newcomer."""
        self._moving.stop()
        if self.runtime is not None and not epoch_of(self.runtime.member.term):
            self._past_term = max(self._past_term, self.runtime.member.term)
        await self._leave_island()
        self._balancing = Balancing(self.config, self.options.me, self.vocab_size)
        await self.service.part(self.config.links.silence_seconds)

    def _new_placing(self) -> Placing:
        options, island, directory = self.options, self.island or 0, self.world.directory
        who = (self.config, options.me, options.name, options.stages)
        return Placing(*who, directory, self._record, options.region, island)

    # ---- placement ----------------------------------------------------------------------------------------------

    async def _place(self, machine: Machine) -> str:
        """Publish, look, choose; stand as conductor when everybody needed is there and this is the lowest edge.

        Ends, with the obstacle, when the peer chose its island itself and that one is full, could not start for long,
        or cannot go on.
        """
        placing, life_seconds = self.placing, self.config.swarm.announce_seconds
        hopeful_seconds = self._loop.time()
        while True:
            self._note_stages()
            await placing.look(machine, self.address, self._state(), self.runtime is not None)
            self.links.learn_records(placing.records, placing.elsewhere)
            usual_seconds = ASK_SECONDS if self._meet_islands() else life_seconds / 3
            if self.runtime is None and self._locking is None:
                roster = placing.first_roster()
                if roster is not None:
                    self._locking = self._tasks.spawn(self._stand(roster), "stand")
                elif placing.has_begun:
                    self._locking = self._tasks.spawn(self._join_running(), "join")
            if self.runtime is not None:
                self._balancing.look(self.runtime, placing.records, self.links)
            if self._state() != "joining" or placing.can_begin:
                hopeful_seconds = self._loop.time()
            is_over = (
                placing.is_full
                or placing.given_up
                or self._loop.time() > hopeful_seconds + PATIENT_LIVES * life_seconds
            )
            if self.options.island is None and is_over:
                return placing.obstacle()
            pauses_seconds = {"joining": LOOK_SECONDS, "learning": ASK_SECONDS}
            least_seconds = placing.rest_seconds if self._state() == "joining" else 0.0
            pause_seconds = pauses_seconds.get(self._state(), usual_seconds)
            await asyncio.sleep(max(pause_seconds, least_seconds))

    def _meet_islands(self) -> bool:
        """Peers of other islands that host stages of this one are in its groups. Whether it seeks others."""
        rounds = self.runtime.island.rounds if self.runtime is not None else None
        for entry in self.placing.elsewhere:
            if rounds is not None and entry.state in ("joining", "serving"):
                rounds.meet(entry.peer, entry.stages)
        return rounds is not None and rounds.is_seeking

    def _note_stages(self) -> None:
        """A restore or a move may have given this peer other stages than it chose: the directory names those."""
        hosted = self.runtime.member.stages if self.runtime is not None else ()
        if hosted and hosted != self.placing.assignment.stages and self._state() == "serving":
            reason = "Hosts what the island gave it: a stage was lost, or a peer had to move."
            self.placing.assignment = Assignment(hosted, reason)
            self._record(Placed(self.options.me, hosted, reason))

    def _state(self) -> State:
        """Serving from the first opened step on; learning while it gets there by itself."""
        if self.runtime is None:
            return "joining"
        if self.runtime.island.recovering.learning.is_active:
            return "learning"
        return "serving" if self._has_begun(self.runtime.member) else "joining"

    def _has_begun(self, member: StepMember) -> bool:
        """Whether a step was ever open here: until then a roster may still give this peer other stages."""
        first_step = self._start.step if self._start is not None else 0
        return member.step > first_step or member.ledger.open is not None

    @property
    def _start(self) -> CheckpointAt | None:
        return self.options.start_of(self.island or 0)

    async def _stand(self, roster: Roster) -> None:
        mine = roster.member(self.options.me)
        assert mine is not None
        await self._lock(mine.stages, self._start)
        if self.runtime is not None and self.runtime.member.term == 0:
            self._is_founding = True
            self.runtime.island.conducting.leading.look(self.placing.records)
            # No list of replicas may have the version of one that voted before (outer.group).
            self.runtime.island.conducting.step_down(self._past_term)
            self.runtime.island.stand(roster, "lowest edge peer, and every stage is covered")

    async def _join_running(self) -> None:
        """Take stages beside those that serve, learn them, and ask the edges until a step opens with this peer."""
        assignment = self.placing.place_beside_serving()
        if not assignment.stages:
            self._locking = None
            return
        await self._lock(assignment.stages, None)
        if self.runtime is not None and self.runtime.island.parts.may_learn:
            self.runtime.island.recovering.learn(self._siblings, self._ask_in)
        await self._ask_until_in()

    async def _ask_until_in(self) -> None:
        while self.runtime is not None and not self.is_in_roster:
            self._ask_in()
            await asyncio.sleep(ASK_SECONDS)

    def _ask_in(self) -> bool:
        if self.runtime is not None:
            self.runtime.island.ask_in(self._siblings(EDGE_STAGE))
        return True

    def _siblings(self, stage: int) -> list[PeerId]:
        return [entry.peer for entry in self.placing.serving if stage in entry.stages]

    @property
    def is_in_roster(self) -> bool:
        return self.runtime is not None and self.runtime.island.is_in_roster

    # ---- messages -----------------------------------------------------------------------------------------------

    def _on_step(self, sender: PeerId, message: StepMessage) -> None:
        if self.island is None:
            return  # somebody still takes this peer for one of an island that it gave up
        if isinstance(message, Open) or (
            isinstance(message, NewTerm) and sender != self.options.me
        ):
            self._is_founding = False
        if isinstance(message, NewTerm):
            self.links.learn_roster(message.roster)
            mine = message.roster.member(self.options.me)
            if mine is not None and self._must_lock(mine.stages):
                self._locking = self._tasks.spawn(self._lock(mine.stages, self._start), "lock")
        if self.runtime is not None:
            self.runtime.island.receive(sender, message)
        elif self._locking is not None and len(self._queued) < MOST_QUEUED:
            self._queued.append((sender, message))

    def _must_lock(self, stages: tuple[int, ...]) -> bool:
        """A roster decides this peer's stages until the first step is open."""
        if self._locking is not None and not self._locking.done():
            return False
        if self.runtime is None:
            return True
        member = self.runtime.member
        return member.stages != stages and not self._has_begun(member)

    async def _lock(self, stages: tuple[int, ...], start: CheckpointAt | None) -> None:
        """Build the stages that a roster gives this peer. Who joins siblings needs no `start`: they have more."""
        if self.runtime is not None:
            old, self.runtime = self.runtime, None
            await old.close()
        if stages != self.placing.assignment.stages:
            reason = "Takes what the conductor saw fit when it looked into the directory."
            self.placing.assignment = Assignment(stages, reason)
        self._record(Placed(self.options.me, stages, self.placing.assignment.reason))
        self.runtime = await self._build(start, stages, self._record)
        self.service.runtime = self.runtime
        self._moving.serve(self.runtime)
        queued, self._queued = self._queued, []
        self._locking = None
        for sender, message in queued:
            self._on_step(sender, message)

    async def _build(
        self, start: CheckpointAt | None, stages: tuple[int, ...], record: Record
    ) -> Runtime:
        """Without a `start` of the run the stages are as at its beginning: who moves learns what came of them."""
        setting = Setting(
            identity=self.options.identity,
            address=self.address,
            config=self.config,
            vocab_size=self.vocab_size,
            lane=self.world.lane,
            links=self.links,
            rosters=self.rosters,
            samples=samples_of(self.config, self.corpus, self.island or 0),
            record=record,
            memory_bytes=self.options.memory_bytes,
            capacity_stages=self._capacity_stages,
            coordinator=lambda: self.coordinator(),
            start=start,
            region=self.options.region,
            island=self.island or 0,
            place=self.options.place,
        )
        return await build_runtime(setting, stages, self._run_ended, self._failed)

    def _take_over(self, runtime: Runtime) -> None:
        """The stages that this peer moved to are those it serves from now on."""
        old, self.runtime = self.runtime, runtime
        self.service.runtime, stages = runtime, runtime.member.stages
        self._meet_islands()
        self.placing.assignment = Assignment(stages, "Moved here: the conductor asked for it.")
        self._record(Placed(self.options.me, stages, self.placing.assignment.reason))
        if old is not None:
            self._tasks.spawn(old.close(), "close what it moved from")
        self._tasks.spawn(self._ask_until_in(), "ask")

    # ---- losses and ends ----------------------------------------------------------------------------------------

    def _unreachable(self, peer: PeerId, reason: str) -> None:
        if not (self.outcome.done() or self.service.is_parting):
            self._tasks.spawn(self._confirm_lost(peer, reason), f"confirm {peer}")

    async def _confirm_lost(self, peer: PeerId, reason: str) -> None:
        is_lost, runtime = await self._confirming.is_lost(peer), self.runtime
        if is_lost:
            self.rosters.lost(peer)
        if not is_lost or runtime is None or self.outcome.done():
            return
        member, candidate = runtime.member, runtime.island.conducting.candidate
        if self._is_founding and not self._has_begun(member) and candidate is not None:
            await self._start_without(peer)
            return
        if member.roster is not None and peer in member.roster:
            self._record(Lost(peer, reason))
        runtime.island.lost(peer)

    async def _start_without(self, peer: PeerId) -> None:
        """The directory named a peer that cannot be reached: choose again without it until it says more."""
        reason = "named by the directory, but out of reach; choosing stages without it"
        self._record(Lost(peer, reason))
        self.placing.avoid(peer)
        old, self.runtime, self.service.runtime = self.runtime, None, None
        if old is not None:
            await old.close()

    def _on_checkpoint(self, checkpoint: CheckpointAt) -> None:
        """The coordinator has saved one: a restore may fall back on it."""
        if self.runtime is not None:
            self.runtime.island.parts.checkpoint = checkpoint

    def _on_finish(self, reason: str) -> None:
        """The coordinator has what it needs of this peer."""
        self.leave(reason)
        self.released.set()

    def _run_ended(self, finished: bool, reason: str) -> None:
        """The step protocol ended at this peer; who left between two steps has others that host what it did."""
        if reason == FULL and self.options.island is None:
            self.placing.is_full = True
            return
        if reason == FULL:  # the run goes on, and nobody needs what this peer has of it
            do = "help another island, or come back later"
            return self._failed(Refused("no place was left for this peer", FULL, do))
        if self._may_dissolve(reason):
            self.placing.given_up = self.placing.given_up or reason.removeprefix(GIVEN_UP)
            return
        reason = reason.removeprefix(GIVEN_UP)
        self.holds_final_state = reason != LEFT and not self.outcome.done()
        self._end(finished, reason)

    def _may_dissolve(self, reason: str) -> bool:
        """Whether this peer looks for another island now that its own has ended, which it says only once."""
        is_wanted = self.options.island is None and not self._is_draining
        is_needed = reason.startswith(GIVEN_UP) and self.placing.others_train
        return bool(self.placing.given_up) or (is_wanted and is_needed)

    def _end(self, finished: bool, reason: str) -> None:
        if self.outcome.done():
            return
        if reason == LEFT and not self._is_draining and self.runtime is not None:
            self._moving.dismissed(self.runtime)
            return
        step = self.runtime.member.step if self.runtime is not None else 0
        if reason != LEFT:
            # The run goes on without a peer that leaves, also without its conductor.
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
        options = self.options
        said = (options.me, self.corpus.digest, options.kernel_class, self.address)
        return Hello(PROTOCOL, VERSION, self._run_hash, *said, "peer", self.island or 0)

    def _describe(self) -> Description:
        # Who founds an island must start where the others do; once it has begun, siblings have what a newcomer needs.
        has_begun = self.runtime is not None and self._has_begun(self.runtime.member)
        return Description(
            version=VERSION,
            config_json=self.config.to_json(),
            run=self._run_hash,
            directory=self.world.directory.bootstrap,
            addresses=(self.address,),
            coordinator=self.options.coordinator,
            corpus=self.corpus.digest,
            start=self.options.start,
            starts=() if has_begun else self.options.starts,
        )
