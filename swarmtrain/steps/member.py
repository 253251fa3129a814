"""A peer's side of the step protocol (rules R1 to R5, R8 to R11): what it admits, holds, prepares and applies.

Inputs are `handle(sender, message)` and the local facts `admits`, `accumulated`, `driven`, `reduced`, `applied`;
each returns effects. The machine holds no tensors: answers and gradients live with the worker.
"""

from dataclasses import replace

from swarmtrain.core.events import DuplicateDropped, KeyVoided, Noted, StateApplied
from swarmtrain.core.messages import (
    Ask,
    Assign,
    Commit,
    Decision,
    Done,
    Freeze,
    Held,
    KeyLoss,
    Move,
    Nack,
    NewTerm,
    Open,
    Prepared,
    Promise,
    Ready,
    Recall,
    Redrive,
    Redriven,
    Reduced,
    Release,
    Reopen,
    Restore,
    StageDigest,
    StageSum,
    StepMessage,
    Stop,
    Tell,
    pack_items,
    unpack_items,
)
from swarmtrain.core.types import Digest, Item, PeerId, Roster
from swarmtrain.steps.ballot import epoch_of, list_version
from swarmtrain.steps.effects import (
    LEFT,
    Advance,
    Apply,
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
    Send,
)
from swarmtrain.steps.keys import next_base, pack_keys, unpack_keys
from swarmtrain.steps.ledger import Ledger, age, moves, seal_assigned

FromConductor = (
    Open | Freeze | Reopen | Redrive | Assign | Decision | NewTerm | Release | Stop
    | Move | Recall | Restore
)  # fmt: skip


