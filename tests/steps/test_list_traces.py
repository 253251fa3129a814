"""Traces in which a peer could believe to know votes that it missed, too rare to be met at random; step by step.

All lists are of stage 1, whose replicas are `p` and `q`: `q` votes alone while `p` is off the list, and dies.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from swarmtrain.core.messages import Decision, Join, Open, Promise
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.outer.votes import Votes
from swarmtrain.steps.ballot import Candidate, Decided, list_version, next_epoch, next_term
from swarmtrain.steps.conductor import StepConductor
from swarmtrain.steps.effects import Send
from swarmtrain.steps.member import StepMember
from tests.steps.actor import Actor
from tests.steps.examples import BASE, OPEN, commit_of
from tests.steps.lists import Listed, ListExplorer, ListWorld
from tests.steps.world import Parcel, Setting, Violation

Patch = pytest.MonkeyPatch
Holds = Callable[[Parcel], bool]


def nothing(parcel: Parcel) -> bool:
    return False


class Script(ListExplorer):
    """A world that goes as far as it is told to."""

    def __init__(self) -> None:
        setting = Setting(faults=0, replicas=2, fifo=True, steps=3)
        seed = next(seed for seed in range(100) if not ListWorld(seed, setting).spoils)
        super().__init__(seed, setting, ListWorld)
        hosts = {s: [a for a in self.actors if a.stage == s] for s in range(4)}
        self.low, self.high = hosts[0]
        self.p, self.q = hosts[1]
        self.others = (*hosts[2], *hosts[3])

    @property
    def actors(self) -> list[Actor]:
        return [actor for _, actor in sorted(self.world.actors.items())]

    def reach(self, *inside: Actor) -> None:
        """These, and the rest by itself, hear each other."""
        for actor in self.actors:
            actor.group = int(actor not in inside)

    def run_until(self, is_over: Callable[[], bool], holds: Holds = nothing) -> bool:
        """Deliver in order, and call again what was refused."""
        for _ in range(80):
            while not is_over() and self._deliver(holds):
                pass
            if is_over():
                return True
            for actor in self.actors:
                self._call_again(actor)
        return False

    def _deliver(self, holds: Holds) -> bool:
        parcels = self.world.parcels
        for index, parcel in enumerate(parcels):
            is_there = self.world.actors[parcel.to].live and self._arrives(parcel)
            if is_there and not holds(parcel):
                parcels.pop(index).deliver()
                return True
        return False

    def settle(self) -> None:
        while self._deliver(nothing):
            pass

    def elect(
        self, actor: Actor, answers: int, after: StepConductor | None = None
    ) -> StepConductor:
        actor.conductor, actor.highest_term = None, after.term if after is not None else 0
        self._stand(actor)
        self.run_until(lambda: actor.candidate is None or len(actor.candidate.promises) == answers)
        if actor.candidate is not None:
            actor.conclude()
        assert actor.conductor is not None
        return actor.conductor

    def lose(self, by: Actor, *lost: Actor) -> None:
        """`by` conducts, and hears that these cannot be reached."""
        for actor in lost:
            if by.conductor is not None:
                by.perform(by.conductor.lost(actor.peer))

    def kill(self, *actors: Actor) -> None:
        for actor in actors:
            actor.alive = False
        gone = [actor.peer for actor in actors]
        self.world.parcels = [p for p in self.world.parcels if p.sender not in gone]

    def votes_of(self, actor: Actor) -> Votes:
        return self.world.votes[actor.peer]

    def has_voted_alone(self) -> bool:
        return any(entry[0] == 1 and entry[2] == (self.q.peer,) for entry in self.world.acted)


def believes(script: Script, act: Callable[[], object]) -> bool:
    """Whether `act` ends with somebody who believes to know what it missed."""
    try:
        act()
    except Violation as violation:
        assert violation.result == "missed"
        return True
    return False


# ---- a decision whose roster is older than the newest list ----------------------------------------------------------


def completed_behind_a_newer_list(script: Script) -> None:
    """The first conductor seals without `low`; all but `q` prepare. The next one, `low`, closes the step without `p`.
    When it and `q` are dead, a third finds that all it hears prepared what the first had sealed."""
    low, high, p, q = script.low, script.high, script.p, script.q
    y1, y2, z1, z2 = script.others
    script.reach(high, p, q, y1, y2, z1)
    first = script.elect(high, 6)
    script.lose(high, low, z2)

    def late(parcel: Parcel) -> bool:
        return parcel.kind == "piece" and parcel.to == q.peer

    prepared = (high, p, y1, y2, z1)
    assert script.run_until(lambda: all(a.member.ledger.prepared for a in prepared), late)
    script.world.parcels = [parcel for parcel in script.world.parcels if parcel.kind != "piece"]
    script.reach(low, q, y2, z2)
    second = script.elect(low, 4, first)
    script.lose(low, high, p, y1, z1)
    assert script.run_until(script.has_voted_alone)
    script.kill(low, q, y2)
    script.reach(high, p, y1, z1, z2)
    script.elect(high, 5, second)
    script.lose(high, low, q, y2)
    script.settle()
    assert script.votes_of(p).version > list_version(second.term, 0), "it is listed once more"


@pytest.mark.parametrize("is_told", [True, False])
def test_a_decision_says_who_was_out_of_a_newer_list(is_told: bool, monkeypatch: Patch) -> None:
    if not is_told:
        real = Candidate.merged

        def merged(self: Candidate, wanted: object) -> object:
            return replace(real(self, wanted), roster=wanted.roster)  # type: ignore

        monkeypatch.setattr(Candidate, "merged", merged)
    script = Script()
    assert believes(script, lambda: completed_behind_a_newer_list(script)) is not is_told


# ---- a list that who votes never heard of ---------------------------------------------------------------------------


def skipped(script: Script, monkeypatch: Patch) -> list[Listed]:
    """`p` was away and is back, which does not reach `q`; then it is lost once more, which only `q` hears of."""
    world, p, q = script.world, script.p, script.q
    world.plan = replace(world.plan, closing=lambda step: None)
    monkeypatch.setattr(world, "_judge", lambda actor, listed: None)
    first = script.elect(script.low, 8)
    edge = script.low
    script.run_until(lambda: all(actor.member.ledger.open for actor in script.actors))
    script.reach(*(actor for actor in script.actors if actor is not p))
    script.lose(edge, p)
    assert script.run_until(lambda: first.phase == "freeze" and script.votes_of(q).is_settled)
    script.settle()
    script.reach(*script.actors)
    world.parcels = [parcel for parcel in world.parcels if parcel.to != p.peer]
    back = Join(Member(p.peer, (1,), ""), 0, p.member.base)
    edge.perform(first.handle(p.peer, back))
    world.parcels = [parcel for parcel in world.parcels if parcel.to != q.peer]
    script.settle()
    script.lose(edge, p)
    world.parcels = [parcel for parcel in world.parcels if parcel.to in (q.peer, edge.peer)]
    script.settle()
    assert script.votes_of(q).peers == (q.peer,)
    assert script.votes_of(p).peers == (p.peer, q.peer), "and nobody else knows better"
    votes = script.votes_of(q)
    return [(1, votes.version, votes.peers)] if votes.is_settled else []


@pytest.mark.parametrize("is_waited", [True, False])
def test_who_skipped_a_list_waits_until_its_own_is_confirmed(
    is_waited: bool, monkeypatch: Patch
) -> None:
    if not is_waited:
        real = Votes.set_peers

        def set_peers(self: Votes, version: int, peers: tuple[PeerId, ...], since: int) -> None:
            needed = self._needed
            real(self, version, peers, since)
            self._needed = needed and needed | frozenset(peers)

        monkeypatch.setattr(Votes, "set_peers", set_peers)
    assert bool(skipped(Script(), monkeypatch)) is not is_waited


# ---- a stage lost in the middle of a ballot -------------------------------------------------------------------------


@pytest.mark.parametrize("is_careful", [True, False])
def test_a_restore_in_the_middle_of_a_ballot_takes_nobody_for_one_who_was_there(
    is_careful: bool, monkeypatch: Patch
) -> None:
    """A decision that is spread is of a step before the one in which `q` voted alone."""
    # As where nobody whom the first ballot heard knew of that list.
    monkeypatch.setattr(Candidate, "following", lambda self, roster: roster)
    if not is_careful:
        monkeypatch.setattr(Candidate, "unsure", lambda self, roster: roster)
    script = Script()
    low, high, p, q = script.low, script.high, script.p, script.q
    y1, y2, *_ = script.others
    first = script.elect(high, 8)
    cut = (low.peer, p.peer)

    def late(parcel: Parcel) -> bool:
        return isinstance(parcel.what, Decision) and parcel.to in cut

    assert script.run_until(lambda: first.step == 1, late)
    script.world.parcels = [parcel for parcel in script.world.parcels if parcel.to not in cut]
    script.reach(*(actor for actor in script.actors if actor.peer not in cut))
    script.lose(high, low, p)
    assert script.run_until(script.has_voted_alone)
    script.kill(high, q, y1, y2)
    script.reach(*script.actors)
    last = script.elect(low, 4, first)
    script.lose(low, high, q, y1, y2)
    assert last.phase == "revive" and last._reviving is not None
    mine = last._reviving.roster.member(p.peer)
    assert mine is not None and (mine.since > script.votes_of(p).version) is is_careful


# ---- a process that was started again -------------------------------------------------------------------------------


def promise_of(member: StepMember, question: object) -> Promise:
    effects = member.handle(PeerId("e"), question)  # type: ignore[arg-type]
    (promise,) = [
        e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Promise)
    ]
    return promise


def test_a_process_started_again_under_its_name_counts_in_no_majority() -> None:
    """It knows of nothing that the one before it promised, prepared or closed (R8)."""
    roster: Roster = OPEN.roster
    one, other = roster.peers[0], roster.peers[1]
    stages = roster.members[0].stages
    there, anew = StepMember(one, stages, 3, b"base 3"), StepMember(other, stages, 0, BASE)
    there.ledger.open = replace(OPEN, step=3, base=b"base 3")
    candidate = Candidate(one, next_term(OPEN.term, 1), 3, b"base 3", roster)
    (question, *_) = [e.message for e in candidate.start() if isinstance(e, Send)]
    candidate.promised(one, promise_of(there, question))
    candidate.promised(other, promise_of(anew, question))
    assert list(candidate.promises) == [one] and candidate.strangers == {other}
    anew.step, anew.base = 3, b"base 3"
    candidate.promised(other, promise_of(anew, question))
    assert list(candidate.promises) == [one], "though it has its siblings' state by now"
    begins = Candidate(one, next_term(candidate.term, 1), 0, BASE, roster)
    (question, *_) = [e.message for e in begins.start() if isinstance(e, Send)]
    begins.promised(other, promise_of(StepMember(other, stages, 0, BASE), question))
    assert not begins.strangers, "as all are when a run begins"
    restored = next_epoch(begins.term)
    after = Candidate(one, restored, 3, b"base 3", roster)
    (question, *_) = [e.message for e in after.start() if isinstance(e, Send)]
    after.promised(other, promise_of(StepMember(other, stages, 0, BASE), question))
    assert not after.strangers, "it may be on its way to what is restored"


def test_what_was_opened_is_promised_behind_the_step_too() -> None:
    """A peer that took its siblings' state has no decision to show for what it closed."""
    member = StepMember(OPEN.roster.peers[0], OPEN.roster.members[0].stages, OPEN.step, OPEN.base)
    member.handle(PeerId("e"), OPEN)
    member._enter_step((), None)
    question = Candidate(
        PeerId("e"), next_term(OPEN.term, 1), OPEN.step, OPEN.base, OPEN.roster
    ).start()[0]
    assert isinstance(question, Send)
    promise = promise_of(member, question.message)
    assert isinstance(promise.open, Open) and promise.open.roster == OPEN.roster


