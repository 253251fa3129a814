"""This peer's part in conducting an island: standing for election, the conductor machine, takeover (rule R8).

Any edge peer can conduct. When the conductor is lost, the lowest edge still reachable stands; terms settle it when
two peers see this differently.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from swarmtrain.core.closing import Closing
from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import Noted, TermStarted
from swarmtrain.core.messages import (
    Ask,
    Join,
    Leave,
    Nack,
    NewTerm,
    Promise,
    RoundNews,
    StepMessage,
    Tell,
)
from swarmtrain.core.schedule import learning_rate, scalars_of
from swarmtrain.core.sequences import stage_sequences
from swarmtrain.core.types import PeerId, Roster, is_majority
from swarmtrain.outer.director import Director, Place, Rounds
from swarmtrain.outer.slack import RESULT_SECONDS, rhythm_of
from swarmtrain.peer.leading import Leading
from swarmtrain.peer.parts import Parts
from swarmtrain.peer.pathing import Pathing
from swarmtrain.peer.restore import now_seconds
from swarmtrain.steps.ballot import (
    Candidate,
    Complete,
    Decided,
    Fresh,
    Reseal,
    Scattered,
    epoch_of,
    next_term,
    renewed,
)
from swarmtrain.steps.conductor import StepConductor
from swarmtrain.steps.effects import Effect, Send, Unsurvivable
from swarmtrain.steps.keys import first_base
from swarmtrain.steps.plan import Plan
from swarmtrain.steps.restoring import RecoveryPolicy

MOST_ASKED = 8
"""Edges that a peer asks at once. Were it all of them, peers that wait would have links by the square of their number:
ten thousand to four hundred edges each."""
LOWEST_ASKED = 3
"""Of these, edges that are asked every time: who stands is the lowest one, and few that came later are lower."""


class Conducting:
    """At most one of `candidate` and `conductor` is set. Methods return effects for the island to carry out."""

    def __init__(self, parts: Parts, failed: Callable[[BaseException], None]) -> None:
        self._parts, self._me = parts, parts.me
        self._member, self._record = parts.member, parts.record
        self.pathing = Pathing(parts.me, parts.config, parts.lane.is_modelled, parts.record, failed)
        self.leading = Leading(parts.config, parts.record)
        self._director = director_of(parts.config) if parts.outer is not None else None
        self._applied_seconds, self._step_seconds, self._closed_step = now_seconds(), 0.0, -1
        self._held_up_step = -1
        self._plan = plan_of(parts.config, self.pathing, self.leading, self._closing)
        self.conductor: StepConductor | None = None
        self.candidate: Candidate | None = None
        self._first_roster: Roster | None = None
        self._highest_term = 0
        self._lost: dict[PeerId, None] = {}
        self._resigned: PeerId | None = None
        self._turn = _rank(self._me)
        # Whether this peer is on its way to the current step by itself (peer.learning).
        self.learns: Callable[[], bool] = lambda: False
        # Whether other stages of this peer speak for it, or soon will (peer.moving).
        self.is_quiet = False

    @property
    def base_roster(self) -> Roster | None:
        """The roster of the last decision, or the first one: who takes part knows it."""
        last = self._member.last
        if self.conductor is not None:
            return self.conductor.base_roster
        return last.roster if last is not None else self._first_roster

    def stand(self, roster: Roster, reason: str) -> list[Effect]:
        """Ask the roster of the last commit, or the first roster, for promises."""
        member = self._member
        term = next_term(max(member.term, self._highest_term), _rank(self._me))
        self.conductor, self._first_roster = None, roster
        self._record(TermStarted(self._me, term, member.step, reason))
        if epoch_of(term) > member.epoch:
            return self._revive(term, roster)
        self.candidate = Candidate(self._me, term, member.step, member.base, roster)
        return self.candidate.start()

    def _revive(self, term: int, roster: Roster) -> list[Effect]:
        """The island is in an epoch that this peer's state is not of: it takes a whole state to go on."""
        # Nobody promised anything, so nobody here knows who was out of the newest list.
        member, roster = self._member, renewed(roster, term)
        self.conductor = StepConductor(self._me, self._plan, term, member.step, member.base, roster)
        self.conductor.is_elected = False
        effects = self.conductor.revive("a restore was left half done, and nobody conducts")
        for peer in [peer for peer in roster.peers if peer in self._lost]:
            effects += self.conductor.lost(peer)
        return effects

    def first_roster(self, roster: Roster) -> None:
        """Somebody stands with this roster; it is the base until a step is committed."""
        self._first_roster = roster

    def handle(self, sender: PeerId, message: StepMessage) -> list[Effect]:
        """What concerns the candidate or the conductor."""
        self._lost.pop(sender, None)
        if isinstance(message, NewTerm) and sender == self._resigned:
            self._resigned = None
        if isinstance(message, Leave) and sender == self._member.conductor != self._me:
            self._resigned = sender
            return self.lost(sender)
        if isinstance(message, Nack):
            self._highest_term = max(self._highest_term, message.term)
            if sender == self._member.conductor != self._me and message.term > self._member.term:
                # It promised its place to somebody of whom this peer never heard, and who may be gone again.
                self._resigned = sender
            if self.candidate is not None and message.term > self.candidate.term:
                self.candidate = None
        if isinstance(message, RoundNews):
            if self._director is not None:
                self._director.heard(sender, message, now_seconds())
            return self.conductor.close() if self.conductor is not None else []
        if isinstance(message, Promise) and self.candidate is not None:
            self.candidate.promised(sender, message)
            if sender in self.candidate.strangers:
                return self.lost(sender)
            return self._conclude_if_heard()
        if isinstance(message, Join) and self.conductor is None and self.candidate is None:
            return [Send(sender, Nack(self._member.term))]
        return self.conductor.handle(sender, message) if self.conductor is not None else []

    def found(self, peers: Sequence[PeerId]) -> None:
        """These peers are in the roster again."""
        for peer in peers:
            self._lost.pop(peer, None)

    def lost(self, peer: PeerId) -> list[Effect]:
        """Go on without `peer`; take over if it conducted and this is the lowest edge left."""
        self._lost[peer] = None
        if self.conductor is not None:
            return self.conductor.lost(peer)
        if self.candidate is not None:
            return self._conclude_if_heard()
        member = self._member
        return self._stand_if_lowest() if member.conductor in self._lost else []

    def repeat(self) -> list[Effect]:
        """Nothing has come in for a while: ask again, or ask whether this peer is still in (R9)."""
        if self.candidate is not None:
            return self.candidate.start()
        if self.conductor is not None:
            return self.conductor.tick()
        if self.is_quiet:
            return []
        if self._member.conductor in (*self._lost, self._resigned, self._me):
            return self._stand_if_lowest()
        return self.ask_in()

    def ask_in(self, edges: Sequence[PeerId] = ()) -> list[Effect]:
        """Ask edges what was decided, and to be in the roster; one that is in it already loses nothing."""
        if self.is_quiet:
            return []
        member, roster = self._member, self._member.roster or self._first_roster
        asked = edges or (roster.edges if roster is not None else ())
        join = Join(self._parts.own, member.step, member.base, self.learns())
        messages = (join,) if roster is None or join.learns else (Ask(member.step), join)
        asked = self._few([edge for edge in asked if edge != self._me])
        return [Send(edge, message) for edge in asked for message in messages]

    def _few(self, edges: list[PeerId]) -> list[PeerId]:
        """Of many edges, ascending: the last known conductor, the lowest, and others in turn, begun at another one by
        each peer."""
        if len(edges) <= MOST_ASKED:
            return edges
        conductor = self._member.conductor
        always = dict.fromkeys(edges[:LOWEST_ASKED] + [e for e in edges if e == conductor])
        others = [edge for edge in edges if edge not in always]
        count = MOST_ASKED - len(always)
        first, self._turn = self._turn % len(others), self._turn + count
        return [*always, *(others + others)[first : first + count]]

    def ask_stages(self, stages: tuple[int, ...]) -> list[Effect]:
        """Ask the conductor to open the next step with other stages at this peer."""
        member = self._member
        wanted = replace(self._parts.own, stages=stages)
        join = Join(wanted, member.step, member.base)
        return [Send(member.conductor, join)] if member.conductor is not None else []

    def ask_out(self, reason: str) -> list[Effect]:
        """Ask the conductor to open the next step without this peer."""
        conductor = self._member.conductor
        return [Send(conductor, Leave(reason))] if conductor is not None else []

    def _closing(self, step: int) -> Closing | None:
        """What follows from the sum of `step`; None while an outer round is worth waiting for."""
        config, outer = self._parts.config, self._parts.outer
        if self._director is None or outer is None or self.conductor is None:
            return Closing(scalars_of(config.optimizer, step, config.run.steps), step + 1)
        if step != self._closed_step:
            # What comes on top from here on is waiting for a round, which makes no step slow.
            self._closed_step, self._step_seconds = step, now_seconds() - self._applied_seconds
        peers = self.conductor.roster.peers
        rounds = self._director.closing(step, peers, now_seconds(), self._step_seconds)
        held_up_by = self._director.held_up_by
        if rounds is None:
            if held_up_by and step != self._held_up_step:
                self._held_up_step = step
                self._record(Noted("the end of the run waits for rounds", _listed(held_up_by)))
            return None
        if rounds.missed:
            self._record(Noted("the run ends without results of rounds", _missed_why(rounds)))
        # Moments count this island's own updates: the run's steps may have passed without it.
        own_steps = next(iter(outer.stages.values())).inner_steps
        scalars = scalars_of(config.optimizer, own_steps, config.run.steps)
        rate = learning_rate(config.optimizer, step, config.run.steps)
        return Closing(replace(scalars, learning_rate=rate), rounds.next_step, rounds.works)

    def applied(self) -> None:
        """A step is done here: from now on the next one is timed, which tells when a slow island has to send."""
        self._applied_seconds = now_seconds()

    def _stand_if_lowest(self) -> list[Effect]:
        last = self._member.last
        roster = last.roster if last is not None else self._first_roster
        if roster is None or self._me not in roster:
            # A newcomer is in no decision, and who conducts next goes by one that does not know the newcomer.
            return self.ask_in()
        gone = (*self._lost, self._resigned)
        edges = [edge for edge in roster.edges if edge not in gone]
        # Without an edge any peer can stand: what it brings back first is an edge.
        standing = edges or [peer for peer in roster.peers if peer not in gone]
        if standing[:1] != [self._me]:
            # Whether that peer still lives shows when it is spoken to.
            return [Send(peer, Ask(self._member.step)) for peer in standing[:1]]
        which = "edge" if edges else "peer, and no edge is"
        return self.stand(roster, f"nobody conducts any more; this is the lowest {which} left")

    def step_down(self, term: int) -> None:
        self.conductor = None
        self._highest_term = max(self._highest_term, term)

    def _conclude_if_heard(self) -> list[Effect]:
        """With promises from a majority and from all who can be reached, find out what was decided."""
        candidate = self.candidate
        assert candidate is not None
        silent = [p for p in candidate.roster.peers if p not in candidate.promises]
        if any(peer not in self._lost for peer in silent):
            return []
        if not candidate.has_majority:
            lost = ", ".join(silent)
            return [Unsurvivable(f"no majority of the last roster is left; lost: {lost}")]
        self.candidate = None
        conductor = StepConductor(
            self._me,
            self._plan,
            candidate.term,
            candidate.step,
            candidate.base,
            candidate.roster,
        )
        self.conductor = conductor
        conductor.roster = candidate.following(candidate.roster)
        self._leave_out_resigned(conductor)
        effects = self._take_up(candidate, conductor)
        for peer in silent if self.conductor is not None else ():
            effects += conductor.lost(peer)
        return effects

    def _leave_out_resigned(self, conductor: StepConductor) -> None:
        """Who conducted and left may still answer, but must not be dealt any work."""
        if self._resigned is None or self._resigned not in conductor.roster:
            return
        roster = conductor.roster.without(self._resigned)
        whole = not roster.missing_stages(self._plan.stages)
        if whole and is_majority(roster.peers, conductor.base_roster):
            conductor.roster = roster

    def _take_up(self, candidate: Candidate, conductor: StepConductor) -> list[Effect]:
        match candidate.outcome():
            case Fresh():
                return conductor.start()
            case Decided(commit) if commit.step == candidate.step and self._me in commit.roster:
                return conductor.spread(commit)
            case Complete(prepared, opening):
                whole = candidate.merged(prepared)
                return conductor.spread(self._plan.commit(whole, candidate.step, opening.base))
            case Reseal(opening, seal):
                return conductor.resume(opening, seal)
            case Decided(commit):
                # This peer is behind, or was left out: it catches up first, and somebody ahead conducts.
                self.conductor = None
                resigning = Leave("stood as conductor, but is behind")
                others = [peer for peer in candidate.roster.peers if peer != self._me]
                effects: list[Effect] = [Send(peer, resigning) for peer in others]
                return effects + self._member.handle(self._me, Tell(commit))
            case Scattered():
                return conductor.revive("a restore was left half done")


