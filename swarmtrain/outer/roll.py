"""Who is in a group as one peer has heard it: whose votes count, and who is to be in the next round.

An island's vote counts when all peers on its replica list gave it under one version of the list: the newest that the
chair has heard of, and none older than the round asks for. Whoever joins a list later was told the votes by somebody on
it, who from then on speaks under a list with the newcomer. So no vote is lost with a peer, and no two lists of an
island can vote differently.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from swarmtrain.core.rounds import (
    Choice,
    Collected,
    Counted,
    GroupMember,
    RoundOffer,
    RoundPromise,
    VotesTell,
    is_quorum,
)
from swarmtrain.core.types import PeerId


@dataclass(frozen=True, slots=True)
class ReplicaList:
    """An island's replicas of the stage, ascending, at a version of its roster."""

    version: int
    peers: tuple[PeerId, ...]


class Roll:
    """Everybody that a peer has heard of in its group, and whom it takes to be lost."""

    def __init__(self) -> None:
        self.lists: dict[int, ReplicaList] = {}
        self.lost: set[PeerId] = set()
        self._strangers: set[PeerId] = set()
        self._island_of: dict[PeerId, int] = {}

    def hear(self, island: int, version: int, peers: tuple[PeerId, ...]) -> None:
        """A replica list; an older one than is known changes nothing."""
        known = self.lists.get(island)
        if known is None or version > known.version:
            self.lists[island] = ReplicaList(version, tuple(sorted(peers)))
            self._strangers.difference_update(peers)
            self._island_of.update(dict.fromkeys(peers, island))

    def is_current(self, island: int, version: int) -> bool:
        """Whether no newer replica list of `island` is known."""
        known = self.lists.get(island)
        return known is None or version >= known.version

    def see(self, peer: PeerId) -> None:
        """`peer` lives; on no list known here, it is somebody to greet."""
        self.lost.discard(peer)
        if not any(peer in listed.peers for listed in self.lists.values()):
            self._strangers.add(peer)

    def lose(self, peer: PeerId) -> None:
        self.lost.add(peer)

    def forget_dead(self, members: Collection[int]) -> None:
        """Drop islands that are no members any more and wholly lost, and lost peers of no known island."""
        self._strangers -= self.lost
        for island in [i for i in self.lists if i not in members and not self.is_alive(i)]:
            del self.lists[island]

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """All, the lost ones as well, which may come back: ascending."""
        listed = {peer for entry in self.lists.values() for peer in entry.peers}
        return tuple(sorted(listed | self._strangers))

    def is_alive(self, island: int) -> bool:
        """Whether not all its peers are lost, or in another island by now; an island that was not heard of yet may
        well live."""
        listed = self.lists.get(island)
        if listed is None:
            return True
        return any(p not in self.lost and self._island_of[p] == island for p in listed.peers)

    def absent(self, members: Sequence[GroupMember], is_each_needed: bool) -> tuple[int, ...]:
        """The islands of `members` of whom no living peer is known; none where the others suffice as a quorum."""
        islands = [member.island for member in members]
        present = [i for i in islands if i in self.lists and self.is_alive(i)]
        missing = set(islands).difference(present)
        suffices = is_quorum(present, islands) and not is_each_needed
        return () if suffices else tuple(sorted(missing))

    def live_peers(self, islands: Iterable[int]) -> tuple[PeerId, ...]:
        """The peers of `islands` that are not lost, ascending by island, then by peer."""
        lists = [self.lists[island] for island in sorted(islands) if island in self.lists]
        return tuple(peer for entry in lists for peer in entry.peers if peer not in self.lost)


Answers = Mapping[PeerId, RoundPromise] | Mapping[PeerId, Collected] | Mapping[PeerId, VotesTell]


def voted(
    roll: Roll,
    members: Sequence[GroupMember],
    answers: Answers,
) -> tuple[int, ...]:
    """The member islands whose peers all gave one of `answers`, under the newest list of their island."""
    return tuple(member.island for member in members if _has_voted(roll, member, answers))


def _has_voted(roll: Roll, member: GroupMember, answers: Answers) -> bool:
    listed = roll.lists.get(member.island)
    if listed is None or listed.version < member.version or not listed.peers:
        return False
    given = [answers.get(peer) for peer in listed.peers]
    # An answer under an older list may be of a process that has died since, and whose votes were not kept.
    return all(answer is not None and answer.version == listed.version for answer in given)


def choose(
    roll: Roll,
    members: Sequence[GroupMember],
    offers: Mapping[int, RoundOffer],
    barred: Collection[int] = (),
) -> Choice:
    """What a chair proposes when nothing was accepted: all offers with tokens, and everybody alive votes next, of
    newcomers those that are not `barred`.

    Versions only grow from round to round, or an older list could vote once more beside the newer.
    """
    versions = {member.island: member.version for member in members}
    staying = {island for island in versions if roll.is_alive(island)}
    staying |= set(offers) - (set(barred) - set(versions))
    for island in staying:
        heard = [entry.version for entry in (roll.lists.get(island),) if entry is not None]
        heard += [offers[island].version] if island in offers else []
        versions[island] = max([versions.get(island, 0), *heard])
    counted = [
        Counted(i, offers[i].tokens, offers[i].digest) for i in sorted(offers) if offers[i].tokens
    ]
    following = [GroupMember(island, versions[island]) for island in sorted(staying)]
    return Choice(tuple(counted), tuple(following), b"")
