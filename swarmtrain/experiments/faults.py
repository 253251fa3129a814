"""Fault plans as plain values: what goes wrong, when, to whom; and whether a plan can be survived (I2).

A fault happens at a time counted from the opening of the first step, or when its peer passes a named point of
the protocol for the nth time.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from swarmtrain.core.types import PeerId, Roster, is_majority

Kind = Literal[
    "kill", "freeze", "blackhole", "one_way", "flap", "partition", "slow_link", "straggler",
    "drop", "duplicate", "reorder", "late", "corrupt",
]  # fmt: skip

KINDS: tuple[Kind, ...] = get_args(Kind)
PAIRS: frozenset[Kind] = frozenset(("blackhole", "one_way", "flap", "slow_link"))
"""Faults of the connection between two peers; a one-way cut stops what the first sends to the second."""
MESSAGES: frozenset[Kind] = frozenset(("drop", "duplicate", "reorder", "late", "corrupt"))
"""Faults of the next `amount` messages that the first peer sends, to the second if one is named."""
COSTLY: frozenset[Kind] = frozenset(("kill", "freeze", "blackhole", "one_way", "flap", "partition"))
"""Faults that may cost the island a member: the others only take time."""

POINTS: Mapping[str, tuple[str, ...]] = {
    "opened": ("open.received", "step_opened.recorded"),
    "opening": ("open.sent",),
    "forward.received": ("process.received",),
    "forward.done": ("forward.done",),
    "backward.before_accumulate": ("backward.done", "loss.done"),
    "backward.after_accumulate_before_reply": ("process.answered",),
    "freezing": ("freeze.sent",),
    "frozen": ("freeze.received",),
    "held": ("held.sent",),
    "assigning": ("assign.sent",),
    "sealed": ("assign.received", "sealed.recorded"),
    "reduce.middle": ("piece.received", "slice.done"),
    "reduced": ("reduced.sent",),
    "deciding": ("decision.sent",),
    "committed": ("decision.received",),
    "applied": ("ready.sent",),
    "releasing": ("release.sent",),
    "ready": ("release.received",),
    "standing": ("new_term.sent",),
    "promised": ("promise.sent",),
    "replaying": ("redrive.received",),
}
"""Named points of the step protocol, and the observations that show a peer at each.

What is sent has not left yet when the point is reached, so a kill there loses it; a conductor that sends to N
peers passes a sending point N times, so `nth` chooses how many of them still hear it.
"""

ROUND_POINTS: Mapping[str, tuple[str, ...]] = {
    "round.sent": ("round_sent.recorded",),
    "round.offering": ("round_offer.sent",),
    "round.asking": ("round_ask.sent",),
    "round.promised": ("round_promise.sent",),
    "round.collecting": ("collect.sent",),
    "round.gathering": ("collect.received",),
    "round.fetching": ("round_piece.sent",),
    "round.serving": ("round_piece.received",),
    "round.result": ("merge.done",),
    "round.collected": ("collected.sent",),
    "round.deciding": ("round_decided.sent",),
    "round.chosen": ("round_chosen.recorded",),
    "round.merging": ("merging_decision.received",),
    "round.merged": ("round_merged.recorded",),
    "round.catching_up": ("outer_state.sent",),
    "round.telling": ("outer_state.received",),
}
"""Named points of outer rounds: the contribution was made and nobody knows; a message is about to leave; a piece is
asked for, or about to be answered; the mean is there and not yet accepted; the choice is known; the island's decision
to merge it was heard and is not applied; it was applied; who missed it asks for the group's state, or is about to be
answered."""

MOVE_POINTS: Mapping[str, tuple[str, ...]] = {
    "move.asked": ("move.received",),
    "move.learning": ("learn.sent",),
    "move.teaching": ("learn.received",),
    "move.learnt": ("recovered.recorded",),
    "move.leaving": ("leave.sent",),
    "move.between": ("placed.recorded",),
    "move.joining": ("join.sent",),
    "move.done": ("learned.recorded",),
}
"""Named points of a peer's move to other stages: it is asked; it, or a donor, is about to ask or answer; a state is
there; it asks to be out of the roster; its new stages have taken over; it asks to be in; it is."""

ALL_POINTS: Mapping[str, tuple[str, ...]] = {**POINTS, **ROUND_POINTS, **MOVE_POINTS}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `at_seconds` counts from the first step's opening; `at_point` wins over it when it is set.

    `peers` are names: the victim; the pair; the group that a partition cuts off; sender (and receiver) of messages.
    `amount` is the factor of slow_link and straggler, the cuts of a flap, the number of messages.
    """

    kind: Kind
    peers: tuple[str, ...]
    at_seconds: float = 0.0
    at_point: str = ""
    nth: int = 1
    duration_seconds: float = 0.0
    amount: float = 1.0

    @property
    def when(self) -> str:
        """For a person and for the journal: the time, or the point and how often it is passed."""
        if self.at_point:
            return f"{self.at_point}#{self.nth} of {self.peers[0]}"
        return f"{self.at_seconds:.6f}s"

    @property
    def may_lose(self) -> tuple[str, ...]:
        """Peers that the island may go on without because of this."""
        return self.peers if self.kind in COSTLY else ()


