"""The conductor of an island's steps: OPEN, FREEZE, HELD, ASSIGN, REDUCED, COMMIT, READY (rules R2, R5, R6, R8, R10).

One edge peer runs it after winning a ballot. Inputs are messages, `lost(peer)` and `tick()`; each returns
effects. Messages may be lost or repeated: `tick` sends the current phase's question again.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from swarmtrain.core.closing import Closing
from swarmtrain.core.events import MembershipChanged, Moved, Sealed, StepOpened
from swarmtrain.core.messages import (
    Ask,
    Assign,
    Commit,
    Decision,
    Done,
    Held,
    Join,
    Kept,
    Leave,
    Move,
    Nack,
    Open,
    Prepared,
    Promise,
    Ready,
    Redrive,
    Redriven,
    Reduced,
    Release,
    Reopen,
    StepMessage,
    Stop,
    Tell,
    pack_items,
)
from swarmtrain.core.types import Digest, Item, PeerId, Roster, is_majority
from swarmtrain.steps.ballot import Candidate, Complete, Decided, Fresh, Reseal, Scattered, epoch_of
from swarmtrain.steps.effects import (
    LEFT,
    Acknowledged,
    Effect,
    End,
    Note,
    Send,
    StepDown,
    Unsurvivable,
)
from swarmtrain.steps.gathering import Acknowledging, Gathering, mean_loss
from swarmtrain.steps.holdings import Audit, driver_of, hints_for, missing_runs, ownerships
from swarmtrain.steps.keys import next_base, pack_keys, unpack_keys
from swarmtrain.steps.membership import FULL, Membership, listed
from swarmtrain.steps.plan import Plan, freeze_of, with_roster
from swarmtrain.steps.reviving import Reviving

Phase = Literal["run", "freeze", "replay", "assign", "ballot", "revive", "leaving", "finished"]


class StepConductor:
    """Conducts from `step` on `base` with `roster`; `base_roster` is the roster of the last commit (R8)."""

    def __init__(
        self, peer: PeerId, plan: Plan, term: int, step: int, base: Digest, roster: Roster
    ) -> None:
        self.peer, self.plan, self.term = peer, plan, term
        self.step, self.base = step, base
        self.roster = self.base_roster = roster
        self.phase: Phase = "run"
        # Whether a majority of the roster it acts on promised: only then may it end the run for others.
        self.is_elected = True
        self.seal = 0
        self.open: Open | None = None
        self._got = Gathering()
        self._acknowledging: Acknowledging | None = None
        self._ballot: Candidate | None = None
        self._membership = Membership()
        self._reviving: Reviving | None = None
        self._draining = ""
        self._stopped: Stop | None = None

    # ---- inputs -------------------------------------------------------------------------------------------------

    def start(self) -> list[Effect]:
        """Open the current step."""
        if self.step >= self.plan.steps:
            self.phase = "finished"
            return self._recall()
        self.phase = "run"
        self.open = self._opening()
        return [self._opened_note(), *self._broadcast(self.open), *self._recall()]

    def resume(self, opening: Open, seal: int) -> list[Effect]:
        """Take over a step that was open: ask what everybody holds, under a new seal."""
        self.open, self.seal = replace(opening, term=self.term, roster=self.roster), seal
        return self._broadcast(self.open) + self._freeze() + self._recall()

    def spread(self, commit: Commit) -> list[Effect]:
        """Take over a step that was, or may have been, decided: the same decision again.

        The promises were about that step. What became of the next one, and who is in its roster, takes the
        promises of those who applied the decision.
        """
        hearers = sorted({*self.roster.peers, *commit.roster.peers})
        self._move_past(commit)
        self.roster = commit.roster
        effects: list[Effect] = [Send(peer, Decision(self.term, commit, None)) for peer in hearers]
        if self.step >= self.plan.steps:
            self.phase = "finished"
            return effects
        self.phase, self.is_elected = "ballot", False
        self._ballot = Candidate(self.peer, self.term, self.step, self.base, commit.roster)
        return effects + self._ballot.start()

    def revive(self, reason: str) -> list[Effect]:
        """A stage has no replica, or a restore was left half done: bring a whole state back (design.md 9)."""
        roster = self.roster if self._ballot is None else self._ballot.unsure(self.roster)
        self.phase, self._ballot, self._acknowledging = "revive", None, None
        self._reviving = Reviving(
            self.plan, self.term, roster, self.base_roster, self._membership.joining
        )
        return self._reviving.start(self.step, reason)

    def handle(self, sender: PeerId, message: StepMessage) -> list[Effect]:
        match message:
            case Nack(term) if term > self.term:
                return [StepDown(term)]
            case Tell(commit) if epoch_of(commit.term) < epoch_of(self.term):
                return []  # decided in a history that a restore gave up
            case Kept() | Ready() if self._reviving is not None:
                return self._go_on(self._reviving, self._reviving.handle(sender, message))
            case Tell(commit) if commit.step >= self.step:
                return [StepDown(self.term)]
            case Tell(commit):
                return self._recalled(commit)
            case Promise():
                return self._promised(sender, message)
            case Done() if message.base == self.base:
                return self._done(message)
            case Held():
                return self._held(sender, message)
            case Redriven():
                return self._redriven(message)
            case Reduced():
                return self._reduced(sender, message)
            case Ready():
                return self._ready(sender, message)
            case Join(member=member) if member.peer == sender:
                return self._join(message)
            case Leave(reason):
                self._membership.leaving[sender] = reason
                return []
            case _:
                return []

    def lost(self, peer: PeerId) -> list[Effect]:
        """Go on without `peer`, bring back what only it had, or say why that is impossible."""
        self._membership.movers.discard(peer)
        waiting = self._acknowledging
        is_over = self.phase == "finished" and (waiting is None or waiting.done)
        if self._reviving is not None:
            effects = self._reviving.lost(peer)
            return effects if self._reviving.has_majority else self._resign() + effects
        if peer not in self.roster or is_over:
            return []
        self.roster = roster = self.roster.without(peer)
        if not is_majority(roster.peers, self.base_roster):
            reason = f"without peer {peer} no majority of the last roster is left"
            return [*self._resign(), Unsurvivable(reason)]
        missing = roster.missing_stages(self.plan.stages)
        if missing:
            return self.revive(f"peer {peer} was the last replica of stage {missing[0]}")
        match self.phase:
            case "finished" | "leaving":
                return []
            case "ballot":
                return self._conclude()
            case "run":
                self.open = self._opening()
                return self._broadcast(self.open)
            case _:
                return self._freeze()

    def tick(self) -> list[Effect]:
        """Repeat what may have been lost; the receivers take repeats as the same question."""
        effects = self._ask_ready()
        match self.phase:
            case "run" if self.open is not None:
                effects += self._broadcast(self.open)
            case "freeze" if self.open is not None:
                for peer in self.roster.peers:
                    effects += self._ask_again(peer)
                effects += self.close() + self._seat()
            case "replay":
                effects += self._freeze()
            case "assign" if self._got.assign is not None:
                waiting_for = [p for p in self.roster.peers if p not in self._got.reduced]
                effects += [Send(peer, self._got.assign) for peer in waiting_for]
            case "ballot" if self._ballot is not None:
                effects += self._ballot.start()
            case "revive" if self._reviving is not None:
                effects += self._reviving.tick()
        return effects

    def _resign(self) -> list[Effect]:
        """Too few are in reach of this peer. Those who are may be in reach of others, and go on without it."""
        self.is_elected = False
        return self._broadcast(Leave("the conductor lost its majority"))

    def _ask_again(self, peer: PeerId) -> list[Effect]:
        """What this phase waits to hear of `peer`, which may have come to the step after it was asked."""
        if self.phase == "ballot" and self._ballot is not None:
            return self._ballot.ask(peer)
        if self.phase != "freeze" or self.open is None or peer in self._got.held:
            return []
        if peer not in self.roster:
            return []
        # A peer that never heard the opening cannot answer for it.
        freeze = freeze_of(self.term, self.step, self.seal, self.roster)
        return [Send(peer, self._opening_now()), Send(peer, freeze)]

    def drain(self, reason: str) -> list[Effect]:
        """Stop at an acknowledged step: at once, or as soon as the decision under way is acknowledged (R10)."""
        waiting = self._acknowledging
        if waiting is None or waiting.done:
            return self.stop(reason, finished=False)
        self._draining = reason
        return []

    def move(self, peer: PeerId, stages: tuple[int, ...], reason: str) -> list[Effect]:
        """Ask a peer of the roster to host other stages; it asks back to be in the next roster with them."""
        before = self.roster.member(peer)
        if before is None or self.phase not in ("run", "freeze", "replay", "assign"):
            return []
        self._membership.movers.add(peer)
        note = Note(Moved(peer, before.stages, stages, reason))
        return [note, Send(peer, Move(self.term, stages, reason))]

    def stop(self, reason: str, finished: bool) -> list[Effect]:
        self.phase, self._acknowledging = "finished", None
        self._stopped = Stop(self.term, self.step, finished, reason)
        return self._broadcast(self._stopped)

    # ---- one phase after the other ------------------------------------------------------------------------------

    def _opening(self) -> Open:
        """The step's first opening, or the same with another roster."""
        before = self.open
        if before is None or (before.step, before.base) != (self.step, self.base):
            return self.plan.opening(self.term, self.step, self.base, self.roster)
        return self.plan.reopening(self.term, before, self.roster)

    def _opening_now(self) -> Open:
        """The step's opening with the roster as it is by now."""
        assert self.open is not None
        return with_roster(self.open, self.roster)

    def _done(self, message: Done) -> list[Effect]:
        if message.step != self.step or self.phase != "run":
            return []
        self._got.done.update(unpack_keys(message.keys))
        return self._freeze() if len(self._got.done) == self.plan.microbatches else []

    def _freeze(self) -> list[Effect]:
        self.seal += 1
        self.phase, self._got = "freeze", Gathering()
        return self._broadcast(freeze_of(self.term, self.step, self.seal, self.roster))

    def _held(self, sender: PeerId, message: Held) -> list[Effect]:
        if self.phase != "freeze" or (message.step, message.seal) != (self.step, self.seal):
            return []
        if sender not in self.roster:
            return []
        self._got.held[sender] = message
        if len(self._got.held) < len(self.roster.members) or self.open is None:
            return []
        found = self._got.audit(self.open)
        if found.missing:
            return self._replay(found)
        self._got.found = found
        return self.close() + self._seat()

    def close(self) -> list[Effect]:
        """Assign what is held, unless the outer round that this step closes with is still waited for."""
        found = self._got.found
        if self.phase != "freeze" or found is None:
            return []
        closing = self.plan.closing(self.step)
        return [] if closing is None else self._assign(found, closing)

    def _replay(self, found: Audit) -> list[Effect]:
        """Missing runs are driven again from the holder above (R6)."""
        self.phase = "replay"
        runs = missing_runs(found.missing)
        self._got.runs = set(runs)
        effects = self._reopen(found.missing)
        for run in runs:
            what = (run.key, run.first, hints_for(run.key, found.owners))
            redrive = Redrive(self.term, self.step, self.seal, *what)
            effects.append(Send(driver_of(run, found.owners, self.roster), redrive))
        return effects

    def _reopen(self, items: Iterable[Item]) -> list[Effect]:
        packed = pack_items(items)
        return self._broadcast(Reopen(self.term, self.step, self.seal, self.roster, packed))

    def _seat(self) -> list[Effect]:
        """While an outer round is waited for: all have closed the step with this roster, which votes may depend on."""
        is_closed = self.phase == "freeze" and self._got.found is not None
        return self._reopen(()) if is_closed else []

    def _redriven(self, message: Redriven) -> list[Effect]:
        if self.phase != "replay" or (message.step, message.seal) != (self.step, self.seal):
            return []
        ended = (message.key, message.position)
        self._got.runs = {run for run in self._got.runs if (run.key, run.first) != ended}
        return [] if self._got.runs else self._freeze()

    def _assign(self, found: Audit, closing: Closing) -> list[Effect]:
        assert self.open is not None
        self.phase = "assign"
        head = (self.term, self.step, self.seal, self.roster)
        owners, void = ownerships(found.owners), pack_keys(found.void)
        loss = mean_loss(self.open, found, self._got.held)
        self._got.assign = assign = Assign(*head, owners, void, loss, closing)
        shares = {peer: 0 for peer in self.roster.peers}
        for peer in found.owners.values():
            shares[peer] += 1
        note = Sealed(self.step, self.seal, tuple(shares.items()), found.void)
        return [Note(note), *self._broadcast(assign)]

    def _reduced(self, sender: PeerId, message: Reduced) -> list[Effect]:
        """A member's sums; one that could not serve the seal makes a new one."""
        current = (self.term, self.step, self.seal)
        if self.phase != "assign" or (message.term, message.step, message.seal) != current:
            return []
        expected = self.roster.member(sender)
        if expected is None:
            return []
        self._got.reduced[sender] = message.stages
        if {entry.stage for entry in message.stages} != set(expected.stages):
            return self._freeze()
        return self._decide_if_agreed()

    def _decide_if_agreed(self) -> list[Effect]:
        """Decide when the whole sealed roster reports equal digests; anything else is a new seal (R8).

        The step before must be acknowledged by then, since applying this one overwrites its undo state (R10).
        """
        waiting, assign = self._acknowledging, self._got.assign
        if self.phase != "assign" or assign is None or (waiting is not None and not waiting.done):
            return []
        if len(self._got.reduced) < len(self.roster.members):
            return []
        sums = self._got.sums(self.roster)
        split = [stage for stage in sums if len(sums[stage]) > 1]
        if split:
            return [Note(self._got.diverged(self.step, split[0], self.roster)), *self._freeze()]
        stages = tuple(next(iter(found)) for found in sums.values())
        prepared = Prepared(
            self.term, self.seal, self.roster, stages, assign.void, assign.loss, assign.closing
        )
        return self._decide(self.plan.commit(prepared, self.step, self.base))

    def _decide(self, commit: Commit) -> list[Effect]:
        """COMMIT, with the next step's OPEN on its back; the step is acknowledged by READY (R10)."""
        deciders = self.roster.peers
        self._move_past(commit)
        if self.step >= self.plan.steps:
            self.phase = "finished"
            return [Send(peer, Decision(self.term, commit, None)) for peer in deciders]
        self.roster, events = self._membership.next_roster(
            self.roster, self.plan.stages, self.step, self.term
        )
        effects: list[Effect] = [Note(event) for event in events]
        if self.peer not in self.roster:
            # The next conductor opens the step; a ballot among those who stay finds it unopened.
            self.phase = "leaving"
            return effects + [Send(peer, Decision(self.term, commit, None)) for peer in deciders]
        self.phase, self.open = "run", self._opening()
        decision = Decision(self.term, commit, self.open)
        effects += [self._opened_note(), *(Send(peer, decision) for peer in deciders)]
        return effects + [Send(p, self.open) for p in self.roster.peers if p not in deciders]

    def _join(self, message: Join) -> list[Effect]:
        """Back at once with what it holds, or in from the next step on (R9)."""
        peer = message.member.peer
        is_here = (message.step, message.base) == (self.step, self.base)
        if self._stopped is not None:
            return [Send(peer, self._stopped)]
        if self._membership.is_full(self.roster, self.base_roster, peer):
            return [Send(peer, Stop(self.term, self.step, False, FULL))]
        if self._reviving is not None:
            self._membership.joining[peer] = message.member
            return self._reviving.joined()
        if self.open is None or self.phase in ("ballot", "leaving", "finished"):
            return self._enlist(message)
        known = self.roster.member(peer)
        if known is not None and known.stages == message.member.stages:
            return [Send(peer, self._opening_now())]
        if known is not None:
            self._membership.moving[peer] = message.member
            return []
        if not is_here or (message.learns and self.phase != "run"):
            return self._enlist(message)
        self.roster = self._membership.admit(self.roster, message.member, self.term)
        self.open = self._opening() if self.phase == "run" else self._opening_now()
        reason = "is back with the parameters of this step and what it holds"
        if message.learns:
            reason = (
                f"joins step {self.step} with stages {listed(message.member.stages)}, learnt before"
            )
        note = Note(MembershipChanged(peer, self.step, self.roster.version, reason))
        effects = [note, *self._broadcast(self.open)]
        return effects if self.phase == "run" else effects + self._freeze()

    def _enlist(self, message: Join) -> list[Effect]:
        """In from the next step on; a peer that learns asks again once it has that step's parameters."""
        if message.learns:
            self._membership.joining.pop(message.member.peer, None)
        else:
            self._membership.joining[message.member.peer] = message.member
        return []

    def _move_past(self, commit: Commit) -> None:
        self._acknowledging = Acknowledging(commit)
        self.base, self.step, self.seal = next_base(commit), commit.next_step, 0
        self.base_roster = commit.roster
        self._got, self.open = Gathering(), None

    # ---- acknowledging a decision -------------------------------------------------------------------------------

    def _ready(self, sender: PeerId, message: Ready) -> list[Effect]:
        waiting = self._acknowledging
        if waiting is None or message.step != waiting.commit.next_step or message.base != self.base:
            return []
        if sender not in waiting.commit.roster:
            return []
        agreed, split = waiting.take(sender, message)
        effects: list[Effect] = [*map(Note, split), *self._ask_again(sender)]
        release = Release(self.term, message.step, agreed)
        if waiting.done:
            # A replica beyond the majority: it still must have the same parameters (I3).
            return [*effects, Send(sender, release)]
        if not waiting.is_enough:
            return effects
        waiting.done = True
        effects.append(Acknowledged(waiting.commit, agreed))
        hearers = sorted({*waiting.commit.roster.peers, *self.roster.peers})
        effects += [Send(peer, release) for peer in hearers]
        if self._draining:
            return effects + self.stop(self._draining, finished=False)
        if self.phase == "leaving":
            # Whoever stays elects the next conductor, without waiting for links to break.
            return [*effects, *self._broadcast(Leave(LEFT)), End(False, LEFT)]
        return effects + self._decide_if_agreed()

    def _ask_ready(self) -> list[Effect]:
        """The decision again, to those who have not reported that they applied it."""
        waiting = self._acknowledging
        if waiting is None or waiting.done:
            return []
        opening = self.open if self.phase == "run" else None
        decision = Decision(self.term, waiting.commit, opening)
        return [Send(p, decision) for p in waiting.commit.roster.peers if p not in waiting.ready]

    def _recall(self) -> list[Effect]:
        """The conductor before may have gone before the last decision was acknowledged: ask this peer for it."""
        return (
            [Send(self.peer, Ask(self.step - 1))] if self.step and not self._acknowledging else []
        )

    def _recalled(self, commit: Commit) -> list[Effect]:
        if self._acknowledging or self._reviving or next_base(commit) != self.base:
            return []
        self._acknowledging = Acknowledging(commit)
        return self._ask_ready()

    # ---- the ballot after a decision that was taken over --------------------------------------------------------

    def _promised(self, sender: PeerId, message: Promise) -> list[Effect]:
        """Promises count from those who applied the decision; the others are asked again."""
        if self._ballot is None or message.step < self.step:
            return []
        self._ballot.promised(sender, message)
        return self._conclude()

    def _conclude(self) -> list[Effect]:
        """With a majority and all that are left, find out what became of the step."""
        ballot = self._ballot
        if ballot is None or not ballot.has_majority:
            return []
        if any(peer not in ballot.promises for peer in self.roster.peers):
            return []
        self._ballot, self.is_elected = None, True
        self.roster = ballot.following(self.roster)
        match ballot.outcome():
            case Fresh():
                return self.start()
            case Reseal(opening, seal):
                return self.resume(opening, seal)
            case Complete(prepared):
                return self.spread(self.plan.commit(ballot.merged(prepared), self.step, self.base))
            case Decided(commit) if commit.step == self.step:
                return self.spread(commit)
            case Decided():
                return [StepDown(self.term)]
            case Scattered():
                return self.revive("a restore was left half done")

    # ---- a lost stage -------------------------------------------------------------------------------------------

    def _go_on(self, reviving: Reviving, effects: list[Effect]) -> list[Effect]:
        """Once the island is restored, conduct it from there."""
        if not reviving.done:
            return effects
        self._reviving, self.is_elected = None, True
        self.term, self.step, self.base = reviving.term, reviving.step, reviving.base
        self.roster = self.base_roster = reviving.roster
        for peer in self.roster.peers:
            self._membership.let_in(peer)
        self.seal, self._got, self._acknowledging = 0, Gathering(), None
        return effects + self.start()

    # ---- small things -------------------------------------------------------------------------------------------

    def _broadcast(self, message: StepMessage) -> list[Effect]:
        return [Send(peer, message) for peer in self.roster.peers]

    def _opened_note(self) -> Note:
        members = len(self.roster.members)
        return Note(
            StepOpened(self.step, self.term, self.roster.version, members, self.plan.microbatches)
        )
