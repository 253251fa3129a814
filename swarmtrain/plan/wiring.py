"""Which replica serves which position of a microbatch when there is no plan (SWARM, arXiv 2301.11913, section 3.2).

Replicas about equally fast are dealt the keys in turn: they share a step's work evenly, and every peer that knows the
roster finds the same route. The turn is shifted from one position to the next: otherwise every caller would know one
replica of the next stage only, and could not tell a slow one from a busy stage (plan.deadlines).

Replicas of different speed get work in proportion (`Wiring`): each call charges its replica's virtual time with what
its calls took lately, and the next call goes where it would end first. What a call took is measured without the time
that the replica waited for peers further down, so a slow peer behind a fast one is not held against the fast one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from swarmtrain.core.types import EDGE_STAGE, PeerId, Roster, Route, Visit
from swarmtrain.plan.deadlines import Times

ALIKE = 1.25
"""Replicas whose calls take no longer than this factor of each other's are dealt keys in turn: figures nearer than
that are noise, and independent callers that follow it would all choose the same replica first."""


def route_of(roster: Roster, sequence: Sequence[int], turns: Sequence[int], lead: PeerId) -> Route:
    """The route of a key: `lead` embeds and computes the loss, replicas take turns in between.

    `turns` says for each stage of `sequence` how many keys visit it before this one (`core.sequences.turns_of`).
    """
    visits = enumerate(zip(sequence, turns, strict=True), start=1)
    middle = (
        Visit(stage, _dealt(roster.replicas(stage), turn, position))
        for position, (stage, turn) in visits
    )
    return (Visit(EDGE_STAGE, lead), *middle, Visit(EDGE_STAGE, lead))


def next_replica(
    replicas: Sequence[PeerId], key: int, wanted: PeerId | None, tried: Collection[PeerId]
) -> PeerId:
    """The replica to call: the wanted one, else the next by key that was not tried, else all over again.

    Raises:
        ValueError: the stage has no replica at all.
    """
    if not replicas:
        raise ValueError("a stage without replicas cannot be called")
    untried = [peer for peer in replicas if peer not in tried] or list(replicas)
    return wanted if wanted in untried else _dealt(untried, key)


def _dealt(replicas: Sequence[PeerId], turn: int, position: int = 0) -> PeerId:
    """In each round of as many turns as there are replicas everybody has one; rounds are rotated by `position`."""
    count = len(replicas)
    return replicas[(turn + position * (turn // count)) % count]


@dataclass(slots=True)
class Wiring:
    """One caller's choice among the replicas of a stage, by virtual time; seconds throughout.

    Forgets nothing: one entry per stage and peer ever called. Virtual times begin anew with every step, whose start
    finds all queues empty.
    """

    _times: dict[tuple[int, PeerId], Times] = field(default_factory=dict)
    _virtual: dict[tuple[int, PeerId], float] = field(default_factory=dict)
    _step: int = -1

    def answered(self, stage: int, peer: PeerId, seconds: float) -> None:
        """A call to `peer` took `seconds`, its own time and its link's."""
        self._times.setdefault((stage, peer), Times()).add(seconds)

    def choose(self, step: int, stage: int, replicas: Sequence[PeerId], dealt: PeerId) -> PeerId:
        """The replica to call for one key: `dealt` while they are alike, else the one that would end first.

        A replica that was never called counts as fast as the fastest, so that it is tried.
        """
        if step != self._step:
            self._step, self._virtual = step, {}
        known = [
            self._times[stage, peer].mean_seconds for peer in replicas if self._knows(stage, peer)
        ]
        if len(known) < 2 or max(known) <= ALIKE * min(known):
            return dealt
        ends = {peer: self._end_seconds(stage, peer, min(known)) for peer in replicas}
        chosen = min(replicas, key=lambda peer: (ends[peer], peer != dealt))
        self._virtual[stage, chosen] = ends[chosen]
        return chosen

    def _knows(self, stage: int, peer: PeerId) -> bool:
        return (stage, peer) in self._times

    def _end_seconds(self, stage: int, peer: PeerId, fastest_seconds: float) -> float:
        times = self._times.get((stage, peer))
        charge_seconds = fastest_seconds if times is None else times.mean_seconds
        return self._virtual.get((stage, peer), 0.0) + charge_seconds
