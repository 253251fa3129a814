"""Where a lost stage comes back from, and at what price; pure (design.md section 9, reliability_security.md 3).

In order of preference: the live states of one step, with a snapshot of the lost stages at that very step; the
stages' snapshots of one common step (everybody goes back to it: exact); the lost stages alone, a little older than
the rest (allowed by policy, flagged); a checkpoint of the coordinator; the initial state; and only then the average
of the neighbours (CheckFree, allowed by policy, flagged).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from swarmtrain.core.messages import Kept, Source, StageAt
from swarmtrain.core.neighbours import neighbour_stages
from swarmtrain.core.sizes import SNAPSHOT_DEPTH
from swarmtrain.core.types import Digest, Member, PeerId, Roster

LIVE, SNAPSHOT, CHECKPOINT, INITIAL = "live", "snapshot", "checkpoint", "initial"
STALE, NEIGHBOURS = "stale", "neighbours"
FLAGGED = (STALE, NEIGHBOURS)


@dataclass(frozen=True, slots=True)
class RecoveryPolicy:
    """What a run owner allows. `initial_base` names the state before the first step."""

    initial_base: Digest
    snapshot_steps: int = 0
    stale_steps: int = 0
    neighbours: bool = False
    swap_ends: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The island goes on at `step`; `tier` is the worst of its sources, `reason` says why this one."""

    step: int
    base: Digest
    tier: str
    sources: tuple[Source, ...]
    reason: str

    @property
    def flagged(self) -> bool:
        """Whether what follows is another model than that of the fault-free run (I2)."""
        return self.tier in FLAGGED


def restored_base(base: Digest, sources: Iterable[Source], term: int) -> Digest:
    """The base digest of a restored state: work of the history before the loss is refused by it (I4)."""
    chain = hashlib.sha256(b"swarmtrain restored" + base)
    chain.update(repr((term, [(s.stage, s.tier, s.states) for s in sources])).encode())
    return chain.digest()


def choose(
    kept: Mapping[PeerId, Kept], lost: tuple[int, ...], stages: int, policy: RecoveryPolicy
) -> Choice | str:
    """The best recovery of the `lost` stages from what the living keep, or why there is none."""
    have = _holders(kept)
    every = tuple(range(stages + 1))
    now = max(answer.step for answer in kept.values())
    exact = _common(have, every)
    live = _live(kept, have, lost, every)
    if live is not None and exact == live:
        return _from(have, every, *live, LIVE, "the lost stages have a snapshot of this very step")
    if live is not None and policy.stale_steps:
        stale = _stale(have, lost, every, live, policy.stale_steps)
        if stale is not None:
            return stale
    if exact is not None:
        reason = f"every stage has a snapshot of step {exact[0]}; {now - exact[0]} steps are redone"
        return _from(have, every, *exact, SNAPSHOT, reason)
    checkpoint = max(
        (answer.checkpoint for answer in kept.values() if answer.checkpoint is not None),
        key=lambda state: state.step,
        default=None,
    )
    if checkpoint is not None:
        reason = f"the coordinator has a checkpoint of step {checkpoint.step}"
        sources = tuple(
            Source(s, CHECKPOINT, (StageAt(s, checkpoint.step, checkpoint.base),), ())
            for s in every
        )
        return Choice(checkpoint.step, checkpoint.base, CHECKPOINT, sources, reason)
    if policy.snapshot_steps > 0 and now <= SNAPSHOT_DEPTH * policy.snapshot_steps:
        sources = tuple(
            Source(s, INITIAL, (StageAt(s, 0, policy.initial_base),), ()) for s in every
        )
        reason = "no snapshot was spread yet, so early in the run; it begins again"
        return Choice(0, policy.initial_base, INITIAL, sources, reason)
    return _neighbours(have, lost, every, live, policy)


def choose_hosts(
    kept: Mapping[PeerId, Kept], roster: Roster, joining: Iterable[Member], choice: Choice
) -> Roster | str:
    """The roster in which every stage has a host again, or what is missing.

    A newcomer that wants the stage takes it; else a peer that has its state in memory, then one with most room; else
    one that hosts a stage which others host as well moves.
    """
    hosted = {member.peer: len(member.stages) for member in roster.members}
    for stage in sorted(source.stage for source in choice.sources):
        if roster.replicas(stage):
            continue
        newcomer = next((m for m in joining if stage in m.stages and m.peer not in roster), None)
        if newcomer is not None:
            roster = roster.with_member(newcomer)
            continue
        source = next(source for source in choice.sources if source.stage == stage)
        room = {
            member.peer: kept[member.peer].room + hosted[member.peer] - len(member.stages)
            for member in roster.members
            if member.peer in kept and member.peer in hosted
        }
        host = _host(room, roster, source)
        if host is None:
            return f"no peer has memory for stage {stage}; it waits for one that joins"
        roster = roster.with_member(host)
    return roster


