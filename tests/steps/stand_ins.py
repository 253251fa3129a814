"""What the explorer puts in place of tensors: a worker that counts contributions and a reduce that adds the counts.

They keep to the contracts of peer/worker.py and peer/reduce.py. Work on the sums is a delivery of its own, so
that it can come late (R5). The classes carry no chance: choices are asked of the world.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from swarmtrain.core.messages import Hint, StageSum
from swarmtrain.core.types import Digest, Item, PeerId
from swarmtrain.steps.effects import Drive, Effect, Reduce
from swarmtrain.steps.member import StepMember

Status = Literal["ok", "void", "refused"]
Tag = tuple[int, int, int]
Contents = tuple[tuple[Item, Digest, int], ...]
"""A sum by what is in it: (item, base it was computed on, count), ascending."""


def digest_of(*facts: object) -> Digest:
    return hashlib.sha256(repr(facts).encode()).digest()


@dataclass(frozen=True)
class Call:
    """A hop under way. `above` is the calling item, or the Drive that asked for the call."""

    number: int
    caller: PeerId
    callee: PeerId
    step: int
    base: Digest
    roster_version: int
    item: Item
    hints: tuple[Hint, ...]
    above: Item | Drive


class Outside(Protocol):
    """What a worker and a reducer may ask of the world."""

    def choose(self, peers: tuple[PeerId, ...], hinted: PeerId | None) -> PeerId: ...
    def call(self, call: Call) -> None: ...
    def answer(self, call: Call, status: Status) -> None: ...
    def later(self, peer: PeerId, work: Callable[[], None]) -> None: ...
    def piece(
        self, sender: PeerId, to: PeerId, stage: int, tag: Tag, contents: Contents
    ) -> None: ...
    def next_call(self) -> int: ...
    def spoiled(self, step: int, item: Item) -> Literal["", "forward", "backward"]: ...


@dataclass
class Entry:
    item: Item
    base: Digest
    hints: tuple[Hint, ...]
    answered: bool = False
    void: bool = False
    waiters: list[Call | Drive] = field(default_factory=list)
    tried: list[PeerId] = field(default_factory=list)


class CountingWorker:
    """peer/worker.py without tensors."""

    def __init__(
        self, member: StepMember, outside: Outside, perform: Callable[[list[Effect]], None]
    ) -> None:
        self.member, self.outside, self.perform = member, outside, perform
        self.store: dict[tuple[int, Item], Entry] = {}
        self.sums: Counter[tuple[Item, Digest]] = Counter()
        self.parked: list[Call] = []
        self.refused: list[Call] = []
        self.repeats = 0

    # ---- the callee -------------------------------------------------------------------------------------------

    def process(self, call: Call) -> None:
        member, opening = self.member, self.member.ledger.open
        if member.step < call.step or (member.step == call.step and opening is None):
            self.parked.append(call)
            return
        fits = opening is not None and (member.step, member.base) == (call.step, call.base)
        if not fits or opening is None or call.roster_version < opening.roster.version:
            self.outside.answer(call, "refused")
            return
        self.enter(call.item, call.hints, call)

    def enter(self, item: Item, hints: tuple[Hint, ...], waiter: Call | Drive) -> None:
        step, base = self.member.step, self.member.base
        entry = self.store.get((step, item))
        if entry is not None:
            self.repeats += 1
            entry.waiters.append(waiter)
            if entry.answered:
                self.outside.later(self.member.peer, lambda: self.settle(step, item))
            return
        entry = self.store[step, item] = Entry(item, base, hints, waiters=[waiter])
        opening = self.member.ledger.open
        assert opening is not None
        if (
            item[0] == len(opening.sequence(item[1])) + 1
            or self.outside.spoiled(step, item) == "forward"
        ):
            self.outside.later(self.member.peer, lambda: self.settle(step, item))
        else:
            self.call_below((item[0] + 1, item[1]), hints, entry.tried, item)

    def settle(self, step: int, item: Item) -> None:
        """The lane's turn: accumulate if the protocol admits it now, then answer everybody who waits."""
        entry = self.store.get((step, item))
        if entry is None or self.member.step != step:
            return
        entry.answered = True
        if entry.void or self.outside.spoiled(step, item):
            entry.void = True
            self.perform(self.member.voided(item, "spoiled"))
        elif self.member.admits(item):
            self.accumulate(entry)
        waiters, entry.waiters = entry.waiters, []
        for waiter in waiters:
            if isinstance(waiter, Drive):
                self.perform(self.member.driven(waiter))
            else:
                self.outside.answer(waiter, "void" if entry.void else "ok")

    def accumulate(self, entry: Entry) -> None:
        opening = self.member.ledger.open
        assert opening is not None
        is_head = entry.item[0] == len(opening.sequence(entry.item[1])) + 1
        self.member.accumulated(entry.item, 1.0 + entry.item[1] if is_head else None)
        self.sums[entry.item, entry.base] += 1

    # ---- the caller -------------------------------------------------------------------------------------------

    def drive(self, effect: Drive) -> None:
        if self.member.ledger.open is None or self.member.step != effect.step:
            return
        if effect.position == 0:
            self.enter((0, effect.key), effect.hints, effect)
        elif (effect.step, (effect.position - 1, effect.key)) in self.store:
            self.call_below((effect.position, effect.key), effect.hints, [], effect)
        else:
            self.perform(self.member.driven(effect))

    def call_below(
        self, item: Item, hints: tuple[Hint, ...], tried: list[PeerId], above: Item | Drive
    ) -> None:
        opening = self.member.ledger.open
        assert opening is not None
        replicas = opening.roster.replicas(opening.stage_at(*item))
        untried = tuple(peer for peer in replicas if peer not in tried)
        if not untried:
            tried.clear()
        hinted = next((hint.peer for hint in hints if hint.position == item[0]), None)
        callee = self.outside.choose(untried or replicas, hinted)
        tried.append(callee)
        step, base, version = self.member.step, self.member.base, opening.roster.version
        number = self.outside.next_call()
        self.outside.call(
            Call(number, self.member.peer, callee, step, base, version, item, hints, above)
        )

    def answered(self, call: Call, status: Status) -> None:
        if call.step != self.member.step:
            return
        if status == "refused":
            self.refused.append(call)
        elif isinstance(call.above, Drive):
            self.perform(self.member.driven(call.above))
        elif (entry := self.store.get((call.step, call.above))) is not None and not entry.answered:
            entry.void = status == "void"
            self.outside.later(self.member.peer, lambda: self.settle(call.step, entry.item))

    def again(self, call: Call) -> bool:
        """Call another replica with the same bytes; False when nobody waits for the answer any more."""
        if call.step != self.member.step or call.base != self.member.base:
            return False
        if self.member.ledger.open is None:
            return False
        if isinstance(call.above, Drive):
            self.call_below(call.item, call.hints, [call.callee], call.above)
            return True
        entry = self.store.get((call.step, call.above))
        if entry is None or entry.answered:
            return False
        self.call_below(call.item, call.hints, entry.tried, call.above)
        return True

    # ---- the step protocol's effects --------------------------------------------------------------------------

    def retract(self, items: tuple[Item, ...]) -> None:
        for item in items:
            entry = self.store[self.member.step, item]
            self.sums[item, entry.base] -= 1

    def leave_step(self, step: int) -> None:
        for (old, _), entry in self.store.items():
            waiters, entry.waiters = (entry.waiters, []) if old < step else ([], entry.waiters)
            for waiter in waiters:
                if isinstance(waiter, Call):
                    self.outside.answer(waiter, "refused")

    def forget_before(self, step: int) -> None:
        self.store = {known: entry for known, entry in self.store.items() if known[0] >= step}

    def moved(self) -> None:
        parked, self.parked = self.parked, []
        for call in parked:
            self.process(call)


