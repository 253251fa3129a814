"""How an island that lost its votes in a round, with all replicas that knew them, comes to vote in that round again.

The first peer on its list leads. Its siblings say that they do not know either, and it has every other member island
promise a ballot above all that was heard of (`_STRIDE`: also above what was not), every replica on its newest list. Of
what they accepted, the highest is the island's vote again, once its result is here: then siblings are told as ever. So
this is a chair's first question, put to everybody. Why no two choices can be decided:

- What the lost votes had part in deciding has a vote of every other island of that quorum, which answers with it. Where
  all of these lost theirs (a lone island, the lower of two, an outage of many), only who learned the choice can know of
  it: another member's peer that did answers with it, everybody else is greeted and has `patience` to tell. A choice
  that nobody among them has heard of may fall, with what came of it. Who is in no member island may have followed it
  out of reach, and catches up when the group is further on.
- No ballot that the lost votes could have promised or accepted is of any use: all members refuse those below the new
  one. Nor is what the dead said: the question names the new list, and under an older one nothing counts, neither
  promises, votes (`roll.voted`) nor decisions.
- A list has one leader, and answers under an older list are asked for again. Should a sibling know more after all, told
  late by one that is dead by now, then no harm is done: a vote of the island is what all its replicas stand by.
- If all is lost once more meanwhile, it begins anew, under a newer list and a higher ballot. It holds for this round
  only. Where several islands lost their votes, each promises to the others, and keeps that when it votes again.
"""

from collections.abc import Sequence

from swarmtrain.core.rounds import NO_BALLOT, Accepted, Ballot, GroupMember, VotesAsk, VotesTell
from swarmtrain.core.types import Digest, PeerId
from swarmtrain.outer.effects import Effect, SendRound, Waits
from swarmtrain.outer.roll import Roll, voted
from swarmtrain.outer.votes import Known, Votes

_STRIDE = 1000
"""Attempts above the highest that was heard of: more than chairs out of reach can have made by themselves."""


class Recovery:
    """What one peer asks and hears while it may not vote in a round of which its island is a member."""

    def __init__(self, waits: Waits, roll: Roll, votes: Votes, born: int) -> None:
        self._waits, self._roll, self._votes, self._born = waits, roll, votes, born
        self.enter((0, 0, -1, b""), ())

    def enter(self, head: tuple[int, int, int, Digest], members: Sequence[GroupMember]) -> None:
        """A new round, of stage, fragment, number and base `head`."""
        self._head = head
        self._others = [member for member in members if member.island != self._votes.island]
        self._begin(NO_BALLOT, -1, 0.0)

    def _begin(self, ballot: Ballot, version: int, now_seconds: float) -> None:
        self.ballot, self._version, self._since_seconds = ballot, version, now_seconds
        self._answers: dict[PeerId, VotesTell] = {}

    @property
    def _leads(self) -> bool:
        return self._votes.peers[:1] == (self._votes.peer,)

    def ask(self, heard: Ballot, now_seconds: float) -> list[Effect]:
        """Ask siblings, who may know by now, and as the leader others that have not answered.

        `heard` is the highest ballot known.
        """
        votes = self._votes
        if votes.version != self._version or any(a.promised > self.ballot for a in self._told()):
            highest = max(heard, *(answer.promised for answer in self._told()), NO_BALLOT)
            ballot = Ballot(highest.attempt + _STRIDE, votes.peer, self._born)
            self._begin(ballot, votes.version, now_seconds)
        asked = [peer for peer in votes.peers if peer != votes.peer]
        if self._leads:
            lists = [self._roll.lists.get(member.island) for member in self._others]
            others = [peer for entry in lists if entry for peer in entry.peers]
            asked += [peer for peer in others if not self._has_answered(peer)]
        ask = VotesAsk(*self._head, votes.island, votes.version, votes.peers, self.ballot)
        return [SendRound(peer, ask) for peer in asked]

    def hear(self, sender: PeerId, tell: VotesTell) -> None:
        """An answer of another island, or of a sibling that does not know; those to an older question say nothing."""
        if tell.island == self._votes.island or tell.promised >= self.ballot:
            self._answers[sender] = tell

    def forget_gone(self) -> None:
        """What was found cannot be had: who told it has died, and may be all who knew it."""
        self._answers = {p: a for p, a in self._answers.items() if self._has_answered(p)}

    def found(self, now_seconds: float) -> tuple[Known, tuple[PeerId, ...]] | None:
        """What the island is bound by from now on, and who holds its result; None while anybody is to be heard."""
        is_time = now_seconds >= self._since_seconds + self._waits.patience
        if not (self._leads and is_time and self._siblings_lack() and self._others_told()):
            return None
        votes = [(peer, a.accepted) for peer, a in sorted(self._answers.items()) if a.accepted]
        highest: Accepted | None = max(
            (accepted for _, accepted in votes), key=lambda a: a.ballot, default=None
        )
        holders = tuple(peer for peer, accepted in votes if accepted == highest)
        return Known(self._votes.fence, self.ballot, highest), holders

    def _told(self) -> list[VotesTell]:
        return [a for a in self._answers.values() if a.island != self._votes.island]

    def _has_answered(self, peer: PeerId) -> bool:
        answer = self._answers.get(peer)
        listed = self._roll.lists.get(answer.island) if answer is not None else None
        if answer is None or listed is None:
            return False
        return peer in listed.peers and answer.version == listed.version

    def _siblings_lack(self) -> bool:
        """Whether nobody on this island's list knows its votes."""
        siblings = [peer for peer in self._votes.peers if peer != self._votes.peer]
        answers = [self._answers.get(peer) for peer in siblings]
        return all(a is not None and a.version == self._version for a in answers)

    def _others_told(self) -> bool:
        """Whether all replicas of all other members promised the ballot and told their votes."""
        told = {p: a for p, a in self._answers.items() if a.promised == self.ballot}
        return len(voted(self._roll, self._others, told)) == len(self._others)
