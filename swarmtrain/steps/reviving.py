"""Brings an island back that lost every replica of a stage: RECALL, KEPT, RESTORE, READY.

The conductor asks everybody left what states they keep, chooses one whole state of the island, and restores it in a
new epoch of terms. RECALL is a ballot too: it takes answers from a majority of the last committed roster and from
all that can be reached, at a term above any they promised (R8).
"""

from collections.abc import Mapping

from swarmtrain.core.events import StageLost
from swarmtrain.core.messages import Kept, Ready, Recall, Restore, StepMessage
from swarmtrain.core.types import Member, PeerId, Roster, is_majority
from swarmtrain.steps.ballot import dated, list_version, next_epoch
from swarmtrain.steps.effects import AwaitHost, Effect, Note, Revived, Send, Unsurvivable
from swarmtrain.steps.gathering import agree
from swarmtrain.steps.plan import Plan
from swarmtrain.steps.restoring import Choice, choose, choose_hosts, restored_base

MOST_TRIES = 8
"""Restores that may fail, because a source died meanwhile, before the run stops."""


class Reviving:
    """One recovery. `joining` are newcomers that may host a stage; when `done`, conduct from its term, step, base
    and roster on."""

    def __init__(
        self,
        plan: Plan,
        term: int,
        roster: Roster,
        base_roster: Roster,
        joining: Mapping[PeerId, Member],
    ) -> None:
        self.term, self.roster, self._base_roster = term, roster, base_roster
        self.step, self.base = 0, b""
        self.done = False
        self._plan, self._joining = plan, joining
        self._living = roster
        self._tries = 0
        self._lost_step = 0
        self._noted: set[int] = set()
        self._kept: dict[PeerId, Kept] = {}
        self._ready: dict[PeerId, Ready] = {}
        self._choice: Choice | None = None
        self._restore: Restore | None = None

    def start(self, step: int, reason: str) -> list[Effect]:
        """Ask everybody what they keep; `step` is where the stage was lost."""
        self._lost_step = step
        return self._recall(reason)

    def handle(self, sender: PeerId, message: StepMessage) -> list[Effect]:
        match message:
            case Kept() if message.seal == self._tries and sender in self._living:
                self._kept[sender] = message
                return self._choose()
            case Ready() if (message.step, message.base) == (self.step, self.base):
                return self._take_ready(sender, message)
            case _:
                return []

    def lost(self, peer: PeerId) -> list[Effect]:
        """Begin again without `peer`; those that already restored only say what they have now."""
        if peer not in self._living and peer not in self.roster:
            return []
        self._living = self._living.without(peer) if peer in self._living else self._living
        if not self.has_majority:
            return [Unsurvivable(f"without peer {peer} no majority of the last roster is left")]
        return self._recall(f"peer {peer} was lost while the island was being restored")

    @property
    def has_majority(self) -> bool:
        return is_majority(self._living.peers, self._base_roster)

    def joined(self) -> list[Effect]:
        """A newcomer may host what nobody had room for."""
        return self._choose() if self._restore is None else []

    def tick(self) -> list[Effect]:
        restore = self._restore
        if restore is not None:
            return [Send(p, restore) for p in restore.roster.peers if p not in self._ready]
        recall = self._question()
        return [Send(p, recall) for p in self._living.peers if p not in self._kept]

    def _question(self) -> Recall:
        return Recall(self.term, self._tries, self._missing(self._living))

    def _missing(self, roster: Roster) -> tuple[int, ...]:
        return roster.missing_stages(self._plan.stages)

    def _recall(self, reason: str) -> list[Effect]:
        self._tries += 1
        self._kept, self._ready = {}, {}
        self._restore = self._choice = None
        if self._tries > MOST_TRIES:
            return [
                Unsurvivable(f"the island could not be restored in {MOST_TRIES} tries: {reason}")
            ]
        recall = self._question()
        new = [stage for stage in recall.stages if stage not in self._noted]
        self._noted.update(new)
        notes: list[Effect] = [Note(StageLost(stage, self._lost_step, reason)) for stage in new]
        return notes + [Send(peer, recall) for peer in self._living.peers]

    def _choose(self) -> list[Effect]:
        """With an answer from everybody left, decide what to restore and who hosts it."""
        if self._restore is not None or any(p not in self._kept for p in self._living.peers):
            return []
        lost, policy = self._missing(self._living), self._plan.recovery
        choice = choose(self._kept, lost, self._plan.stages, policy)
        if isinstance(choice, str):
            return [Unsurvivable(choice)]
        roster = choose_hosts(self._kept, self._living, self._joining.values(), choice)
        if isinstance(roster, str):
            return [AwaitHost(roster)]
        self.term = next_epoch(self.term)
        self.step, self.base = choice.step, restored_base(choice.base, choice.sources, self.term)
        version = list_version(self.term, roster.version + 1)
        members = tuple(dated(member, self._living, version) for member in roster.members)
        self.roster = Roster(roster.version + 1, members)
        self._choice = choice
        self._restore = Restore(
            self.term, self._tries, self.step, self.base, self.roster, choice.sources
        )
        return [Send(peer, self._restore) for peer in self.roster.peers]

    def _take_ready(self, sender: PeerId, message: Ready) -> list[Effect]:
        """READY from the whole roster ends the recovery; one without stages means that its sources failed."""
        expected = self.roster.member(sender)
        if self._restore is None or expected is None:
            return []
        if {entry.stage for entry in message.stages} != set(expected.stages):
            return self._recall(f"peer {sender} could not load what it was given")
        self._ready[sender] = message
        if len(self._ready) < len(self.roster.members):
            return []
        _, split = agree(self._ready)
        if split:
            reason = "replicas of a stage loaded different states"
            return [*(Note(event) for event in split), *self._recall(reason)]
        assert self._choice is not None
        self.done = True
        return [Revived(self._choice, self._lost_step)]
