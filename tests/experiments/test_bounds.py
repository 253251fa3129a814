"""Bounds and repeats: slots that push back (R12, I8), and calls that come twice (R1, R15, I1)."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from swarmtrain.compute.replica import Replica
from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import BadMessage, DuplicateDropped
from swarmtrain.core.types import PeerId
from swarmtrain.experiments.virtual import VirtualPeer, peers
from swarmtrain.peer.slots import Busy, Slots
from swarmtrain.peer.worker import Worker
from swarmtrain.steps.member import StepMember
from swarmtrain.transport.link import Buffer
from swarmtrain.transport.requests import ProcessReply, ProcessRequest, Status
from swarmtrain.wire.tensors import decode_tensor, encode_tensor
from tests.experiments.runs import MIXED, events_of, known_reference, sha_of, small_config, virtual

CONFIG = small_config(steps=3)
POSITIONS = CONFIG.model.stages + 2

# ---- bounded memory -------------------------------------------------------------------------------------------------


class Watch:
    """Counts what is held at once, per peer and per (peer, position), and how often a call was sent back."""

    def __init__(self) -> None:
        self.now: Counter[tuple[int, int]] = Counter()
        self.most: Counter[int] = Counter()
        self.most_queued = 0
        self.busy = 0


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Instruments every Slots of the virtual world."""
    seen, hold = Watch(), Slots.hold
    alive: list[Slots] = []

    @asynccontextmanager
    async def watched(self: Slots, position: int) -> AsyncIterator[None]:
        alive.append(self)  # keeps ids unique
        try:
            async with hold(self, position):
                seen.now[id(self), position] += 1
                held = sum(count for (slots, _), count in seen.now.items() if slots == id(self))
                seen.most[id(self)] = max(seen.most[id(self)], held)
                seen.most_queued = max(seen.most_queued, self.waiting)
                try:
                    yield
                finally:
                    seen.now[id(self), position] -= 1
        except Busy:
            seen.busy += 1
            raise

    monkeypatch.setattr(Slots, "hold", watched)
    yield seen
    assert not +seen.now, "every slot was given back"


def limited(in_flight: int, shared: int, queue: int) -> RunConfig:
    limits = (f"in_flight={in_flight}", f"slots_shared={shared}", f"queue={queue}")
    return small_config("train.microbatches=12", *(f"limits.{limit}" for limit in limits), steps=2)


@pytest.mark.parametrize("fleet", [peers(1), peers(4), MIXED], ids=["1", "4", "mixed"])
@pytest.mark.parametrize(("in_flight", "shared", "queue"), [(8, 4, 16), (8, 1, 2), (4, 0, 4)])
def test_no_more_is_in_flight_than_the_slots_allow(
    watch: Watch, fleet: tuple[VirtualPeer, ...], in_flight: int, shared: int, queue: int
):
    config = limited(in_flight, shared, queue)
    run = virtual(config, fleet)
    assert max(watch.most.values()) <= POSITIONS + shared
    assert watch.most_queued <= queue
    assert sha_of(run) == known_reference(config).parameters_sha256


@pytest.mark.parametrize("fleet", [peers(1), peers(4), MIXED], ids=["1", "4", "mixed"])
def test_the_fewest_slots_only_slow_a_run_down(watch: Watch, fleet: tuple[VirtualPeer, ...]):
    """in_flight is more than an edge's slots: launches wait for theirs, they are not sent back."""
    config = limited(8, 0, 0)
    run = virtual(config, fleet)
    assert max(watch.most.values()) <= POSITIONS
    assert sha_of(run) == known_reference(config).parameters_sha256


def test_busy_is_an_answer_and_not_a_ban(monkeypatch: pytest.MonkeyPatch, watch: Watch):
    process, statuses = Worker.process, Counter[Status]()

    async def counted(
        self: Worker, caller: PeerId, request: ProcessRequest, payload: Buffer
    ) -> tuple[ProcessReply, Buffer]:
        answer = await process(self, caller, request, payload)
        statuses[answer[0].status] += 1
        return answer

    monkeypatch.setattr(Worker, "process", counted)
    config = limited(8, 0, 0)
    edges = tuple(VirtualPeer(f"edge-{index}", (0,)) for index in range(3))
    run = virtual(config, (*edges, VirtualPeer("slow", (1, 2), slowness=10.0)))
    assert statuses[Status.BUSY] == watch.busy > 0
    assert max(watch.most.values()) <= POSITIONS
    assert sha_of(run) == known_reference(config).parameters_sha256
    assert not events_of(run, BadMessage)


def test_slots_that_do_not_count_are_noticed(monkeypatch: pytest.MonkeyPatch, watch: Watch):
    """The bound above must be able to fail."""

    async def always(self: Slots, position: int) -> bool:
        return True

    monkeypatch.setattr(Slots, "_acquire", always)
    virtual(limited(8, 0, 0), peers(1))
    assert max(watch.most.values()) > POSITIONS


