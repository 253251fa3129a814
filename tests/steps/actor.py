"""One peer of the explored world: the real step machines, driven as peer/island.py drives them."""

from collections import deque
from typing import TYPE_CHECKING

from swarmtrain.core.messages import (
    Commit,
    Decision,
    Kept,
    Nack,
    Promise,
    StageAt,
    StageDigest,
    StepMessage,
    Tell,
)
from swarmtrain.core.types import PeerId
from swarmtrain.steps.ballot import Candidate, Complete, Decided, Fresh, Reseal, next_term
from swarmtrain.steps.conductor import StepConductor
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
    Recollect,
    Reduce,
    Resync,
    Retract,
    Send,
    StepDown,
    Unsurvivable,
)
from swarmtrain.steps.keys import first_base
from swarmtrain.steps.member import StepMember
from tests.steps.stand_ins import CountingReducer, CountingWorker, digest_of

if TYPE_CHECKING:
    from tests.steps.world import World

BASE = first_base(b"explored")


class Actor:
    """One peer: the machines, driven as peer/island.py drives them."""

    def __init__(self, world: "World", peer: PeerId, stage: int) -> None:
        self.world, self.peer, self.stage = world, peer, stage
        self.alive, self.frozen, self.group = True, False, 0
        self.parameters = digest_of("initial", stage)
        self.conductor: StepConductor | None = None
        self.candidate: Candidate | None = None
        self.wants_state = self.ended = False
        self.highest_term = 0
        self._queue: deque[Effect] = deque()
        self._performing = False
        self.start(StepMember(peer, (stage,), 0, BASE))

    def start(self, member: StepMember) -> None:
        self.member = member
        self.worker = CountingWorker(member, self.world, self.perform)
        self.reducer = CountingReducer(member, self.worker, self.world, self.world.setting.fast)

    @property
    def live(self) -> bool:
        return self.alive and not self.frozen

    def receive(self, sender: PeerId, message: StepMessage) -> None:
        if isinstance(message, Promise) and self.candidate is not None:
            self.candidate.promised(sender, message)
            if self.candidate.has_all:
                self.conclude()
            return
        if isinstance(message, Nack):
            self.highest_term = max(self.highest_term, message.term)
            if self.candidate is not None and message.term > self.candidate.term:
                self.candidate = None
        effects = self.member.handle(sender, message)
        if self.conductor is not None:
            effects += self.conductor.handle(sender, message)
        self.perform(effects)
        self.worker.moved()
        self.world.looked(self)

    def stand(self, rank: int) -> None:
        member = self.member
        roster = member.last.roster if member.last is not None else self.world.roster
        term = next_term(max(member.term, self.highest_term), rank)
        self.conductor = None
        self.candidate = Candidate(self.peer, term, member.step, member.base, roster)
        self.perform(self.candidate.start())

    def conclude(self) -> None:
        candidate, self.candidate = self.candidate, None
        assert candidate is not None
        conductor = StepConductor(
            self.peer,
            self.world.plan,
            candidate.term,
            candidate.step,
            candidate.base,
            candidate.roster,
        )
        self.conductor = conductor
        conductor.roster = candidate.following(candidate.roster)
        match candidate.outcome():
            case Fresh():
                effects = conductor.start()
            case Decided(commit) if commit.step == candidate.step:
                effects = conductor.spread(commit)
            case Complete(prepared, opening):
                whole = candidate.merged(prepared)
                effects = conductor.spread(
                    self.world.plan.commit(whole, candidate.step, opening.base)
                )
            case Reseal(opening, seal):
                effects = conductor.resume(opening, seal)
            case Decided(commit):
                self.conductor, effects = None, self.member.handle(self.peer, Tell(commit))
        self.perform(effects)

    def perform(self, effects: list[Effect]) -> None:
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
        world = self.world
        match effect:
            case Send(to, message) if to == self.peer:
                self.receive(to, message)
            case Send(to, message):
                if isinstance(message, Decision):
                    world.judge_decision(message)
                world.tell(self.peer, to, message)
            case Drive():
                world.later(self.peer, lambda: self.worker.drive(effect))
            case Retract(items):
                self.worker.retract(items)
            case Reduce():
                self.reducer.start(effect)
            case CancelReduce():
                self.reducer.running = None
            case Apply(commit):
                member = self.member
                world.later(self.peer, lambda: self._apply(member, commit))
            case Advance(step):
                self.worker.leave_step(step)
            case Forget(step):
                self.worker.forget_before(step)
            case Acknowledged(commit):
                world.acknowledged.add(commit.step)
                if commit.step + 1 == world.setting.steps and self.conductor is not None:
                    self.perform(self.conductor.stop("the last step is committed", finished=True))
            case StepDown(term):
                self.conductor, self.highest_term = None, max(self.highest_term, term)
            case Unsurvivable(reason):
                world.give_up(self, reason)
            case Recollect(to, seal):
                here = (self.member.step, self.member.base)
                kept = Kept(seal, *here, 0, (StageAt(self.stage, *here),), None)
                self.perform([Send(to, kept)])
            case Resync():
                self.wants_state = True
            case End(finished, reason):
                world.end(self, finished, reason)
            case Note():
                pass

    def _apply(self, member: StepMember, commit: Commit) -> None:
        if member is not self.member:
            return
        self.world.judge(self, commit)
        theirs = next(entry.digest for entry in commit.stages if entry.stage == self.stage)
        self.parameters = digest_of(self.parameters, theirs)
        self.world.same(commit.step, self.stage, self.parameters)
        self.worker.sums.clear()
        digests = (StageDigest(self.stage, self.parameters),)
        self.perform(self.member.applied(commit, digests))
        self.worker.moved()

    def resync(self) -> bool:
        """State transfer is not modelled: the state of a sibling that is ahead is copied."""
        siblings = [
            other
            for other in self.world.actors.values()
            if other.stage == self.stage and other.live and other.member.step > self.member.step
            and other.member.ledger.applying is None
        ]  # fmt: skip
        if not siblings:
            return False
        source, old = siblings[0], self.member
        fresh = StepMember(self.peer, old.stages, source.member.step, source.member.base)
        fresh.term, fresh.conductor, fresh.last = old.term, old.conductor, source.member.last
        fresh.ready, fresh._opened = source.member.ready, old.ledger.open or old._opened
        self.parameters, self.wants_state = source.parameters, False
        self.world.forget_local(self.peer)
        parked = self.worker.parked
        self.start(fresh)
        self.worker.parked = parked
        self.worker.moved()
        return True

    def holds(self, step: int) -> bool:
        """Whether this peer's state of `step` exists: it is there, or has prepared what leads to it."""
        member = self.member
        if member.step >= step:
            return True
        return member.step == step - 1 and member.ledger.prepared is not None
