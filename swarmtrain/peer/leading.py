"""Which edge leads which key of a step: dealt to the edges as wiring deals a middle stage's keys to its replicas.

Its lead embeds a key and computes its loss. Were keys dealt to all edges in turn, the slowest edge would set the pace
of the island, however few keys its speed allows; and machines that choose their stages do become edges (plan.assign
counts on each for its speed alone).
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import Noted, Record
from swarmtrain.core.types import PeerId, Roster
from swarmtrain.peer.published import figures_of
from swarmtrain.plan.costs import PeerFigures
from swarmtrain.plan.wiring import ALIKE, FADES_AFTER, deal, powers_of
from swarmtrain.plan.wiring_rules import ruled, wiring_rule
from swarmtrain.swarm.records import PeerRecord


class Leading:
    """One peer's view of how fast the edges are, from what they published; used while it conducts."""

    def __init__(self, config: RunConfig, record: Record) -> None:
        self._microbatches, self._record = config.train.microbatches, record
        self._rule_name = config.planner.wiring
        self._rule, _ = wiring_rule(self._rule_name)
        self._records: Sequence[PeerRecord] = ()
        self._led_seconds: dict[PeerId, float] = {}
        self._told: Counter[PeerId] = Counter()

    def look(self, records: Sequence[PeerRecord]) -> None:
        """What peers published, as the directory shows it now."""
        self._records = records

    def leaders(self, roster: Roster) -> tuple[PeerId, ...]:
        """Of each key the edge that leads it: in turn while all are alike, else by their speeds."""
        edges, keys = roster.edges, range(self._microbatches)
        known = {r.peer: figures_of(r, {}) for r in self._records if r.peer in edges}
        seconds = tuple(lead_seconds(roster, edge, known.get(edge)) for edge in edges)
        if self._rule is not None:
            return tuple(edges[ruled(self._rule, self._rule_name, key, seconds)] for key in keys)
        charges = [ALIKE**power for power in powers_of(seconds)]
        leaders = [edges[index] for index in deal(charges, self._microbatches, 0)]
        self._try_out(leaders, dict(zip(edges, seconds, strict=True)))
        self._tell(Counter(leaders), edges)
        return tuple(leaders)

    def _try_out(self, leaders: list[PeerId], seconds: dict[PeerId, float]) -> None:
        """An edge too slow for any key has one after a while: it could never show that it recovered."""
        now = asyncio.get_running_loop().time()
        for edge in seconds:
            idle_seconds = now - self._led_seconds.setdefault(edge, now)
            if edge not in leaders and idle_seconds > FADES_AFTER * seconds[edge]:
                leaders[-1] = edge
                break
        self._led_seconds |= dict.fromkeys(leaders, now)

    def _tell(self, shares: Counter[PeerId], edges: Sequence[PeerId]) -> None:
        is_even = max(shares.values()) - min(shares[edge] for edge in edges) <= 1
        if shares != self._told and not (is_even and not self._told):
            said = ", ".join(f"{edge} {shares[edge]}" for edge in edges)
            self._record(Noted("keys dealt to edges", f"by the speed that each published: {said}"))
            self._told = shares


def lead_seconds(roster: Roster, edge: PeerId, figures: PeerFigures | None) -> float:
    """What a key that it leads takes of an edge's lane, through all stages there: as measured, before that as its
    self-test says; 0 where nothing is known."""
    member = roster.member(edge)
    if figures is None or member is None:
        return 0.0
    pass_seconds = figures.forward_seconds + figures.backward_seconds
    return len(member.stages) * pass_seconds + figures.loss_seconds
