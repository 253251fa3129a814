"""What goes wrong in a world of outer rounds, how it heals, and how a run ends: `run(seed)` is one run.

Island rosters behave as the driver has to (see `swarmtrain.outer.group`): a version names one list, and who comes back
does so under a new one. When lists change, peers hear of it one by one.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from swarmtrain.core.rounds import (
    Ballot,
    Choice,
    Collected,
    RoundDecided,
    RoundMessage,
    is_quorum,
)
from swarmtrain.core.types import Digest, PeerId
from swarmtrain.outer.effects import Gather
from swarmtrain.outer.group import RoundGroup
from swarmtrain.outer.roll import ReplicaList
from swarmtrain.outer.signed import Head, vote_text
from tests.outer.group_world import CALM, Actor, Roster, State, World, signing_of, votes_of

STRAY = b"a base of another run"
HEAL_SECONDS, SETTLE_SECONDS, LIMIT_SECONDS = 25.0, 10.0, 300.0


@dataclass(frozen=True)
class Verdict:
    """How a run ended: `front` is the newest round; `is_intact`: a quorum of its members lived on, with its votes."""

    front: int
    is_intact: bool
    has_progressed: bool
    figures: dict[str, int]


class FaultyWorld(World):
    """A world with `faults` faults at random times, all of which are over at HEAL_SECONDS."""

    def __init__(
        self,
        seed: int,
        machine: type[RoundGroup],
        faults: int,
        is_stormy: bool,
        is_forgetful: bool = False,
        is_young: bool = False,
    ) -> None:
        """`is_forgetful`: one to three islands, which lose whole stages often. `is_young`: a run begins, and the first
        island is lost when somebody learns what its first round chose."""
        counts = {"counts": (1, 2, 2, 2, 3)} if is_forgetful else {}
        super().__init__(seed, machine, is_stormy, **counts, is_young=is_young)
        self.loses_first = is_young
        self.kinds: list[Callable[[], None]] = [
            self.kill_one, self.kill_one, self.arm, self.arm, self.arm, self.split, self.split, self.split,
            self.join, self.join, self.restart, self.restart, self.kill_island, self.revive, self.revive,
            self.late_island, self.drop, self.drop, self.lossy, self.stray,
        ]  # fmt: skip
        self.is_doomed = False
        if is_forgetful:
            self.kinds += [self.forget] * 6 + [self.doom] * 8
        for _ in range(faults):
            self.at(self.random.uniform(0.5, HEAL_SECONDS), self.random.choice(self.kinds))

    def run(self) -> Verdict:
        """Faults, healing, and then as long as it takes to go on by two rounds, or should."""
        self.run_until(HEAL_SECONDS, lambda: False)
        self.heal()
        self.run_until(HEAL_SECONDS + SETTLE_SECONDS, lambda: False)
        front, is_intact = self.front(), self.is_intact()
        goal = front.round + 2
        limit = LIMIT_SECONDS if is_intact else self.now + 15.0
        self.run_until(limit, lambda: is_intact and self.slowest() >= goal)
        has_progressed = self.slowest() >= goal
        # What was accepted before may name members that have died since: judge by those of the newest round.
        is_intact = is_intact and (has_progressed or self.is_intact())
        self.figures["seconds to progress"] = int(self.now - HEAL_SECONDS)
        return Verdict(self.front().round, is_intact, has_progressed, dict(self.figures))

    def run_until(self, seconds: float, is_over: Callable[[], bool]) -> None:
        while self.queue and self.queue[0][0] <= seconds and not is_over():
            self.now, _, work = heapq.heappop(self.queue)
            work()
        self.now = max(self.now, seconds) if not is_over() else self.now

    # ---- how it ends ------------------------------------------------------------------------------------------

    def alive(self) -> list[Actor]:
        return [self.actors[peer] for peer in sorted(self.actors) if self.actors[peer].alive]

    def listed(self) -> list[Actor]:
        return [a for a in self.alive() if a.peer in self.rosters[a.machine.island].peers]

    def front(self) -> State:
        states = [actor.state for actor in self.alive()]
        return max(states, key=lambda state: state.round, default=State(-1, b"", ()))

    def slowest(self) -> int:
        return min((actor.machine.round for actor in self.listed()), default=-1)

    def is_intact(self) -> bool:
        """Whether somebody on the list of each island of a quorum of the newest round knows its votes.

        Or there is anybody of every member island, as lost votes are given anew then. That does not bring back the
        result of a round that was decided.
        """
        front = self.front()
        members = {member.island: member.version for member in front.members}
        here = {a.machine.island for a in self.listed()} & set(members)
        knowing = {a.machine.island for a in self.listed() if self.knows(a, members)}
        are_here = bool(members) and here == set(members)
        is_result_lost = any(a.cannot_merge and a.state == front for a in self.listed())
        if is_result_lost and (
            (front.round, front.base) in self.given_anew or not is_quorum(knowing, members)
        ):
            self.figures["results lost"] = 1
            return False
        # What is accepted binds, also to who is to vote next.
        accepted = [a.machine.votes.accepted for a in self.listed() if a.state == front]
        bound = [{m.island for m in a.choice.members} for a in accepted if a is not None]
        may_go_on = all(self.can_decide(next_members, set(members)) for next_members in bound)
        return may_go_on and (is_quorum(knowing, members) or are_here)

    def can_decide(self, following: set[int], members: set[int]) -> bool:
        """Whether newcomers that have to hold a result before it is decided live."""
        here = {a.machine.island for a in self.listed()}
        return following <= members or is_quorum(here, following)

    def knows(self, actor: Actor, members: dict[int, int]) -> bool:
        votes, is_at_front = actor.machine.votes, actor.machine.round == self.front().round
        return votes.fence <= members.get(votes.island, -1) or (is_at_front and votes.may_vote)

    def heal(self) -> None:
        self.healed, self.loss, self.groups = True, 0.0, {}
        self.waits = CALM
        for actor in self.alive():
            actor.armed, actor.machine._chair._waits = False, CALM
            if actor.state.base == STRAY:
                self.kill(actor)  # its island finds out that its replicas differ
            self.later(0.0, 5.0, actor, partial(self.offer, actor, actor.state))

    # ---- rosters ----------------------------------------------------------------------------------------------

    def relist(self, island: int, peers: list[PeerId]) -> Roster:
        """A new version of an island's list; those on it, and their siblings, hear of it in their own time."""
        roster = self.rosters[island]
        roster.version, roster.peers = roster.version + 1, sorted(peers)
        for actor in self.alive():
            if actor.machine.island == island and (
                actor.peer in peers or self.random.random() < 0.3
            ):
                self.later(0.0, 2.0, actor, partial(self.hear_roster, actor))
        return roster

    def hear_roster(self, actor: Actor) -> None:
        roster = self.rosters[actor.machine.island]
        is_listed = actor.peer in roster.peers
        since = roster.version if actor.was_out and is_listed else 0
        actor.machine.set_peers(roster.version, roster.peers, since)
        actor.was_out = actor.was_out and not is_listed
        self.confirm(actor, roster.version)

    def unlist(self, island: int, peer: PeerId) -> None:
        if peer in self.rosters[island].peers:
            self.relist(island, [p for p in self.rosters[island].peers if p != peer])

    def kill(self, actor: Actor) -> None:
        """The process ends; its island notices some seconds later, unless it is back by then."""
        super().kill(actor)

        def notice() -> None:
            if not self.actors[actor.peer].alive:
                self.unlist(actor.machine.island, actor.peer)

        self.at(self.now + self.random.uniform(0.5, 4.0), notice)

    def admit(self, island: int, peer: PeerId, state: State | None = None) -> None:
        """A new process joins the island's list: its state comes from a sibling, or else from a snapshot."""
        roster = self.rosters[island]
        siblings = [a for a in self.listed() if a.machine.island == island and a.peer != peer]
        kept = self.random.choice(siblings).state if siblings else roster.snapshot
        state = state or kept or self.front()
        if not siblings:
            roster.generation += 1
        if state.round < 0:
            return
        roster = self.relist(island, [p for p in roster.peers if p != peer] + [peer])
        actor = self.start(island, peer, state)
        if siblings and self.random.random() < 0.5:
            actor.payloads |= siblings[0].payloads

    # ---- faults -----------------------------------------------------------------------------------------------

    def some(self) -> Actor | None:
        return self.random.choice(self.alive()) if self.alive() else None

    def kill_one(self) -> None:
        if actor := self.some():
            self.kill(actor)

    def arm(self) -> None:
        """The process dies in the middle of what it does next."""
        if actor := self.some():
            actor.armed = True

    def split(self) -> None:
        """Peers, or whole islands, fall apart into two or three parts that do not hear each other for a while."""
        parts, whole = self.random.choice((2, 2, 3)), self.random.random() < 0.5
        of_island = {island: self.random.randrange(parts) for island in self.rosters}
        for peer in sorted(self.actors):
            island = self.actors[peer].machine.island
            self.groups[peer] = of_island[island] if whole else self.random.randrange(parts)
        self.at(self.now + self.random.uniform(2.0, 12.0), self.groups.clear)

    def join(self) -> None:
        """A replica that the island did not have."""
        island = self.random.choice(sorted(self.rosters))
        self.admit(island, PeerId(f"{island}{self.random.choice('defg')}{self.count}"))

    def restart(self) -> None:
        """A process ends and starts again with nothing of what it knew."""
        if actor := self.some():
            actor.alive = False
            self.admit(actor.machine.island, actor.peer)

    def doom(self) -> None:
        """Whose peer learns the next choice is forgotten right then, and cut off for a while."""
        self.is_doomed = True

    def judge(self, actor: Actor, choice: Choice) -> None:
        super().judge(actor, choice)
        if self.loses_first and actor.machine.round == 0 and actor.machine.island:
            self.loses_first = False
            for first in [a for a in self.alive() if a.machine.island == 0]:
                self.kill(first)
        if self.is_doomed and not self.healed:
            island, self.is_doomed = actor.machine.island, False
            self.at(self.now + self.random.uniform(0.0, 0.5), partial(self.forget, island))
            if self.random.random() < 0.7:
                self.at(self.now + 0.5, partial(self.cut_off, island))

    def cut_off(self, island: int) -> None:
        self.groups = {p: 1 for p, a in self.actors.items() if a.machine.island == island}
        self.at(self.now + self.random.uniform(2.0, 12.0), self.groups.clear)

    def forget(self, island: int | None = None) -> None:
        """All replicas of a stage start again at once, from a snapshot of this round or an earlier one."""
        if island is None:
            island = self.random.choice(sorted(self.rosters))
        dying = [a for a in self.alive() if a.machine.island == island]
        for actor in dying:
            actor.alive = False
        roster = self.rosters[island]
        if dying and self.random.random() < 0.7:
            roster.snapshot = max((a.state for a in dying), key=lambda state: state.round)
        roster.peers = []
        for letter in "abz"[: self.random.choice((1, 1, 2, 3))]:
            self.admit(island, PeerId(f"{island}{letter}"))
        self.figures["forgotten"] += 1

    def kill_island(self) -> None:
        island = self.random.choice(sorted(self.rosters))
        for actor in [a for a in self.alive() if a.machine.island == island]:
            self.kill(actor)

    def revive(self) -> None:
        """An island whose replicas are all dead starts again, from a snapshot of some earlier round."""
        here = {actor.machine.island for actor in self.alive()}
        for island in sorted(self.rosters):
            if island not in here:
                peer = PeerId(f"{island}{self.random.choice('abz')}")
                self.rosters[island].peers = []
                self.admit(island, peer)

    def late_island(self) -> None:
        island = max(self.rosters) + 1
        if island < 8:
            self.rosters[island] = Roster()
            self.admit(island, PeerId(f"{island}a"))

    def drop(self) -> None:
        """An island takes a living peer to be lost, and later takes it back."""
        actor = self.some()
        if actor is None or len(self.rosters[actor.machine.island].peers) < 2:
            return
        actor.was_out = True
        self.unlist(actor.machine.island, actor.peer)

        def take_back() -> None:
            roster = self.rosters[actor.machine.island]
            if self.actors[actor.peer] is actor and actor.alive and actor.peer not in roster.peers:
                self.relist(actor.machine.island, [*roster.peers, actor.peer])

        self.at(self.now + self.random.uniform(0.5, 8.0), take_back)

    def stray(self) -> None:
        """A process comes back with an outer state of the right round that is another one."""
        actor = self.some()
        if actor is not None and actor.state.base != STRAY:
            actor.alive = False
            state = State(actor.state.round, STRAY, actor.state.members)
            self.admit(actor.machine.island, actor.peer, state)

    def lossy(self) -> None:
        self.loss, self.slow = self.random.choice((0.0, 0.1, 0.3)), self.random.choice((0.02, 0.2))