@dataclass(frozen=True, slots=True)
class Chances:
    """Random faults: how many, of which kinds, in which span of time.

    With `every_seconds` more are drawn while the run goes, one after such a time on average; a machine that one of
    them kills is replaced after `replace_seconds` (0: never). With `whole_stages` a stage may lose every replica,
    which snapshots bring back.
    """

    count: int = 0
    kinds: tuple[Kind, ...] = KINDS
    from_seconds: float = 0.0
    to_seconds: float = 4.0
    longest_seconds: float = 8.0
    point_share: float = 0.4
    survivable: bool = True
    whole_stages: bool = False
    points: tuple[str, ...] = field(default=tuple(POINTS))
    every_seconds: float = 0.0
    replace_seconds: float = 0.0


def survivable(
    plan: Sequence[Fault],
    roster: Roster,
    names: Mapping[str, PeerId],
    stages: int,
    whole_stages: bool = False,
) -> str:
    """Why `plan` may not be survived by the peers of `roster`; empty when it must be (I2).

    Conservative: every peer that any fault could cost counts as gone at once, although the roster of the last
    commit shrinks between faults, and although a frozen or cut-off peer may come back. With `whole_stages` a stage
    without a replica is brought back at a peer of a stage that has one to spare.
    """
    gone = {names[peer] for fault in plan for peer in fault.may_lose if peer in names}
    left = Roster.of(roster.version, [m for m in roster.members if m.peer not in gone])
    missing = left.missing_stages(stages)
    spare = sum(max(len(left.replicas(stage)) - 1, 0) for stage in range(stages + 1))
    if missing and not (whole_stages and spare >= len(missing)):
        return f"stage {missing[0]} may lose every replica"
    if not is_majority(left.peers, roster):
        return f"{len(gone)} of {len(roster.members)} peers may be gone: no majority is sure to be left"
    return ""


def random_plan(
    chance: random.Random,
    chances: Chances,
    roster: Roster,
    names: Mapping[str, PeerId],
    fixed: Sequence[Fault] = (),
) -> tuple[Fault, ...]:
    """`fixed` and `chances.count` faults more, drawn so that the whole stays survivable where that is asked for.

    A draw that would not be survived is drawn again, and left out when twenty of them would not. A machine alone has no
    connection that could fail.
    """
    stages = max(stage for member in roster.members for stage in member.stages)
    plan = list(fixed)
    if len(names) == 1:
        chances = replace(chances, kinds=tuple(k for k in chances.kinds if k not in PAIRS))
    if not chances.kinds:
        return tuple(plan)
    for _ in range(chances.count):
        for _ in range(20):
            drawn = [draw(chance, chances, sorted(names))]
            if chances.whole_stages and drawn[0].kind in ("kill", "freeze"):
                drawn += _siblings_too(chance, drawn[0], roster, names)
            risk = survivable([*plan, *drawn], roster, names, stages, chances.whole_stages)
            if not chances.survivable or not risk:
                plan += drawn
                break
    return tuple(plan)


def _siblings_too(
    chance: random.Random, fault: Fault, roster: Roster, names: Mapping[str, PeerId]
) -> list[Fault]:
    """Every third time the same, within half a second, for all other replicas of the victim's first stage."""
    if chance.random() > 1 / 3:
        return []
    victim = roster.member(names[fault.peers[0]])
    assert victim is not None
    replicas = roster.replicas(victim.stages[0])
    return [
        replace(
            fault,
            peers=(name,),
            at_point="",
            at_seconds=round(fault.at_seconds + chance.uniform(0.0, 0.5), 6),
        )
        for name in sorted(names)
        if names[name] in replicas and name not in fault.peers
    ]


def draw(chance: random.Random, chances: Chances, names: list[str]) -> Fault:
    """One fault for peers out of `names`, which ascend; whether it can be survived is not looked at."""
    kind = chance.choice(chances.kinds)
    count = 2 if kind in PAIRS else 1
    if kind == "partition":
        count = chance.randint(1, max(1, (len(names) - 1) // 2))
    fault = Fault(
        kind=kind,
        peers=tuple(chance.sample(names, min(count, len(names)))),
        at_seconds=round(chance.uniform(chances.from_seconds, chances.to_seconds), 6),
        duration_seconds=round(chance.uniform(0.05, chances.longest_seconds), 6),
        amount=_amount(chance, kind),
    )
    if kind in MESSAGES:
        lateness_seconds = chance.choice((0.01, 0.1, 1.0, 3.0)) if kind == "late" else 0.03
        return replace(fault, duration_seconds=lateness_seconds)
    if chances.points and kind in ("kill", "freeze") and chance.random() < chances.point_share:
        return replace(fault, at_point=chance.choice(chances.points), nth=chance.randint(1, 8))
    return fault


def _amount(chance: random.Random, kind: Kind) -> float:
    if kind == "slow_link":
        return float(chance.choice((5, 20, 100)))
    if kind == "straggler":
        return float(chance.choice((3, 10, 30)))
    return float(chance.randint(1, 5))
