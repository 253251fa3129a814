"""Outer rounds at the peers with one safeguard taken out each, by patching: runs must notice every one of them.

Patches of the agreement alone are in tests/outer/group_mutants.py.
"""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from swarmtrain.core.closing import PlaceNews
from swarmtrain.core.rounds import Ballot, Choice, Collected, RoundMessage
from swarmtrain.core.types import Digest, PeerId
from swarmtrain.outer import director, payload
from swarmtrain.outer import merge as merging
from swarmtrain.outer.chair import Chair
from swarmtrain.outer.director import Place
from swarmtrain.outer.effects import Effect
from swarmtrain.outer.group import RoundGroup
from swarmtrain.outer.parcel import Table
from swarmtrain.outer.payload import Sender
from swarmtrain.outer.reduction import Reduction, Result
from swarmtrain.outer.votes import Votes
from swarmtrain.peer import payloads
from swarmtrain.peer.payloads import Payloads, Wanted
from swarmtrain.peer.rounds import OuterRounds
from swarmtrain.peer.stage_rounds import OuterStates
from tests.outer import group_mutants

Patch = pytest.MonkeyPatch


def small_pieces(patch: Patch) -> None:
    """No mutant: the tiny model's contributions come in several pieces, as those of real ones do."""
    patch.setattr(payload, "GRAIN_ELEMENTS", 1024)
    patch.setattr(payloads, "PIECE_BYTES", 1024)


def any_round_will_do(patch: Patch) -> None:
    """Neither the round's number nor its base is looked at; votes sign both, so nor are signatures."""
    group_mutants.votes_need_no_signature(patch)
    real = RoundGroup.handle

    def handle(
        self: RoundGroup, sender: PeerId, message: RoundMessage, now_seconds: float
    ) -> list[Effect]:
        if self.round >= 0:
            message = replace(message, round=self.round, base=self.base)
        return real(self, sender, message, now_seconds)

    patch.setattr(RoundGroup, "handle", handle)


def any_base_will_do(patch: Patch) -> None:
    """Messages, payloads and results of the round count, whatever outer state they start from."""
    patch.setattr(RoundGroup, "_fits", lambda self, message: True)
    patch.setattr(merging, "_check_tag", lambda theirs, ours: None)
    digest = merging.Merged.digest

    def without_base(self: merging.Merged) -> Digest:
        return digest(replace(self, tag=replace(self.tag, base=b"")))

    patch.setattr(merging.Merged, "digest", without_base)
    piece = Payloads._piece

    def any_piece(self: Payloads, key: Any, request: Any) -> Any:
        mine = [k for k, name in self._parcels if name == request.name and k.round == key.round
                and (k.stage, k.fragment) == (key.stage, key.fragment)]  # fmt: skip
        return piece(self, mine[0] if mine else key, request)

    patch.setattr(Payloads, "_piece", any_piece)


def any_result_counts_as_alike(patch: Patch) -> None:
    """A result is decided by how many peers have one, not by how many have the same; each takes its own.

    Votes sign the result, so signatures alone would give that away.
    """
    group_mutants.votes_need_no_signature(patch)
    real = Chair.collected

    def collected(
        self: Chair, sender: PeerId, message: Collected, now_seconds: float
    ) -> list[Effect]:
        attempt = self.attempt
        if attempt is not None and message.result:
            first = next((a.result for a in attempt.collected.values() if a.result), message.result)
            message = replace(message, result=first)
        return real(self, sender, message, now_seconds)

    def accept(self: Votes, ballot: Ballot, choice: Choice, result: Digest) -> bool:
        return real_accept(self, ballot, replace(choice, result=b""), result)

    def has(self: OuterRounds, place: Place, choice: Choice) -> bool:
        return _any_result(self.states, place, choice.result)

    real_accept = Votes.accept
    patch.setattr(Chair, "collected", collected)
    patch.setattr(Votes, "accept", accept)
    patch.setattr(OuterRounds, "_has", has)


def _any_result(states: Any, place: Place, digest: Digest) -> bool:
    """Whether there is a result of the place; it then passes for that of `digest`."""
    known = [name for name in states.results if name[0] == place]
    if known:
        states.results[place, digest] = states.results[known[0]]
    return bool(known)


def bytes_are_not_checked(patch: Patch) -> None:
    """What arrives is taken without comparing any digest, of pieces or of the whole."""
    real = Payloads._take

    def take(self: Payloads, key: Any, wanted: Wanted, piece: Any, body: Any) -> None:
        real(self, key, replace(wanted, is_contribution=False), piece, body)

    patch.setattr(Payloads, "_take", take)
    patch.setattr(Table, "fits", lambda self, number, section: True)
    patch.setattr(payloads, "hashlib", SimpleNamespace(sha256=_Blind))


class _Blind:
    """A digest that is the same for everything."""

    def __init__(self, data: Any = b"") -> None:
        pass

    def digest(self) -> bytes:
        return bytes(32)


def parts_pass_for_the_whole(patch: Patch) -> None:
    """A contribution is used when its first and last sections are there; the first stands for what is missing."""

    async def pull(self: Payloads, key: Any, wanted: Any, sources: Any, parcel: Any) -> Any:
        if parcel.table is None:
            await self._pull_piece(key, wanted, sources, (0, 0), 0)
        count = len(parcel.table.lengths)
        for number in {0, count - 1} - parcel.sections.keys():
            await self._pull_piece(key, wanted, sources, (number, number + 1), 0)
        return tuple(parcel.sections.get(n, parcel.sections[0]) for n in range(count))

    patch.setattr(Payloads, "_pull", pull)


def late_payloads_are_forgotten(patch: Patch) -> None:
    """What a round did not count is not sent again."""
    patch.setattr(Sender, "lost", lambda self, sent, outer: None)


def sent_again_and_again(patch: Patch) -> None:
    """Nothing says that an island's contribution to the round was made already."""
    real = OuterRounds._news

    def news(self: OuterRounds, place: Place, group: RoundGroup) -> PlaceNews:
        return replace(real(self, place, group), is_sent=False)

    patch.setattr(OuterRounds, "_news", news)


def nothing_is_coming(patch: Patch) -> None:
    """The end of the run waits for results as any step does."""
    patch.setattr(RoundGroup, "is_coming", False)
    patch.setattr(director, "SLOWEST", 0)


def one_wrong_result(patch: Patch, island: int, number: int) -> None:
    """No mutant: a machine of `island` computes round `number` wrong, once for each stage."""
    real, done = OuterStates.reduction, set[Place]()

    def reduction(self: OuterStates, place: Place) -> Any:
        found = real(self, place)
        is_here = self._island == island and found.tag.round == number
        if not is_here:
            return found
        return SimpleNamespace(whole=partial(whole, found, place), elements=found.elements)

    def whole(found: Reduction, place: Place, choice: Choice, given: Any) -> Result:
        result = found.whole(choice, given)
        if place not in done:
            done.add(place)
            assert isinstance(result.merged.values, torch.Tensor)
            result.merged.values[0] += 1.0
            result = Result(result.merged, replace(result.choice, result=result.merged.digest()))
        return result

    patch.setattr(OuterStates, "reduction", reduction)