# ---- a decision that is older than a list --------------------------------------------------------------------------


def test_a_decision_that_is_spread_says_who_was_out_of_a_newer_list() -> None:
    """Whoever knows of that list may not be in the roster of the decision, and is not asked again."""
    roster, out = OPEN.roster, OPEN.roster.peers[-1]
    newer = OPEN.term + (1 << 16)
    listed = replace(OPEN, term=newer, roster=roster.without(out))
    commit = replace(commit_of(), roster=roster)
    candidate = Candidate(roster.peers[0], next_term(newer, 1), OPEN.step, OPEN.base, roster)
    answer = Promise(candidate.term, 0, OPEN.step, OPEN.base, 1, None, None, listed)
    candidate.promised(roster.peers[0], answer)
    candidate.promised(roster.peers[1], replace(answer, step=OPEN.step + 1, last=commit, open=None))
    found = candidate.outcome()
    assert isinstance(found, Decided)
    told = found.commit.roster.member(out)
    assert told is not None and told.since > list_version(newer, roster.version + 1)
    assert found.commit == replace(commit, roster=found.commit.roster)
    # Whoever hears of it behind newer openings, which know of no dates, says so all the same.
    later = replace(OPEN, term=candidate.term + (1 << 16))
    following = Candidate(roster.peers[0], next_term(later.term, 1), 1, b"", roster)
    both = replace(answer, term=following.term, last=found.commit, open=later)
    following.promised(roster.peers[0], both)
    again = following.following(roster).member(out)
    assert again is not None and again.since == told.since
