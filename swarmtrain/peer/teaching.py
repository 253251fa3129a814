"""A donor's side of learning: the state of one step and the sums decided since, kept for a newcomer (peer.learning).

One newcomer at a time learns at a peer; others hear BUSY. What is kept for it is bounded (`LESSON_STATES`), and goes
when nothing was heard of it for `links.silence_seconds`, when a sum is missing between two that are there, and when the
island goes back to another state.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.compute.lane import Kind, Task
from swarmtrain.compute.replica import ReducedSum, Replica
from swarmtrain.core.messages import Commit, StageAt
from swarmtrain.core.sizes import FLOAT_BYTES, LESSON_STATES
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import Digest, PeerId
from swarmtrain.peer.parts import Parts
from swarmtrain.peer.reduce import cut
from swarmtrain.peer.restore import now_seconds
from swarmtrain.recovery.snapshots import Snapshot, copy_of
from swarmtrain.steps.keys import next_base
from swarmtrain.transport.link import Buffer
from swarmtrain.transport.requests import (
    LearnReply,
    LearnRequest,
    PieceReply,
    PieceRequest,
    StateRequest,
    Status,
)


@dataclass(slots=True)
class Lesson:
    """What is kept of one stage for `learner`: a copy of its state `at` a step until the learner has it, and by step
    the decisions since with their sums.

    `next_step` and `next_base` are those of the parameters behind the last of them.
    """

    learner: PeerId
    at: StageAt
    copying: "asyncio.Future[StageState] | None"
    state_bytes: int
    sum_bytes: int
    heard_seconds: float
    next_step: int
    next_base: Digest
    sums: "dict[int, tuple[Commit, asyncio.Future[Tensor]]]" = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        copy_bytes = self.state_bytes if self.copying is not None else 0
        return copy_bytes + self.sum_bytes * len(self.sums)


class Teaching:
    """The lessons at one peer, by stage."""

    def __init__(self, parts: Parts, failed: Callable[[BaseException], None]) -> None:
        self._parts = parts
        self._tasks = Tasks(failed)
        self._watching: asyncio.Task[None] | None = None
        self.lessons: dict[int, Lesson] = {}

    async def close(self) -> None:
        self.stop()
        await self._tasks.cancel_all()

    @property
    def most_bytes(self) -> int:
        """What the lessons under way may come to."""
        return LESSON_STATES * sum(lesson.state_bytes for lesson in self.lessons.values())

    def stop(self) -> None:
        """The island goes on from another state: nothing that is kept leads there."""
        self.lessons.clear()

    # ---- what a learner asks ------------------------------------------------------------------------------------

    async def answer(self, learner: PeerId, request: LearnRequest) -> LearnReply:
        if any(lesson.learner != learner for lesson in self.lessons.values()):
            return self._reply(Status.BUSY)
        if request.verb in ("look", "begin"):
            replica = self._taught(request.stage)
            if replica is None:
                return self._reply(Status.FENCED)
            is_look = request.verb == "look"
            return self._reply(Status.OK) if is_look else await self._begin(learner, replica)
        lesson = self.lessons.get(request.stage)
        if lesson is None or request.verb == "end":
            self.lessons.pop(request.stage, None)
            return self._reply(Status.FENCED)
        lesson.heard_seconds = now_seconds()
        return self._commit(lesson, request) if request.verb == "commit" else self._reply(Status.OK)

    def _taught(self, stage: int) -> Replica | None:
        """The replica, if it is in the run and there is memory to keep its state a while."""
        parts, roster = self._parts, self._parts.member.roster
        replica = parts.replicas.get(stage)
        if replica is None or parts.member.is_busy or roster is None or parts.me not in roster:
            return None
        return replica if self._has_room(replica) else None

    async def _begin(self, learner: PeerId, replica: Replica) -> LearnReply:
        """Keep the state of now: a copy, since the replica goes on."""
        lesson = self.lessons.get(replica.stage)
        if lesson is None or lesson.copying is None or lesson.next_step != lesson.at.step:
            lesson = self.lessons[replica.stage] = self._lesson(learner, replica)
        lesson.heard_seconds = now_seconds()
        epoch = self._parts.member.epoch
        if lesson.copying is not None:
            await asyncio.shield(lesson.copying)
        return LearnReply(Status.OK, lesson.at.step, lesson.at.base, epoch)

    def _has_room(self, replica: Replica) -> bool:
        others = [
            kept.state_bytes for stage, kept in self.lessons.items() if stage != replica.stage
        ]
        most_bytes = LESSON_STATES * (self._state_bytes(replica) + sum(others))
        return most_bytes <= self._parts.spare_bytes()

    def _lesson(self, learner: PeerId, replica: Replica) -> Lesson:
        parts, member = self._parts, self._parts.member
        task, live = Task(Kind.STATE, replica.stage, name="teach"), parts.state_of(replica.stage)
        if self._watching is None or self._watching.done():
            self._watching = self._tasks.spawn(self._watch(), "watch lessons")
        return Lesson(
            learner=learner,
            at=StageAt(replica.stage, member.step, member.base),
            copying=parts.lane.submit(task, lambda: copy_of(live)),
            state_bytes=self._state_bytes(replica),
            sum_bytes=replica.total.nbytes,
            heard_seconds=now_seconds(),
            next_step=member.step,
            next_base=member.base,
        )

    def _commit(self, lesson: Lesson, request: LearnRequest) -> LearnReply:
        """The decision of a step, or that there is none yet; whoever asks has the state before it."""
        lesson.copying = None
        lesson.sums = {step: kept for step, kept in lesson.sums.items() if step >= request.step}
        if request.step in lesson.sums:
            return self._reply(Status.OK, lesson.sums[request.step][0])
        if request.step == lesson.next_step:
            return self._reply(Status.OK)
        del self.lessons[request.stage]
        return self._reply(Status.FENCED)

    def _reply(self, status: Status, commit: Commit | None = None) -> LearnReply:
        member = self._parts.member
        return LearnReply(status, member.step, member.base, member.epoch, commit)

    def state(self, request: StateRequest) -> Snapshot | None:
        """The state that is kept for a learner, if it is the one of `request`."""
        lesson = self.lessons.get(request.stage)
        if lesson is None or lesson.at.step != request.step:
            return None
        copying = lesson.copying
        if copying is None or not copying.done():
            return None
        return Snapshot(lesson.at, copying.result())

    async def piece(self, request: PieceRequest) -> tuple[PieceReply, Buffer] | None:
        """A slice of a sum that is kept for a learner, or None."""
        lesson = self.lessons.get(request.stage)
        kept = lesson.sums.get(request.step) if lesson is not None and request.reduced else None
        if kept is None or (kept[0].term, kept[0].seal) != (request.term, request.seal):
            return None
        return cut(await asyncio.shield(kept[1]), request)

    # ---- what the run does --------------------------------------------------------------------------------------

    def note(self, commit: Commit, sums: dict[int, ReducedSum]) -> None:
        """`commit` is about to be applied, which clears the sums: keep copies of those that are learnt."""
        for stage, lesson in list(self.lessons.items()):
            expected = (lesson.next_step, lesson.next_base)
            if stage not in sums or (commit.step, commit.base) != expected:
                del self.lessons[stage]
                continue
            total, task = sums[stage].total, Task(Kind.STATE, stage, name="teach")
            copying = self._parts.lane.submit(task, lambda total=total: total.clone())  # type: ignore[misc]
            lesson.sums[commit.step] = commit, copying
            lesson.next_step, lesson.next_base = commit.next_step, next_base(commit)
            if lesson.bytes > LESSON_STATES * lesson.state_bytes:
                # The newcomer is too slow for these steps: it begins anew, and takes more of the line.
                del self.lessons[stage]

    async def _watch(self) -> None:
        silence_seconds = self._parts.config.links.silence_seconds
        while self.lessons:
            due_seconds = (
                min(kept.heard_seconds for kept in self.lessons.values()) + silence_seconds
            )
            await asyncio.sleep(max(due_seconds - now_seconds(), 0.1))
            for stage, lesson in list(self.lessons.items()):
                if now_seconds() >= lesson.heard_seconds + silence_seconds:
                    del self.lessons[stage]

    def _state_bytes(self, replica: Replica) -> int:
        """Parameters and both moments, and what outer rounds keep."""
        outer = self._parts.outer
        rounds_bytes = outer.packed(replica.stage).nbytes if outer is not None else 0
        return 3 * FLOAT_BYTES * replica.elements + rounds_bytes