def _host(room: Mapping[PeerId, int], roster: Roster, source: Source) -> Member | None:
    """The member as it would be with the stage: one with room takes it on, otherwise one of several moves."""

    def rank(member: Member) -> tuple[bool, int, int, PeerId]:
        return (
            member.peer not in source.peers,
            len(member.stages),
            -room.get(member.peer, 0),
            member.peer,
        )

    members = sorted(roster.members, key=rank)
    for member in members:
        if room.get(member.peer, 0) > 0:
            return replace(member, stages=tuple(sorted({*member.stages, source.stage})))
    for member in members:
        spare = [stage for stage in member.stages if len(roster.replicas(stage)) > 1]
        if spare:
            left = max(spare, key=lambda stage: len(roster.replicas(stage)))
            return replace(member, stages=tuple(sorted({*member.stages, source.stage} - {left})))
    return None


State = tuple[int, Digest]
"""(step, base): with a stage it names one state."""

Holders = Mapping[tuple[int, State], tuple[PeerId, ...]]


def _holders(kept: Mapping[PeerId, Kept]) -> Holders:
    found: dict[tuple[int, State], list[PeerId]] = {}
    for peer in sorted(kept):
        for state in kept[peer].states:
            found.setdefault((state.stage, (state.step, state.base)), []).append(peer)
    return {state: tuple(peers) for state, peers in found.items()}


def _common(have: Holders, stages: Iterable[int]) -> State | None:
    """The newest state that every stage has."""
    wanted = list(stages)
    states = {state for _, state in have}
    whole = [state for state in states if all((stage, state) in have for stage in wanted)]
    return max(whole, default=None)


def _live(
    kept: Mapping[PeerId, Kept], have: Holders, lost: tuple[int, ...], every: Iterable[int]
) -> State | None:
    """The newest state at which all that is not lost stands right now, if it is one."""
    standing = {(answer.step, answer.base) for answer in kept.values()}
    alive = [stage for stage in every if stage not in lost]
    whole = [state for state in standing if all((stage, state) in have for stage in alive)]
    return max(whole, default=None)


def _from(
    have: Holders, every: Iterable[int], step: int, base: Digest, tier: str, reason: str
) -> Choice:
    sources = tuple(
        Source(s, SNAPSHOT, (StageAt(s, step, base),), have[s, (step, base)]) for s in every
    )
    return Choice(step, base, tier, sources, reason)


def _stale(
    have: Holders, lost: tuple[int, ...], every: Iterable[int], live: State, stale_steps: int
) -> Choice | None:
    """The living stay where they are; each lost stage comes back from its newest snapshot, if that is young enough."""
    sources = []
    for stage in every:
        state = live
        if stage in lost:
            known = [state for s, state in have if s == stage and state[0] <= live[0]]
            if not known or max(known)[0] < live[0] - stale_steps:
                return None
            state = max(known)
        at = StageAt(stage, *state)
        sources.append(Source(stage, STALE if stage in lost else LIVE, (at,), have[stage, state]))
    ages = [live[0] - source.states[0].step for source in sources]
    reason = f"lost stages come back up to {max(ages)} steps old, the rest stays; policy allows {stale_steps}"
    return Choice(*live, STALE, tuple(sources), reason)


def _neighbours(
    have: Holders,
    lost: tuple[int, ...],
    every: tuple[int, ...],
    live: State | None,
    policy: RecoveryPolicy,
) -> Choice | str:
    gone = ", ".join(map(str, lost))
    if not policy.neighbours:
        return f"stage {gone} was lost with every snapshot; neighbour averages are not allowed"
    if live is None:
        return f"stage {gone} was lost, and the others are not at one step"
    sources = []
    for stage in every:
        if stage not in lost:
            at = StageAt(stage, *live)
            sources.append(Source(stage, LIVE, (at,), have[stage, live]))
            continue
        averaged = neighbour_stages(stage, lost, every[-1], policy.swap_ends)
        if isinstance(averaged, str):
            return averaged
        states = tuple(StageAt(near, *live) for near in averaged)
        peers = tuple(sorted({peer for near in averaged for peer in have[near, live]}))
        sources.append(Source(stage, NEIGHBOURS, states, peers))
    reason = "no snapshot is left; the lost stage is made from its neighbours (CheckFree)"
    return Choice(*live, NEIGHBOURS, tuple(sources), reason)
