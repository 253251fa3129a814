"""The yardstick: the same run as a plain single-process PyTorch loop, with no peer, link or protocol.

It shares with the swarm only the arithmetic that equality to the bit needs (design.md section 4): one
quantisation per (key, position), the integer norm, the order of scalar operations, the optimizer. Forward and
backward here are ordinary autograd through the whole depth of the model.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from swarmtrain.checkpoint.initial import InitialModel
from swarmtrain.checkpoint.stage_file import NamesShapes, StageState
from swarmtrain.checkpoint.store import save
from swarmtrain.compute.accumulate import Contribution, contribution_limit, is_summable
from swarmtrain.compute.replica import Replica
from swarmtrain.compute.stage import EdgeCompute, MiddleCompute, StageCompute
from swarmtrain.core.closing import Closing, Scalars
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import ConfigError, StateError
from swarmtrain.core.layout import parameters_sha256
from swarmtrain.core.messages import Commit, StageSum
from swarmtrain.core.schedule import scalars_of
from swarmtrain.core.sequences import Sequences, sequence_of, stage_sequences
from swarmtrain.core.types import Roster
from swarmtrain.data.stream import Corpus, microbatch


@dataclass(frozen=True, slots=True)
class ReferenceStep:
    """What one step of the loop did; `loss` is the mean over the keys that count, nan when none does."""

    step: int
    loss: float
    tokens: int
    void: tuple[int, ...]


class Reference:
    """The whole model in one process. `stages` are edge, middle 1..S in order.

    `step` is the next step to train, so also how many are done. `sums` says of each stage what was summed in the
    last step, before clipping; empty before the first.
    """

    def __init__(
        self,
        config: RunConfig,
        corpus: Corpus,
        vocab_size: int,
        sequences: Callable[[int], Sequences] | None = None,
    ) -> None:
        """`sequences` are the stages that each microbatch of a step visits, instead of those that follow from `config`.

        Raises ConfigError where they do not follow from it, and ModelError when `model.initial` cannot be read.
        """
        if sequences is None and config.paths.visits == "planned":
            raise ConfigError(
                "the plain loop cannot train with paths.visits = planned",
                "the planner chose the stages from what it measured, so they do not follow from the configuration",
                "set paths.visits = seeded to compare a run with the plain loop",
            )
        self.config, self.corpus = config, corpus
        self._sequences = sequences or functools.partial(stage_sequences, config)
        self.edge = EdgeCompute(config, vocab_size)
        self.middle = [MiddleCompute(config, stage) for stage in range(1, config.model.stages + 1)]
        computes: list[StageCompute] = [self.edge, *self.middle]
        self.stages = [Replica(config, stage, compute) for stage, compute in enumerate(computes)]
        self.step = 0
        self.sums: tuple[StageSum, ...] = ()
        if config.model.initial:
            initial = InitialModel(config.model)
            for stage in range(len(self.stages)):
                self.replace(initial.stage(stage))

    def train(self) -> Iterator[ReferenceStep]:
        """Run all steps that are left, yielding after each."""
        while self.step < self.config.run.steps:
            yield self.advance()

    def advance(self) -> ReferenceStep:
        """Train the step that comes next."""
        done = self._step(self.step)
        self.step += 1
        return done

    def parameters_sha256(self) -> str:
        return parameters_sha256([replica.digest() for replica in self.stages])

    def state(self, stage: int) -> StageState:
        """A copy of a stage's state."""
        replica = self.stages[stage]
        return StageState(
            stage=stage,
            names_shapes=_names_shapes(replica),
            parameters=replica.current.parameters.numpy().copy(),
            moment1=replica.current.moment1.numpy().copy(),
            moment2=replica.current.moment2.numpy().copy(),
        )

    def load(self, states: Sequence[StageState], step: int) -> None:
        """Take over a whole model, one state a stage, and go on with `step`. Raises StateError, with nothing loaded."""
        stages = sorted(state.stage for state in states)
        if stages != list(range(len(self.stages))):
            raise StateError(
                f"the states to load are of stages {stages}",
                f"the model has each of 0 to {len(self.stages) - 1} once",
                "load the states of one whole checkpoint",
            )
        flats = [self._flats_of(state) for state in states]
        for state, flat in zip(states, flats, strict=True):
            self.stages[state.stage].load(flat)
        self.step = step

    def replace(self, state: StageState) -> None:
        """Give one stage another state; the others and the step stay. Raises StateError, with nothing loaded."""
        self.stages[state.stage].load(self._flats_of(state))

    def _flats_of(self, state: StageState) -> list[Tensor]:
        replica = self.stages[state.stage]
        flats = [torch.from_numpy(array) for _, array in state.sections()]
        if state.names_shapes != _names_shapes(replica) or len(flats) != len(replica.current.flats):
            raise StateError(
                f"the state of stage {state.stage} does not fit the model",
                "it has other parameters, or lacks the optimizer's moments",
                "it belongs to another run or was written by another version",
            )
        return flats

    def save(self, folder: Path) -> Path:
        """Write a checkpoint of the state after the last step. Raises StateError."""
        return save(
            folder,
            step=self.step,
            base=bytes(32),
            config_json=self.config.to_json(),
            states=(self.state(replica.stage) for replica in self.stages),
        )

    def _step(self, step: int) -> ReferenceStep:
        train = self.config.train
        limit = contribution_limit(train.microbatches)
        losses: list[float] = []
        void: list[int] = []
        for index in range(train.microbatches):
            loss, owners, contributions = self._microbatch(step, index)
            if all(is_summable(contribution, limit) for contribution in contributions):
                losses.append(loss)
                for replica, contribution in zip(owners, contributions, strict=True):
                    replica.add(contribution)
            else:
                void.append(index)
        tokens = train.microbatches * train.tokens_per_microbatch
        self._apply(step, tokens)
        counted = train.tokens_per_microbatch * len(losses)
        return ReferenceStep(
            step, sum(losses) / counted if counted else float("nan"), tokens, tuple(void)
        )

    def _microbatch(self, step: int, index: int) -> tuple[float, list[Replica], list[Contribution]]:
        """Loss and one contribution per position, with the stage each belongs to."""
        config = self.config
        route = sequence_of(self._sequences(step), index)
        visited = [self.middle[stage - 1] for stage in route]
        tokens_BT = torch.from_numpy(
            microbatch(
                self.corpus,
                seed=config.run.seed,
                step=step,
                index=index,
                microbatch_size=config.train.microbatch_size,
                sequence_length=config.train.sequence_length,
            )
        )
        embedded = self.edge.embed(tokens_BT[:, :-1])
        # A tied embedding is used at both ends; its two gradients are rounded apart, as two positions.
        start_BTD = embedded.y_BTD.detach().requires_grad_()
        x_BTD = start_BTD
        for compute in visited:
            x_BTD = compute.module(x_BTD)
        loss = self.edge.module.loss_sum(x_BTD, tokens_BT[:, 1:])
        head = [parameter for _, parameter in self.edge.module.head_parameters()]
        blocks = [list(compute.module.parameters()) for compute in visited]
        wanted: list[Tensor] = [start_BTD, *head, *(p for block in blocks for p in block)]
        gradient_BTD, *gradients = torch.autograd.grad(loss, wanted)
        contributions = [self.edge.embed_backward(embedded, gradient_BTD)]
        taken = len(head)
        contributions.append(Contribution(self.edge.flat.spans(head), gradients[:taken]))
        for compute, block in zip(visited, blocks, strict=True):
            mine = gradients[taken : taken + len(block)]
            contributions.append(Contribution(compute.flat.spans(block), mine))
            taken += len(block)
        return (
            float(loss.detach()),
            [self.stages[0], self.stages[0], *(self.stages[stage] for stage in route)],
            contributions,
        )

    def scalars(self, step: int) -> Scalars:
        """Learning rate and bias corrections of a step."""
        return scalars_of(self.config.optimizer, step, self.config.run.steps)

    def _apply(self, step: int, tokens: int) -> None:
        config = self.config
        reduced = [replica.sealed(replica.total, tokens) for replica in self.stages]
        commit = Commit(
            term=0,
            step=step,
            seal=0,
            base=b"",
            roster=Roster.of(0, []),
            stages=tuple(entry.facts for entry in reduced),
            closing=Closing(self.scalars(step), step + 1),
            tokens=tokens,
            loss=0.0,
            void=b"",
        )
        for replica, entry in zip(self.stages, reduced, strict=True):
            replica.apply(entry, commit, config.optimizer.clip_norm)
        self.sums = commit.stages


def _names_shapes(replica: Replica) -> NamesShapes:
    return tuple(zip(replica.compute.flat.names, replica.compute.flat.shapes, strict=True))
