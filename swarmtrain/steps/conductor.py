"""The conductor of an island's steps: OPEN, FREEZE, HELD, ASSIGN, REDUCED, COMMIT, READY (rules R2, R5, R6, R8, R10).

One edge peer runs it after winning a ballot. Inputs are messages, `lost(peer)` and `tick()`; each returns
effects. Messages may be lost or repeated: `tick` sends the current phase's question again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from swarmtrain.core.events import Diverged, Sealed, StepOpened
from swarmtrain.core.messages import (
    Assign,
    Commit,
    Decision,
    Done,
    Freeze,
    Held,
    KeyLoss,
    Nack,
    Open,
    Ready,
    Redrive,
    Redriven,
    Reduced,
    Release,
    Reopen,
    Scalars,
    StageDigest,
    StageSum,
    StepMessage,
    Stop,
    Tell,
    pack_items,
    unpack_items,
)  # fmt: skip
from swarmtrain.core.types import Digest, PeerId, Roster, is_majority
from swarmtrain.steps.effects import Acknowledged, Effect, Note, Send, StepDown, Unsurvivable
from swarmtrain.steps.holdings import (
    Audit,
    Run,
    audit,
    driver_of,
    hints_for,
    missing_runs,
    ownerships,
)  # fmt: skip
from swarmtrain.steps.keys import next_base, pack_keys, share_leads, unpack_keys


@dataclass(frozen=True, slots=True)
class Plan:
    """What a conductor must know of the run. `tokens` is the divisor of a whole step."""

    steps: int
    stages: int
    microbatches: int
    tokens: int
    sequences: Callable[[int], tuple[tuple[int, ...], ...]]
    scalars: Callable[[int], Scalars]


@dataclass
class Gathering:
    """Answers of the current phase, by peer or key."""

    done: set[int] = field(default_factory=set)
    held: dict[PeerId, Held] = field(default_factory=dict)
    runs: set[Run] = field(default_factory=set)
    reduced: dict[PeerId, tuple[StageSum, ...]] = field(default_factory=dict)
    assign: Assign | None = None


@dataclass
class Acknowledging:
    """A decided step that waits for a majority of READY."""

    commit: Commit
    ready: dict[PeerId, Ready] = field(default_factory=dict)
    done: bool = False


Phase = Literal["run", "freeze", "replay", "assign", "finished"]


class StepConductor:
    """Conducts from `step` on `base` with `roster`; `base_roster` is the roster of the last commit (R8)."""

    def __init__(
        self, peer: PeerId, plan: Plan, term: int, step: int, base: Digest, roster: Roster
    ) -> None:
        self.peer, self.plan, self.term = peer, plan, term
        self.step, self.base = step, base
        self.roster = self.base_roster = roster
        self.phase: Phase = "run"
        self.seal = 0
        self.open: Open | None = None
        self._got = Gathering()
        self._acknowledging: Acknowledging | None = None

    # ---- inputs -------------------------------------------------------------------------------------------------

    def start(self) -> list[Effect]:
        """Open the current step."""
        if self.step >= self.plan.steps:
            self.phase = "finished"
            return []
        self.open = self._opening()
        return [self._opened_note(), *self._broadcast(self.open)]

    def resume(self, opening: Open, seal: int) -> list[Effect]:
        """Take over a step that was open: ask what everybody holds, under a new seal."""
        self.open, self.seal = opening, seal
        return self._freeze()

    def spread(self, commit: Commit) -> list[Effect]:
        """Take over a step that was, or may have been, decided: the same decision again."""
        return self._decide(commit)

    def handle(self, sender: PeerId, message: StepMessage) -> list[Effect]:
        match message:
            case Nack(term) if term > self.term:
                return [StepDown(term)]
            case Tell(commit) if commit.step >= self.step:
                return [StepDown(self.term)]
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
            case _:
                return []

    def lost(self, peer: PeerId) -> list[Effect]:
        """Go on without `peer`, or say why that is impossible."""
        if peer not in self.roster or self.phase == "finished":
            return []
        roster = self.roster.without(peer)
        missing = roster.missing_stages(self.plan.stages)
        if missing:
            return [Unsurvivable(f"peer {peer} was the last replica of stage {missing[0]}")]
        if not is_majority(roster.peers, self.base_roster):
            return [Unsurvivable(f"without peer {peer} no majority of the last roster is left")]
        self.roster = roster
        if self.phase != "run" or self.open is None:
            return self._freeze()
        led_by_lost = self._led_by(peer) - self._got.done
        self.open = self._opening()
        lead = roster.edges[0]
        effects = self._broadcast(self.open)
        return effects + [
            Send(lead, Redrive(self.term, self.step, self.seal, key, 0, ()))
            for key in sorted(led_by_lost)
        ]

    def tick(self) -> list[Effect]:
        """Repeat what may have been lost; the receivers take repeats as the same question."""
        effects: list[Effect] = []
        waiting = self._acknowledging
        if waiting is not None and not waiting.done:
            opening = self.open if self.open is not None and self.open.step == self.step else None
            decision = Decision(self.term, waiting.commit, opening)
            silent = [peer for peer in waiting.commit.roster.peers if peer not in waiting.ready]
            effects += [Send(peer, decision) for peer in silent]
        match self.phase:
            case "run" if self.open is not None:
                effects += self._broadcast(self.open)
            case "freeze":
                freeze = Freeze(self.term, self.step, self.seal, self.roster)
                effects += [
                    Send(peer, freeze) for peer in self.roster.peers if peer not in self._got.held
                ]
            case "replay":
                effects += self._freeze()
            case "assign" if self._got.assign is not None:
                waiting_for = [p for p in self.roster.peers if p not in self._got.reduced]
                effects += [Send(peer, self._got.assign) for peer in waiting_for]
        return effects

    def stop(self, reason: str, finished: bool) -> list[Effect]:
        self.phase = "finished"
        return self._broadcast(Stop(self.term, self.step, finished, reason))

    # ---- one phase after the other ------------------------------------------------------------------------------

    def _opening(self) -> Open:
        plan = self.plan
        return Open(
            term=self.term,
            step=self.step,
            base=self.base,
            roster=self.roster,
            leads=share_leads(plan.microbatches, self.roster.edges),
            microbatches=plan.microbatches,
            sequences=plan.sequences(self.step),
            tokens=plan.tokens,
        )

    def _led_by(self, peer: PeerId) -> set[int]:
        leads = self.open.leads if self.open is not None else ()
        return {
            key for share in leads if share.peer == peer for _, key in unpack_items(share.items)
        }

    def _done(self, message: Done) -> list[Effect]:
        if message.step != self.step or self.phase != "run":
            return []
        self._got.done.update(unpack_keys(message.keys))
        return self._freeze() if len(self._got.done) == self.plan.microbatches else []

    def _freeze(self) -> list[Effect]:
        self.seal += 1
        self.phase, self._got = "freeze", Gathering()
        return self._broadcast(Freeze(self.term, self.step, self.seal, self.roster))

    def _held(self, sender: PeerId, message: Held) -> list[Effect]:
        if self.phase != "freeze" or (message.step, message.seal) != (self.step, self.seal):
            return []
        if sender not in self.roster:
            return []
        self._got.held[sender] = message
        if len(self._got.held) < len(self.roster.members) or self.open is None:
            return []
        held = {peer: frozenset(unpack_items(m.held)) for peer, m in self._got.held.items()}
        void = {peer: frozenset(unpack_items(m.void)) for peer, m in self._got.held.items()}
        found = audit(self.open.items(), held, void)
        return self._replay(found) if found.missing else self._assign(found)

    def _replay(self, found: Audit) -> list[Effect]:
        """Missing runs are driven again from the holder above (R6)."""
        self.phase = "replay"
        runs = missing_runs(found.missing)
        self._got.runs = set(runs)
        items = pack_items(found.missing)
        effects = self._broadcast(Reopen(self.term, self.step, self.seal, self.roster, items))
        return effects + [
            Send(
                driver_of(run, found.owners, self.roster),
                Redrive(
                    self.term,
                    self.step,
                    self.seal,
                    run.key,
                    run.first,
                    hints_for(run.key, found.owners),
                ),
            )
            for run in runs
        ]

    def _redriven(self, message: Redriven) -> list[Effect]:
        if self.phase == "run" and (message.step, message.position) == (self.step, 0):
            return self._done(Done(self.step, self.base, pack_keys([message.key])))
        if self.phase != "replay" or (message.step, message.seal) != (self.step, self.seal):
            return []
        ended = (message.key, message.position)
        self._got.runs = {run for run in self._got.runs if (run.key, run.first) != ended}
        return [] if self._got.runs else self._freeze()

    def _assign(self, found: Audit) -> list[Effect]:
        self.phase = "assign"
        losses = {entry.key: entry.loss_sum for entry in self._head_losses(found)}
        assign = Assign(
            term=self.term,
            step=self.step,
            seal=self.seal,
            roster=self.roster,
            owners=ownerships(found.owners),
            void=pack_keys(found.void),
            loss=self._mean_loss(losses),
        )
        self._got.assign = assign
        shares = {peer: 0 for peer in self.roster.peers}
        for peer in found.owners.values():
            shares[peer] += 1
        note = Sealed(self.step, self.seal, tuple(shares.items()), found.void)
        return [Note(note), *self._broadcast(assign)]

    def _head_losses(self, found: Audit) -> list[KeyLoss]:
        """Each key's loss as the owner of its head reported it, keys ascending."""
        assert self.open is not None
        losses = []
        for key in range(self.plan.microbatches):
            if key in found.void:
                continue
            head = (len(self.open.sequence(key)) + 1, key)
            answer = self._got.held[found.owners[head]]
            losses += [entry for entry in answer.losses if entry.key == key]
        return losses

    def _mean_loss(self, losses: dict[int, float]) -> float:
        """Nats per token over the keys that count, summed in key order; nan when every key is void."""
        per_key_tokens = self.plan.tokens // self.plan.microbatches
        if not losses:
            return math.nan
        return sum(losses[key] for key in sorted(losses)) / (per_key_tokens * len(losses))

    def _reduced(self, sender: PeerId, message: Reduced) -> list[Effect]:
        """Decide when the whole sealed roster reports equal digests; anything else is a new seal (R8)."""
        current = (self.term, self.step, self.seal)
        if self.phase != "assign" or (message.term, message.step, message.seal) != current:
            return []
        if sender not in self.roster:
            return []
        self._got.reduced[sender] = message.stages
        expected = self.roster.member(sender)
        if expected is None or {entry.stage for entry in message.stages} != set(expected.stages):
            return self._freeze()
        if len(self._got.reduced) < len(self.roster.members):
            return []
        sums: dict[int, set[StageSum]] = {}
        for peer in self.roster.peers:
            for entry in self._got.reduced[peer]:
                sums.setdefault(entry.stage, set()).add(entry)
        split = [stage for stage in sorted(sums) if len(sums[stage]) > 1]
        if split:
            return [self._diverged_note(split[0]), *self._freeze()]
        return self._decide(self._commit(tuple(next(iter(sums[stage])) for stage in sorted(sums))))

    def _commit(self, stages: tuple[StageSum, ...]) -> Commit:
        assert self._got.assign is not None
        return Commit(
            term=self.term,
            step=self.step,
            seal=self.seal,
            base=self.base,
            roster=self.roster,
            stages=stages,
            scalars=self.plan.scalars(self.step),
            tokens=self.plan.tokens,
            loss=self._got.assign.loss,
            void=self._got.assign.void,
        )

    def _decide(self, commit: Commit) -> list[Effect]:
        """COMMIT, with the next step's OPEN on its back; the step is acknowledged by READY (R10)."""
        roster = self.roster
        self._acknowledging = Acknowledging(commit)
        self.base, self.step, self.seal = next_base(commit), commit.step + 1, 0
        self.base_roster = commit.roster
        self._got = Gathering()
        more = self.step < self.plan.steps
        self.phase = "run" if more else "finished"
        self.open = self._opening() if more else None
        decision = Decision(self.term, commit, self.open)
        effects: list[Effect] = [Send(peer, decision) for peer in roster.peers]
        return [self._opened_note(), *effects] if more else effects

    def _ready(self, sender: PeerId, message: Ready) -> list[Effect]:
        waiting = self._acknowledging
        if waiting is None or message.step != waiting.commit.step + 1 or sender not in self.roster:
            return []
        waiting.ready[sender] = message
        if waiting.done:
            return self._late_ready(waiting, sender, message)
        agreed, split = _agree(waiting.ready)
        if not is_majority(waiting.ready, waiting.commit.roster) or len(agreed) <= self.plan.stages:
            return []
        waiting.done = True
        effects: list[Effect] = [Note(event) for event in split]
        effects.append(Acknowledged(waiting.commit, agreed))
        return effects + self._broadcast(Release(self.term, message.step, agreed))

    def _late_ready(self, waiting: Acknowledging, sender: PeerId, message: Ready) -> list[Effect]:
        """A replica beyond the majority: it still must have the same parameters (I3)."""
        agreed, split = _agree(waiting.ready)
        effects: list[Effect] = [Note(event) for event in split]
        return [*effects, Send(sender, Release(self.term, message.step, agreed))]

    # ---- small things -------------------------------------------------------------------------------------------

    def _broadcast(self, message: StepMessage) -> list[Effect]:
        return [Send(peer, message) for peer in self.roster.peers]

    def _opened_note(self) -> Note:
        members = len(self.roster.members)
        return Note(
            StepOpened(self.step, self.term, self.roster.version, members, self.plan.microbatches)
        )

    def _diverged_note(self, stage: int) -> Note:
        digests = tuple(
            (peer, entry.digest.hex())
            for peer in self.roster.peers
            for entry in self._got.reduced[peer]
            if entry.stage == stage
        )
        return Note(Diverged(self.step, stage, "reduced sums", digests))


def _agree(ready: dict[PeerId, Ready]) -> tuple[tuple[StageDigest, ...], list[Diverged]]:
    """Each stage's parameter digest: the most frequent, then the lowest peer's; and who disagrees."""
    by_stage: dict[int, list[tuple[PeerId, Digest]]] = {}
    for peer in sorted(ready):
        for entry in ready[peer].stages:
            by_stage.setdefault(entry.stage, []).append((peer, entry.digest))
    agreed, split = [], []
    for stage in sorted(by_stage):
        digests = [digest for _, digest in by_stage[stage]]
        agreed.append(StageDigest(stage, max(digests, key=digests.count)))
        if len(set(digests)) > 1:
            shown = tuple((peer, digest.hex()) for peer, digest in by_stage[stage])
            split.append(Diverged(ready[min(ready)].step, stage, "parameters", shown))
    return tuple(agreed), split
