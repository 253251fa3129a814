"""Work that nobody waits for any more ends, and no other."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

import swarmtrain.peer.recovering as recovering_module
from swarmtrain.core.clock import run_virtual
from swarmtrain.core.types import Digest, Item, PeerId
from swarmtrain.peer.recovering import Recovering
from swarmtrain.peer.store import Answer, Entry
from swarmtrain.peer.worker import Worker
from swarmtrain.recovery.dealing import pace_of
from swarmtrain.steps.effects import Resync
from tests.experiments.runs import small_config

ME, ANNA, BERT = PeerId("me"), PeerId("anna"), PeerId("bert")
STEP, ITEM = 4, (1, 7)


def worker_with(*callers: PeerId, held: frozenset[Item] = frozenset()) -> tuple[Worker, Entry]:
    """A worker that computes `ITEM` for these callers."""
    ledger = SimpleNamespace(held=held)
    member = SimpleNamespace(peer=ME, step=STEP, base=Digest(bytes(32)), ledger=ledger)
    positions: Any = SimpleNamespace(member=member)
    worker = Worker(small_config(), positions, lambda event: None)
    entry = Entry(ITEM, 1, None, None, asyncio.get_running_loop().create_future())
    entry.waiting.update(callers)
    worker.store.put(STEP, entry)
    return worker, entry


@pytest.mark.parametrize(
    ("callers", "withdrawn", "ends"),
    [
        ((ANNA,), (ANNA,), True),
        ((ANNA, BERT), (ANNA,), False),
        ((ANNA, BERT), (ANNA, BERT), True),
        ((ANNA, ANNA), (ANNA,), False),
        ((ANNA,), (BERT,), False),
        ((ANNA, ME), (ANNA,), False),
        ((), (ANNA,), False),
    ],
)
def test_work_ends_when_all_who_called_for_it_withdrew(
    callers: tuple[PeerId, ...], withdrawn: tuple[PeerId, ...], ends: bool
) -> None:
    async def main() -> None:
        worker, entry = worker_with(*callers)
        for caller in withdrawn:
            worker.withdraw(caller, STEP, ITEM)
        assert entry.answer.cancelled() == ends
        assert (worker.store.get(STEP, ITEM) is None) == ends

    run_virtual(main())


def test_what_is_held_or_answered_stays() -> None:
    """It may be in the sum already: only the step protocol takes it out again (R2, R11)."""

    async def main() -> None:
        worker, entry = worker_with(ANNA, held=frozenset([ITEM]))
        worker.withdraw(ANNA, STEP, ITEM)
        assert worker.store.get(STEP, ITEM) is entry and not entry.answer.cancelled()
        worker, entry = worker_with(ANNA)
        entry.answer.set_result(Answer(None))
        worker.withdraw(ANNA, STEP, ITEM)
        assert worker.store.get(STEP, ITEM) is entry

    run_virtual(main())


def test_a_state_from_siblings_ends_what_was_under_way_for_the_same_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It rests on other parameters, although step and epoch may be the same (R1): joined, it would enter the sum."""

    async def taken(*_: object) -> tuple[()]:
        return ()

    async def main() -> None:
        worker, entry = worker_with(ANNA)
        worker.member.suspend = lambda: None  # type: ignore[method-assign]
        worker.member.adopt = lambda *_: []  # type: ignore[assignment,method-assign]
        reducer = SimpleNamespace(abandon=lambda: None)
        parts = SimpleNamespace(member=worker.member, worker=worker, reducer=reducer)
        one: Any = SimpleNamespace(_parts=parts, _perform=lambda effects: None)
        wanted = Resync(STEP, Digest(b"n" * 32), 0, (1,), (), "other parameters")
        await Recovering._take_state(one, wanted, lambda _: (), pace_of(small_config().links))
        assert entry.answer.cancelled() and worker.store.get(STEP, ITEM) is None

    monkeypatch.setattr(recovering_module, "resync", taken)
    run_virtual(main())
