"""A seeded random explorer over the real step machines: any delivery order, and faults at any point.

Two edges and three middle stages with two replicas each run some steps. Handlers are atomic. The world, not the
machines, judges what is applied (I1, I3, I4) and whether a survivable run ends. `explore(seed)` is one run.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from swarmtrain.core.closing import Closing, Scalars
from swarmtrain.core.messages import Commit, Decision, StepMessage
from swarmtrain.core.types import EDGE_STAGE, Digest, Item, Member, PeerId, Roster
from swarmtrain.steps.plan import Plan
from swarmtrain.steps.restoring import RecoveryPolicy
from tests.steps.actor import BASE, Actor
from tests.steps.stand_ins import Call, Contents, Status, Tag

Kind = Literal[
    "crash", "freeze", "lose", "repeat", "reroute", "overlap", "partition", "slow", "sloppy reduce"
]
FAULTS: tuple[Kind, ...] = (
    "crash",
    "crash",
    "freeze",
    "lose",
    "lose",
    "repeat",
    "reroute",
    "reroute",
    "overlap",
    "partition",
    "slow",
)
STAGES = 3


@dataclass(frozen=True)
class Setting:
    """The shape of a run; `fifo` keeps the order of a link's tells, as real links do."""

    keys: int = 3
    steps: int = 2
    faults: int = 3
    kinds: tuple[Kind, ...] = FAULTS
    replicas: int = 2
    fifo: bool = True
    fast: bool = False
    events: int = 6000


@dataclass
class Parcel:
    kind: Literal["tell", "call", "answer", "piece", "local"]
    sender: PeerId
    to: PeerId
    deliver: Callable[[], None]
    lost: Callable[[], None] = field(default=lambda: None)
    what: object = None
    not_before: int = 0


Result = Literal["ok", "I1", "I3", "I4", "missed", "stalled", "lost", "stopped", "broke"]


@dataclass(frozen=True)
class Verdict:
    """How a run ended. `rejoin`: it stopped, though peers that were dropped before could have saved it."""

    result: Result
    why: str
    events: int
    takeovers: int
    repeats: int
    acknowledged: bool
    rejoin: bool = False


class Violation(Exception):
    """The world saw an invariant break."""

    def __init__(self, result: Result, why: str) -> None:
        super().__init__(result, why)
        self.result, self.why = result, why


