"""What a conductor must know of the run that it conducts."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from swarmtrain.core.closing import Closing
from swarmtrain.core.messages import Commit, Freeze, Open, Ownership, Prepared
from swarmtrain.core.remembered import remembered
from swarmtrain.core.types import Digest, PeerId, Roster
from swarmtrain.steps.keys import keep_leads, leads_of, share_leads
from swarmtrain.steps.restoring import RecoveryPolicy


@dataclass(frozen=True, slots=True)
class Paths:
    """A step's planned routes: who leads which keys, which middle stages each key visits, and which replicas."""

    leads: tuple[Ownership, ...]
    sequences: tuple[tuple[int, ...], ...]
    path_peers: tuple[PeerId, ...]
    paths: bytes
    remaining: bytes = b""


def no_paths(step: int, roster: Roster) -> Paths | None:
    """Callers choose for themselves (plan.wiring)."""
    return None


def not_repaired(before: Open, roster: Roster, leads: tuple[Ownership, ...]) -> Paths | None:
    """Callers choose for themselves where the plan names a peer that is gone, and newcomers are in no plan."""
    return None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a conductor must know of the run. `tokens` is the divisor of a whole step.

    `closing` says what will be done with the sum of a step, None while an outer round is waited for. `paths` gives the
    routes of a step that is about to open with a roster, if there is a plan for it; `repaired` those of one that is
    open and goes on with another roster and these leads. `leaders` says which edge leads each key of a step that has
    no plan; None deals them in turn.
    """

    steps: int
    stages: int
    microbatches: int
    tokens: int
    sequences: Callable[[int], tuple[tuple[int, ...], ...]]
    closing: Callable[[int], Closing | None]
    recovery: RecoveryPolicy
    paths: Callable[[int, Roster], Paths | None] = no_paths
    repaired: Callable[[Open, Roster, tuple[Ownership, ...]], Paths | None] = not_repaired
    leaders: Callable[[Roster], tuple[PeerId, ...]] | None = None

    def opening(self, term: int, step: int, base: Digest, roster: Roster) -> Open:
        """What opens a step: by its plan, or with keys dealt to the edges."""
        paths = self.paths(step, roster)
        if paths is None:
            leads = self._dealt(roster)
            paths = Paths(leads, self.sequences(step), (), b"")
        return Open(
            term=term,
            step=step,
            base=base,
            roster=roster,
            leads=paths.leads,
            microbatches=self.microbatches,
            sequences=paths.sequences,
            tokens=self.tokens,
            path_peers=paths.path_peers,
            paths=paths.paths,
            remaining=paths.remaining,
        )

    def _dealt(self, roster: Roster) -> tuple[Ownership, ...]:
        if self.leaders is None:
            return share_leads(self.microbatches, roster.edges)
        return leads_of(self.leaders(roster), roster.edges)

    def reopening(self, term: int, before: Open, roster: Roster) -> Open:
        """The same step with another roster: what runs goes on where it runs."""
        leads = keep_leads(before.leads, self.microbatches, roster.edges)
        opening = replace(before, term=term, roster=roster, leads=leads)
        paths = self.repaired(before, roster, leads) if before.paths else None
        if paths is None:
            return opening
        return replace(
            opening, path_peers=paths.path_peers, paths=paths.paths, remaining=paths.remaining
        )

    def commit(self, prepared: Prepared, step: int, base: Digest) -> Commit:
        """The decision that the conductor of the prepared seal would have sent."""
        return Commit(
            term=prepared.term,
            step=step,
            seal=prepared.seal,
            base=base,
            roster=prepared.roster,
            stages=prepared.stages,
            closing=prepared.closing,
            tokens=self.tokens,
            loss=prepared.loss,
            void=prepared.void,
        )


freeze_of = remembered(2)(Freeze)
"""One message for all who are asked one by one: it names the whole roster, and is encoded and kept once."""


@remembered(2)
def with_roster(opening: Open, roster: Roster) -> Open:
    """The same opening for `roster`."""
    return opening if opening.roster is roster else replace(opening, roster=roster)
