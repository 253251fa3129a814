"""One position of one key on the compute lane: forward, backward, loss, and what enters or leaves the sum.

Everything here is local to a peer: it knows the stage replicas and the step protocol's admission, not the links.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from swarmtrain.compute.accumulate import Contribution, contribution_limit, is_summable
from swarmtrain.compute.lane import Kind, Lane, Task
from swarmtrain.compute.replica import Replica
from swarmtrain.compute.stage import EdgeCompute, MiddleCompute, Tape
from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import SumChanged
from swarmtrain.core.faultpoints import reached
from swarmtrain.core.messages import Open
from swarmtrain.core.types import EDGE_STAGE, Item
from swarmtrain.data.stream import Corpus, microbatch
from swarmtrain.peer.store import Answer, Entry
from swarmtrain.steps.effects import Effect, Note
from swarmtrain.steps.member import StepMember
from swarmtrain.wire.tensors import is_finite

Samples = Callable[[int, int], Tensor]
"""`(step, index)` to tokens (B, T+1)."""


def samples_of(config: RunConfig, corpus: Corpus, island: int) -> Samples:
    """The microbatches of `island`: no two islands read the same ones."""
    train = config.train

    def samples(step: int, index: int) -> Tensor:
        tokens_BT = microbatch(
            corpus,
            seed=config.run.seed,
            step=step,
            index=island * train.microbatches + index,
            microbatch_size=train.microbatch_size,
            sequence_length=train.sequence_length,
        )
        return torch.from_numpy(tokens_BT)

    return samples


Perform = Callable[[list[Effect]], None]
"""Carries out the step protocol's effects."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one position's backward yields; the embedding has no input gradient."""

    gradient_BTD: Tensor | None
    contribution: Contribution
    summable: bool
    loss_sum: float | None = None


@dataclass(slots=True)
class Positions:
    """Computes positions with this peer's replicas. `failed` hears of broken work on the sums."""

    member: StepMember
    replicas: dict[int, Replica]
    lane: Lane
    samples: Samples
    microbatches: int
    perform: Perform
    failed: Callable[[BaseException], None]

    async def forward(self, opening: Open, entry: Entry) -> Tape:
        task = self._task(Kind.FORWARD, opening, entry)
        compute = self.replicas[entry.stage].compute
        if isinstance(compute, EdgeCompute):
            tokens_BT = self.samples(opening.step, entry.item[1])
            return await self.lane.submit(task, lambda: compute.embed(tokens_BT[:, :-1]))
        x_BTD = entry.x_BTD
        assert x_BTD is not None
        return await self.lane.submit(task, lambda: compute.forward(x_BTD))

    async def backward(
        self, opening: Open, entry: Entry, tape: Tape, early: Callable[[Tensor], None]
    ) -> Work:
        """`early` gets a finite input gradient on the loop, before the weight gradients are computed."""
        task = self._task(Kind.BACKWARD, opening, entry)
        return await self.lane.submit(task, lambda: self._differentiate(entry, tape, early))

    async def head(self, opening: Open, entry: Entry) -> Work:
        tokens_BT = self.samples(opening.step, entry.item[1])
        task = self._task(Kind.LOSS, opening, entry)
        return await self.lane.submit(task, lambda: self._loss(entry, tokens_BT))

    async def again(self, opening: Open, entry: Entry) -> Work:
        """The same work once more, from what is kept."""
        if is_head(opening, entry.item):
            return await self.head(opening, entry)
        tape = await self.forward(opening, entry)
        return await self.backward(opening, entry, tape, lambda gradient_BTD: None)

    # ---- the sum ------------------------------------------------------------------------------------------------

    def take(self, opening: Open, entry: Entry, work: Work) -> Answer:
        """Let the contribution into the sum if the protocol admits it, once (I1, R5); the answer for the caller.

        The item counts as held from here on: the lane keeps the order of work on the sums, so whatever reads
        the sum later sees this contribution.
        """
        if not work.summable:
            reason = "the gradient is not finite or too large for the sum"
            return self.void(opening, entry.item, reason)
        # While this was computed the step may have been decided without it; the next one must not get it.
        if self.member.is_at(opening) and self.member.admits(entry.item):
            reached("backward.before_accumulate")
            self.member.accumulated(entry.item, work.loss_sum)
            replica = self.replicas[entry.stage]
            self._on_sum(opening, entry, "add", lambda: replica.add(work.contribution))
            reached("backward.after_accumulate_before_reply")
        gradient_BTD = work.gradient_BTD
        return Answer(gradient_BTD if gradient_BTD is not None else torch.empty(0))

    def void(self, opening: Open, item: Item, reason: str) -> Answer:
        if self.member.is_at(opening):
            self.perform(self.member.voided(item, reason))
        return Answer(None)

    def retract(self, opening: Open, entry: Entry) -> None:
        """Take a contribution out again, recomputed from kept x and dy."""
        tokens_BT = self.samples(opening.step, entry.item[1]) if entry.stage == EDGE_STAGE else None
        replica = self.replicas[entry.stage]

        def work() -> None:
            compute = replica.compute
            if isinstance(compute, MiddleCompute):
                assert entry.x_BTD is not None
                again = self._differentiate(entry, compute.forward(entry.x_BTD))
            else:
                assert tokens_BT is not None
                if entry.item[0] == 0:
                    again = self._differentiate(entry, compute.embed(tokens_BT[:, :-1]))
                else:
                    again = self._loss(entry, tokens_BT)
            replica.retract(again.contribution)

        self._on_sum(opening, entry, "retract", work)

    def _on_sum(self, opening: Open, entry: Entry, change: str, work: Callable[[], None]) -> None:
        """Change the sum and, once that is done, say so: events have the order of the lane."""
        position, key = entry.item
        event = SumChanged(opening.step, position, key, change)

        def report(ended: "asyncio.Future[None]") -> None:
            if ended.cancelled():
                return
            if (error := ended.exception()) is not None:
                self.failed(error)
            else:
                self.perform([Note(event)])

        task = Task(Kind.STATE, entry.stage, key=key, name=change)
        self.lane.submit(task, work).add_done_callback(report)

    # ---- on the lane --------------------------------------------------------------------------------------------

    def _differentiate(
        self, entry: Entry, tape: Tape, early: Callable[[Tensor], None] | None = None
    ) -> Work:
        compute, dy_BTD = self.replicas[entry.stage].compute, entry.dy_BTD
        assert dy_BTD is not None
        if isinstance(compute, EdgeCompute):
            contribution = compute.embed_backward(tape, dy_BTD)
            return Work(None, contribution, self._is_summable(contribution))
        gradient_BTD, rest = compute.split_backward(tape, dy_BTD)
        if early is not None and is_finite(gradient_BTD):
            self.lane.deliver(lambda: early(gradient_BTD))
        contribution = rest()
        return Work(gradient_BTD, contribution, self._is_summable(contribution))

    def _loss(self, entry: Entry, tokens_BT: Tensor) -> Work:
        compute, x_BTD = self.replicas[EDGE_STAGE].compute, entry.x_BTD
        assert isinstance(compute, EdgeCompute) and x_BTD is not None
        loss_sum, gradient_BTD, contribution = compute.loss(x_BTD, tokens_BT[:, 1:])
        return Work(gradient_BTD, contribution, self._is_summable(contribution), loss_sum)

    def _is_summable(self, contribution: Contribution) -> bool:
        return is_summable(contribution, contribution_limit(self.microbatches))

    def _task(self, kind: Kind, opening: Open, entry: Entry) -> Task:
        """What remains of the round trip by the step's plan, or counted in runs of positions here.

        Without a plan positions of one run count as one visit, of which the later ones come first: the other way
        round every key would pass the first position before any left this peer.
        """
        position, key = entry.item
        last = len(opening.sequence(key)) + 1
        place = position if kind in (Kind.FORWARD, Kind.LOSS) else 2 * last - position
        planned_seconds = opening.remaining_seconds(place, key)
        if planned_seconds is not None:
            return Task(kind, entry.stage, planned_seconds, key)
        if kind is Kind.LOSS:
            return Task(kind, entry.stage, last, key)
        onward, end = (1, last) if kind is Kind.FORWARD else (-1, 0)
        ahead = self._more_here(opening, entry.item, onward)
        behind = self._more_here(opening, entry.item, -onward)
        visits = abs(end - position) - ahead
        return Task(kind, entry.stage, visits + behind / (ahead + behind + 1), key)

    def _more_here(self, opening: Open, item: Item, step: int) -> int:
        """How many positions this peer has in a row from that item on, in steps of 1 or -1."""
        position, key = item
        ends = range(len(opening.sequence(key)) + 2)
        count = 0
        while position + step in ends and opening.stage_at(position + step, key) in self.replicas:
            position, count = position + step, count + 1
        return count


def is_head(opening: Open, item: Item) -> bool:
    """Whether the item is the last position of its key's route."""
    return item[0] == len(opening.sequence(item[1])) + 1
