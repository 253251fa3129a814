"""Who waits to enter or to leave the roster between two steps; pure (R9, design.md section 9)."""

from dataclasses import dataclass, field, replace

from swarmtrain.core.events import Event, MembershipChanged, Noted
from swarmtrain.core.types import MOST_MEMBERS, Member, PeerId, Roster, is_majority
from swarmtrain.steps.ballot import dated, list_version

FULL = f"this island has {MOST_MEMBERS} peers, the most there can be"
"""Why a newcomer is not let in."""


@dataclass
class Membership:
    """Wishes that the next roster fulfils."""

    joining: dict[PeerId, Member] = field(default_factory=dict)
    leaving: dict[PeerId, str] = field(default_factory=dict)
    moving: dict[PeerId, Member] = field(default_factory=dict)
    movers: set[PeerId] = field(default_factory=set)
    """Who was asked to move, and may ask out of the roster and in again for it."""

    def is_full(self, roster: Roster, base_roster: Roster, newcomer: PeerId) -> bool:
        """Whether no place is left for this one: besides `roster` and who waits to be in the next one, those have
        theirs who are only briefly gone, from the roster of the last decision or to move."""
        # Thousands of members ask again and again: they are not counted for that.
        if any(newcomer in inside for inside in (roster, base_roster, self.joining, self.movers)):
            return False
        taken = {*roster.peers, *base_roster.peers, *self.joining, *self.movers}
        return len(taken) >= MOST_MEMBERS

    def let_in(self, peer: PeerId) -> None:
        """It is in the roster by now: no wish of it is left."""
        self.joining.pop(peer, None)
        self.movers.discard(peer)

    def admit(self, roster: Roster, member: Member, term: int) -> Roster:
        """The next roster, with `member` in it from now on."""
        self.let_in(member.peer)
        return with_newcomer(roster, member, term)

    def next_roster(
        self, roster: Roster, stages: int, step: int, term: int
    ) -> tuple[Roster, list[Event]]:
        """The roster of the next step, which a conductor of `term` opens, and what changed and why.

        A peer may leave or move when every stage keeps a replica and the rest is a majority; otherwise it stays and
        the wish stays with it. Who joins or moves has no state yet, and would fetch it from whom it relieves: only
        those count as replicas who stay where they were.
        """
        events: list[Event] = []
        settled = roster
        for peer in self.joining:
            settled = settled.without(peer)
        for peer in sorted(self.joining):
            member = self.joining[peer]
            roster = with_newcomer(roster, member, term)
            reason = f"joins from step {step} on with stages {listed(member.stages)}"
            events.append(MembershipChanged(peer, step, roster.version, reason))
            self.movers.discard(peer)
        self.joining = {}
        for peer in sorted(self.moving):
            member = self.moving[peer]
            before = roster.member(peer)
            if before is None or before.stages == member.stages:
                continue
            kept = tuple(stage for stage in before.stages if stage in member.stages)
            staying = settled.without(peer)
            if peer in settled and kept:
                staying = staying.with_member(replace(before, stages=kept))
            missing = staying.missing_stages(stages)
            if missing:
                why = f"{peer}: nobody else hosts stage {missing[0]}"
                events.append(Noted("a peer cannot move", why))
                continue
            roster, settled = with_newcomer(roster, member, term), staying
            self.movers.discard(peer)
            events.append(
                MembershipChanged(
                    peer,
                    step,
                    roster.version,
                    f"moves from stages {listed(before.stages)} to {listed(member.stages)}",
                )
            )
        self.moving = {}
        for peer in sorted(self.leaving):
            if peer not in roster:
                del self.leaving[peer]
                continue
            without = roster.without(peer)
            missing = settled.without(peer).missing_stages(stages)
            if missing or not is_majority(without.peers, roster):
                why = f"stage {missing[0]} would have no replica" if missing else "no majority left"
                events.append(Noted("a peer cannot leave yet", f"{peer}: {why}"))
                continue
            roster, settled = without, settled.without(peer)
            reason = f"leaves before step {step}: {self.leaving.pop(peer)}"
            events.append(MembershipChanged(peer, step, roster.version, reason))
        return roster, events


def with_newcomer(roster: Roster, member: Member, term: int) -> Roster:
    """The next roster in `term`, with `member` in it."""
    return roster.with_member(dated(member, roster, list_version(term, roster.version + 1)))


def listed(stages: tuple[int, ...]) -> str:
    return ", ".join(map(str, stages))