def _listed(places: Sequence[Place]) -> str:
    return "; ".join(f"stage {stage}, fragment {fragment}" for stage, fragment in places)


def _missed_why(rounds: Rounds) -> str:
    return (
        f"{_listed(rounds.missed)}: it was not decided, or could not be had; where other islands end the run with it, "
        "take the weights of one of these"
    )


def _rank(peer: PeerId) -> int:
    """A number for terms that stays with the peer; peers that share one by chance are told apart by Nack."""
    return zlib.crc32(peer.encode()) & 0xFFFF


def director_of(config: RunConfig) -> Director:
    """Half of the grace window is for stragglers, as in their group; a result is waited for through all of it."""
    outer = config.outer
    grace_seconds = outer.grace_seconds / 2 if outer.grace_seconds else None
    patience_seconds = outer.grace_seconds or RESULT_SECONDS
    every_seconds = outer.every_seconds or math.inf
    return Director(rhythm_of(config), grace_seconds, patience_seconds, every_seconds)


def plan_of(
    config: RunConfig,
    pathing: Pathing,
    leading: Leading,
    closing: Callable[[int], Closing | None],
) -> Plan:
    """What the conductor must know of the run."""
    return Plan(
        steps=config.run.steps,
        stages=config.model.stages,
        microbatches=config.train.microbatches,
        tokens=config.train.microbatches * config.train.tokens_per_microbatch,
        sequences=lambda step: stage_sequences(config, step),
        closing=closing,
        recovery=RecoveryPolicy(
            initial_base=first_base(bytes.fromhex(config.hash)),
            snapshot_steps=config.recovery.snapshot_steps,
            stale_steps=config.recovery.stale_steps,
            neighbours=config.recovery.neighbours,
            swap_ends=config.train.swap_ends,
        ),
        paths=pathing.paths,
        repaired=pathing.repaired,
        leaders=leading.leaders,
    )
