"""Several islands in one process, training one model by outer rounds: the plain loop that real rounds must equal.

No peer, link or protocol: contributions are encoded and decoded as on the wire, merged and applied by the same
functions (`swarmtrain.outer`), in the order of the run's steps. Every island keeps its own copy of the outer state,
and these are compared after every round.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.compute.replica import Replica
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import ConfigError, StateError
from swarmtrain.core.layout import parameters_sha256
from swarmtrain.core.rounds import Measured, RoundCodec
from swarmtrain.data.stream import Corpus
from swarmtrain.experiments.island import Island, IslandPlan, Place
from swarmtrain.experiments.reference import Reference
from swarmtrain.model.text import evaluate
from swarmtrain.outer.budget import next_codec
from swarmtrain.outer.member import RoundSettings, close
from swarmtrain.outer.merge import Gathering
from swarmtrain.outer.optimizer import OuterState
from swarmtrain.outer.rounds import Due, Pace, Rhythm


@dataclass(frozen=True, slots=True)
class IslandsSetting:
    """Which islands there are, and what their rounds are like."""

    islands: tuple[IslandPlan, ...]
    rounds: RoundSettings
    inner_steps: int
    """H, of the fastest island."""
    fragments: int = 1
    staggered: bool = False
    delay_steps: int = 0

    def rhythm(self, config: RunConfig) -> Rhythm:
        return Rhythm(
            config.run.steps,
            config.model.stages,
            self.inner_steps,
            self.fragments,
            self.delay_steps,
            self.staggered,
        )


@dataclass(frozen=True, slots=True)
class IslandsStep:
    """One step of the run: the mean loss of the islands that finished an inner step, nan when none did."""

    step: int
    loss: float
    tokens: int


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One merged round of one fragment; bytes are after zstd, without headers."""

    due: Due
    members: tuple[str, ...]
    """Whose contributions counted."""
    tokens: int
    elements: int
    payload_bytes: int
    """Of all members together, late ones included."""
    payloads: int
    answer_bytes: int
    """Of the mean on its way back; 0 where all payloads are gathered instead."""


@dataclass
class _UnderWay:
    """A round between sending and merging."""

    gathering: Gathering
    payload_bytes: int = 0
    payloads: int = 0
    measured: list[tuple[int, tuple[Measured, ...]]] = field(default_factory=list)
    """Of the contributions that count, with their tokens."""