# ---- the same call twice --------------------------------------------------------------------------------------------


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts contributions that enter and leave any sum."""
    add, retract, counts = Replica.add, Replica.retract, Counter[str]()

    def counted_add(self: Replica, contribution: object) -> None:
        counts["add"] += 1
        add(self, contribution)  # type: ignore[arg-type]

    def counted_retract(self: Replica, contribution: object) -> None:
        counts["retract"] += 1
        retract(self, contribution)  # type: ignore[arg-type]

    monkeypatch.setattr(Replica, "add", counted_add)
    monkeypatch.setattr(Replica, "retract", counted_retract)
    return counts


def repeat_calls(monkeypatch: pytest.MonkeyPatch, *, at_once: bool) -> None:
    """Every hop between peers is made twice with the same bytes: at once, or after the answer."""
    process = Worker.process

    async def twice(
        self: Worker, caller: PeerId, request: ProcessRequest, payload: Buffer
    ) -> tuple[ProcessReply, Buffer]:
        if at_once:
            first, second = await asyncio.gather(
                process(self, caller, request, payload), process(self, caller, request, payload)
            )
        else:
            first = await process(self, caller, request, payload)
            second = await process(self, caller, request, payload)
        if self.member.step == request.step:
            assert second[0] == first[0] and bytes(second[1]) == bytes(first[1])
        return first

    monkeypatch.setattr(Worker, "process", twice)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_call_made_twice_counts_once(
    monkeypatch: pytest.MonkeyPatch, added: Counter[str], at_once: bool
):
    repeat_calls(monkeypatch, at_once=at_once)
    run = virtual(CONFIG, MIXED)
    expected = CONFIG.run.steps * CONFIG.train.microbatches * POSITIONS
    assert added == {"add": expected}, "no repeat may enter a sum, not even to be taken out again"
    assert sha_of(run) == known_reference(CONFIG).parameters_sha256
    dropped = [event for event in events_of(run, DuplicateDropped)]
    assert {event.reason for event in dropped} == {"joined or stored call"}  # type: ignore[attr-defined]
    assert len(dropped) >= expected // 2


def test_without_admission_a_repeat_is_noticed(
    monkeypatch: pytest.MonkeyPatch, added: Counter[str]
):
    """The test above must be able to fail: with `admits` always true repeats are summed again."""
    repeat_calls(monkeypatch, at_once=False)
    monkeypatch.setattr(StepMember, "admits", lambda self, item: True)
    run = virtual(CONFIG, MIXED)
    assert added["add"] > CONFIG.run.steps * CONFIG.train.microbatches * POSITIONS
    assert sha_of(run) != known_reference(CONFIG).parameters_sha256


def test_a_repeat_with_other_bytes_is_refused_and_told(
    monkeypatch: pytest.MonkeyPatch, added: Counter[str]
):
    """R15: an event and a refusal; the first call and the run are unharmed."""
    answers = list[Status]()
    forge_repeats(monkeypatch, answers)
    run = virtual(CONFIG, MIXED)
    assert Counter(answers).most_common(1)[0][0] is Status.MISMATCH
    told = [event for event in events_of(run, BadMessage) if "other bytes" in event.reason]  # type: ignore[attr-defined]
    assert len(told) == answers.count(Status.MISMATCH) > 0
    assert {event.peer for event in told} == {"forger"}  # type: ignore[attr-defined]
    assert added == {"add": CONFIG.run.steps * CONFIG.train.microbatches * POSITIONS}
    assert sha_of(run) == known_reference(CONFIG).parameters_sha256


def test_in_fast_mode_other_bytes_get_the_first_answer(
    monkeypatch: pytest.MonkeyPatch, added: Counter[str]
):
    """R15: machines with other kernels share such a run, and one that drives a key again is no forger."""
    fast, answers = small_config("train.accumulation=fast", steps=3), list[Status]()
    forge_repeats(monkeypatch, answers)
    run = virtual(fast, MIXED)
    assert Counter(answers).most_common(1)[0][0] is Status.OK and not events_of(run, BadMessage)
    assert Status.MISMATCH not in answers
    marked = [
        event for event in events_of(run, DuplicateDropped) if "other kernels" in event.reason
    ]  # type: ignore[attr-defined]
    assert len(marked) >= answers.count(Status.OK)
    assert added["add"] == fast.run.steps * fast.train.microbatches * POSITIONS


def forge_repeats(monkeypatch: pytest.MonkeyPatch, answers: list[Status]) -> None:
    """Behind every call comes another one for the same position, with other bytes; `answers` takes what it gets."""
    process = Worker.process
    train, width = CONFIG.train, CONFIG.model.width
    shape = (train.microbatch_size, train.sequence_length, width)

    async def with_a_forgery(
        self: Worker, caller: PeerId, request: ProcessRequest, payload: Buffer
    ) -> tuple[ProcessReply, Buffer]:
        honest = asyncio.ensure_future(process(self, caller, request, payload))
        await asyncio.sleep(0)
        x_BTD = decode_tensor(request.tensor, payload, expect_shape=shape)
        header, other = encode_tensor(x_BTD + 1.0, "none", 0)
        forged = replace(request, tensor=header)
        reply, body = await process(self, PeerId("forger"), forged, other)
        first, mine = await honest
        # A stored answer is the first one's own, whatever came behind.
        assert bytes(body) == (bytes(mine) if reply.status is Status.OK else b"")
        answers.append(reply.status)
        return first, mine

    monkeypatch.setattr(Worker, "process", with_a_forgery)
