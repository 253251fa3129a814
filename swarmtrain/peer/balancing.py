"""The conductor's look at the swarm's load: from what peers publish to a move of one peer, or none.

A peer's figures are its self-test and what its lane measured under work. Their ratio says how much dearer its stages
are than the self-test's middle stage, and how much slower the machine has become: what all replicas of a stage share
is the stage's, the rest is the machine's.
"""

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarmtrain.core.config import RunConfig
from swarmtrain.core.sizes import stage_parameters
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.peer.links import Links
from swarmtrain.peer.published import lines_of
from swarmtrain.peer.runtime import Runtime
from swarmtrain.plan.layout import Host, Load
from swarmtrain.plan.rebalance import Decision, Policy, View, rebalance
from swarmtrain.swarm.records import PeerRecord

STATE_BYTES_PER_PARAMETER = 12
"""fp32 parameters and two moments: what a peer downloads to take a stage."""

WITHIN = 1.25
"""Measured figures nearer to each other than this factor say nothing: other work on a machine does as much."""

POLICY = Policy()

TRANSFERS, STEPS = 6, 4
"""What a mover may take beside the time that a newcomer has: it downloads its state while it leaves its donors most of
their lines, up to three times over, and comes in between two steps."""


@dataclass(slots=True)
class Balancing:
    """Decides while this peer conducts."""

    config: RunConfig
    me: PeerId
    vocab_size: int
    _looked_seconds: float = -1e9
    _moved_seconds: float = 0.0
    _step: int = 0
    _step_seconds: float = 0.0
    _wanted: tuple[int, ...] = ()
    _moving: tuple[PeerId, tuple[int, ...]] | None = None
    _patience_seconds: float = 0.0

    def look(self, runtime: Runtime, records: tuple[PeerRecord, ...], links: Links) -> None:
        """The directory was looked into: as conductor, plan with what is published by now, and move a peer to where it
        helps most, if that pays."""
        conducting, opening = runtime.island.conducting, runtime.member.ledger.open
        conducting.leading.look(records)
        if opening is None or conducting.conductor is None:
            return
        conducting.pathing.look(records)
        rates = [link.stats.bytes_per_second for link in links.open_links]
        decision = self.decide(opening.roster, opening.step, records, rates)
        if decision.peer is not None:
            runtime.island.move(decision.peer, decision.stages, decision.reason)

    def decide(
        self,
        roster: Roster,
        step: int,
        records: Sequence[PeerRecord],
        links_bytes_per_second: Sequence[float],
    ) -> Decision:
        """Who takes which stages from the next step on. Its `peer` is None when nobody does."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_seconds > self.config.swarm.announce_seconds:
            # A new conductor does not know who moved before it.
            self._moved_seconds, self._step, self._step_seconds = now, step, 0.0
        elif step > self._step:
            self._step_seconds = (now - self._looked_seconds) / (step - self._step)
            self._step = step
        self._looked_seconds = now
        known = {record.peer: record for record in records}
        self._forget_mover(roster, known, now)
        rates = [rate for rate in links_bytes_per_second if rate > 0]
        if not rates or not self._step_seconds:
            return Decision(None, (), "neither a link nor a step has been measured yet")
        view = self._view(roster, records, statistics.median(rates), now)
        decision = rebalance(view, POLICY)
        self._wanted = decision.wanted
        if decision.peer is not None:
            self._moving, self._moved_seconds = (decision.peer, decision.stages), now
            download_seconds = sum(view.transfer_seconds[stage] for stage in decision.stages)
            usual_seconds = TRANSFERS * download_seconds + STEPS * self._step_seconds
            self._patience_seconds = self.config.swarm.join_seconds + usual_seconds
        return decision

    def _forget_mover(self, roster: Roster, known: Mapping[PeerId, PeerRecord], now: float) -> None:
        """It has arrived, is gone, or took too long. On its way it is in no roster for a while."""
        if self._moving is None:
            return
        peer, stages = self._moving
        member = roster.member(peer)
        is_late = now - self._moved_seconds > self._patience_seconds
        is_gone = member is None and peer not in known
        if is_gone or is_late or (member is not None and member.stages == stages):
            self._moving = None

    def _view(
        self, roster: Roster, records: Sequence[PeerRecord], bytes_per_second: float, now: float
    ) -> View:
        model, known = self.config.model, {record.peer: record for record in records}
        sizes = [stage_parameters(model, self.vocab_size, s) for s in range(model.stages + 1)]
        costs = stage_costs(roster, known, len(sizes))
        transfers = [STATE_BYTES_PER_PARAMETER * size / bytes_per_second for size in sizes]
        return View(
            self._hosts(roster, known, costs),
            costs,
            tuple(transfers),
            self._step_seconds,
            now - self._moved_seconds,
            self._moving[0] if self._moving else None,
            self._wanted,
            lines_of(self.config, records),
        )

    def _hosts(
        self, roster: Roster, known: Mapping[PeerId, PeerRecord], costs: tuple[float, ...]
    ) -> tuple[Host, ...]:
        """Members without a record, and the conductor itself, stay where they are."""
        typical = statistics.median([r.seconds_per_stage for r in known.values()] or [1.0])
        hosts = []
        members = list(roster.members)
        if self._moving is not None and self._moving[0] not in roster:
            members.append(Member(*self._moving, ""))
        for member in members:
            record = known.get(member.peer)
            stages = member.stages
            if self._moving is not None and self._moving[0] == member.peer:
                stages = self._moving[1]
            if record is None:
                hosts.append(Host(member.peer, stages, len(stages), typical, False))
                continue
            is_free = not record.pinned and member.peer != self.me
            has_load = record.busy_share > 0
            hosts.append(
                Host(
                    member.peer,
                    stages,
                    record.capacity_stages,
                    record.seconds_per_stage * slowdown(record, member.stages, costs),
                    is_free,
                    record.edge_capable,
                    Load(record.busy_share, record.waiting_tasks) if has_load else None,
                    record.region,
                )
            )
        return tuple(hosts)


def stage_costs(
    roster: Roster, known: Mapping[PeerId, PeerRecord], stages: int
) -> tuple[float, ...]:
    """What a pass through each stage costs relative to the self-test's, as most of its replicas measured it."""
    ratios: list[list[float]] = [[] for _ in range(stages)]
    for member in roster.members:
        record = known.get(member.peer)
        if record is not None and record.pass_seconds:
            for stage in member.stages:
                ratios[stage].append(record.pass_seconds / record.seconds_per_stage)
    return tuple(_settled(statistics.median(found)) if found else 1.0 for found in ratios)


def slowdown(record: PeerRecord, stages: Sequence[int], costs: Sequence[float]) -> float:
    """How much slower a machine works than its self-test and its stages explain."""
    if not record.pass_seconds or not stages:
        return 1.0
    expected_seconds = record.seconds_per_stage * statistics.fmean(costs[s] for s in stages)
    return _settled(record.pass_seconds / expected_seconds)


def _settled(factor: float) -> float:
    return 1.0 if 1 / WITHIN <= factor <= WITHIN else factor
