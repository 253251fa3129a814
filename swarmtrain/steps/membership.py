"""Who waits to enter or to leave the roster between two steps; pure (R9, design.md section 9)."""

from dataclasses import dataclass, field

from swarmtrain.core.events import Event, MembershipChanged, Noted
from swarmtrain.core.types import Member, PeerId, Roster, is_majority


@dataclass
class Membership:
    """Wishes that the next roster fulfils."""

    joining: dict[PeerId, Member] = field(default_factory=dict)
    leaving: dict[PeerId, str] = field(default_factory=dict)
    moving: dict[PeerId, Member] = field(default_factory=dict)

    def next_roster(self, roster: Roster, stages: int, step: int) -> tuple[Roster, list[Event]]:
        """The roster of the next step, and what changed and why.

        A peer may leave when every stage keeps a replica and the rest is a majority; otherwise it stays and the
        wish stays with it.
        """
        events: list[Event] = []
        for peer in sorted(self.joining):
            member = self.joining[peer]
            roster = roster.with_member(member)
            reason = f"joins from step {step} on with stages {_listed(member.stages)}"
            events.append(MembershipChanged(peer, step, roster.version, reason))
        self.joining = {}
        for peer in sorted(self.moving):
            member = self.moving[peer]
            before = roster.member(peer)
            if before is None or before.stages == member.stages:
                continue
            missing = roster.with_member(member).missing_stages(stages)
            orphans = [s for s in member.stages if not roster.replicas(s)]
            if missing or orphans:
                why = f"{peer}: nobody else hosts stage {[*missing, *orphans][0]}"
                events.append(Noted("a peer cannot move", why))
                continue
            roster = roster.with_member(member)
            events.append(
                MembershipChanged(
                    peer,
                    step,
                    roster.version,
                    f"moves from stages {_listed(before.stages)} to {_listed(member.stages)}",
                )
            )
        self.moving = {}
        for peer in sorted(self.leaving):
            if peer not in roster:
                del self.leaving[peer]
                continue
            without = roster.without(peer)
            missing = without.missing_stages(stages)
            if missing or not is_majority(without.peers, roster):
                why = f"stage {missing[0]} would have no replica" if missing else "no majority left"
                events.append(Noted("a peer cannot leave yet", f"{peer}: {why}"))
                continue
            roster = without
            reason = f"leaves before step {step}: {self.leaving.pop(peer)}"
            events.append(MembershipChanged(peer, step, roster.version, reason))
        return roster, events


def _listed(stages: tuple[int, ...]) -> str:
    return ", ".join(map(str, stages))
