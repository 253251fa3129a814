"""One peer's share of its island's vote in the rounds of a place: what it promised and accepted, and whether it may.

A peer knows what its island voted under lists of version `fence` or later: the version it came into the list with, or
the fence of the sibling who told it all votes before. Who was there when the run began knows all of that first round.
A round counts votes under lists no older than its member entry (`GroupMember.version`). So a peer votes in rounds whose
entry is at its fence or above, and else only in a round whose votes it was told: by a sibling, or, where none is left
that knows them, by all other islands (`outer.recovery`).

Under a list that lacks somebody who could vote before, votes are given only once it is confirmed: every peer of the
island's roster has it. Else who was left out could be back, under a conductor that never heard of that list, and think
that it missed nothing. A list that still has everybody needs no such proof: nothing can be voted without them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from swarmtrain.core.rounds import NO_BALLOT, Accepted, Ballot, Choice, GroupMember, VotesTell
from swarmtrain.core.types import Digest, PeerId
from swarmtrain.outer.effects import Seat


@dataclass(frozen=True, slots=True)
class Known:
    """All that an island is bound by in a round, for one who has votes under lists of `fence` or later from then on."""

    fence: int
    promised: Ballot
    accepted: Accepted | None


class Votes:
    """The votes of one peer in one round after another."""

    def __init__(self, seat: Seat, is_first: bool) -> None:
        """`is_first`: nobody has voted before in the round that is entered first. In later ones an island of the same
        number may have, whose peers all died before this one began."""
        self.peer, self.island = seat.peer, seat.island
        self.version, self.peers, self.fence = seat.version, tuple(sorted(seat.peers)), seat.version
        self._needed = frozenset(self.peers) if is_first else None
        self._is_first = False
        self.enter(())
        self._is_first = is_first

    def enter(self, members: Sequence[GroupMember]) -> None:
        """Another round begins: nobody has voted in it here."""
        entry = {member.island: member.version for member in members}
        self._entry = entry.get(self.island)
        self.promised = NO_BALLOT
        self.accepted: Accepted | None = None
        self._gathering: tuple[Ballot, Choice] | None = None
        self._learning: Known | None = None
        self._was_told, self._is_first = self._is_first, False

    def set_peers(self, version: int, peers: tuple[PeerId, ...], since: int) -> None:
        """The island's list, which this peer is on in all versions from `since` on; older versions change nothing.

        Whoever was out of it meanwhile missed what was voted then.
        """
        if version <= self.version:
            return
        if since > self.version or (self.peer in peers and self.peer not in self.peers):
            self.fence, self._gathering, self._learning = version, None, None
            self._was_told, self._needed = False, None
        if self._needed is not None:
            # Who was on a list in between that was not heard here could vote as well.
            follows = version == self.version + 1
            self._needed = self._needed | frozenset(peers) if follows else None
        self.version, self.peers = version, tuple(sorted(peers))

    def confirm(self, version: int) -> None:
        """All in the island's roster have the list `version`. A newer one may be of a conductor that knows no other."""
        if version == self.version:
            self._needed = frozenset(self.peers)

    @property
    def is_settled(self) -> bool:
        """Whether votes may be given under this list: it is confirmed, or has all who may have voted since one was."""
        return self._needed is not None and self._needed <= frozenset(self.peers)

    @property
    def is_member(self) -> bool:
        return self._entry is not None and self.peer in self.peers

    @property
    def may_vote(self) -> bool:
        knows = self._was_told or (self._entry is not None and self.fence <= self._entry)
        return self.is_member and knows

    @property
    def is_learning(self) -> bool:
        """Whether a result is being fetched without which this peer may not vote."""
        return self._learning is not None

    def awaits(self, ballot: Ballot, choice: Choice) -> bool:
        """Whether the result of `choice` is wanted for a vote of `ballot`: one to be given, or one to be learned."""
        learned = self._learning.accepted if self._learning is not None else None
        return self._gathering == (ballot, choice) or learned == Accepted(ballot, choice)

    # ---- promise and accept -----------------------------------------------------------------------------------

    def promise(self, ballot: Ballot) -> bool:
        """Accept nothing below `ballot` from now on; False when a higher one was promised."""
        if ballot < self.promised:
            return False
        self.promised = ballot
        return True

    def gather(self, ballot: Ballot, choice: Choice) -> bool:
        """The result of `choice` is to be gathered; False while that is under way."""
        if self._gathering == (ballot, choice):
            return False
        self._gathering = ballot, choice
        return True

    def gathered(self, ballot: Ballot) -> Choice | None:
        """What was to be gathered for `ballot`; None when that is not awaited any more."""
        if self._gathering is None or self._gathering[0] != ballot:
            return None
        choice, self._gathering = self._gathering[1], None
        return choice if self.may_vote and self.is_settled else None

    def accept(self, ballot: Ballot, choice: Choice, result: Digest) -> bool:
        """The vote; False when it would break a promise, or is for another result than `choice` names."""
        if not self.promise(ballot) or not result or choice.result not in (b"", result):
            return False
        self.accepted = Accepted(ballot, replace(choice, result=result))
        return True

    # ---- votes of others --------------------------------------------------------------------------------------

    def may_tell(self, sibling: PeerId, version: int) -> bool:
        """Whether this peer knows all votes, and gives none from here on without `sibling`, who is at `version`."""
        return self.may_vote and sibling in self.peers and self.version >= version

    def hear(self, tell: VotesTell) -> Accepted | None:
        """The votes of a sibling that knows them; as `learn`. What was told before this peer came in is out of date."""
        if tell.version < self.fence:
            return None
        return self.learn(Known(tell.fence, tell.promised, tell.accepted))

    def learn(self, known: Known) -> Accepted | None:
        """What the island is bound by. What it accepted has to be fetched first: a vote stands for a result held.

        Returns what to fetch, None when there is nothing.
        """
        if self.may_vote or not self.is_member or self._learning:
            return None
        if known.accepted is None:
            self._adopt(known)
            return None
        self._learning = known
        return known.accepted

    def fetched(self, ballot: Ballot, result: Digest) -> None:
        """The result of a vote to be learned is here, or could not be had where `result` is empty."""
        known, self._learning = self._learning, None
        accepted = None if known is None else known.accepted
        if known is None or accepted is None or accepted.ballot != ballot:
            return
        if accepted.choice.result == result:
            self._adopt(known)

    def _adopt(self, known: Known) -> None:
        self.fence, self.accepted = known.fence, known.accepted
        self.promised = max(self.promised, known.promised)
        self._was_told = True
