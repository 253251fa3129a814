"""What peers make of their island's lists, in the explored world: nobody may believe to know votes that were given
while it was off the list.

Peers that were dropped ask to be back, as they do in a run. A list counts as acted on when everybody on it was seen to
be ready to vote under it; whoever is not on it, and takes itself to have been on all lists then, is a violation.
"""

from collections import Counter

from swarmtrain.core.messages import Join
from swarmtrain.core.types import Member, PeerId
from swarmtrain.outer.effects import Seat
from swarmtrain.outer.votes import Votes
from swarmtrain.steps.ballot import list_version
from tests.outer.group_world import signing_of
from tests.steps.actor import Actor
from tests.steps.explorer import Explorer
from tests.steps.world import Setting, Verdict, Violation, World

Listed = tuple[int, int, tuple[PeerId, ...]]
"""A stage, and the version and the peers of a list of its replicas."""


class ListWorld(World):
    """A world in which each peer also keeps its share of the island's vote, as `peer.rounds` does."""

    def __init__(self, seed: int, setting: Setting) -> None:
        super().__init__(seed, setting)
        self.votes: dict[PeerId, Votes] = {}
        self.ready: dict[Listed, set[PeerId]] = {}
        self.acted: set[Listed] = set()
        self.figures: Counter[str] = Counter()

    def looked(self, actor: Actor) -> None:
        opening = actor.member.ledger.open
        mine = opening.roster.member(actor.peer) if opening is not None else None
        if opening is not None and mine is not None:
            version = list_version(opening.term, opening.roster.version)
            self._take(actor, version, opening.roster.replicas(actor.stage), mine.since)
        votes = self.votes.get(actor.peer)
        if votes is None:
            return
        votes.confirm(actor.member.confirmed)
        if votes.is_settled:
            self._ready(actor, (actor.stage, votes.version, votes.peers))

    def _take(self, actor: Actor, version: int, peers: tuple[PeerId, ...], since: int) -> None:
        votes = self.votes.get(actor.peer)
        if votes is None:
            seat = Seat(actor.peer, 0, version, peers, signing_of(actor.peer))
            begins = actor.member.step == 0 and version == list_version(actor.member.term, 1)
            is_first = begins and not since
            votes = self.votes[actor.peer] = Votes(seat, is_first)
            votes.fence = 0 if is_first else version
        elif version > votes.version:
            before = votes.fence
            votes.set_peers(version, peers, since)
            self.figures["lists"] += 1
            self.figures["came back"] += votes.fence != before
            self.figures["not settled"] += not votes.is_settled
        for listed in self.acted:
            self._judge(actor, listed)

    def _ready(self, actor: Actor, listed: Listed) -> None:
        ready = self.ready.setdefault(listed, set())
        ready.add(actor.peer)
        if ready >= set(listed[2]) and listed not in self.acted:
            self.acted.add(listed)
            for other in self.actors.values():
                self._judge(other, listed)

    def _judge(self, actor: Actor, listed: Listed) -> None:
        stage, version, peers = listed
        votes = self.votes.get(actor.peer)
        if votes is None or actor.stage != stage or actor.peer in peers:
            return
        if votes.fence <= version <= votes.version:
            raise Violation("missed", f"{actor.peer} missed what {peers} voted under {version:x}")


class ListExplorer(Explorer):
    """Runs such a world; who is not in a conductor's roster, and reaches it, asks to be."""

    world: ListWorld

    def _ask_again(self) -> bool:
        moved = super()._ask_again()
        conductors = [
            a for a in self._alive() if a.live and a.conductor is not None and not a.ended
        ]
        for actor in self._alive():
            near = [c for c in conductors if self._reaches(actor, c.peer) and c is not actor]
            for other in near if actor.live and actor.conductor is None else ():
                assert other.conductor is not None
                if actor.peer not in other.conductor.roster and not actor.ended:
                    here = (actor.member.step, actor.member.base)
                    member = Member(actor.peer, (actor.stage,), "")
                    self.world.tell(actor.peer, other.peer, Join(member, *here))
                    self.world.figures["asked in"] += 1
                    moved = True
        return moved


def explore(seed: int, setting: Setting) -> tuple[Verdict, Counter[str]]:
    """One run, wholly determined by `seed` and `setting`; and what happened to lists in it."""
    explorer = ListExplorer(seed, setting, ListWorld)
    verdict = explorer.run()
    world = explorer.world
    world.figures["acted on"] += len(world.acted)
    return verdict, world.figures
