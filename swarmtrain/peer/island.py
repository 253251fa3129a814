"""Drives the step protocol of an island at one peer: its effects become calls, its events come from them.

The machines in `steps` decide, this module acts. Effects are carried out in the order they were returned.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from swarmtrain.compute.lane import Kind, Task
from swarmtrain.compute.replica import Replica
from swarmtrain.core.errors import LinkError, StateError, WireError
from swarmtrain.core.events import Noted, Replayed
from swarmtrain.core.faultpoints import hearing, reached
from swarmtrain.core.messages import (
    Ask,
    Commit,
    Decision,
    Freeze,
    Join,
    NewTerm,
    Open,
    Reopen,
    Restore,
    RoundNews,
    StageDigest,
    StepMessage,
    Tell,
)
from swarmtrain.core.remembered import remembered
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import PeerId, Roster
from swarmtrain.peer.acknowledgements import Acknowledgements
from swarmtrain.peer.conducting import Conducting
from swarmtrain.peer.hops import StepMoved
from swarmtrain.peer.parts import Parts
from swarmtrain.peer.recovering import Recovering
from swarmtrain.peer.restore import now_seconds
from swarmtrain.peer.rounds import OuterRounds
from swarmtrain.steps.effects import (
    LEFT,
    Acknowledged,
    Advance,
    Apply,
    AwaitHost,
    CancelReduce,
    Drive,
    Effect,
    End,
    Forget,
    Load,
    Note,
    Recollect,
    Reduce,
    Rehost,
    Resync,
    Retract,
    Revived,
    Send,
    StepDown,
    Unsurvivable,
)

GIVEN_UP = "the island is given up: "
"""Before the reason why a run ends here, where the island cannot go on and nobody wished it to end: its peers, whom the
conductor tells no more than a reason, may be of use elsewhere."""


class Island:
    """The step protocol at one peer. `ended(finished, reason)` is called when the run is over here."""

    def __init__(
        self,
        parts: Parts,
        ended: Callable[[bool, str], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.parts = parts
        self.conducting = Conducting(parts, failed)
        self.recovering = Recovering(parts, self.perform, self._has_no_state, failed)
        self.recovering.ask_in = self.ask_in
        self.conducting.learns = lambda: self.recovering.learning.asks_to_wait
        self._ended = ended
        self._tasks = Tasks(failed)
        self._queue: deque[Effect] = deque()
        self._performing = False
        self._progress = 0
        self._is_over = False
        # The step that the island began without this peer, as it had asked; -1 if it never did.
        self.left_step = -1
        self._reducing: asyncio.Task[None] | None = None
        self._acknowledging = Acknowledgements(now_seconds())
        self.rounds = OuterRounds(parts, self._tell_news, failed) if parts.outer else None
        # How this peer comes to host other stages: fetched in an open step, unless somebody knows better (peer.moving).
        self.moves: Callable[[tuple[int, ...], str], None] = lambda stages, reason: self.perform(
            self.conducting.ask_stages(stages)
        )
        self._tasks.spawn(self._tick(), "tick")

    @property
    def is_in_roster(self) -> bool:
        """Whether this peer is in the newest roster it was told of; that of the last decision may still name one that
        was let out right behind it."""
        member = self.parts.member
        is_out = member.step == self.left_step and member.ledger.open is None
        return not is_out and member.roster is not None and member.peer in member.roster

    # ---- inputs -------------------------------------------------------------------------------------------------

    def receive(self, sender: PeerId, message: StepMessage) -> None:
        """Give a message to the machines it concerns. FREEZE waits for what was answered and is not held yet."""
        if not isinstance(message, Ask | Join | RoundNews):
            # Peers that wait ask again and again: that is no progress for the conductor they wait for.
            self._progress += 1
        if isinstance(message, Freeze) and not self.parts.worker.is_settled:
            self._tasks.spawn(self._receive_settled(sender, message), "freeze")
            return
        if isinstance(message, NewTerm):
            self.conducting.first_roster(message.roster)
        if isinstance(message, Open | Freeze | Reopen | NewTerm | Restore):
            self._note_roster(message.roster)
        elif isinstance(message, Decision) and message.open is not None:
            self._note_roster(message.open.roster)
        elif isinstance(message, Tell) and self.parts.me not in message.commit.roster:
            self._note_roster(message.commit.roster)
        hearing(message)
        effects = self.parts.member.handle(sender, message)
        effects += self.conducting.handle(sender, message)
        self.perform(effects)
        if self.rounds is not None:
            self.rounds.look()
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
        if self.rounds is not None:
            self.rounds.lost(peer)
        self.perform(self.conducting.lost(peer))

    def drain(self, reason: str) -> None:
        """End the run for everybody at an acknowledged step, if this peer conducts it."""
        if self.conducting.conductor is not None:
            self.perform(self.conducting.conductor.drain(reason))

    def stop(self, reason: str, finished: bool) -> None:
        """End the run for everybody, if this peer conducts it."""
        if self.conducting.conductor is not None:
            self.perform(self.conducting.conductor.stop(reason, finished))

    def move(self, peer: PeerId, stages: tuple[int, ...], reason: str) -> None:
        """Ask a peer to host other stages from the next step on, if this peer conducts."""
        if self.conducting.conductor is not None:
            self.perform(self.conducting.conductor.move(peer, stages, reason))

    async def close(self) -> None:
        if self.rounds is not None:
            await self.rounds.close()
        await self.recovering.close()
        await self.conducting.pathing.close()
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
                if self.rounds is not None:
                    self.rounds.follow()
            case Forget(step):
                parts.worker.store.forget_before(step)
                if parts.member.roster is not None and parts.member.step == step:
                    self.recovering.keeping.hold_others(step, parts.member.roster)
            case Acknowledged(commit, stages):
                self._acknowledge(commit, stages)
            case StepDown(term):
                self.conducting.step_down(term)
            case Recollect(to, seal):
                self.recovering.recollect(to, seal)
            case Load(restore):
                self.conducting.first_roster(restore.roster)
                self._acknowledging.restored()
                self.recovering.restore(restore)
            case Resync():
                self.recovering.resync(effect)
            case Rehost(stages, reason):
                self.moves(stages, reason)
            case AwaitHost(reason):
                self.recovering.await_host(reason, self._host_came_too_late)
            case Revived():
                self.recovering.revived(effect)
            case Unsurvivable(reason):
                self._give_up(reason)
            case End(finished, reason):
                # Who is let out and stays (peer.moving) has to be heard again.
                self._is_over = reason != LEFT
                if reason == LEFT:
                    self.left_step = parts.member.step
                self._ended(finished, reason)

    def _send(self, to: PeerId, message: StepMessage) -> None:
        if to == self.parts.me:
            self.receive(to, message)
        else:
            data = self.parts.rosters.encode(message, self.conducting.base_roster)
            self.parts.links.tell(to, "step", data)

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
        before = self.recovering.roster
        if before is None or roster.version >= before.version:
            self.recovering.see(roster)
            # Who was lost and is taken in again is back, also for those it has not spoken to yet.
            self.conducting.found(_newcomers(before, roster))
            self.parts.links.learn_roster(roster)

    async def _apply(self, commit: Commit) -> None:
        parts, clip_norm = self.parts, self.parts.config.optimizer.clip_norm
        prepared, rounds = parts.member.ledger.prepared, self.rounds
        assert prepared is not None, "only what was prepared is applied"
        sums = parts.reducer.sums_of(prepared)
        reached("apply.begun")
        if rounds is not None:
            try:
                await rounds.prepare(commit)
            except StateError as error:
                self.perform(parts.member.unable(commit, str(error)))
                return
        tokens = rounds.tokens(commit) if rounds is not None else {}

        def apply(replica: Replica) -> StageDigest:
            replica.apply(sums[replica.stage], commit, clip_norm)
            if rounds is not None:
                rounds.states.close(replica, commit, tokens[replica.stage])
            return StageDigest(replica.stage, replica.digest())

        def passed(replica: Replica) -> int:
            works = rounds.states.passed_values(replica.stage, commit) if rounds is not None else 0
            return replica.elements + works

        self.recovering.teaching.note(commit, sums)
        queued = [
            parts.lane.submit(
                Task(Kind.STATE, stage, name="apply", values=passed(replica)),
                lambda replica=replica: apply(replica),  # type: ignore[misc]
            )
            for stage, replica in sorted(parts.replicas.items())
        ]
        digests = tuple([await outcome for outcome in queued])
        reached("apply.done")
        if parts.member.ledger.applying is not commit:
            return  # the island was restored to another state meanwhile, which is loaded behind this one
        parts.reducer.forget_before(commit.next_step)
        self._acknowledging.applied(commit, now_seconds())
        self.conducting.applied()
        self.perform(parts.member.applied(commit, digests))
        self.recovering.keeping.keep_own(parts.member.step, parts.member.base)
        if rounds is not None:
            await rounds.closed(commit)
        await parts.worker.moved()
        await parts.reducer.fence()

    def _acknowledge(self, commit: Commit, stages: tuple[StageDigest, ...]) -> None:
        for event in self._acknowledging.acknowledged(commit, stages, now_seconds()):
            self.parts.record(event)
        if commit.next_step >= self.parts.config.run.steps:
            self.stop("the last step is committed", finished=True)

    def _tell_news(self, news: RoundNews) -> None:
        conductor = self.parts.member.conductor
        if conductor is not None:
            self._send(conductor, news)

    def _host_came_too_late(self, reason: str) -> None:
        if self.conducting.conductor is not None and self.conducting.conductor.phase == "revive":
            self._give_up(reason)

    def _has_no_state(self, reason: str) -> None:
        """Nobody could give this peer the state it missed. Who conducts brings a whole state back, from snapshots if
        need be; anybody else ends, and the conductor does so if that leaves a stage without a replica."""
        conductor = self.conducting.conductor
        if (
            conductor is not None
            and conductor.is_elected
            and conductor.phase not in ("finished", "leaving")
        ):
            self.perform(conductor.revive(reason))
        else:
            self._ended(False, reason)

    def _give_up(self, reason: str) -> None:
        conductor, reason = self.conducting.conductor, GIVEN_UP + reason
        if conductor is not None and conductor.is_elected:
            self.stop(reason, finished=False)
        self._ended(False, reason)

    async def _tick(self) -> None:
        """Ask again when nothing has come in for a while: a message may have been lost.

        At first after a heartbeat, then ever more rarely: a long step is no reason to keep asking.
        """
        links = self.parts.config.links
        pause_seconds, seen = links.heartbeat_seconds, -1
        while not self._is_over:
            await asyncio.sleep(pause_seconds)
            if seen == self._progress:
                self.perform(self.conducting.repeat())
                pause_seconds = min(2 * pause_seconds, links.silence_seconds)
            else:
                pause_seconds = links.heartbeat_seconds
            seen = self._progress


@remembered(4)
def _newcomers(before: Roster | None, roster: Roster) -> tuple[PeerId, ...]:
    """Who is in `roster` and was not in the one before."""
    known = frozenset(before.peers) if before is not None else frozenset()
    return tuple(peer for peer in roster.peers if peer not in known)
