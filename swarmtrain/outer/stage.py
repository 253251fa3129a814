"""The outer rounds of one stage at one replica: its fragments, what was committed, and all of it as one array.

Replicas of a stage in one island hold this alike, to the bit, as they hold parameters and moments: a replica that joins
fetches it, a snapshot keeps it. Nothing here waits, sends or reads a clock.
"""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from swarmtrain.core.errors import StateError
from swarmtrain.core.rounds import RoundCodec
from swarmtrain.outer.member import Fragment, FragmentMember, RoundSettings, cut_stage
from swarmtrain.outer.merge import Merged, RoundContribution
from swarmtrain.outer.optimizer import OuterState
from swarmtrain.outer.payload import Payload
from swarmtrain.outer.rounds import fragment_bounds
from swarmtrain.wire.parts import Part

Flat = npt.NDArray[np.float32]

_HEAD_BYTES = 8
_MEMBER_NAME = re.compile("island-[0-9]{4}")


def member_name(island: int) -> str:
    """An island's id in its groups: ascends with its number."""
    return f"island-{island:04d}"


def island_named(name: str) -> int:
    """The island of which `name` is the `member_name`. Raises ValueError for what is nobody's."""
    if not _MEMBER_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no island's")
    return int(name.removeprefix("island-"))


def fragments_of(
    stage: int, tensors: Sequence[Part], elements: int, count: int
) -> tuple[Fragment, ...]:
    """The `count` fragments of a stage whose `tensors` lie in a flat layout of `elements`. Raises ConfigError."""
    bounds = fragment_bounds([offset for offset, _ in tensors], elements, count)
    return cut_stage(stage, tensors, bounds)


class StageRounds:
    """What a replica keeps of its stage for rounds, beside parameters and moments.

    `tokens` are those committed at this stage, `inner_steps` the updates it took, both since the island began.
    """

    def __init__(
        self,
        island: int,
        fragments: Sequence[Fragment],
        parameters: Tensor,
        settings: RoundSettings,
    ) -> None:
        """The state before the first round; `parameters`, float32 [elements], are those the run starts from."""
        self.island, self.settings = island, settings
        self.inner_steps = self.tokens = 0
        self.members = [
            FragmentMember(
                member_name(island),
                fragment,
                OuterState.first(local_of(parameters, fragment), settings.optimizer),
                settings,
            )
            for fragment in fragments
        ]
        self._tokens_sent = [0] * len(fragments)
        self._tokens_under_way = [0] * len(fragments)

    def stepped(self, tokens: int) -> None:
        """An inner step was applied in which the stage saw `tokens`."""
        self.inner_steps += 1
        self.tokens += tokens

    def send(
        self, number: int, parameters: Tensor, learning_rate: float
    ) -> tuple[RoundContribution, Payload] | None:
        """The contribution of a fragment: see `FragmentMember.send`.

        What a round lost goes with it and weighs nothing of its own: the weight is what was seen since the last call.
        """
        member = self.members[number]
        tokens = self.tokens - self._tokens_sent[number]
        self._tokens_sent[number] = self.tokens
        self._tokens_under_way[number] = tokens
        local = local_of(parameters, member.fragment)
        return member.send(local, tokens, self.inner_steps, learning_rate)

    def send_again(self, number: int) -> tuple[RoundContribution, Payload] | None:
        """The contribution of a fragment that was under way: see `FragmentMember.send_again`."""
        return self.members[number].send_again(self._tokens_under_way[number])

    def merge(
        self, number: int, merged: Merged, parameters: Tensor, next_codec: RoundCodec = ""
    ) -> None:
        """Take a round's result, in place: see `FragmentMember.merge`."""
        member = self.members[number]
        if member.counts_earlier_life(merged):
            self._tokens_sent[number] = self.tokens
        local = local_of(parameters, member.fragment)
        member.merge(merged, local, self.inner_steps, next_codec)

    def catch_up(
        self, number: int, state: OuterState, counted: Mapping[str, int], parameters: Tensor
    ) -> str:
        """Go over to the group's `state`, which this owns then: see `FragmentMember.catch_up`."""
        member = self.members[number]
        local = local_of(parameters, member.fragment)
        is_untrained = member.state.steps == 0 and state.steps > 0 and self.inner_steps <= 1
        if is_untrained:
            # What a newcomer learnt from untrained parameters is worth nothing to trained ones.
            local.copy_(member.state.parameters)
        self._tokens_sent[number] = self.tokens
        return member.catch_up(state, counted, local, self.inner_steps)

    # ---- one array for transfers, snapshots and checkpoints -----------------------------------------------------

    def pack(self, voters: Sequence[Sequence[tuple[int, int]]]) -> Flat:
        """Everything as float32 words: eight bytes that count those of the description, the description as JSON, and
        the arrays in its order. `voters` are, by fragment, the islands that vote in its next round, and since which
        version of their rosters."""
        arrays: list[Tensor] = []
        members = []
        for member in self.members:
            counters, flats = member.saved()
            members.append({**counters, "lengths": [flat.numel() for flat in flats]})
            arrays += flats
        described = {
            "island": self.island,
            "inner_steps": self.inner_steps,
            "tokens": self.tokens,
            "tokens_sent": self._tokens_sent,
            "tokens_under_way": self._tokens_under_way,
            "members": members,
            "voters": voters,
        }
        text = json.dumps(described).encode()
        text += b" " * (-len(text) % 4)
        head = len(text).to_bytes(_HEAD_BYTES, "little") + text
        words = [np.frombuffer(head, dtype=np.float32), *(flat.numpy() for flat in arrays)]
        return np.concatenate(words)

    def unpacked(self, packed: Flat) -> tuple["StageRounds", list[list[tuple[int, int]]]]:
        """What `pack` gave at another replica of this island, and its `voters`; this one stays as it is.

        Raises StateError.
        """
        described, words = _described(packed)
        try:
            members = list(described["members"])
            lengths = [[int(length) for length in entry["lengths"]] for entry in members]
            island, inner_steps, tokens = (
                int(described[name]) for name in ("island", "inner_steps", "tokens")
            )
            tokens_sent = [int(count) for count in described["tokens_sent"]]
            under_way = [int(count) for count in described["tokens_under_way"]]
            voters = [[(int(i), int(v)) for i, v in entry] for entry in described["voters"]]
            for entry in members:
                # Others are told of them by number.
                list(map(island_named, entry.get("counted", ())))
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise _not_whole(f"its description makes no sense ({error})") from None
        flat_lengths = [length for entry in lengths for length in entry]
        counts = {len(members), len(tokens_sent), len(under_way), len(voters)}
        if counts != {len(self.members)}:
            raise _not_whole(f"it has {len(members)} fragments instead of {len(self.members)}")
        if min(flat_lengths, default=0) < 0 or sum(flat_lengths) != words.size:
            raise _not_whole("its arrays are not as long as it says")
        if island != self.island:
            raise _not_whole(f"it is of island {island}, not of island {self.island}")
        flats = [
            torch.from_numpy(part.copy()) for part in np.split(words, np.cumsum(flat_lengths)[:-1])
        ]
        restored, start = [], 0
        for member, counters, own in zip(self.members, members, lengths, strict=True):
            restored.append(member.restored(counters, flats[start : start + len(own)]))
            start += len(own)
        found = copy.copy(self)
        found.members = restored
        found.inner_steps, found.tokens, found._tokens_sent = inner_steps, tokens, tokens_sent
        found._tokens_under_way = under_way
        return found, voters


