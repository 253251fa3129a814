"""A seeded world of islands whose peers agree on outer rounds, over links that lose, repeat and delay, and faults.

The world is transport, drivers and judge in one. It raises `Violation` at once when two peers learn different choices,
when one counts what nobody offered, or was not accepted by a quorum. Only where an island gives lost votes anew may
choices differ from those that nobody alive in the member islands follows any more. Faults are in `group_faults`.
"""

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from swarmtrain.core.events import Event, Noted
from swarmtrain.core.rounds import (
    Ballot,
    Choice,
    GroupMember,
    Measured,
    RoundMessage,
    SignedVote,
    is_quorum,
)
from swarmtrain.core.types import Digest, PeerId
from swarmtrain.outer.effects import Chosen, Effect, Gather, Note, Seat, SendRound, Waits
from swarmtrain.outer.group import WHOLE, RoundGroup
from swarmtrain.outer.roll import ReplicaList
from swarmtrain.outer.signed import Head, Signing, vote_text

CALM = Waits(patience=3.0, grace=4.0, gather=8.0)
HASTY = Waits(patience=0.3, grace=1.0, gather=1.5)
"""Less than a gathering may take: chairs get in each other's way."""
SLACKS_SECONDS = (-1.0, 0.5, 3.0, 20.0)
DISTORTION = 0.02
"""The mean of what islands measure of int4 is above it in half of the rounds."""
START = b"the run's base"


class Violation(Exception):
    """The world saw an invariant break."""


@dataclass(frozen=True)
class State:
    """An outer state as peers hold it and hand it on: where the next round starts from."""

    round: int
    base: Digest
    members: tuple[GroupMember, ...]


def hashed(*parts: object) -> Digest:
    return hashlib.sha256(repr(parts).encode()).digest()


def signing_of(peer: PeerId) -> Signing:
    """A key that is the peer's name, and signatures that are quick to make and to check."""
    key = peer.encode()
    return Signing("run", key, partial(_signature, key), bytes.decode, _is_signed)  # type: ignore[arg-type]


def _signature(key: bytes, text: bytes) -> bytes:
    return hashlib.sha256(b"the other half of %b signs %b" % (key, text)).digest()


def _is_signed(key: bytes, text: bytes, signature: bytes) -> bool:
    return signature == _signature(key, text)


def votes_of(
    lists: Mapping[int, ReplicaList], head: Head, ballot: Ballot, choice: Choice
) -> tuple[SignedVote, ...]:
    """Of all peers on these lists of islands, each signed by itself."""
    votes = []
    for island, listed in sorted(lists.items()):
        text = vote_text("run", head, ballot, island, listed, choice)
        for peer in listed.peers:
            key = signing_of(peer)
            votes.append(SignedVote(island, listed.version, key.public_key, key.sign(text)))
    return tuple(votes)


def merged(base: Digest, choice: Choice, *means: object) -> Digest:
    """All that whoever goes on from a result has of its choice."""
    return hashed(base, choice.counted, choice.members, choice.codec, *means)


@dataclass
class Roster:
    """What an island's conductor says of the stage: who holds it."""

    version: int = 1
    peers: list[PeerId] = field(default_factory=list)
    generation: int = 0
    snapshot: State | None = None


@dataclass(eq=False)
class Actor:
    """One process of a peer: its machine, and what its disk and memory hold."""

    machine: RoundGroup
    generation: int
    state: State
    alive: bool = True
    armed: bool = False
    was_out: bool = False
    cannot_merge: bool = False
    payloads: set[Digest] = field(default_factory=set)
    results: set[Digest] = field(default_factory=set)
    means: dict[Digest, tuple[bytes, ...]] = field(default_factory=dict)
    unreached: Counter[PeerId] = field(default_factory=Counter)

    @property
    def peer(self) -> PeerId:
        return self.machine.peer


