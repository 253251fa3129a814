"""Drives the step protocol of an island at one peer: its effects become calls, its events come from them.

The machines in `steps` decide, this module acts. Effects are carried out in the order they were returned.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from swarmtrain.compute.lane import Kind, Lane, Task
from swarmtrain.compute.replica import Replica
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import LinkError, WireError
from swarmtrain.core.events import Noted, Record, Replayed, StepCommitted, TermStarted
from swarmtrain.core.layout import parameters_sha256
from swarmtrain.core.messages import Commit, Nack, Prepared, Promise, StageDigest, StepMessage
from swarmtrain.core.schedule import gradient_norm, scalars_of
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import Digest, PeerId, Roster
from swarmtrain.peer.links import Links
from swarmtrain.peer.reduce import Reducer
from swarmtrain.peer.worker import Worker
from swarmtrain.steps.ballot import Candidate, Complete, Decided, Fresh, Reseal, next_term
from swarmtrain.steps.conductor import Plan, StepConductor
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
)  # fmt: skip
from swarmtrain.steps.keys import unpack_keys
from swarmtrain.steps.member import StepMember
from swarmtrain.transport.messages import encode_step


@dataclass(frozen=True, slots=True)
class Parts:
    """What the driver works with; all of it belongs to this peer."""

    me: PeerId
    config: RunConfig
    member: StepMember
    worker: Worker
    reducer: Reducer
    replicas: dict[int, Replica]
    lane: Lane
    links: Links
    record: Record


class Island:
    """The step protocol at one peer. `ended(finished, reason)` is called once, when the run is over here."""

    def __init__(
        self,
        parts: Parts,
        ended: Callable[[bool, str], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.parts = parts
        self.conductor: StepConductor | None = None
        self.candidate: Candidate | None = None
        self._ended = ended
        self._tasks = Tasks(failed)
        self._queue: deque[Effect] = deque()
        self._performing = False
        self._progress = 0
        self._reducing: asyncio.Task[None] | None = None
        self._last_commit_seconds = asyncio.get_running_loop().time()
        self._highest_term = 0
        self._tasks.spawn(self._tick(), "tick")

    # ---- inputs -------------------------------------------------------------------------------------------------

    def receive(self, sender: PeerId, message: StepMessage) -> None:
        """Give a message to the machines it concerns."""
        self._progress += 1
        if isinstance(message, Promise) and self.candidate is not None:
            self.candidate.promised(sender, message)
            if self.candidate.has_all:
                self._conclude()
            return
        if isinstance(message, Nack):
            self._highest_term = max(self._highest_term, message.term)
            if self.candidate is not None and message.term > self.candidate.term:
                self.candidate = None
        effects = self.parts.member.handle(sender, message)
        if self.conductor is not None:
            effects += self.conductor.handle(sender, message)
        self.perform(effects)
        self._tasks.spawn(self.parts.worker.moved(), "moved")

    def stand(self, roster: Roster, reason: str) -> None:
        """Try to become conductor of the roster of the last commit."""
        member, me = self.parts.member, self.parts.me
        rank = roster.peers.index(me)
        term = next_term(max(member.term, self._highest_term), rank)
        self.conductor = None
        self.candidate = Candidate(me, term, member.step, member.base, roster)
        self.parts.record(TermStarted(me, term, member.step, reason))
        self.perform(self.candidate.start())

    def lost(self, peer: PeerId) -> None:
        """A peer cannot be reached any more."""
        if self.conductor is not None:
            self.perform(self.conductor.lost(peer))

    def stop(self, reason: str, finished: bool) -> None:
        """End the run for everybody, if this peer conducts it."""
        if self.conductor is not None:
            self.perform(self.conductor.stop(reason, finished))

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
                parts.reducer.forget_before(step)
            case Acknowledged(commit, stages):
                self._acknowledge(commit, stages)
            case StepDown(term):
                self._step_down(term)
            case Unsurvivable(reason) | Resync(reason=reason):
                self._give_up(reason)
            case End(finished, reason):
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
        if effect.position == 0:
            await worker.lead(opening, effect.key, effect.hints)
        else:
            await worker.redrive(opening, (effect.position, effect.key), effect.hints)
        if effect.seal:
            self.parts.record(Replayed(effect.step, effect.key, effect.position))
        self.perform(self.parts.member.driven(effect))

    async def _reduce(self, effect: Reduce) -> None:
        try:
            sums = await self.parts.reducer.reduce(effect)
        except (LinkError, WireError) as error:
            self.parts.record(Noted("reduce failed", f"{error.what} ({error.why})"))
            return
        self.perform(self.parts.member.reduced(effect.term, effect.seal, sums))

    async def _apply(self, commit: Commit) -> None:
        parts, clip_norm = self.parts, self.parts.config.optimizer.clip_norm
        queued = [
            parts.lane.submit(
                Task(Kind.STATE, stage),
                lambda replica=replica: replica.apply(  # type: ignore[misc]
                    parts.reducer.sums[replica.stage], commit, clip_norm
                ),
            )
            for stage, replica in sorted(parts.replicas.items())
        ]
        digests = tuple([await outcome for outcome in queued])
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

    def _step_down(self, term: int) -> None:
        self.conductor = None
        self._highest_term = max(self._highest_term, term)

    def _give_up(self, reason: str) -> None:
        if self.conductor is not None:
            self.stop(reason, finished=False)
        self._ended(False, reason)

    # ---- conducting ---------------------------------------------------------------------------------------------

    def _conclude(self) -> None:
        """The ballot is won: find out what was decided before, and conduct."""
        candidate, self.candidate = self.candidate, None
        assert candidate is not None
        config, me = self.parts.config, self.parts.me
        conductor = StepConductor(
            me, plan_of(config), candidate.term, candidate.step, candidate.base, candidate.roster
        )
        self.conductor = conductor
        self._last_commit_seconds = asyncio.get_running_loop().time()
        match candidate.outcome():
            case Fresh():
                effects = conductor.start()
            case Decided(commit) if commit.step == candidate.step:
                effects = conductor.spread(commit)
            case Complete(prepared, opening):
                whole = candidate.merged(prepared)
                effects = conductor.spread(_commit_of(config, whole, opening.base, candidate.step))
            case Reseal(opening, seal):
                effects = conductor.resume(opening, seal)
            case _:
                self.conductor, effects = None, []
        self.perform(effects)

    async def _tick(self) -> None:
        """Ask again when nothing has come in for a while: a message may have been lost."""
        pause_seconds = self.parts.config.links.silence_seconds / 2
        seen = -1
        while True:
            await asyncio.sleep(pause_seconds)
            if seen == self._progress:
                if self.candidate is not None:
                    self.perform(self.candidate.start())
                elif self.conductor is not None:
                    self.perform(self.conductor.tick())
            seen = self._progress


def plan_of(config: RunConfig) -> Plan:
    """What the conductor must know of the run: every key visits every middle stage in order."""
    every_stage = (tuple(range(1, config.model.stages + 1)),)
    return Plan(
        steps=config.run.steps,
        stages=config.model.stages,
        microbatches=config.train.microbatches,
        tokens=config.train.microbatches * config.train.tokens_per_microbatch,
        sequences=lambda step: every_stage,
        scalars=lambda step: scalars_of(config.optimizer, step, config.run.steps),
    )


def _commit_of(config: RunConfig, prepared: Prepared, base: Digest, step: int) -> Commit:
    """The commit that the conductor of the prepared seal would have sent."""
    plan = plan_of(config)
    return Commit(
        term=prepared.term,
        step=step,
        seal=prepared.seal,
        base=base,
        roster=prepared.roster,
        stages=prepared.stages,
        scalars=plan.scalars(step),
        tokens=plan.tokens,
        loss=prepared.loss,
        void=prepared.void,
    )
