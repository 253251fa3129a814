"""The agreement on outer rounds with one safeguard taken out each: runs must notice every one of them."""

from collections.abc import Callable
from typing import Any

import pytest

from swarmtrain.core.rounds import (
    Ballot,
    Choice,
    GroupMember,
    RoundMessage,
)
from swarmtrain.core.types import Digest
from swarmtrain.outer import chair, group, roll, signed
from swarmtrain.outer.chair import Chair
from swarmtrain.outer.group import RoundGroup
from swarmtrain.outer.parcel import Table
from swarmtrain.outer.recovery import Recovery
from swarmtrain.outer.roll import Roll
from swarmtrain.outer.votes import Votes
from tests.outer import slice_world

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]


def promises_are_not_kept(patch: Patch) -> None:
    """What was promised to a higher ballot keeps no lower one out."""

    def promise(self: Votes, ballot: Ballot) -> bool:
        self.promised = max(self.promised, ballot)
        return True

    patch.setattr(Votes, "promise", promise)


def promises_end_with_gathering(patch: Patch) -> None:
    """The promise is looked at when gathering begins, but not when it ends."""
    real = Votes.accept

    def accept(self: Votes, ballot: Ballot, choice: Choice, result: Digest) -> bool:
        self.promised, highest = min(self.promised, ballot), self.promised
        is_accepted = real(self, ballot, choice, result)
        self.promised = highest
        return is_accepted

    patch.setattr(Votes, "accept", accept)


def accepted_is_not_proposed_again(patch: Patch) -> None:
    """A chair proposes what it likes."""

    patch.setattr(chair, "accepted_choices", lambda promises: ())


def one_replica_votes_for_all(patch: Patch) -> None:
    """An island's vote is that of any of its replicas."""

    def has_voted(known: Roll, member: GroupMember, answers: Any) -> bool:
        return any(answer.island == member.island for answer in answers.values())

    patch.setattr(roll, "_has_voted", has_voted)


def a_minority_decides(patch: Patch) -> None:
    """Any half of the members is a quorum, and so is any larger minority of a third; readers of decisions agree."""

    def is_quorum(present: Any, members: Any) -> bool:
        voters = frozenset(members)
        return 3 * len(voters.intersection(present)) >= len(voters)

    patch.setattr(chair, "is_quorum", is_quorum)
    patch.setattr(signed, "is_quorum", is_quorum)
    patch.setattr("tests.outer.group_world.is_quorum", is_quorum)


def any_base_will_do(patch: Patch) -> None:
    """Messages of the round count, whatever state they start from."""

    def fits(self: RoundGroup, message: RoundMessage) -> bool:
        return True

    patch.setattr(RoundGroup, "_fits", fits)


def everybody_is_sure(patch: Patch) -> None:
    """Whoever is on the list votes, also where it cannot know what was voted."""
    patch.setattr(Votes, "may_vote", property(lambda self: self.is_member))


def others_are_not_heard(patch: Patch) -> None:
    """An island that lost its votes gives them anew, whatever others know."""
    patch.setattr(Recovery, "_others_told", lambda self: True)


def only_voters_hold_results(patch: Patch) -> None:
    """A round is decided when its voters have its result; newcomers fetch it then."""
    patch.setattr(Chair, "_newcomers", lambda self, choice: set())


def decisions_need_no_proof(patch: Patch) -> None:
    """Whoever says that something was decided is believed."""
    patch.setattr(group, "flaw", lambda signing, decided, members, lists: "")


def votes_need_no_signature(patch: Patch) -> None:
    """A vote is that of the peer by whose name the link goes, and a decision that of whoever it names."""
    patch.setattr(Chair, "_is_signed", lambda self, sender, message, choice: True)
    decisions_need_no_proof(patch)


def sections_are_not_checked(patch: Patch) -> None:
    """What peers serve of a mean is taken as it comes."""
    patch.setattr(Table, "fits", lambda self, number, section: True)


def means_do_not_say_what_they_are_of(patch: Patch) -> None:
    """A slice's mean has the same name whatever is counted in it."""

    def name(choice: Choice, number: int) -> Digest:
        return f"{number} of {[entry.sections for entry in choice.slices]}".encode()

    patch.setattr(slice_world, "mean_name", name)


def nothing_is_withdrawn(patch: Patch) -> None:
    """Newcomers that do not come to hold a result are waited for."""
    patch.setattr(Chair, "_withdraw", lambda self, attempt, choice, now_seconds: [])
