"""Machines of a group in one room, and what tests of them say to each other."""

from collections import Counter, deque
from dataclasses import replace

from swarmtrain.core.events import Noted
from swarmtrain.core.rounds import (
    Ballot,
    Choice,
    Counted,
    GroupMember,
    Measured,
    RoundDecided,
    RoundMessage,
)
from swarmtrain.core.types import PeerId
from swarmtrain.outer.effects import Chosen, Effect, Gather, Note, Seat, SendRound, Waits
from swarmtrain.outer.group import RoundGroup
from swarmtrain.outer.roll import ReplicaList
from tests.outer.group_world import signing_of, votes_of

WAITS = Waits(patience=3.0, grace=4.0, gather=8.0)
BASE, RESULT = b"base", b"result"
HEAD = (1, 0, 0, BASE)
A, B, C, D = PeerId("a"), PeerId("b"), PeerId("c"), PeerId("d")


class Room:
    """Machines in one room: every message arrives at once, in the order of sending; `silent` peers hear nothing.

    Of `islands` the first `voters` vote, all unless told. Peers in `lacking` cannot have the payloads of those.
    """

    def __init__(
        self,
        *islands: tuple[PeerId, ...],
        voters: int | None = None,
        distortion: float | None = None,
    ) -> None:
        self.now, self.sent, self.silent = 0.0, Counter[str](), set[PeerId]()
        self.queue: deque[tuple[PeerId, PeerId, RoundMessage]] = deque()
        self.members = tuple(GroupMember(island, 1) for island in range(len(islands)))[:voters]
        self.lacking: dict[PeerId, tuple[int, ...]] = {}
        self.chosen: dict[PeerId, Choice] = {}
        self.noted: list[str] = []
        self.gathered: set[PeerId] = set()
        self.groups: dict[PeerId, RoundGroup] = {}
        for island, peers in enumerate(islands):
            for peer in peers:
                seat = Seat(peer, island, 1, peers, signing_of(peer))
                self.groups[peer] = RoundGroup((1, 0), seat, WAITS, True, distortion=distortion)
        for peer, group in self.groups.items():
            for other in self.groups:
                group.seen(other)
            self.carry(peer, group.advance(0, BASE, self.members, 0.0))

    def carry(self, peer: PeerId, effects: list[Effect]) -> None:
        self.post(peer, effects)
        while self.queue:
            sender, to, message = self.queue.popleft()
            if not {sender, to} & self.silent:
                self.sent[type(message).__name__] += 1
                self.post(to, self.groups[to].handle(sender, message, self.now))

    def post(self, peer: PeerId, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendRound(to, message):
                    self.queue.append((peer, to, message))
                case Gather():
                    counted = {entry.island for entry in effect.choice.counted}
                    missing = tuple(counted.intersection(self.lacking.get(peer, ())))
                    result = b"" if missing else RESULT
                    self.gathered |= set() if missing else {peer}
                    self.post(peer, self.groups[peer].collected(effect, result, missing, self.now))
                case Chosen(choice):
                    self.chosen[peer] = choice
                case Note(Noted(what=what)):
                    self.noted.append(what)

    def offer(
        self, peer: PeerId, measured: tuple[Measured, ...] = (), slack_seconds: float = -1.0
    ) -> None:
        group, name = self.groups[peer], b"of %d" % self.groups[peer].island
        self.carry(peer, group.offer(10, name, self.now, 0.0, measured, slack_seconds))

    def tick(self, seconds: float) -> None:
        self.now += seconds
        for peer in self.groups:
            if peer not in self.silent:
                self.carry(peer, self.groups[peer].tick(self.now))

    def die(self, peer: PeerId) -> None:
        self.silent.add(peer)
        for group in self.groups.values():
            group.lost(peer)


def relist(group: RoundGroup, version: int, peers: tuple[PeerId, ...], since: int = 0) -> None:
    """The island has another list, and all of its roster have it."""
    group.set_peers(version, peers, since)
    group.confirm(version)


def alone(
    peers: tuple[PeerId, ...] = (A,), version: int = 1, is_first: bool = True, islands: int = 3
) -> RoundGroup:
    """Peer `a` of island 0, among islands 0, 1 and on."""
    group = RoundGroup((1, 0), Seat(A, 0, version, peers, signing_of(A)), WAITS, is_first)
    group.advance(0, BASE, [GroupMember(island, 1) for island in range(islands)], 0.0)
    return group


def to(peer: PeerId, effects: list[Effect]) -> list[RoundMessage]:
    return [e.message for e in effects if isinstance(e, SendRound) and e.to == peer]


def choice_of(*islands: int) -> Choice:
    return Choice(tuple(Counted(i, 10, b"of %d" % i) for i in islands), (GroupMember(0, 1),), b"")


def decision(voters: dict[int, tuple[PeerId, ...]], version: int = 1) -> RoundDecided:
    """What island 0 tells of a choice that `voters` accepted, under that version of their lists."""
    choice, ballot = replace(choice_of(0), result=RESULT), Ballot(1, A, 1)
    lists = {island: ReplicaList(version, peers) for island, peers in voters.items()}
    votes = votes_of(lists, HEAD, ballot, choice)
    return RoundDecided(*HEAD, 0, 1, (A,), choice, (A,), ballot, votes)