class StepMember:
    """The state machine of one peer. `step` and `base` name the parameters it holds right now.

    `ready` is what this peer last reported of them; it is reported again when a conductor repeats the decision.
    """

    def __init__(self, peer: PeerId, stages: tuple[int, ...], step: int, base: Digest) -> None:
        self.peer, self.stages = peer, stages
        self.step, self.base = step, base
        self.term = self.epoch = 0
        self.conductor: PeerId | None = None
        self.last: Commit | None = None
        self.ready: Ready | None = None
        self._ending: Stop | None = None
        self._is_dismissed = False
        self.ledger = Ledger()
        self._opened: Open | None = None
        self._early: list[tuple[PeerId, Open]] = []
        self._restoring: Restore | None = None

    @property
    def roster(self) -> Roster | None:
        """The roster of the open step, or of the last decision."""
        if self.ledger.open is not None:
            return self.ledger.open.roster
        return self.last.roster if self.last is not None else None

    @property
    def confirmed(self) -> int:
        """The version of the newest list of which this peer knows that everybody on it has it."""
        last = self.last
        decided = list_version(last.term, last.roster.version) if last is not None else 0
        return max(self.ledger.confirmed, decided)

    @property
    def is_busy(self) -> bool:
        """Whether the state is being moved: by a decision that is applied, or by a restore."""
        return self.ledger.applying is not None or self._restoring is not None

    def is_at(self, opening: Open) -> bool:
        """Whether work of that opening still belongs to the parameters this peer holds (I4)."""
        return (self.step, self.base) == (opening.step, opening.base)

    # ---- local facts ------------------------------------------------------------------------------------------

    def admits(self, item: Item) -> bool:
        """Whether a contribution to `item` may enter the accumulators now (R5); never twice (I1)."""
        ledger = self.ledger
        if item in ledger.held or item in ledger.void:
            return False
        return not ledger.closed or item in ledger.reopened

    def accumulated(self, item: Item, loss_sum: float | None) -> None:
        """The contribution to `item` is in the accumulators; heads report the key's loss as well."""
        self.ledger.held.add(item)
        if loss_sum is not None:
            self.ledger.losses[item[1]] = loss_sum

    def voided(self, item: Item, reason: str) -> list[Effect]:
        """The contribution to `item` cannot be summed: its key will count nowhere.

        This is a finding about the key, not a contribution, so it is taken at any time (also once frozen).
        """
        if item in self.ledger.void:
            return []
        self.ledger.void.add(item)
        return [Note(KeyVoided(self.step, item[1], item[0], reason))]

    def driven(self, effect: Drive) -> list[Effect]:
        """What `effect` asked for came back."""
        if effect.step != self.step or self.conductor is None:
            return []
        ledger = self.ledger
        if effect.seal:
            if effect.seal != ledger.seal:
                return []
            message = Redriven(self.step, effect.seal, effect.key, effect.position)
            return [Send(self.conductor, message)]
        ledger.led.add(effect.key)
        return self._report_led()

    def reduced(self, term: int, seal: int, sums: tuple[StageSum, ...]) -> list[Effect]:
        """The reduce of `(term, seal)` ended; a promise to a higher term voids it (R8).

        Empty `sums`: it failed, which the conductor answers with a new seal.
        """
        assign = self.ledger.assign
        if assign is None or (assign.term, assign.seal) != (term, seal) or term != self.term:
            return []
        if not sums:
            self.ledger.reduce_failed = True
            return self._to_conductor(Reduced(term, self.step, seal, ()))
        self.ledger.prepared = Prepared(
            term, seal, assign.roster, sums, assign.void, assign.loss, assign.closing
        )
        return self._to_conductor(Reduced(term, self.step, seal, sums))

    def applied(self, commit: Commit, digests: tuple[StageDigest, ...]) -> list[Effect]:
        """The decision is applied: move to the next step, and take up what came early."""
        decision = self.ledger.after
        self.step, self.base = commit.next_step, next_base(commit)
        note = _state_applied(commit.step, commit.term, commit.seal, digests, commit.next_step)
        return [note, *self._enter_step(digests, decision)]

    def unable(self, commit: Commit, reason: str) -> list[Effect]:
        """What the decision names besides its sum cannot be had here: the state behind it comes from a sibling."""
        if self.ledger.applying is not commit:
            return []
        self.ledger.applying = None
        return [self._missed(commit, reason)]

    def _enter_step(
        self, digests: tuple[StageDigest, ...], decision: Decision | None
    ) -> list[Effect]:
        self._opened = self.ledger.open or self._opened
        self.ledger = Ledger()
        effects: list[Effect] = [Advance(self.step, self.base)]
        self.ready = Ready(self.step, self.base, digests)
        effects += self._to_conductor(self.ready)
        if decision is not None and decision.open is not None and self.conductor is not None:
            self._early.append((self.conductor, decision.open))
        early, self._early = self._early, []
        for sender, message in early:
            effects += self.handle(sender, message)
        if self._ending is not None:
            effects.append(End(self._ending.finished, self._ending.reason))
        return effects

    def suspend(self) -> None:
        """State is on its way from siblings: nothing may enter the sums that it replaces (R5)."""
        self.ledger.closed, self.ledger.reopened = True, set()

    def adopt(self, resync: Resync, digests: tuple[StageDigest, ...]) -> list[Effect]:
        """This peer's state was replaced by siblings': it is where `resync` says now, and holds nothing."""
        self.step, self.base, self.epoch = resync.step, resync.base, resync.epoch
        self.stages, self.last = resync.stages, None
        note = _state_applied(resync.step - 1, 0, 0, digests)
        return [note, *self._enter_step(digests, None)]

    def learned(self, commit: Commit, sums: tuple[StageSum, ...]) -> list[Effect]:
        """The sums of a step that was decided without this peer came from siblings: it rolls forward by them (R9).

        Only between rosters: in an open step this peer's own sums count.
        """
        here = (commit.step, commit.base) == (self.step, self.base)
        if not here or self.is_busy or self.ledger.open is not None:
            return []
        rest = (commit.void, commit.loss, commit.closing)
        self.ledger.prepared = Prepared(commit.term, commit.seal, commit.roster, sums, *rest)
        return self._decided(commit, None)

    def restored(self, restore: Restore, digests: tuple[StageDigest, ...]) -> list[Effect]:
        """What `restore` gave this peer is loaded; empty `digests`: it could not be."""
        if restore != self._restoring:
            return []
        if not digests:
            self._restoring = None
            return self._to_conductor(Ready(restore.step, restore.base, ()))
        self._restoring = None
        self.step, self.base, self.epoch = restore.step, restore.base, epoch_of(restore.term)
        self.stages, self.last = tuple(entry.stage for entry in digests), None
        note = _state_applied(restore.step - 1, 0, 0, digests)
        return [note, *self._enter_step(digests, None)]

    # ---- messages -----------------------------------------------------------------------------------------------

    def handle(self, sender: PeerId, message: StepMessage) -> list[Effect]:
        """React to `message`; stale terms are answered with Nack, stale steps with the decision."""
        match message:
            case Tell(commit) if epoch_of(commit.term) != self.epoch or self._restoring is not None:
                # Of a history that a restore gave up; or this peer's is, then an opening with it in brings the state.
                return []
            case Tell(commit) if commit.step > self.step:
                reason = "more than one decision was missed"
                return [self._missed(commit, reason)]
            case Tell(commit):
                return self._decided(commit, None)
            case Ask(step):
                known = self.last is not None and self.last.next_step > step
                return [Send(sender, Tell(self.last))] if known and self.last is not None else []
            case _ if isinstance(message, FromConductor):
                return self._from_conductor(sender, message)
            case _:
                return []

    def _missed(self, commit: Commit, reason: str) -> Resync:
        """What `commit` came to is to be had from siblings only."""
        epoch = epoch_of(commit.term)
        return Resync(commit.next_step, next_base(commit), epoch, self.stages, (), reason)

    def _from_conductor(self, sender: PeerId, message: FromConductor) -> list[Effect]:
        if message.term < self.term:
            return [Send(sender, Nack(self.term))]
        if message.term == self.term and self.conductor not in (None, sender):
            # A term is promised to one candidate only; the other one must ask above it.
            return [Send(sender, Nack(self.term + 1))]
        self.term, self.conductor = message.term, sender
        match message:
            case NewTerm():
                return self._promise(sender, message)
            case Recall():
                return [Recollect(sender, message.seal)]
            case Restore():
                return self._restore(message)
            case Stop():
                return self._stop(message)
            case Move(_, stages, reason):
                return [Rehost(stages, reason)] if stages != self.stages else []
        if self._restoring is not None or epoch_of(message.term) > self.epoch:
            return self._of_another_epoch(sender, message)
        match message:
            case Decision():
                return self._decision(sender, message)
            case Release():
                return self._release(message)
        if message.step != self.step or self.ledger.applying is not None:
            return self._other_step(sender, message)
        match message:
            case Open():
                return self._open(message)
            case Freeze():
                return self._freeze(sender, message)
            case Reopen():
                return self._reopen(message)
            case Redrive():
                return self._redrive(message)
            case Assign():
                return self._assign(message)

    def _other_step(
        self, sender: PeerId, message: Open | Freeze | Reopen | Redrive | Assign
    ) -> list[Effect]:
        """A conductor that is behind hears the decision; one that is ahead is asked for it (R9)."""
        if self.last is not None and message.step <= self.last.step:
            return [Send(sender, Tell(self.last))]
        if message.step < self.step:
            return []
        if isinstance(message, Open):
            self._early = [(sender, message)]
        return [] if self.ledger.applying is not None else [Send(sender, Ask(self.step))]

    def _restore(self, message: Restore) -> list[Effect]:
        """The island goes back to a whole state; whatever this step held is given up (design.md 9)."""
        if message == self._restoring:
            return []
        is_loaded = (self.step, self.base) == (message.step, message.base)
        if is_loaded and self.ready is not None:
            return self._to_conductor(self.ready)
        if self.peer not in message.roster:
            return []
        self._restoring, self._early = message, []
        self._opened = self.ledger.open or self._opened
        self.ledger = Ledger(closed=True)
        return [CancelReduce(), Load(message)]

    def _of_another_epoch(
        self,
        sender: PeerId,
        message: Open | Freeze | Reopen | Redrive | Assign | Decision | Release,
    ) -> list[Effect]:
        """The conductor's history is not this peer's: state comes with a restore, or from siblings (I4)."""
        opening = message.open if isinstance(message, Decision) else message
        if not isinstance(opening, Open) or self.peer not in opening.roster:
            return []
        self._early = [(sender, opening)]
        if self._restoring is not None:
            return []
        mine = opening.roster.member(self.peer)
        assert mine is not None
        reason = "the island was restored while this peer was away"
        return [Resync(opening.step, opening.base, epoch_of(opening.term), mine.stages, (), reason)]

    def _open(self, message: Open) -> list[Effect]:
        place = message.roster.member(self.peer)
        if message.base != self.base:
            reason = "the step opened on other parameters than this peer holds"
            stages = place.stages if place is not None else self.stages
            return [Resync(message.step, message.base, epoch_of(message.term), stages, (), reason)]
        if place is None:
            self._is_dismissed = True
            return []
        self._is_dismissed = False
        if place.stages != self.stages:
            self._early = [(self.conductor or self.peer, message)]
            keeps = tuple(stage for stage in place.stages if stage in self.stages)
            reason = "this peer moves to other stages"
            return [Resync(message.step, message.base, self.epoch, place.stages, keeps, reason)]
        ledger = self.ledger
        known = ledger.open
        if known is not None and age(message) < age(known):
            return []
        ledger.open = message
        if message.term > ledger.seal_term:
            # What closed the step was a conductor before this one, which opens it anew or freezes it next.
            ledger.closed, ledger.reopened = False, set()
        mine = [
            key
            for share in message.leads
            if share.peer == self.peer
            for _, key in unpack_items(share.items)
            if key not in ledger.leading
        ]
        ledger.leading.update(mine)
        if not mine and ledger.led:
            return self._report_led()
        return [Drive(self.step, key, 0, 0, ()) for key in mine]

    def _report_led(self) -> list[Effect]:
        """DONE, once every key that this edge leads came back; repeated with every repeat of OPEN."""
        ledger = self.ledger
        if ledger.closed or ledger.led < ledger.leading:
            return []
        return self._to_conductor(Done(self.step, self.base, pack_keys(ledger.led)))

    def _freeze(self, sender: PeerId, message: Freeze) -> list[Effect]:
        """Close and say what is held. Without the OPEN, or the stages of it, not yet: the conductor repeats both.

        What was prepared before stays (R11): this conductor may not know that it was decided, and then nobody
        else could bring this peer forward.
        """
        ledger = self.ledger
        this, known = (message.term, message.seal), (ledger.seal_term, ledger.seal)
        is_open = ledger.open is not None and ledger.open.term == message.term
        if this < known or not is_open or moves(self.peer, self.stages, message.roster):
            return []
        effects: list[Effect] = []
        if this > known:
            ledger.seal_term, ledger.seal = this
            ledger.closed, ledger.reopened = True, set()
            self._refresh(message.roster)
            ledger.assign, ledger.reduce_failed = None, False
            effects.append(CancelReduce())
        losses = tuple(KeyLoss(key, ledger.losses[key]) for key in sorted(ledger.losses))
        held, void = pack_items(ledger.held), pack_items(ledger.void)
        return [*effects, Send(sender, Held(self.step, message.seal, held, void, losses))]

    def _refresh(self, roster: Roster) -> None:
        """A newer roster replaces that of the open step: calls go to whom it names (R1)."""
        opening = self.ledger.open
        if opening is not None and roster.version > opening.roster.version:
            self.ledger.open = replace(opening, roster=roster)

    def _is_sealed(self, message: Reopen | Redrive | Assign) -> bool:
        return (message.term, message.seal) == (self.ledger.seal_term, self.ledger.seal)

    def _reopen(self, message: Reopen) -> list[Effect]:
        if self._is_sealed(message) and self.ledger.assign is None:
            self.ledger.reopened |= set(unpack_items(message.items))
            self.ledger.confirmed = list_version(message.term, message.roster.version)
        return []

    def _redrive(self, message: Redrive) -> list[Effect]:
        if not self._is_sealed(message):
            return []
        return [Drive(self.step, message.key, message.position, message.seal, message.hints)]

    def _assign(self, message: Assign) -> list[Effect]:
        """Keep what this peer owns, retract the rest, and reduce an immutable snapshot (R2, R5)."""
        ledger = self.ledger
        if not self._is_sealed(message):
            return []
        if ledger.assign is not None and ledger.reduce_failed:
            return self._to_conductor(Reduced(message.term, self.step, message.seal, ()))
        if ledger.assign is not None:
            prepared = ledger.prepared
            if prepared is None or (prepared.term, prepared.seal) != (message.term, message.seal):
                return []
            return self._to_conductor(
                Reduced(message.term, self.step, message.seal, prepared.stages)
            )
        owned = {
            item
            for ownership in message.owners
            if ownership.peer == self.peer
            for item in unpack_items(ownership.items)
        }
        if not owned <= ledger.held or ledger.open is None:
            return self._to_conductor(Reduced(message.term, self.step, message.seal, ()))
        ledger.assign, ledger.reopened = message, set()
        ledger.confirmed = list_version(message.term, message.roster.version)
        surplus = tuple(sorted(ledger.held - owned))
        ledger.held = owned
        effects: list[Effect] = [Note(seal_assigned(message, ledger.open))]
        effects += [Retract(surplus)] if surplus else []
        void = set(unpack_keys(message.void))
        effects += [
            Note(DuplicateDropped(self.step, key, position, "held here, owned elsewhere"))
            for position, key in surplus
            if key not in void
        ]
        tokens = ledger.open.tokens
        return [*effects, Reduce(self.step, message.term, message.seal, message.roster, tokens)]

    def _decision(self, sender: PeerId, message: Decision) -> list[Effect]:
        """A repeat is answered with what was reported; one that is ahead makes this peer ask."""
        commit = message.commit
        if commit.step > self.step:
            return [Send(sender, Ask(self.step))]
        if commit.step < self.step:
            return self._repeat_ready(sender, message)
        return self._decided(commit, message)

    def _repeat_ready(self, sender: PeerId, message: Decision) -> list[Effect]:
        """READY again, and the opening on the decision's back, which may have been lost with it."""
        ready = self.ready
        if ready is None or ready.step != message.commit.next_step or ready.step != self.step:
            return []
        effects: list[Effect] = [Send(sender, ready)]
        if message.open is not None and self.ledger.applying is None:
            effects += self.handle(sender, message.open)
        return effects

    def _decided(self, commit: Commit, decision: Decision | None) -> list[Effect]:
        """Apply a decision whose sums this peer has; otherwise its state must come from a sibling (R9)."""
        if commit.step != self.step or self.ledger.applying is not None:
            return []
        if commit.base != self.base:
            reason = "the decision was made on other parameters than this peer holds"
            epoch = epoch_of(commit.term)
            return [Resync(commit.step, commit.base, epoch, self.stages, (), reason)]
        prepared = self.ledger.prepared
        mine = [entry for entry in commit.stages if entry.stage in self.stages]
        if prepared is None or any(entry not in prepared.stages for entry in mine):
            reason = "a step was decided without this peer's sums"
            return [self._missed(commit, reason)]
        self.last = commit
        self.ledger.applying, self.ledger.after = commit, decision
        self.ledger.closed, self.ledger.reopened = True, set()
        return [Apply(commit)]

    def _promise(self, sender: PeerId, message: NewTerm) -> list[Effect]:
        ledger, here = self.ledger, (self.epoch, self.step, self.base)
        known = (self.last, ledger.prepared, ledger.open or self._opened)
        promise = Promise(message.term, *here, ledger.seal, *known)
        note = Noted("promise", f"term {message.term} to {sender} at step {self.step}")
        effects: list[Effect] = [Send(sender, promise), Note(note)]
        is_behind = message.step > self.step and ledger.applying is None
        return [*effects, Send(sender, Ask(self.step))] if is_behind else effects

    def _release(self, message: Release) -> list[Effect]:
        """A majority is ready. Parameters unlike the agreed ones must come from a sibling (I3)."""
        if message.step > self.step:
            return []
        here = self.ready
        mine = here.stages if here is not None and here.step == message.step else ()
        agreed = {entry.stage: entry.digest for entry in message.stages}
        if any(agreed.get(entry.stage, entry.digest) != entry.digest for entry in mine):
            reason = "this peer's parameters differ from the agreed ones"
            epoch = epoch_of(message.term)
            return [Resync(message.step, self.base, epoch, self.stages, (), reason)]
        end: list[Effect] = [End(False, LEFT)] if self._is_dismissed else []
        return [Forget(message.step), *end]

    def _stop(self, message: Stop) -> list[Effect]:
        """The end waits for a decision that is being applied, or the last step would be missing here."""
        if message.finished and self.ledger.applying is not None:
            self._ending = message
            return []
        return [End(message.finished, message.reason)]

    def _to_conductor(self, message: StepMessage) -> list[Effect]:
        return [Send(self.conductor, message)] if self.conductor is not None else []


def _state_applied(
    step: int, term: int, seal: int, digests: tuple[StageDigest, ...], next_step: int = 0
) -> Note:
    stages = tuple((entry.stage, entry.digest.hex()) for entry in digests)
    return Note(StateApplied(step, term, seal, stages, next_step))
