"""The outer state of this peer's stages: made, moved by decisions, served to who joins or was away, fetched when away.

What touches tensors runs on the lane; the rest only looks at counters, and never while a decision is applied.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from swarmtrain.compute.replica import Replica
from swarmtrain.core.closing import RoundWork, RoundWorkKind
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import WireError
from swarmtrain.core.messages import Commit
from swarmtrain.core.rounds import GroupMember, LastCounted, Measured
from swarmtrain.core.schedule import learning_rate
from swarmtrain.core.types import Digest
from swarmtrain.outer.director import Place
from swarmtrain.outer.member import FragmentMember, RoundSettings
from swarmtrain.outer.merge import RoundContribution
from swarmtrain.outer.optimizer import OuterOptimizer, OuterState, suggested
from swarmtrain.outer.parcel import Bounds, Buffer
from swarmtrain.outer.payload import (
    Payload,
    answer_codec,
    parcel_bounds,
    round_codec,
    sizes_of,
    slice_elements,
)
from swarmtrain.outer.reduction import Reduction, Result
from swarmtrain.outer.slices import Sizes
from swarmtrain.outer.stage import Flat, StageRounds, fragments_of, island_named, member_name
from swarmtrain.peer.payloads import PIECE_BYTES, RoundKey
from swarmtrain.transport.link import Message
from swarmtrain.transport.requests import OuterStateReply, OuterStateRequest, Status
from swarmtrain.wire.codec import Codec
from swarmtrain.wire.codecs import ROUND_CODEC, codec_named

_DIGEST_BYTES = 16

PASSES = {RoundWorkKind.SEND: 2, RoundWorkKind.MERGE: 1, RoundWorkKind.CATCH_UP: 1}
"""How often the lane passes over a fragment's values: a contribution is encoded, and decoded for what that lost."""