@dataclass
class Islands:
    """All islands and the rounds between them. `step` is how far the run is."""

    config: RunConfig
    corpus: Corpus
    vocab_size: int
    setting: IslandsSetting
    step: int = 0
    records: list[RoundRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises ConfigError for rounds or islands that cannot be."""
        self._rhythm = self.setting.rhythm(self.config)
        length = self.setting.inner_steps
        self._paces = [Pace(length, plan.own_steps or length) for plan in self.setting.islands]
        if not any(plan.joins_at_round == 0 for plan in self.setting.islands):
            raise ConfigError("no island begins the run", "", "let one join at round 0")
        self._begun = self.step
        self.active: dict[int, Island] = {}
        self._under_way: dict[Place, _UnderWay] = {}
        for number, plan in enumerate(self.setting.islands):
            if plan.joins_at_round == 0:
                self.active[number] = self._new_island(number)
                self._join_rounds(self.active[number], None)

    def load(self, states: Sequence[StageState], step: int) -> None:
        """Start all islands from a trained model at `step`, moments and their count included. Before the first step.

        Raises StateError for another model, and ConfigError unless rounds begin at `step`.
        """
        if step % self.setting.inner_steps:
            raise ConfigError(
                f"rounds of {self.setting.inner_steps} steps do not begin at step {step}",
                "they begin at its multiples",
                "train a multiple of the round's steps first",
            )
        for island in self.active.values():
            island.load(states, step)
            island.inner_steps = step
        self.step = self._begun = step
        for number in list(self.active):
            self._join_rounds(self.active[number], None)

    def train(self) -> Iterator[IslandsStep]:
        """Run all steps that are left, yielding after each, its rounds included."""
        while self.step < self.config.run.steps:
            yield self.advance()

    def advance(self) -> IslandsStep:
        """Take the run one step on: inner steps that are done by then, and what is due then."""
        self._come_and_go()
        step, losses, tokens = self.step, 0.0, 0
        for number, island in self.active.items():
            start = self._paces[number].ending(step + 1)
            if start is not None:
                done = island.advance_from(start)
                losses += done.loss * done.tokens
                tokens += done.tokens
        self.step += 1
        for due in self._rhythm.due(self.step):
            if self._rhythm.send_step(due.stage, due.fragment, due.round) <= self._begun:
                continue  # the rounds of these islands began after it
            if due.is_merge:
                self._merge(due)
            else:
                self._send(due)
        return IslandsStep(step, losses / tokens if tokens else float("nan"), tokens)

    def parameters_sha256(self) -> str:
        """Of the outer parameters, which all islands have in common."""
        with self.outer_model() as island:
            return parameters_sha256([replica.digest() for replica in island.stages])

    def evaluate(self, batches: Iterable[npt.NDArray[np.int64]]) -> float:
        """Mean nats a token over held-out (B, T+1) batches of the model with the outer parameters."""
        with self.outer_model() as island:
            modules: list[nn.Module] = [island.edge.module, *(m.module for m in island.middle)]
            return evaluate(modules, batches)

    @contextmanager
    def outer_model(self) -> Iterator[Island]:
        """An island with the outer parameters in place of its own, for the while."""
        island = self._present()[0]
        own = [replica.current.parameters for replica in island.stages]
        try:
            for stage, replica in enumerate(island.stages):
                places = [m for (at, _), m in sorted(island.members.items()) if at == stage]
                outer = torch.cat([member.state.parameters for member in places])
                _bind(replica, outer)
            yield island
        finally:
            for replica, parameters in zip(island.stages, own, strict=True):
                _bind(replica, parameters)

    def _come_and_go(self) -> None:
        """Islands that leave, come back or join where a round of H steps begins."""
        number_of_round, place = divmod(self.step, self.setting.inner_steps)
        if place:
            return
        for number, plan in enumerate(self.setting.islands):
            if plan.leaves_at_round == number_of_round:
                self.active.pop(number, None)
            elif plan.joins_at_round == number_of_round and number not in self.active:
                sibling = self._present()[0]
                self.active[number] = self._new_island(number)
                self._join_rounds(self.active[number], sibling)
            elif plan.away and plan.away.stop == number_of_round:
                self._bring_back(self.active[number])

    def _new_island(self, number: int) -> Island:
        plan = self.setting.islands[number]
        return Island(self.config, self.corpus, self.vocab_size, number, plan)

    def _join_rounds(self, island: Island, sibling: Island | None) -> None:
        """Let `island` take part with the outer state of `sibling`; None: with its own parameters, as at first."""
        rounds = self.setting.rounds
        for fragment in island.cut(self.setting.fragments):
            if sibling is None:
                state = OuterState.first(island.local(fragment), rounds.optimizer)
                place = (fragment.stage, fragment.number)
                state.round = self._rhythm.next_round(*place, self.step)
            else:
                state = sibling.members[fragment.stage, fragment.number].state.copy()
            island.join(fragment, state, rounds)

    def _bring_back(self, island: Island) -> None:
        # Its plan says that it is away until just now, so the first one present is another.
        sibling = next(other for other in self._present() if other is not island)
        for place in island.members:
            island.catch_up(place, sibling)

    def _present(self) -> list[Island]:
        """The islands that can be reached at this step, in order. Raises ConfigError when there is none."""
        round_now = max(0, self.step - 1) // self.setting.inner_steps
        present = [
            island for _, island in sorted(self.active.items()) if round_now not in island.plan.away
        ]
        if not present:
            raise ConfigError(
                f"no island is there in round {round_now}", "all left or are away", "let one stay"
            )
        return present

    def _send(self, due: Due) -> None:
        place = (due.stage, due.fragment)
        present = self._present()
        under_way = _UnderWay(present[0].members[place].gathering())
        for island in present:
            sent = island.send(place)
            if sent is None:
                continue
            contribution, payload = sent
            under_way.payload_bytes += payload.payload_bytes
            under_way.payloads += 1
            if due.round not in island.plan.misses:
                under_way.gathering.add(contribution)
                under_way.measured.append((contribution.tokens, payload.measured))
        self._under_way[place] = under_way

    def _merge(self, due: Due) -> None:
        place = (due.stage, due.fragment)
        under_way, present = self._under_way.pop(place), self._present()
        fragment = present[0].members[place].fragment
        merged, answer_bytes = close(under_way.gathering, self.setting.rounds, fragment)
        if merged.tag.round != due.round:
            raise StateError(f"round {merged.tag.round} is merged when round {due.round} is due")
        chosen = next_codec(under_way.measured, self.setting.rounds.distortion or 0.0)
        codec: RoundCodec = chosen[0] if chosen is not None else ""
        for island in present:
            member = island.members[place]
            member.merge(merged, island.local(fragment), island.inner_steps, codec)
        if len({island.members[place].state.digest() for island in present}) > 1:
            raise StateError(
                f"outer parameters differ after round {due.round} of stage {due.stage}",
                "members merged the same round and should be equal",
                "report this as a bug",
            )
        self.records.append(
            RoundRecord(
                due,
                merged.members,
                merged.tokens,
                fragment.elements,
                under_way.payload_bytes,
                under_way.payloads,
                answer_bytes,
            )
        )


def synchronous(config: RunConfig, corpus: Corpus, vocab_size: int, islands: int) -> Reference:
    """The plain loop over all microbatches of `islands` islands in every step: what islands are measured against."""
    microbatches = islands * config.train.microbatches
    train = config.train.model_copy(update={"microbatches": microbatches})
    return Reference(config.model_copy(update={"train": train}), corpus, vocab_size)


def _bind(replica: Replica, parameters: Tensor) -> None:
    replica.current.parameters = parameters
    replica.compute.flat.bind(parameters)
