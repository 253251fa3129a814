"""A small island for the tests of single machines: edges a and b, stage 1 at c and d, stage 2 at e."""

from collections.abc import Iterable
from dataclasses import replace

from swarmtrain.core.closing import Closing, Scalars
from swarmtrain.core.messages import (
    Assign,
    Commit,
    Freeze,
    Held,
    Open,
    Ownership,
    Prepared,
    Ready,
    Reduced,
    StageDigest,
    StageSum,
    StepMessage,
    pack_items,
)
from swarmtrain.core.types import Item, Member, PeerId, Roster
from swarmtrain.steps.effects import Effect, Note, Send
from swarmtrain.steps.keys import first_base, pack_keys, share_leads
from swarmtrain.steps.plan import Plan
from swarmtrain.steps.restoring import RecoveryPolicy

A, B, C, D, E = (PeerId(name) for name in "abcde")
STAGE_OF = {A: 0, B: 0, C: 1, D: 1, E: 2}
ROSTER = Roster.of(1, [Member(peer, (stage,), "") for peer, stage in STAGE_OF.items()])
BASE = first_base(b"examples")
SEQUENCE = (1, 2)
HEAD = 3
KEYS = 2
TERM = 1 << 16
SCALARS = Scalars(0.1, 0.2, 0.3)
CLOSING = Closing(SCALARS, 1)
PLAN = Plan(
    steps=3,
    stages=2,
    microbatches=KEYS,
    tokens=16,
    sequences=lambda step: (SEQUENCE,),
    closing=lambda step: Closing(SCALARS, step + 1),
    recovery=RecoveryPolicy(BASE),
)
OPEN = Open(
    term=TERM,
    step=0,
    base=BASE,
    roster=ROSTER,
    leads=share_leads(KEYS, [A, B]),
    microbatches=KEYS,
    sequences=(SEQUENCE,),
    tokens=16,
)


def sum_of(stage: int, content: str = "sum") -> StageSum:
    return StageSum(stage, f"{content}{stage}".encode().ljust(32), "4", 0)


def freeze(seal: int, term: int = TERM, step: int = 0, roster: Roster = ROSTER) -> Freeze:
    return Freeze(term, step, seal, roster)


def held(seal: int, items: Iterable[Item] = (), void: Iterable[Item] = (), step: int = 0) -> Held:
    return Held(step, seal, pack_items(items), pack_items(void), ())


def assign(
    seal: int, owners: dict[PeerId, list[Item]], term: int = TERM, void: tuple[int, ...] = ()
) -> Assign:
    shares = tuple(Ownership(peer, pack_items(items)) for peer, items in owners.items())
    return Assign(term, 0, seal, ROSTER, shares, pack_keys(void), 1.5, CLOSING)


def reduced(
    peer: PeerId, seal: int, content: str = "sum", step: int = 0, term: int = TERM
) -> Reduced:
    return Reduced(term, step, seal, (sum_of(STAGE_OF[peer], content),))


def prepared(stage: int, seal: int = 1, term: int = TERM, roster: Roster = ROSTER) -> Prepared:
    return Prepared(term, seal, roster, (sum_of(stage),), b"", 1.5, CLOSING)


def commit_of(term: int = TERM, seal: int = 1, roster: Roster = ROSTER) -> Commit:
    whole = replace(
        prepared(0, seal, term, roster), stages=tuple(sum_of(stage) for stage in range(3))
    )
    return PLAN.commit(whole, 0, BASE)


def ready(peer: PeerId, step: int, base: bytes, content: str = "parameters") -> Ready:
    stage = STAGE_OF[peer]
    return Ready(step, base, (StageDigest(stage, f"{content}{stage}".encode()),))


def sent(effects: Iterable[Effect], to: PeerId | None = None) -> list[StepMessage]:
    """Messages in `effects`, to one peer or to all."""
    return [e.message for e in effects if isinstance(e, Send) and to in (None, e.to)]


def receivers(effects: Iterable[Effect], kind: type) -> list[PeerId]:
    return [e.to for e in effects if isinstance(e, Send) and isinstance(e.message, kind)]


def acts(effects: Iterable[Effect]) -> list[Effect]:
    """Effects that are neither messages nor notes."""
    return [effect for effect in effects if not isinstance(effect, (Send, Note))]
