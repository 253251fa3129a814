"""Drives the step protocol of an island at one peer: its effects become calls, its events come from them.

The machines in `steps` decide, this module acts. Effects are carried out in the order they were returned.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swarmtrain.compute.lane import Kind, Lane, Task
from swarmtrain.compute.replica import Replica
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import LinkError, StateError, WireError
from swarmtrain.core.events import Noted, Record, Replayed, StepCommitted
from swarmtrain.core.layout import parameters_sha256
from swarmtrain.core.messages import (
    Ask,
    Commit,
    Decision,
    Freeze,
    Join,
    NewTerm,
    Open,
    Reopen,
    StageDigest,
    StepMessage,
)
from swarmtrain.core.schedule import gradient_norm
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.peer.conducting import Conducting
from swarmtrain.peer.hops import StepMoved
from swarmtrain.peer.links import Links
from swarmtrain.peer.reduce import Reducer
from swarmtrain.peer.restore import restore
from swarmtrain.peer.worker import Worker
from swarmtrain.steps.effects import (
    Acknowledged,
    Advance,
    Apply,
    CancelReduce,
    Drive,
    Effect,
    End,
    Forget,
    Note,
    Reduce,
    Resync,
    Retract,
    Send,
    StepDown,
    Unsurvivable,
)
from swarmtrain.steps.keys import unpack_keys
from swarmtrain.steps.member import StepMember
from swarmtrain.transport.messages import encode_step


@dataclass(frozen=True, slots=True)
class Parts:
    """What the driver works with; all of it belongs to this peer."""

    own: Member
    config: RunConfig
    member: StepMember
    worker: Worker
    reducer: Reducer
    replicas: dict[int, Replica]
    lane: Lane
    links: Links
    record: Record

    @property
    def me(self) -> PeerId:
        return self.own.peer


class Island:
    """The step protocol at one peer. `ended(finished, reason)` is called once, when the run is over here."""

    def __init__(
        self,
        parts: Parts,
        ended: Callable[[bool, str], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.parts = parts
        self.conducting = Conducting(parts.own, parts.config, parts.member, parts.record)
        self._ended = ended
        self._tasks = Tasks(failed)
        self._queue: deque[Effect] = deque()
        self._performing = False
        self._progress = 0
        self._is_over = False
        self._reducing: asyncio.Task[None] | None = None
        self._resyncing: asyncio.Task[None] | None = None
        self._roster: Roster | None = None
        self._last_commit_seconds = asyncio.get_running_loop().time()
        self._tasks.spawn(self._tick(), "tick")

    # ---- inputs -------------------------------------------------------------------------------------------------

    def receive(self, sender: PeerId, message: StepMessage) -> None:
        """Give a message to the machines it concerns. FREEZE waits for what was answered and is not held yet."""
        if not isinstance(message, Ask | Join):
            # Peers that wait ask again and again: that is no progress for the conductor they wait for.
            self._progress += 1
        if isinstance(message, Freeze) and not self.parts.worker.is_settled:
            self._tasks.spawn(self._receive_settled(sender, message), "freeze")
            return
        if isinstance(message, NewTerm):
            self.conducting.first_roster(message.roster)
        if isinstance(message, Open | Freeze | Reopen | NewTerm):
            self._note_roster(message.roster)
        elif isinstance(message, Decision) and message.open is not None:
            self._note_roster(message.open.roster)
        effects = self.parts.member.handle(sender, message)
        effects += self.conducting.handle(sender, message)
        self.perform(effects)
        self._tasks.spawn(self.parts.worker.moved(), "moved")

    async def _receive_settled(self, sender: PeerId, message: Freeze) -> None:
        await self.parts.worker.settled()
        self.receive(sender, message)

    def stand(self, roster: Roster, reason: str) -> None:
        """Try to become conductor of the roster of the last commit."""
        self.perform(self.conducting.stand(roster, reason))

    def ask_in(self, edges: Sequence[PeerId]) -> None:
        """Ask to be in the roster of a run that has started."""
        self.perform(self.conducting.ask_in(edges))

    def ask_out(self, reason: str) -> None:
        """Ask to be out of the roster after this step."""
        self.perform(self.conducting.ask_out(reason))

    def lost(self, peer: PeerId) -> None:
        """A peer cannot be reached any more."""
        self.perform(self.conducting.lost(peer))

    def drain(self, reason: str) -> None:
        """End the run for everybody at an acknowledged step, if this peer conducts it."""
        if self.conducting.conductor is not None:
            self.perform(self.conducting.conductor.drain(reason))

    def stop(self, reason: str, finished: bool) -> None:
        """End the run for everybody, if this peer conducts it."""
        if self.conducting.conductor is not None:
            self.perform(self.conducting.conductor.stop(reason, finished))

    async def close(self) -> None:
        await self._tasks.cancel_all()

    # ---- effects ------------------------------------------------------------------------------------------------

    def perform(self, effects: list[Effect]) -> None:
        """Carry out effects in order; what one of them causes comes after those already queued."""
        self._queue.extend(effects)
        if self._performing:
            return
        self._performing = True
        try:
            while self._queue:
                self._act(self._queue.popleft())
        finally:
            self._performing = False

    def _act(self, effect: Effect) -> None:
        parts = self.parts
        match effect:
            case Send(to, message):
                self._send(to, message)
            case Note(event):
                parts.record(event)
            case Drive():
                self._tasks.spawn(self._drive(effect), f"drive {effect.key}")
            case Retract(items):
                parts.worker.retract(items)
            case Reduce():
                self._reducing = self._tasks.spawn(self._reduce(effect), f"reduce {effect.step}")
            case CancelReduce():
                if self._reducing is not None:
                    self._reducing.cancel()
                self._tasks.spawn(parts.reducer.fence(), "fence")
            case Apply(commit):
                self._tasks.spawn(self._apply(commit), f"apply {commit.step}")
            case Advance(step):
                parts.worker.leave_step(step)
            case Forget(step):
                parts.worker.store.forget_before(step)
            case Acknowledged(commit, stages):
                self._acknowledge(commit, stages)
            case StepDown(term):
                self.conducting.step_down(term)
            case Resync():
                self._start_resync(effect)
            case Unsurvivable(reason):
                self._give_up(reason)
            case End(finished, reason):
                self._is_over = True
                self._ended(finished, reason)

    def _send(self, to: PeerId, message: StepMessage) -> None:
        if to == self.parts.me:
            self.receive(to, message)
        else:
            self.parts.links.tell(to, "step", encode_step(message))

    async def _drive(self, effect: Drive) -> None:
        opening = self.parts.member.ledger.open
        if opening is None or opening.step != effect.step:
            return
        worker = self.parts.worker
        try:
            if effect.position == 0:
                await worker.lead(opening, effect.key, effect.hints)
            else:
                await worker.redrive(opening, (effect.position, effect.key), effect.hints)
        except StepMoved:
            return
        if effect.seal:
            self.parts.record(Replayed(effect.step, effect.key, effect.position))
        self.perform(self.parts.member.driven(effect))

    async def _reduce(self, effect: Reduce) -> None:
        try:
            sums = await self.parts.reducer.reduce(effect)
        except (LinkError, WireError) as error:
            self.parts.record(Noted("reduce failed", f"{error.what} ({error.why})"))
            sums = ()
        self.perform(self.parts.member.reduced(effect.term, effect.seal, sums))

    def _note_roster(self, roster: Roster) -> None:
        """The newest roster heard of: where siblings are found, also by a peer that is behind."""
        before = self._roster
        if before is None or roster.version >= before.version:
            self._roster = roster
            # Who was lost and is taken in again is back, also for those it has not spoken to yet.
            self.conducting.found([p for p in roster.peers if before is None or p not in before])
            for member in roster.members:
                self.parts.links.learn(member.peer, member.address)

    def _start_resync(self, effect: Resync) -> None:
        if self._roster is None or self.parts.me not in self._roster:
            return  # state is worth fetching once a roster has a place for it
        if self._resyncing is None or self._resyncing.done():
            self.parts.record(Noted("resync", effect.reason))
            self._resyncing = self._tasks.spawn(self._resync(effect), f"resync {effect.step}")

    async def _resync(self, effect: Resync) -> None:
        """Fetch this peer's stages at the step in question from siblings, and go on from there."""
        parts, roster = self.parts, self._roster
        assert roster is not None
        try:
            base, digests = await restore(parts, roster, effect.step)
        except StateError as error:
            self._give_up(str(error))
            return
        parts.worker.leave_step(effect.step)
        parts.worker.store.forget_before(effect.step)
        parts.reducer.forget_before(effect.step)
        self.perform(parts.member.adopt(effect.step, base, digests))
        await parts.worker.moved()

    async def _apply(self, commit: Commit) -> None:
        parts, clip_norm = self.parts, self.parts.config.optimizer.clip_norm
        prepared = parts.member.ledger.prepared
        assert prepared is not None, "only what was prepared is applied"
        sums = parts.reducer.sums_of(prepared)
        queued = [
            parts.lane.submit(
                Task(Kind.STATE, stage, name="apply"),
                lambda replica=replica: replica.apply(  # type: ignore[misc]
                    sums[replica.stage], commit, clip_norm
                ),
            )
            for stage, replica in sorted(parts.replicas.items())
        ]
        digests = tuple([await outcome for outcome in queued])
        parts.reducer.forget_before(commit.step + 1)
        self.perform(parts.member.applied(commit, digests))
        await parts.worker.moved()
        await parts.reducer.fence()

    def _acknowledge(self, commit: Commit, stages: tuple[StageDigest, ...]) -> None:
        now = asyncio.get_running_loop().time()
        seconds, self._last_commit_seconds = now - self._last_commit_seconds, now
        self.parts.record(
            StepCommitted(
                step=commit.step,
                loss=commit.loss,
                tokens=commit.tokens,
                seconds=seconds,
                learning_rate=commit.scalars.learning_rate,
                gradient_norm=gradient_norm(commit.stages),
                void=unpack_keys(commit.void),
                parameters_sha256=parameters_sha256([entry.digest for entry in stages]),
            )
        )
        if commit.step + 1 == self.parts.config.run.steps:
            self.stop("the last step is committed", finished=True)

    def _give_up(self, reason: str) -> None:
        self.stop(reason, finished=False)
        self._ended(False, reason)

    async def _tick(self) -> None:
        """Ask again when nothing has come in for a while: a message may have been lost."""
        pause_seconds = self.parts.config.links.silence_seconds / 2
        seen = -1
        while not self._is_over:
            await asyncio.sleep(pause_seconds)
            if seen == self._progress:
                self.perform(self.conducting.repeat())
            seen = self._progress
