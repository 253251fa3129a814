"""The ballot that makes a conductor: terms, promises and takeover (rule R8, protocol.md answer a).

A candidate asks the roster of the last commit for promises. With promises from a majority it finds out what
the terms before it may have decided, and only then conducts.
"""

import itertools
from dataclasses import dataclass, replace

from swarmtrain.core.messages import Commit, NewTerm, Open, Prepared, Promise, StageSum
from swarmtrain.core.remembered import remembered
from swarmtrain.core.types import Digest, Member, PeerId, Roster, is_majority
from swarmtrain.steps.effects import Effect, Send

_RANK_BITS = 16
_EPOCH_BITS = 44
"""A term is epoch, count and rank; every restore of the island from kept states starts an epoch."""


def next_term(highest: int, rank: int) -> int:
    """A term above `highest` that no other rank can pick: candidates never share a term."""
    return ((highest >> _RANK_BITS) + 1) << _RANK_BITS | rank


def epoch_of(term: int) -> int:
    """The history that `term` belongs to: decisions of a lower epoch were given up by a restore."""
    return term >> _EPOCH_BITS


def next_epoch(term: int) -> int:
    """The term of the same candidate in the next epoch, above every term of this one."""
    return term + (1 << _EPOCH_BITS)


def list_version(term: int, roster_version: int) -> int:
    """One number for a roster of a term, that grows with both: conductors that replaced each other may have counted
    their rosters alike. Has room for 2^10 epochs, 2^16 terms in each, and 2^20 rosters."""
    count = (term >> _RANK_BITS) & ((1 << (_EPOCH_BITS - _RANK_BITS)) - 1)
    rank = term & ((1 << _RANK_BITS) - 1)
    return ((epoch_of(term) << 16 | count) << _RANK_BITS | rank) << 20 | roster_version


def dated(member: Member, before: Roster, version: int) -> Member:
    """`member` as the list `version`, which follows `before`, has it: in since then, unless it is in that one with all
    the stages that it had."""
    known = before.member(member.peer)
    stays = known is not None and set(known.stages) <= set(member.stages)
    return replace(member, since=known.since if known is not None and stays else version)


def renewed(roster: Roster, term: int) -> Roster:
    """`roster` where a conductor of `term` cannot know who was out of the newest list: all may have been."""
    version = list_version(term, roster.version)
    return Roster(roster.version, tuple(replace(m, since=version) for m in roster.members))


@dataclass(frozen=True, slots=True)
class Fresh:
    """Nobody has opened the step: open it."""


@dataclass(frozen=True, slots=True)
class Decided:
    """This decision was made; spread it."""

    commit: Commit


@dataclass(frozen=True, slots=True)
class Complete:
    """Every reachable member of the sealed roster prepared this: commit it."""

    prepared: Prepared
    open: Open


@dataclass(frozen=True, slots=True)
class Reseal:
    """The step is open and undecided: freeze it again above `seal`."""

    open: Open
    seal: int


@dataclass(frozen=True, slots=True)
class Scattered:
    """A restore was left half done: part of the island is in another epoch, and no state is whole."""


Outcome = Fresh | Decided | Complete | Reseal | Scattered