class CountingReducer:
    """peer/reduce.py for one stage: every replica sends its snapshot to its siblings, tagged (R16)."""

    def __init__(
        self, member: StepMember, worker: CountingWorker, outside: Outside, fast: bool
    ) -> None:
        self.member, self.worker, self.outside, self.fast = member, worker, outside, fast
        self.running: Reduce | None = None
        self.pieces: dict[Tag, dict[PeerId, Contents]] = {}
        self.failed: set[Tag] = set()
        self.total: Contents = ()
        self.total_digest = b""
        self.sloppy = False

    @staticmethod
    def tag_of(effect: Reduce) -> Tag:
        return (effect.step, effect.term, effect.seal)

    def snapshot(self) -> Contents:
        counted = self.worker.sums.items()
        return tuple(sorted((item, base, count) for (item, base), count in counted if count))

    def start(self, effect: Reduce) -> None:
        self.running = effect
        contents, tag = self.snapshot(), self.tag_of(effect)
        self.pieces = {
            known: kept for known, kept in self.pieces.items() if known[0] >= effect.step
        }
        stage = self.member.stages[0]
        for peer in effect.roster.replicas(stage):
            if peer == self.member.peer:
                self.outside.later(peer, lambda: self.take(self.member.peer, tag, contents))
            else:
                self.outside.piece(self.member.peer, peer, stage, tag, contents)
        if tag in self.failed:
            self.fail(tag)
        self.end_if_complete()

    def take(self, sender: PeerId, tag: Tag, contents: Contents) -> None:
        self.pieces.setdefault(tag, {})[sender] = contents
        self.end_if_complete()

    def end_if_complete(self) -> None:
        effect = self.running
        if effect is None:
            return
        have = self.pieces.get(self.tag_of(effect), {})
        siblings = effect.roster.replicas(self.member.stages[0])
        if all(peer in have for peer in siblings):
            self.running = None
            pieces = {peer: have[peer] for peer in siblings}
            self.outside.later(self.member.peer, lambda: self.end(effect, pieces))

    def end(self, effect: Reduce, pieces: dict[PeerId, Contents]) -> None:
        if self.sloppy:
            pieces, self.sloppy = {self.member.peer: pieces[self.member.peer]}, False
        added: Counter[tuple[Item, Digest]] = Counter()
        for contents in pieces.values():
            for item, base, count in contents:
                added[item, base] += count
        total = tuple(sorted((item, base, count) for (item, base), count in added.items()))
        # Exact sums depend on what is in them; in fast mode also on who brought what.
        digest = digest_of(total, sorted(pieces.items()) if self.fast else ())
        sums = (StageSum(self.member.stages[0], digest, "0", 0),)
        self.worker.perform(self.member.reduced(effect.term, effect.seal, sums))
        prepared = self.member.ledger.prepared
        if prepared is not None and prepared.stages == sums:
            # Only what is prepared replaces what was: a decision may still come for that.
            self.total, self.total_digest = total, digest

    def fail(self, tag: Tag) -> None:
        """A piece was lost: the pull failed, and the driver says so with an empty reduce."""
        self.failed.add(tag)
        effect = self.running
        if effect is not None and self.tag_of(effect) == tag:
            self.running = None
            self.worker.perform(self.member.reduced(effect.term, effect.seal, ()))
