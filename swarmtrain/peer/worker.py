"""How one microbatch flows through one peer: receive, forward, call the next peer, backward, accumulate, answer.

    process(key, route, activations) -> input gradient

The call *is* the pipeline (design.md section 4). A peer runs its stage forward, calls the next peer on the route
with the output, awaits the output gradient, runs backward, and answers with the input gradient. A hop is
idempotent by (step, base digest, key, position): a repeat joins the running call or gets the stored answer (R1).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Protocol

from torch import Tensor

from swarmtrain.compute.stage import Tape
from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import BadMessage, DuplicateDropped, Record
from swarmtrain.core.faultpoints import reached
from swarmtrain.core.messages import Hint, Open
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import Item, PeerId, Route
from swarmtrain.peer.position import Positions, is_head
from swarmtrain.peer.slots import Busy, Slots
from swarmtrain.peer.store import Answer, Entry, Store
from swarmtrain.transport.link import Buffer
from swarmtrain.transport.requests import ProcessReply, ProcessRequest, Status
from swarmtrain.wire.tensors import decode_tensor, encode_tensor, is_finite, roundtrip

OTHER_BYTES = "came with other bytes, as from a replica with other kernels; the first ones count"
"""R15 where sums are fast: they promise no equal bits, and what answered the first bytes is in the sum."""


class NextHop(Protocol):
    """Calls a replica of the next position; `peer.hops.Hops` does it over links."""

    async def call(
        self, opening: Open, item: Item, x_BTD: Tensor, route: Route, hints: tuple[Hint, ...]
    ) -> tuple[Answer, PeerId]: ...

    def is_below(self, step: int, item: Item) -> bool: ...


class Worker:
    """Serves the positions of this peer's stages. `hops` is set once there are links."""

    hops: NextHop

    def __init__(self, config: RunConfig, positions: Positions, record: Record) -> None:
        self.config, self.positions = config, positions
        self.member = positions.member
        self.store = Store()
        self._record = record
        self._loop = asyncio.get_running_loop()
        self._slots = Slots(config.limits.slots_shared, config.limits.queue)
        self._computing: set[tuple[int, Item]] = set()
        self._unsettled: set[tuple[int, Item]] = set()
        self._is_exact = config.train.accumulation == "exact"
        self._launches = asyncio.Semaphore(config.limits.in_flight)
        self._moved = asyncio.Condition()
        # A position's failure reaches everybody who waits for its answer.
        self._tasks = Tasks(failed=lambda error: None)

    # ---- the call -----------------------------------------------------------------------------------------------

    async def process(
        self, caller: PeerId, request: ProcessRequest, payload: Buffer
    ) -> tuple[ProcessReply, Buffer]:
        """Answer one hop; raises WireError when the bytes are not what the route demands (I5)."""
        refusal = await self._fence(request)
        if refusal is not None:
            return refusal, b""
        opening = self.member.ledger.open
        assert opening is not None
        item = (request.position, request.key)
        entry = self.store.get(request.step, item)
        if entry is None:
            x_BTD = decode_tensor(request.tensor, payload, expect_shape=self._boundary_shape)
            reached("forward.received")
            if self._is_full(request.step):
                return self._reply(Status.FULL, "this peer retains no more keys this step"), b""
            entry = self._enter(opening, item, request.tensor.digest, x_BTD)
            self._start(opening, entry, request.route, ())
        elif (is_other := entry.differs(request.tensor.digest)) and self._is_exact:
            self._record(BadMessage(caller, f"item {item} came again with other bytes (R15)"))
            return self._reply(Status.MISMATCH, "this item came before with other bytes"), b""
        else:
            reason = OTHER_BYTES if is_other else "joined or stored call"
            self._record(DuplicateDropped(request.step, item[1], item[0], reason))
        entry.waiting[caller] += 1
        try:
            answer = await self._answer(opening, entry)
        except Busy:
            return self._reply(Status.BUSY, "every slot and the queue are taken"), b""
        except asyncio.CancelledError:
            if not entry.answer.cancelled():
                raise
            return self._reply(Status.FENCED, "the step moved on, or the call was withdrawn"), b""
        return self._encode_answer(answer)

    def withdraw(self, caller: PeerId, step: int, item: Item) -> None:
        """`caller` has the answer from elsewhere: unless others wait for it too, the work here ends.

        What is answered or held stays: the step protocol retracts it from the sum (R2).
        """
        entry, member = self.store.get(step, item), self.member
        if entry is None or entry.answer.done() or not entry.waiting[caller]:
            return
        if step == member.step and item in member.ledger.held:
            return
        entry.waiting[caller] -= 1
        if not entry.waiting.total():
            self.store.drop(step, item)
            entry.answer.cancel()

    async def enter_local(
        self, opening: Open, item: Item, x_BTD: Tensor, route: Route, hints: tuple[Hint, ...]
    ) -> Answer:
        """The next position is on this peer: no hop, but the codec's loss all the same (R15)."""
        entry = self.store.get(opening.step, item)
        if entry is None:
            entry = self._enter(opening, item, None, roundtrip(x_BTD, self.config.wire.codec))
            self._start(opening, entry, route, hints)
        entry.waiting[self.member.peer] += 1
        try:
            answer = await self._answer(opening, entry)
        except asyncio.CancelledError:
            self.withdraw(self.member.peer, opening.step, item)
            raise
        if answer.gradient_BTD is None:
            return answer
        gradient_BTD = roundtrip(answer.gradient_BTD, self.config.wire.codec)
        return Answer(gradient_BTD)

    async def lead(self, opening: Open, key: int, hints: tuple[Hint, ...]) -> None:
        """Start `key` at its embedding and wait until its input gradient came back (position 0)."""
        entry = self.store.get(opening.step, (0, key))
        if entry is not None:
            await self._answer(opening, entry)
            return
        async with self._launches:
            if self.member.is_at(opening):
                entry = self._enter(opening, (0, key), None, None)
                self._start(opening, entry, (), hints)
                await self._answer(opening, entry)

    async def redrive(self, opening: Open, item: Item, hints: tuple[Hint, ...]) -> None:
        """Call a replica of `item` with bytes this peer kept: it holds the position above (R6)."""
        above = self.store.get(opening.step, (item[0] - 1, item[1]))
        if above is not None:
            tape = await self.positions.forward(opening, above)
            await self.hops.call(opening, item, tape.sent_BTD, (), hints)

    # ---- one position -------------------------------------------------------------------------------------------

    async def _serve(
        self, opening: Open, entry: Entry, route: Route, hints: tuple[Hint, ...]
    ) -> Answer:
        """Forward, next hop, backward, accumulate: the heart of the peer."""
        positions, item = self.positions, entry.item
        async with self._slot(opening.step, item):
            if entry.x_BTD is not None and not is_finite(entry.x_BTD):
                return positions.void(opening, item, "the activation is not finite")
            if is_head(opening, item):
                return positions.take(opening, entry, await positions.head(opening, entry))
            tape = await positions.forward(opening, entry)
            reached("forward.done")
            below = (item[0] + 1, item[1])
            sent_BTD = tape.sent_BTD
            answer, entry.served_by = await self.hops.call(opening, below, sent_BTD, route, hints)
            if answer.gradient_BTD is None:
                return positions.void(opening, item, "a later position is void")
            if not is_finite(answer.gradient_BTD):
                return positions.void(opening, item, "the output gradient is not finite")
            entry.dy_BTD = answer.gradient_BTD
            return await self._backward(opening, entry, tape)

    async def _backward(self, opening: Open, entry: Entry, tape: Tape) -> Answer:
        """Answer with the input gradient as soon as it is there, then compute and take the contribution.

        Between the two the item is answered and not yet held: `settled` waits for this.
        """
        step_item = (opening.step, entry.item)

        def early(gradient_BTD: Tensor) -> None:
            if not entry.answer.done():
                self._unsettled.add(step_item)
                entry.answer.set_result(Answer(gradient_BTD))

        try:
            work = await self.positions.backward(opening, entry, tape, early)
            return self.positions.take(opening, entry, work)
        finally:
            if step_item in self._unsettled:
                self._unsettled.discard(step_item)
                await self.moved()

    @property
    def is_settled(self) -> bool:
        """Whether every answered item is held or void, so that HELD says all there is to say."""
        return not self._unsettled

    async def settled(self) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: self.is_settled)

    @asynccontextmanager
    async def _slot(self, step: int, item: Item) -> AsyncIterator[None]:
        """Hold a slot while `item` is served; consecutive positions on this peer share the first one's.

        One slot each would let the first position take them all, and the later ones serve one key at a time.
        """
        position, key = item
        shares = (step, (position - 1, key)) in self._computing
        async with nullcontext() if shares else self._slots.hold(position):
            self._computing.add((step, item))
            try:
                yield
            finally:
                self._computing.discard((step, item))

    async def _answer(self, opening: Open, entry: Entry) -> Answer:
        """The entry's answer. A stored answer is not a held gradient: if the step was reopened for the item,
        accumulate it again first (R3)."""
        answer = await asyncio.shield(entry.answer)
        is_current = self.member.is_at(opening)
        is_settled = (opening.step, entry.item) not in self._unsettled
        if not answer.is_void and is_current and is_settled and self.member.admits(entry.item):
            self.positions.take(opening, entry, await self.positions.again(opening, entry))
        return answer

    def _enter(
        self, opening: Open, item: Item, digest: bytes | None, x_BTD: Tensor | None
    ) -> Entry:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        entry = Entry(item, opening.stage_at(*item), digest, x_BTD, answer)
        self.store.put(opening.step, entry)
        return entry

    def _start(self, opening: Open, entry: Entry, route: Route, hints: tuple[Hint, ...]) -> None:
        """Run the position as a task of its own: a caller's disconnect does not cancel it."""
        work = self._serve(opening, entry, route, hints)
        task = self._tasks.spawn(work, f"item {entry.item}")

        def settle(ended: "asyncio.Task[Answer]") -> None:
            if entry.answer.done():
                if not ended.cancelled() and (late := ended.exception()) is not None:
                    self.positions.failed(late)
                return
            if ended.cancelled():
                entry.answer.cancel()
            elif (error := ended.exception()) is not None:
                self.store.drop(opening.step, entry.item)
                entry.answer.set_exception(error)
                entry.answer.exception()  # marks it as seen: perhaps nobody waits any more
            else:
                entry.answer.set_result(ended.result())

        task.add_done_callback(settle)
        entry.answer.add_done_callback(lambda future: task.cancel() if future.cancelled() else None)

    # ---- step changes -------------------------------------------------------------------------------------------

    async def moved(self) -> None:
        """The step, its opening or its roster changed: wake the calls that wait for it."""
        async with self._moved:
            self._moved.notify_all()

    def retract(self, items: tuple[Item, ...]) -> None:
        opening = self.member.ledger.open
        assert opening is not None
        for item in items:
            entry = self.store.get(opening.step, item)
            assert entry is not None, "what is held is kept (R11)"
            self.positions.retract(opening, entry)

    def leave_step(self, step: int) -> None:
        """End the work of steps before `step`; what they kept stays until `store.forget_before`."""
        for old, entries in self.store.steps.items():
            if old < step:
                for entry in entries.values():
                    entry.answer.cancel()

    def abandon(self) -> None:
        """Give up the work of every step: the island goes on from another state."""
        for entries in self.store.steps.values():
            for entry in entries.values():
                entry.answer.cancel()
        self.store.steps.clear()
        self._computing.clear()

    async def close(self) -> None:
        await self._tasks.cancel_all()

    # ---- checks and replies -------------------------------------------------------------------------------------

    async def _fence(self, request: ProcessRequest) -> ProcessReply | None:
        """None when the work belongs to this peer's parameters; work for the next step waits (R1, R11, I4)."""
        member = self.member
        async with self._moved:
            await self._moved.wait_for(
                lambda: (
                    member.step > request.step
                    or (member.step == request.step and member.ledger.open is not None)
                )
            )
        opening = member.ledger.open
        if member.step != request.step or request.base != member.base or opening is None:
            return self._reply(Status.FENCED, "this work is for other parameters")
        if request.roster_version < opening.roster.version:
            return self._reply(Status.REFRESH, "a newer roster exists")
        if not 0 <= request.key < opening.microbatches:
            return self._reply(Status.FENCED, "no such key in this step")
        if not 1 <= request.position <= len(opening.sequence(request.key)) + 1:
            return self._reply(Status.FENCED, "no such position on this key's route")
        if opening.stage_at(request.position, request.key) not in self.positions.replicas:
            return self._reply(Status.REFRESH, "this peer does not host that stage")
        return None

    @property
    def lane_seconds(self) -> float:
        """What one microbatch takes of this peer's lane through every stage here; 0 before some were measured."""
        return self.positions.lane.meter.recent_seconds(len(self.positions.replicas))

    @property
    def _boundary_shape(self) -> tuple[int, int, int]:
        train = self.config.train
        return (train.microbatch_size, train.sequence_length, self.config.model.width)

    def _is_full(self, step: int) -> bool:
        """Every stage here may retain `keys_per_step` items, the edge twice as many (R13)."""
        stages = len(self.positions.replicas) + (0 in self.positions.replicas)
        return len(self.store.steps.get(step, {})) >= self.config.limits.keys_per_step * stages

    def _encode_answer(self, answer: Answer) -> tuple[ProcessReply, Buffer]:
        if answer.gradient_BTD is None:
            return self._reply(Status.VOID, "the key is void"), b""
        wire = self.config.wire
        header, payload = encode_tensor(answer.gradient_BTD, wire.codec, wire.zstd_level)
        reply = ProcessReply(Status.OK, "", self.member.step, header, self.lane_seconds)
        return reply, payload

    def _reply(self, status: Status, reason: str) -> ProcessReply:
        return ProcessReply(status, reason, self.member.step, None)