class World:
    """All peers, the network between them, and the judge."""

    def __init__(self, seed: int, setting: Setting) -> None:
        self.random, self.setting = random.Random(seed), setting
        hosting = [0, 0] + [
            stage for stage in range(1, STAGES + 1) for _ in range(setting.replicas)
        ]
        names = [PeerId(f"p{index:02}") for index in range(len(hosting))]
        self.random.shuffle(names)
        hosted = dict(zip(names, hosting, strict=True))
        self.roster = Roster.of(1, [Member(peer, (stage,), "") for peer, stage in hosted.items()])
        self.plan = Plan(
            steps=setting.steps,
            stages=STAGES,
            microbatches=setting.keys,
            tokens=setting.keys * 8,
            sequences=lambda step: (tuple(range(1, STAGES + 1)),),
            closing=lambda step: Closing(Scalars(0.1, 0.1, 0.1), step + 1),
            recovery=RecoveryPolicy(BASE),
        )
        self.parcels: list[Parcel] = []
        self.calls: dict[int, Call] = {}
        self.numbers = self.events = self.takeovers = self.ticks = 0
        self.acknowledged: set[int] = set()
        self.applied: dict[tuple[int, int], Digest] = {}
        self.heals: list[tuple[int, Callable[[], None]]] = []
        self.stopped = ""
        self.rejoin = False
        self.spoils = self._spoils()
        self.actors = {peer: Actor(self, peer, hosted[peer]) for peer in sorted(names)}
        self.edges = sorted(peer for peer in names if hosted[peer] == EDGE_STAGE)
        first, last = 5, 110 * setting.steps
        self.faults = sorted(
            (self.random.randrange(first, last), self.random.choice(setting.kinds))
            for _ in range(self.random.randint(0, setting.faults))
        )

    def _spoils(self) -> dict[tuple[int, Item], Literal["forward", "backward"]]:
        """One key in three runs has a gradient or an activation that is not finite."""
        if self.random.random() > 1 / 3:
            return {}
        item = (self.random.randint(0, STAGES + 1), self.random.randrange(self.setting.keys))
        way: Literal["forward", "backward"] = self.random.choice(("forward", "backward"))
        return {(self.random.randrange(self.setting.steps), item): way}

    # ---- what workers and reducers ask ------------------------------------------------------------------------

    def choose(self, peers: tuple[PeerId, ...], hinted: PeerId | None) -> PeerId:
        if hinted in peers and hinted is not None and self.random.random() < 0.7:
            return hinted
        return self.random.choice(peers)

    def next_call(self) -> int:
        self.numbers += 1
        return self.numbers

    def spoiled(self, step: int, item: Item) -> Literal["", "forward", "backward"]:
        return self.spoils.get((step, item), "")

    def call(self, call: Call) -> None:
        self.calls[call.number] = call
        callee = self.actors[call.callee]
        what = (call.step, call.base, call.item, call.above)
        self._post("call", (call.caller, call.callee), lambda: callee.worker.process(call), what)

    def answer(self, call: Call, status: Status) -> None:
        def deliver() -> None:
            if self.calls.pop(call.number, None) is not None:
                self.actors[call.caller].worker.answered(call, status)

        self._post("answer", (call.callee, call.caller), deliver, call.number)

    def piece(self, sender: PeerId, to: PeerId, stage: int, tag: Tag, contents: Contents) -> None:
        actor = self.actors[to]
        self.parcels.append(
            Parcel(
                "piece",
                sender,
                to,
                lambda: actor.reducer.take(sender, tag, contents),
                lambda: self.later(to, lambda: actor.reducer.fail(tag)),
            )
        )

    def later(self, peer: PeerId, work: Callable[[], None]) -> None:
        self.parcels.append(Parcel("local", peer, peer, work))

    def tell(self, sender: PeerId, to: PeerId, message: StepMessage) -> None:
        actor = self.actors[to]
        self._post("tell", (sender, to), lambda: actor.receive(sender, message), message)

    def _post(
        self,
        kind: Literal["tell", "call", "answer"],
        link: tuple[PeerId, PeerId],
        deliver: Callable[[], None],
        what: object,
    ) -> None:
        """Queue for delivery. A link that is down keeps each thing once, however often it is repeated meanwhile."""
        if not self.reaches(*link):
            waiting = [p.what for p in self.parcels if p.kind == kind and (p.sender, p.to) == link]
            if what in waiting:
                return
        self.parcels.append(Parcel(kind, *link, deliver, what=what))

    def reaches(self, sender: PeerId, to: PeerId) -> bool:
        return self.actors[to].live and self.actors[sender].group == self.actors[to].group

    def forget_local(self, peer: PeerId) -> None:
        self.parcels = [p for p in self.parcels if p.kind != "local" or p.to != peer]

    def rank(self, actor: Actor) -> int:
        """As the driver ranks candidates: the place in the roster of the last commit."""
        last = actor.member.last
        roster = last.roster if last is not None else self.roster
        peers = roster.peers
        return peers.index(actor.peer) if actor.peer in peers else len(peers) + 8

    # ---- the judge --------------------------------------------------------------------------------------------

    def judge(self, actor: Actor, commit: Commit) -> None:
        """What `actor` is about to apply: every item of a key that counts once (I1), of this base alone (I4)."""
        contents, step, stage = actor.reducer.total, commit.step, actor.stage
        positions = (0, STAGES + 1) if stage == EDGE_STAGE else (stage,)
        void = {key for (spoiled_step, (_, key)) in self.spoils if spoiled_step == step}
        wanted = {
            (position, key): 1
            for position in positions
            for key in range(self.setting.keys)
            if key not in void
        }
        if actor.reducer.total_digest not in {entry.digest for entry in commit.stages}:
            raise Violation(
                "I3", f"step {step}, stage {stage} at {actor.peer}: another sum is applied"
            )
        if any(base != commit.base for _, base, _ in contents):
            raise Violation("I4", f"step {step}, stage {stage}: work of another base is applied")
        counts = {item: count for item, _, count in contents}
        if counts != wanted:
            off = {
                i: counts.get(i, 0) for i in {*counts, *wanted} if counts.get(i) != wanted.get(i)
            }
            raise Violation("I1", f"step {step}, stage {stage} at {actor.peer}: {off}")

    def judge_decision(self, decision: Decision) -> None:
        """A conductor's own decision: whoever is in its roster and promised no other term has prepared it (R8)."""
        commit = decision.commit
        if commit.term != decision.term:
            return
        for peer in commit.roster.peers:
            member = self.actors[peer].member
            if (member.step, member.term) != (commit.step, commit.term):
                continue
            prepared = member.ledger.prepared
            if prepared is None or (prepared.term, prepared.seal) != (commit.term, commit.seal):
                raise Violation(
                    "I3", f"step {commit.step} is decided, but {peer} has not prepared it"
                )

    def looked(self, actor: Actor) -> None:
        """`actor` has taken a message."""

    def same(self, step: int, stage: int, parameters: Digest) -> None:
        if self.applied.setdefault((step, stage), parameters) != parameters:
            raise Violation("I3", f"step {step}, stage {stage}: replicas applied different sums")

    def give_up(self, actor: Actor, reason: str) -> None:
        conductor = actor.conductor
        assert conductor is not None
        base = conductor.base_roster
        here = [peer for peer in base.peers if self.actors[peer].alive]
        stages = {self.actors[peer].stage for peer in here}
        self.rejoin |= 2 * len(here) > len(base.members) and len(stages) == STAGES + 1
        actor.perform(conductor.stop(reason, finished=False))
        self.end(actor, False, reason)

    def end(self, actor: Actor, finished: bool, reason: str) -> None:
        actor.ended = True
        if not finished:
            self.stopped = self.stopped or reason
            actor.alive = False
            actor.conductor = actor.candidate = None