def local_of(parameters: Tensor, fragment: Fragment) -> Tensor:
    """The part of a stage's flat parameters that a fragment covers: float32 [elements], a view."""
    return parameters[fragment.start : fragment.stop]


def outer_parameters(packed: Flat, elements: int) -> Flat | None:
    """The outer parameters in what `StageRounds.pack` gave, float32 [elements] in the stage's flat layout.

    None while some fragment has not had a round with contributions: they are still the initial ones then. Raises
    StateError.
    """
    described, words = _described(packed)
    pieces: list[Flat] = []
    start = 0
    try:
        for member in described["members"]:
            lengths = [int(length) for length in member["lengths"]]
            if int(member["outer_steps"]) == 0:
                return None
            pieces.append(words[start : start + lengths[0]])
            start += sum(lengths)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _not_whole(f"its description makes no sense ({error!r})") from None
    whole = np.concatenate(pieces) if pieces else words[:0]
    if whole.size != elements:
        raise _not_whole(f"its fragments have {whole.size} of the stage's {elements} elements")
    return whole


def _described(packed: Flat) -> tuple[dict[str, Any], Flat]:
    data = packed.view(np.uint8)
    if data.size < _HEAD_BYTES:
        raise _not_whole("it is too short")
    length = int.from_bytes(data[:_HEAD_BYTES].tobytes(), "little")
    if length % 4 or length > data.size - _HEAD_BYTES:
        raise _not_whole("its description is longer than itself")
    try:
        described = json.loads(data[_HEAD_BYTES : _HEAD_BYTES + length].tobytes())
    except ValueError as error:
        raise _not_whole(f"its description makes no sense ({error})") from None
    if not isinstance(described, dict):
        raise _not_whole("its description makes no sense")
    return described, packed[(_HEAD_BYTES + length) // 4 :]


def _not_whole(why: str) -> StateError:
    return StateError(
        "the saved state of outer rounds cannot be used",
        why,
        "it was damaged, or belongs to another run; take it from another replica",
    )
