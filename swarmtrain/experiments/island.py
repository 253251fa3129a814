"""One island of several in one process: the plain loop over its own microbatches, and its side of outer rounds."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from swarmtrain.compute.accumulate import Contribution
from swarmtrain.compute.replica import Replica
from swarmtrain.core.closing import Scalars
from swarmtrain.core.config import RunConfig
from swarmtrain.core.schedule import learning_rate, scalars_of
from swarmtrain.core.sequences import Sequences, sequence_of, stage_sequences
from swarmtrain.core.types import EDGE_STAGE
from swarmtrain.data.stream import Corpus
from swarmtrain.experiments.reference import Reference, ReferenceStep
from swarmtrain.outer.member import Fragment, FragmentMember, RoundSettings, cut_stage
from swarmtrain.outer.merge import RoundContribution
from swarmtrain.outer.optimizer import OuterState
from swarmtrain.outer.payload import Payload
from swarmtrain.outer.rounds import fragment_bounds

Place = tuple[int, int]
"""Stage and fragment."""


@dataclass(frozen=True, slots=True)
class IslandPlan:
    """What one island does during the run; rounds count from 0 in steps of the nominal H."""

    own_steps: int | None = None
    """Inner steps it makes in a round; None: all H of them."""
    data_island: int | None = None
    """Whose microbatches it learns from; None: its own. For islands that are to be identical."""
    joins_at_round: int = 0
    leaves_at_round: int | None = None
    misses: frozenset[int] = frozenset()
    """Rounds that begin without its contribution: what it sent arrived too late."""
    away: range = range(0)
    """Rounds through which it trains alone, hears nothing, and catches up afterwards."""


class Island(Reference):
    """The plain loop of island `number`: of the run's step n it takes keys (n, number * M) to (n, number * M + M - 1),
    M = `train.microbatches`, so that no sample is used twice and one island alone is the plain loop itself.

    Its learning rate and keys go by the run's step, its bias corrections by the steps it made: moments that start from
    zero with a high count would be taken for settled ones (diloco.md section 4). `tokens` are those committed, by
    stage.
    """

    def __init__(
        self, config: RunConfig, corpus: Corpus, vocab_size: int, number: int, plan: IslandPlan
    ) -> None:
        self.number, self.plan, self.name = number, plan, f"island-{number:04d}"
        data_island = number if plan.data_island is None else plan.data_island
        self._first_index = data_island * config.train.microbatches
        # Routes of every island are those of the first M keys; the key of the sample alone tells islands apart.
        self._own_sequences = lambda step: stage_sequences(config, step)
        super().__init__(config, corpus, vocab_size, self._shifted)
        self.inner_steps = 0
        self.tokens: Counter[int] = Counter()
        self.members: dict[Place, FragmentMember] = {}
        self._tokens_sent: Counter[Place] = Counter()

    def advance_from(self, step: int) -> ReferenceStep:
        """Train one inner step with the keys and the learning rate of the run's step `step`."""
        self.step = step
        done = self.advance()
        self.inner_steps += 1
        sequences = self._own_sequences(step)
        each = self.config.train.tokens_per_microbatch
        for index in range(self.config.train.microbatches):
            if index not in done.void:
                self.tokens[EDGE_STAGE] += each
                self.tokens.update(dict.fromkeys(sequence_of(sequences, index), each))
        return done

    def local(self, fragment: Fragment) -> Tensor:
        """The island's parameters of a fragment: float32 [elements], a view."""
        return self.stages[fragment.stage].current.parameters[fragment.start : fragment.stop]

    def cut(self, fragments: int) -> Iterator[Fragment]:
        """All fragments of the model, stage by stage."""
        for stage, replica in enumerate(self.stages):
            flat = replica.compute.flat
            tensors = list(zip(flat.offsets, flat.shapes, strict=True))
            yield from cut_stage(
                stage, tensors, fragment_bounds(flat.offsets, flat.total, fragments)
            )

    def join(self, fragment: Fragment, state: OuterState, settings: RoundSettings) -> None:
        """Take part in the rounds of a fragment from `state` on, which it owns then, and start from its parameters."""
        self.local(fragment).copy_(state.parameters)
        place = (fragment.stage, fragment.number)
        self.members[place] = FragmentMember(self.name, fragment, state, settings, self.inner_steps)
        self._tokens_sent[place] = self.tokens[fragment.stage]

    def send(self, place: Place) -> tuple[RoundContribution, Payload] | None:
        """Its contribution to the fragment's next round, and as it is on the wire, if it has one."""
        member = self.members[place]
        tokens = self.tokens[place[0]] - self._tokens_sent[place]
        self._tokens_sent[place] += tokens
        rate = learning_rate(self.config.optimizer, self.step, self.config.run.steps)
        return member.send(self.local(member.fragment), tokens, self.inner_steps, rate)

    def catch_up(self, place: Place, sibling: "Island") -> None:
        """Come back to a fragment with the outer state of `sibling`."""
        member, other = self.members[place], sibling.members[place]
        local = self.local(member.fragment)
        member.catch_up(other.state.copy(), other.counted, local, self.inner_steps)
        self._tokens_sent[place] = self.tokens[place[0]]

    def _shifted(self, step: int) -> Sequences:
        own = self._own_sequences(step)
        repeats = self._first_index // self.config.train.microbatches + 1
        return own * repeats if len(own) > 1 else own

    def _microbatch(self, step: int, index: int) -> tuple[float, list[Replica], list[Contribution]]:
        return super()._microbatch(step, self._first_index + index)

    def scalars(self, step: int) -> Scalars:
        """The run's learning rate; bias corrections count the island's own steps."""
        optimizer, steps = self.config.optimizer, self.config.run.steps
        own = scalars_of(optimizer, self.inner_steps, steps)
        return replace(own, learning_rate=learning_rate(optimizer, step, steps))