class World:
    """All peers of one place, and what happens to them."""

    sizes = WHOLE

    def __init__(
        self,
        seed: int,
        machine: type[RoundGroup],
        is_stormy: bool = False,
        counts: Sequence[int] = (2, 2, 3, 3, 3, 4, 5, 6),
        is_young: bool = False,
    ) -> None:
        """`is_stormy`: three lone peers that all chair, over links that hardly work in one direction or the other.

        `counts`: how many islands there are, one of them. `is_young`: only the first votes
        at first, as when runs begin.
        """
        self.random, self.machine = random.Random(seed), machine
        self.waits, self.tick_seconds = (HASTY, 0.5) if seed % 2 or is_stormy else (CALM, 1.5)
        self.now, self.count = 0.0, 0
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.actors: dict[PeerId, Actor] = {}
        self.groups: dict[PeerId, int] = {}
        self.choices: dict[tuple[int, Digest], list[Choice]] = {}
        self.followed: dict[State, tuple[State, Choice]] = {}
        self.given_anew: set[tuple[int, Digest]] = set()
        self.offered: set[tuple[int, Digest, int, int, Digest]] = set()
        self.accepted: dict[tuple[int, Digest, Digest], set[int]] = {}
        self.held: dict[Digest, set[int]] = {}
        self.figures: Counter[str] = Counter()
        self.loss, self.slow, self.healed = self.random.choice((0.0, 0.02, 0.1)), 0.02, False
        if is_stormy:
            self.loss, self.slow = 0.1, 0.2
        self.seed, self.is_stormy = seed, is_stormy
        islands = range(3 if is_stormy else self.random.choice(counts))
        most = 3 if len(islands) < 4 else 2
        self.rosters = {island: Roster() for island in islands}
        for island, roster in self.rosters.items():
            count = 1 if is_stormy else self.random.randint(1, most)
            roster.peers = [PeerId(f"{island}{letter}") for letter in "abc"[:count]]
        voters = (GroupMember(0, 0),) if is_young else tuple(GroupMember(i, 1) for i in islands)
        start = State(0, START, voters)
        for island, roster in self.rosters.items():
            roster.snapshot = start
            for peer in roster.peers:
                self.start(island, peer, start, is_first=True)

    # ---- time and links ---------------------------------------------------------------------------------------

    def at(self, seconds: float, work: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.queue, (seconds, self.count, work))

    def later(self, low: float, high: float, actor: Actor, work: Callable[[], None]) -> None:
        """`work` of one process, which dies with it."""
        when = self.now + self.random.uniform(low, high)
        self.at(when, lambda: work() if actor.alive else None)

    def reaches(self, sender: PeerId, to: PeerId) -> bool:
        actor = self.actors.get(to)
        is_near = self.groups.get(sender, 0) == self.groups.get(to, 0)
        return actor is not None and actor.alive and is_near

    def post(self, sender: PeerId, to: PeerId, message: RoundMessage) -> None:
        self.figures["messages"] += 1
        if not self.reaches(sender, to) or self.random.random() < self.loss:
            return
        if self.is_bad(sender, to) and self.random.random() < 0.9:
            return
        for _ in range(1 + (self.random.random() < self.loss)):
            delay = self.random.uniform(0.01, 0.3)
            if not self.healed and self.random.random() < self.slow:
                delay = self.random.uniform(1.0, 15.0)
            self.at(self.now + delay, lambda: self.deliver(sender, to, message))

    def is_bad(self, sender: PeerId, to: PeerId) -> bool:
        """In a storm, one link in three for some seconds at a time."""
        epoch = int(self.now / 5.0)
        return self.is_stormy and not self.healed and hashed(self.seed, sender, to, epoch)[0] < 85

    def deliver(self, sender: PeerId, to: PeerId, message: RoundMessage) -> None:
        actor = self.actors[to]
        if actor.alive:
            self.carry(actor, actor.machine.handle(sender, message, self.now))

    # ---- what drivers do --------------------------------------------------------------------------------------

    def start(self, island: int, peer: PeerId, state: State, is_first: bool = False) -> Actor:
        """A new process of `peer`, which is on its island's list already."""
        roster = self.rosters[island]
        seat = Seat(peer, island, roster.version, tuple(roster.peers), signing_of(peer))
        machine = self.machine((1, 0), seat, self.waits, is_first, self.sizes, DISTORTION)
        actor = Actor(machine, roster.generation, state)
        self.actors[peer] = actor
        if self.waits is HASTY:
            self.be_whimsical(actor.machine)
        for other in sorted(self.actors):
            actor.machine.seen(other)
        if not is_first:
            self.confirm(actor, roster.version)
        self.enter(actor, state)
        self.later(0.0, self.tick_seconds, actor, lambda: self.tick(actor))
        return actor

    def confirm(self, actor: Actor, version: int) -> None:
        """The list reaches everybody, which `actor` hears some time later."""
        self.later(0.0, 2.0, actor, lambda: actor.machine.confirm(version))

    def be_whimsical(self, machine: RoundGroup) -> None:
        """Its chair leaves out offers as it likes, or chairs in each other's way would all propose the same."""
        real = machine._chair._fresh

        def fresh() -> Choice:
            choice = real()
            kept = self.random.sample(choice.counted, self.random.randint(1, len(choice.counted)))
            return replace(
                choice, counted=tuple(entry for entry in choice.counted if entry in kept)
            )

        machine._chair._fresh = fresh  # type: ignore[method-assign]

    def enter(self, actor: Actor, state: State) -> None:
        if state.round <= actor.machine.round:
            return
        actor.state, actor.cannot_merge = state, False
        if self.random.random() < 0.3:
            self.rosters[actor.machine.island].snapshot = state
        machine = actor.machine
        self.carry(actor, machine.advance(state.round, state.base, state.members, self.now))
        is_straggling = not self.healed and self.random.random() < 0.07
        low, high = (6.0, 20.0) if is_straggling else (0.2, 2.0)
        self.later(low, high, actor, lambda: self.offer(actor, state))

    def offer(self, actor: Actor, state: State) -> None:
        if actor.state != state:
            return
        island = actor.machine.island
        digest = hashed(island, actor.generation, state)
        actor.payloads.add(digest)
        self.offered.add((state.round, state.base, island, 10 + island, digest))
        # What an island can spare, and what is chosen for it, follow from the seed, and from nothing that is drawn.
        place = hashed(self.seed, island, state.round)
        slack_seconds = SLACKS_SECONDS[place[0] % len(SLACKS_SECONDS)]
        measured = (Measured("int8", 7.5, 1e-4), Measured("int4", 3.3, 0.04 * place[1] / 255))
        said = self.uplink(actor), measured, slack_seconds
        self.carry(actor, actor.machine.offer(10 + island, digest, self.now, *said))

    def uplink(self, actor: Actor) -> float:
        """What `actor` measured of its line."""
        return 0.0

    def carry(self, actor: Actor, effects: Sequence[Effect]) -> None:
        """Effects in order; an armed process dies between two of them."""
        stop = self.random.randint(0, len(effects)) if actor.armed and effects else None
        for index, effect in enumerate(effects):
            if index == stop:
                break
            match effect:
                case SendRound(to, message):
                    self.post(actor.peer, to, message)
                case Gather():
                    self.begin(actor, effect)
                case Chosen(choice):
                    self.judge(actor, choice)
                    self.later(0.05, 1.0, actor, partial(self.merge, actor, choice))
                case Note(event):
                    self.note(actor, event)
        if stop is not None:
            self.kill(actor)

    def note(self, actor: Actor, event: Event) -> None:
        self.figures["notes"] += 1
        if isinstance(event, Noted) and event.what == "lost votes are given anew":
            self.figures["given anew"] += 1
            self.given_anew.add((actor.machine.round, actor.machine.base))
        if isinstance(event, Noted) and event.what == "newcomers without the result vote later":
            self.figures["withdrawn"] += 1

    def kill(self, actor: Actor) -> None:
        actor.alive = actor.armed = False
        self.figures["killed"] += 1

    def lacking(self, actor: Actor, choice: Choice, base: Digest) -> tuple[int, ...]:
        """The islands whose payloads nobody in reach has; none when somebody has the result."""
        near = [self.actors[p] for p in sorted(self.actors) if self.reaches(actor.peer, p)]
        if choice.result and any(choice.result in other.results for other in near):
            return ()
        held = {digest for other in near for digest in other.payloads}
        return tuple(entry.island for entry in choice.counted if entry.digest not in held)

    def begin(self, actor: Actor, effect: Gather) -> None:
        base, high = (
            actor.machine.base,
            6.0 if not self.healed and self.random.random() < 0.2 else 1.0,
        )
        self.later(0.05, high, actor, lambda: self.gather(actor, effect, base))

    def gather(self, actor: Actor, effect: Gather, base: Digest) -> None:
        missing = self.lacking(actor, effect.choice, base)
        self.gathered(actor, effect, b"" if missing else merged(base, effect.choice), missing)

    def gathered(
        self, actor: Actor, effect: Gather, result: Digest, missing: tuple[int, ...]
    ) -> None:
        machine = actor.machine
        if result:
            actor.results.add(result)
            self.held.setdefault(result, set()).add(machine.island)
        before = machine.votes.accepted
        effects = machine.collected(effect, result, missing, self.now)
        after = machine.votes.accepted
        if after is not None and after is not before:
            key = (machine.round, machine.base, after.choice.result)
            self.accepted.setdefault(key, set()).add(machine.island)
        self.carry(actor, effects)

    def merge(self, actor: Actor, choice: Choice) -> None:
        state = actor.state
        if actor.machine.choice != choice:
            return
        if not self.can_merge(actor, choice, state.base):
            actor.cannot_merge = True
            self.later(1.0, 1.0, actor, lambda: self.merge(actor, choice))
            return
        actor.results.add(choice.result)
        following = State(state.round + 1, hashed(state.base, choice.result), choice.members)
        self.followed[following] = state, choice
        self.enter(actor, following)

    def can_merge(self, actor: Actor, choice: Choice, base: Digest) -> bool:
        """Whether the result of what was decided can be had."""
        return not self.lacking(actor, choice, base)

    def tick(self, actor: Actor) -> None:
        machine = actor.machine
        for peer in sorted(self.actors):
            if not self.reaches(actor.peer, peer):
                actor.unreached[peer] += 1
                if actor.unreached[peer] == 2:
                    machine.lost(peer)
            elif actor.unreached.pop(peer, 0):
                machine.seen(peer)
        if not self.healed and self.random.random() < 0.02:
            machine.lost(self.random.choice(sorted(self.actors)))
        self.carry(actor, machine.tick(self.now))
        behind = machine.behind
        is_merging = machine.choice is not None and not actor.cannot_merge
        if actor.alive and behind is not None and not is_merging:
            near = [self.actors[p] for p in sorted(self.actors) if self.reaches(actor.peer, p)]
            ahead = [other for other in near if other.state.round >= behind.round]
            if ahead:
                self.enter(actor, self.random.choice(ahead).state)
        self.later(self.tick_seconds, self.tick_seconds, actor, lambda: self.tick(actor))

    # ---- the judge --------------------------------------------------------------------------------------------

    def judge(self, actor: Actor, choice: Choice) -> None:
        number, base = actor.machine.round, actor.machine.base
        known = self.choices.setdefault((number, base), [])
        for other in known:
            if other != choice and self.is_alive(actor.machine, other):
                raise Violation(f"round {number}: {actor.peer} learned another choice")
        if choice in known:
            return
        known.append(choice)
        self.figures["fallen choices"] += len(known) > 1
        for entry in choice.counted:
            key = (number, base, entry.island, entry.tokens, entry.digest)
            if key not in self.offered:
                raise Violation(f"round {number} counts what island {entry.island} did not offer")
        members = [member.island for member in actor.machine.members]
        if not is_quorum(self.accepted.get((number, base, choice.result), ()), members):
            raise Violation(f"round {number} was decided without a quorum")
        following = {member.island for member in choice.members}
        held = self.held.get(choice.result, ())
        if following - set(members) and not is_quorum(held, following):
            raise Violation(f"round {number}: those who go on from its result do not hold it")
        if not any(choice.result in a.results for a in self.actors.values() if a.alive):
            self.figures["decided, and nobody left with the result"] += 1

    def is_alive(self, machine: RoundGroup, choice: Choice) -> bool:
        """Whether `choice` binds: always, but where votes were given anew only while a member's peer follows it."""
        place, members = (machine.round, machine.base), {m.island for m in machine.members}
        listed = [a for a in self.actors.values() if self.is_listed(a)]
        following = {a.machine.island for a in listed if self.follows(a, place, choice)}
        self.figures["left on a fallen branch"] += bool(following - members)
        return place not in self.given_anew or bool(following & members)

    def is_listed(self, actor: Actor) -> bool:
        return actor.alive and actor.peer in self.rosters[actor.machine.island].peers

    def follows(self, actor: Actor, place: tuple[int, Digest], choice: Choice) -> bool:
        """Whether `actor` learned `choice`, or holds what came of it."""
        machine, state = actor.machine, actor.state
        if (machine.round, machine.base) == place and machine.choice == choice:
            return True
        while state in self.followed:
            state, taken = self.followed[state]
            if (state.round, state.base) == place:
                return taken == choice
        return False