def run(
    seed: int,
    faults: int = 7,
    is_stormy: bool = False,
    machine: type[RoundGroup] = RoundGroup,
    is_forgetful: bool = False,
    world: type[FaultyWorld] = FaultyWorld,
    is_young: bool = False,
) -> Verdict:
    """One run, wholly determined by its arguments. Raises Violation."""
    return world(seed, machine, faults, is_stormy, is_forgetful, is_young).run()


class LonelyWorld(FaultyWorld):
    """A run begins; when the island that alone votes begins to gather, or has a result, or when another one learns that
    it was chosen, all others are cut off, some of them die, and often the chair does."""

    def __init__(self, seed: int, machine: type[RoundGroup], faults: int, *_: bool) -> None:
        super().__init__(seed, machine, faults, is_stormy=False, is_young=True)
        self.loses_first = False
        self.parts_at = self.random.choice(("gathering", "held", "chosen", "chosen"))
        self.swallowed = PeerId(""), 0.0

    def begin(self, actor: Actor, effect: Gather) -> None:
        super().begin(actor, effect)
        if actor.machine.votes.is_member and self.parts_at == "gathering":
            self.part(actor)

    def gathered(
        self, actor: Actor, effect: Gather, result: Digest, missing: tuple[int, ...]
    ) -> None:
        super().gathered(actor, effect, result, missing)
        if result and actor.machine.votes.is_member and self.parts_at == "held":
            self.part(actor)

    def judge(self, actor: Actor, choice: Choice) -> None:
        super().judge(actor, choice)
        if actor.machine.island and self.parts_at == "chosen":
            self.part(actor)

    def part(self, actor: Actor) -> None:
        if actor.machine.round or self.healed or self.figures["parted"]:
            return
        self.figures["parted"] += 1
        others = [a for a in self.alive() if a.machine.island]
        if self.parts_at != "chosen":
            share = self.random.choice((0.5, 1.0))
            for other in others:
                if self.random.random() < share:
                    self.kill(other)
        self.groups = {a.peer: 1 for a in others}
        self.at(self.now + self.random.choice((3.0, 20.0)), self.groups.clear)
        if self.random.random() < 0.7:
            soon = 0.0 if self.parts_at == "chosen" else self.random.uniform(0.0, 8.0)
            self.at(self.now + soon, self.kill_first)

    def kill_first(self) -> None:
        """The chair, mostly, with what it has just sent."""
        mine = [a for a in self.alive() if a.machine.island == 0]
        if len(mine) > 1:
            is_open = not mine[0].machine.round and mine[0].machine.choice is None
            self.figures["died holding"] += is_open and bool(mine[0].results)
            self.kill(mine[0])
            self.swallowed = mine[0].peer, self.now + 0.3

    def deliver(self, sender: PeerId, to: PeerId, message: RoundMessage) -> None:
        peer, until_seconds = self.swallowed
        if sender != peer or self.now > until_seconds:
            super().deliver(sender, to, message)