class Candidate:
    """One try at becoming conductor. Raises nothing; a higher term elsewhere ends it by Nack."""

    def __init__(self, peer: PeerId, term: int, step: int, base: Digest, roster: Roster) -> None:
        self.peer, self.term, self.step, self.base, self.roster = peer, term, step, base, roster
        self.promises: dict[PeerId, Promise] = {}
        self.strangers: set[PeerId] = set()
        """Who took no part so far, under the name of one that did and may have promised or prepared otherwise: they are
        not of the majority that R8 counts on."""

    def start(self) -> list[Effect]:
        """Ask everybody in the base roster; repeat it to ask those again who have not answered."""
        return [effect for peer in self.roster.peers for effect in self.ask(peer)]

    def ask(self, peer: PeerId) -> list[Effect]:
        """Ask `peer`, if it has not answered."""
        if peer in self.promises or peer not in self.roster:
            return []
        return [Send(peer, _question(self.term, self.step, self.base, self.roster))]

    def promised(self, sender: PeerId, message: Promise) -> None:
        if message.term != self.term or sender not in self.roster:
            return
        if self._is_strange(message):
            self.strangers.add(sender)
        if sender not in self.strangers:  # also once it has taken others' state
            self.promises[sender] = message

    def _is_strange(self, message: Promise) -> bool:
        """Whoever is in another epoch is no stranger: newcomers may host what is restored."""
        here = (message.step, message.base) == (self.step, self.base)
        has_nothing = message.open is None and message.last is None
        return has_nothing and not here and message.epoch == epoch_of(self.term)

    @property
    def has_majority(self) -> bool:
        return is_majority(self.promises, self.roster)

    @property
    def has_all(self) -> bool:
        return len(self.promises) == len(self.roster.members)

    def outcome(self) -> Outcome:
        """What the promises say of the step; call it with a majority and all who can be reached."""
        mine = epoch_of(self.term)
        if any(promise.epoch > mine for promise in self.promises.values()):
            return Scattered()
        decisions = [
            promise.last
            for promise in self.promises.values()
            if promise.last is not None
            and promise.last.step >= self.step
            and epoch_of(promise.last.term) == mine
        ]
        if not decisions and self._lacks_a_stage(mine):
            return Scattered()
        if decisions:
            newest = max(decisions, key=lambda commit: commit.step)
            return Decided(replace(newest, roster=self.following(newest.roster)))
        here = [promise for promise in self.promises.values() if self._is_here(promise)]
        heads = [(p.open.step, p.open.base, p.open) for p in here if p.open is not None]
        opens = [entry for *head, entry in heads if head == [self.step, self.base]]
        if not opens:
            return Fresh()
        opening = max(opens, key=lambda entry: (entry.term, entry.roster.version))
        prepared = [promise.prepared for promise in here if promise.prepared is not None]
        if prepared:
            highest = max(prepared, key=lambda entry: (entry.term, entry.seal))
            if self._all_prepared(highest) and self._is_whole(highest):
                return Complete(highest, opening)
        return Reseal(opening, max(promise.seal for promise in here))

    def following(self, roster: Roster) -> Roster:
        """`roster` as this candidate opens it, its newest list: it says who was out of the newest one before.

        That is in the promises: a majority of the last decision's roster closes a step with a list before anybody acts
        on it that is not on all lists before (`outer.votes`), and one of that majority promised. On lists that nobody
        here heard of nobody acted, then, but together with all who were on those before.
        """
        heard = [e for p in self.promises.values() for e in (p.open, p.last, p.prepared) if e]
        if not heard:
            return roster
        if self._may_be_decided():
            return self.unsure(roster)
        rosters = {id(entry.roster): entry.roster.members for entry in heard}  # thousands are alike
        newest = max(heard, key=lambda entry: (entry.term, entry.roster.version)).roster
        version = list_version(self.term, roster.version)
        since = {m.peer: max(m.since, dated(m, newest, version).since) for m in roster.members}
        # A decision of an older list may have been told with dates that the openings of its time have not.
        for member in itertools.chain.from_iterable(rosters.values()):
            since[member.peer] = max(since.get(member.peer, 0), member.since)
        if all(since[member.peer] == member.since for member in roster.members):
            return roster
        members = tuple(replace(member, since=since[member.peer]) for member in roster.members)
        return Roster(roster.version, members)

    def unsure(self, roster: Roster) -> Roster:
        """`roster` before this ballot is over: not all have said who was out of the newest list."""
        return renewed(roster, self.term)

    def merged(self, wanted: Prepared) -> Prepared:
        """`wanted` with the sums of all its stages, gathered from the promises.

        Its roster may be older than the newest list: who was out of that one is to hear of it from the decision, as
        whoever knows may not be in it, and the conductor may die behind it.
        """
        sums = {
            entry.stage: entry
            for peer in sorted(self.promises)
            for entry in self._sums(self.promises[peer], wanted)
        }
        stages = tuple(sums[stage] for stage in sorted(sums))
        return replace(wanted, roster=self.following(wanted.roster), stages=stages)

    def _is_here(self, promise: Promise) -> bool:
        """A peer that is behind tells of another step: its seals and prepares say nothing of this one."""
        return (promise.step, promise.base) == (self.step, self.base)

    def _lacks_a_stage(self, epoch: int) -> bool:
        """Whether all replicas of some stage missed the restore that began this epoch."""
        here = [p for p in self.promises if self.promises[p].epoch == epoch]
        hosted = {s for m in self.roster.members if m.peer in self.promises for s in m.stages}
        current = {s for m in self.roster.members if m.peer in here for s in m.stages}
        return current != hosted

    def _sums(self, promise: Promise, wanted: Prepared) -> tuple[StageSum, ...]:
        """What the promise has prepared of the wanted seal; empty when nothing."""
        own = promise.prepared
        if own is None or not self._is_here(promise):
            return ()
        return own.stages if (own.term, own.seal) == (wanted.term, wanted.seal) else ()

    def _all_prepared(self, wanted: Prepared) -> bool:
        """Whether every promised member of the sealed roster holds this prepare."""
        return all(
            self._sums(self.promises[p], wanted) for p in self.promises if p in wanted.roster
        )

    def _is_whole(self, wanted: Prepared) -> bool:
        """Whether they have the sums of all stages."""
        covered = {stage for member in wanted.roster.members for stage in member.stages}
        sums = [self._sums(promise, wanted) for promise in self.promises.values()]
        return {entry.stage for own in sums for entry in own} == covered

    def _may_be_decided(self) -> bool:
        """Whether those who cannot be reached may have decided what is redone here, and gone on to lists that nobody
        here has heard of (R10)."""
        here = [promise for promise in self.promises.values() if self._is_here(promise)]
        prepared = [promise.prepared for promise in here if promise.prepared is not None]
        if not prepared:
            return False
        highest = max(prepared, key=lambda entry: (entry.term, entry.seal))
        return self._all_prepared(highest) and not self._is_whole(highest)


_question = remembered(2)(NewTerm)
"""One message for all who are asked: it names the whole roster, and is encoded and kept once."""