@dataclass(frozen=True, slots=True, eq=False)
class GroupState:
    """The outer state of a fragment that the group starts a round from, and who votes in that round."""

    state: OuterState
    members: tuple[GroupMember, ...]
    digest: Digest
    counted: Mapping[str, int]
    """The last round that counted each of the group's members ever."""


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """The rounds of a stage as another replica had them, and by fragment who votes next; None where nobody knows."""

    rounds: StageRounds
    members: list[tuple[GroupMember, ...]] | None


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A contribution of this island, encoded, and what codecs do to it."""

    sections: tuple[Buffer, ...]
    tokens: int
    measured: tuple[Measured, ...]


def settings_of(config: RunConfig) -> RoundSettings:
    """What the configuration says of the arithmetic of rounds."""
    outer = config.outer
    is_chosen = outer.codec == "auto"
    codec = ROUND_CODEC if is_chosen else outer.codec
    # One step is what every result takes; it is much only where a round has no more.
    is_late = outer.delay_steps > 1 or outer.inner_steps == 1
    optimizer = (
        suggested(codec_named(codec), outer.delay_steps if is_late else 0)[0]
        if outer.optimizer == "auto"
        else OuterOptimizer(outer.optimizer, outer.learning_rate, outer.momentum, outer.warm_up)
    )
    return RoundSettings(
        optimizer=optimizer,
        codec=codec,
        distortion=outer.distortion if is_chosen else None,
        zstd_level=outer.zstd_level,
        feedback={"auto": None, "on": True, "off": False}[outer.feedback],
        merge_factor=outer.merge_factor or None,
    )


class OuterStates:
    """Per hosted stage its `StageRounds`, and the results and group states that decisions name by digest."""

    def __init__(self, config: RunConfig, island: int) -> None:
        self._config, self._island = config, island
        self.settings = settings_of(config)
        self.stages: dict[int, StageRounds] = {}
        self.members: dict[Place, tuple[GroupMember, ...]] = {}
        self.stranded: set[int] = set()
        """Stages whose parameters are not of the group's making, as after CheckFree: they must catch up first."""
        self.results: dict[tuple[Place, Digest], Result] = {}
        self.arrived: dict[tuple[Place, Digest], GroupState] = {}
        self.made: dict[Place, Made | None] = {}
        self.caught_up: dict[Place, str] = {}
        """What goes again where the group was ahead, in words."""
        self._packed: dict[int, Flat] = {}
        self.first_step = 0
        """Before it nobody who is in the run has voted: where it began, or goes on from a checkpoint."""
        self.under_way: set[Place] = set()
        """Places whose contribution, in `made`, is offered once more, as it went with the processes that held it."""

    # ---- stages come and go -------------------------------------------------------------------------------------

    def begin(self, replica: Replica) -> None:
        """The stage with the parameters that the run starts from."""
        self._put(replica.stage, self._initial(replica), self._founders())
        self.stranded.discard(replica.stage)

    def read(self, replica: Replica, packed: Flat | None) -> "Read":
        """The stage as another replica had it, for `load`; nothing changes here. Raises StateError."""
        stage = replica.stage
        rounds = self.stages[stage] if stage in self.stages else self._initial(replica)
        if packed is None:
            return Read(rounds, None)
        found, described = rounds.unpacked(packed)
        return Read(
            found, [tuple(GroupMember(*entry) for entry in members) for members in described]
        )

    def load(self, stage: int, found: "Read") -> None:
        """What was read. Where nobody knew what rounds had come to, the stage has to catch up."""
        if found.members is not None:
            self._put(stage, found.rounds, found.members)
            self.stranded.discard(stage)
            return
        if stage not in self.stages:
            self._put(stage, found.rounds, self._founders())
        self.stranded.add(stage)

    def _put(
        self, stage: int, rounds: StageRounds, members: Sequence[tuple[GroupMember, ...]]
    ) -> None:
        self.stages[stage] = rounds
        self.members.update({(stage, number): entry for number, entry in enumerate(members)})
        self._packed.pop(stage, None)

    def _initial(self, replica: Replica) -> StageRounds:
        flat, settings = replica.compute.flat, self.settings
        tensors = list(zip(flat.offsets, flat.shapes, strict=True))
        count = self._config.outer.fragments
        fragments = fragments_of(replica.stage, tensors, flat.total, count)
        return StageRounds(self._island, fragments, replica.current.parameters, settings)

    def _founders(self) -> list[tuple[GroupMember, ...]]:
        outer = self._config.outer
        founders = tuple(GroupMember(island, 0) for island in range(outer.founders))
        return [founders] * outer.fragments

    def go_on(self, step: int) -> None:
        """On the lane: the whole run goes on from a checkpoint of `step`. What its processes had voted, and what they
        had made for rounds under way, went with them."""
        self.first_step = step
        for place, members in self.members.items():
            self.members[place] = tuple(GroupMember(member.island, 0) for member in members)
            if self.member(place).is_sent:
                made = self.stages[place[0]].send_again(place[1])
                self.made[place] = None if made is None else _made(*made)
                self.under_way.add(place)
        self._packed.clear()

    def forget(self, stages: Sequence[int]) -> None:
        for stage in stages:
            self.stages.pop(stage, None)
            self._packed.pop(stage, None)

    def packed(self, stage: int) -> Flat:
        """What travels with the stage's state; not while a decision is applied."""
        if stage not in self._packed:
            rounds = self.stages[stage]
            members = [
                [(entry.island, entry.version) for entry in self.members[stage, number]]
                for number in range(len(rounds.members))
            ]
            self._packed[stage] = rounds.pack(members)
        return self._packed[stage]

    def member(self, place: Place) -> FragmentMember:
        return self.stages[place[0]].members[place[1]]

    def key(self, place: Place) -> RoundKey:
        """Names the round of a fragment that comes next, or is under way."""
        tag = self.member(place).tag
        return RoundKey(tag.stage, tag.fragment, tag.round, tag.base)

    @property
    def places(self) -> list[Place]:
        return [
            (stage, number)
            for stage in sorted(self.stages)
            for number in range(len(self.stages[stage].members))
        ]

    # ---- a decision -----------------------------------------------------------------------------------------------

    def close(self, replica: Replica, commit: Commit, tokens: int) -> None:
        """On the lane, behind the update of `commit`: what it has this stage do. The stage saw `tokens`."""
        stage, parameters = replica.stage, replica.current.parameters
        rounds = self.stages[stage]
        rounds.stepped(tokens)
        for work in commit.closing.rounds:
            if work.stage == stage:
                self._do(rounds, work, parameters, commit.next_step)
                replica.compute.flat.bind(parameters)
        self._packed.pop(stage, None)

    def passed_values(self, stage: int, commit: Commit) -> int:
        """The values that `close` passes over, each as often as it does."""
        works = [work for work in commit.closing.rounds if work.stage == stage]
        elements = [self.member((stage, work.fragment)).fragment.elements for work in works]
        return sum(PASSES[work.kind] * each for work, each in zip(works, elements, strict=True))

    def _do(self, rounds: StageRounds, work: RoundWork, parameters: Tensor, step: int) -> None:
        place = (work.stage, work.fragment)
        match work.kind:
            case RoundWorkKind.SEND:
                rate = learning_rate(self._config.optimizer, step, self._config.run.steps)
                made = rounds.send(work.fragment, parameters, rate)
                self.made[place] = None if made is None else _made(*made)
            case RoundWorkKind.MERGE:
                result = self.results[place, work.digest]
                if rounds.members[work.fragment].counts_earlier_life(result.merged):
                    self.caught_up[place] = "what it sent before it was restored is counted"
                rounds.merge(work.fragment, result.merged, parameters, result.choice.codec)
                self.members[place] = result.choice.members
            case RoundWorkKind.CATCH_UP:
                found = self.arrived[place, work.digest]
                self.caught_up[place] = rounds.catch_up(
                    work.fragment, found.state.copy(), found.counted, parameters
                )
                self.members[place] = found.members
                self.stranded.discard(work.stage)

    def forget_done(self, works: Sequence[RoundWork]) -> None:
        """Results and group states of rounds that are over."""
        over = {(work.stage, work.fragment) for work in works if work.kind != RoundWorkKind.SEND}
        for kept in (self.results, self.arrived):
            for known in [k for k in kept if k[0] in over]:
                del kept[known]

    # ---- results --------------------------------------------------------------------------------------------------

    def sizes(self, place: Place) -> Sizes:
        """What rounds of the fragment send."""
        member = self.member(place)
        return sizes_of(member.sender.codec, self._answer(place), member.fragment.elements)

    def bounds(self, place: Place) -> Bounds:
        """What a contribution to the fragment may be (I5)."""
        member = self.member(place)
        return parcel_bounds(member.sender.codec, member.fragment.elements)

    def mean_bounds(self, place: Place, sections: tuple[int, int]) -> Bounds:
        """What the mean of these sections may be (I5)."""
        start, stop = slice_elements(sections, self.member(place).fragment.elements)
        return parcel_bounds(self._answer(place), stop - start)

    def reduction(self, place: Place) -> Reduction:
        """On the lane: the arithmetic of the round that is under way."""
        member = self.member(place)
        return Reduction(
            member.tag,
            member.fragment.elements,
            member.sender.codec,
            self._answer(place),
            self.settings.zstd_level,
        )

    def _answer(self, place: Place) -> Codec:
        member = self.member(place)
        fragment, name = member.fragment, answer_codec(member.codec_name)
        return round_codec(name, fragment.elements, fragment.tensors)