class LyingWorld(FaultyWorld):
    """One peer tells decisions that nobody made, and votes under the names of all others, at every tick of its own.

    It signs with its own key for whomever it names: all that it has. Its own votes are honest, as nobody could tell.
    """

    def tick(self, actor: Actor) -> None:
        if actor.peer == max(self.rosters[max(self.rosters)].peers, default=None):
            for other in self.alive():
                if other is not actor and other.machine.choice is None and other.machine.round >= 0:
                    self.lie(actor, other)
        super().tick(actor)

    def lie(self, liar: Actor, other: Actor) -> None:
        machine, attempt = other.machine, other.machine._chair.attempt
        if attempt is not None and attempt.choice is not None:
            for island, listed in sorted(machine._roll.lists.items()):
                said = island, listed, attempt.ballot, attempt.choice
                vote = self.false_vote(liar, machine._head, *said)
                for name in sorted({*listed.peers} - {liar.peer}):
                    self.tell(other, name, vote)
        choice = Choice((), machine.members, b"what nobody came to")
        lists = {m.island: ReplicaList(m.version, (liar.peer,)) for m in machine.members}
        ballot = Ballot(1, liar.peer, 1)
        votes = votes_of(lists, machine._head, ballot, choice)
        speaker, holders = liar.machine._speaker, (liar.peer,)
        decided = RoundDecided(*machine._head, *speaker, choice, holders, ballot, votes)
        self.tell(other, liar.peer, decided)

    def tell(self, other: Actor, name: PeerId, message: Collected | RoundDecided) -> None:
        self.figures["lies"] += 1
        self.deliver(name, other.peer, message)

    def false_vote(
        self,
        liar: Actor,
        head: Head,
        island: int,
        listed: ReplicaList,
        ballot: Ballot,
        choice: Choice,
    ) -> Collected:
        """Under the list that the other has heard: lists are not signed."""
        key = signing_of(liar.peer)
        result = choice.result or b"what nobody came to"
        text = vote_text("run", head, ballot, island, listed, replace(choice, result=result))
        vote = Collected(*head, ballot, island, listed.version, listed.peers, result, ())
        return replace(vote, public_key=key.public_key, signature=key.sign(text))


class ForsakenWorld(LonelyWorld):
    """A run begins, and newcomers never come by its first result. When all peers of the island that alone votes have
    it, all others mostly die for good, and soon after them the chair."""

    def __init__(self, seed: int, machine: type[RoundGroup], faults: int, *_: bool) -> None:
        super().__init__(seed, machine, faults)
        self.parts_at, self.they_die = "", self.random.random() < 0.8

    def begin(self, actor: Actor, effect: Gather) -> None:
        if actor.machine.round or actor.machine.votes.is_member:
            super().begin(actor, effect)

    def gathered(
        self, actor: Actor, effect: Gather, result: Digest, missing: tuple[int, ...]
    ) -> None:
        super().gathered(actor, effect, result, missing)
        first = [a for a in self.alive() if a.machine.island == 0]
        if not self.figures["parted"] and all(a.results for a in first):
            self.figures["parted"] += 1
            for other in [a for a in self.alive() if a.machine.island] * self.they_die:
                self.kill(other)
            self.at(self.now + self.random.uniform(0.0, 2.0), self.kill_first)