def _made(contribution: RoundContribution, payload: Payload) -> Made:
    sections = tuple(bytes(section) for section in payload.sections)
    return Made(sections, contribution.tokens, payload.measured)


# ---- the group's outer state, for who missed rounds ---------------------------------------------------------------


def state_answer(held: GroupState | None, request: OuterStateRequest) -> Message:
    """A piece of the outer state: parameters, then momentum. A piece of no length asks what there is."""
    if held is None or held.state.round < request.round:
        return Message(OuterStateReply(Status.FENCED, 0, 0, b"", (), 0, b"", ()).encode())
    parameters, momentum = held.state.parameters.numpy(), held.state.momentum.numpy()
    start, whole = request.offset_bytes, parameters
    if start >= parameters.nbytes:
        start, whole = start - parameters.nbytes, momentum
    body = whole.view(np.uint8).data[start : start + min(request.length_bytes, PIECE_BYTES)]
    reply = OuterStateReply(
        status=Status.OK,
        round=held.state.round,
        steps=held.state.steps,
        base=held.digest,
        members=held.members,
        total_bytes=parameters.nbytes + momentum.nbytes,
        digest=hashlib.sha256(body).digest()[:_DIGEST_BYTES],
        counted=tuple(
            LastCounted(island_named(name), at) for name, at in sorted(held.counted.items())
        ),
        codec=held.state.codec,
    )
    return Message(reply.encode(), body)


async def fetch_state(
    call: Callable[[OuterStateRequest], Awaitable[Message]],
    place: Place,
    number: int,
    elements: int,
    optimizer: OuterOptimizer,
) -> GroupState:
    """The outer state of a fragment at round `number` or later. Raises LinkError, WireError or StateError."""

    async def ask(at: int, offset: int, length: int) -> tuple[OuterStateReply, memoryview]:
        answer = await call(OuterStateRequest(*place, at, offset, length))
        reply, body = OuterStateReply.decode(answer.meta), memoryview(answer.body)
        if reply.status is not Status.OK:
            raise WireError("a peer does not have that outer state", reply.status.name)
        if hashlib.sha256(body).digest()[:_DIGEST_BYTES] != reply.digest:
            raise WireError("a piece of outer state was damaged on its way", "")
        return reply, body

    claim, _ = await ask(number, 0, 0)
    momentum = elements if optimizer.keeps_momentum else 0
    if claim.total_bytes != 4 * (elements + momentum):
        raise WireError(
            "an outer state has another size than this model's", f"{claim.total_bytes} bytes"
        )
    if not all(entry.round < claim.round for entry in claim.counted):
        raise WireError("an outer state was counted in rounds to come", f"round {claim.round}")
    pieces: list[memoryview] = []
    while (offset := sum(map(len, pieces))) < claim.total_bytes:
        reply, body = await ask(claim.round, offset, PIECE_BYTES)
        if reply.base != claim.base or not body:
            raise WireError("an outer state moved on while it was fetched", f"round {reply.round}")
        pieces.append(body)
    words = np.frombuffer(b"".join(pieces), dtype=np.float32)
    flats = {"outer_parameters": words[:elements], "outer_momentum": words[elements:]}
    counters = {
        "outer_round": claim.round, "outer_steps": claim.steps, "outer_codec": claim.codec,
    }  # fmt: skip
    state = OuterState.restored(flats, counters, elements, optimizer, claim.base)
    counted = {member_name(entry.island): entry.round for entry in claim.counted}
    return GroupState(state, claim.members, claim.base, counted)
