"""A directory that falls silent costs a peer of a run nothing, and a newcomer a clear error."""

import asyncio

import pytest

from swarmtrain.compute.meter import Meter
from swarmtrain.core.errors import DirectoryError
from swarmtrain.core.events import Event, Measured, Noted
from swarmtrain.core.types import PeerId
from swarmtrain.peer.placing import MOST_SILENT_LOOKS, Machine, Placing
from swarmtrain.swarm.records import PeerRecord
from tests.experiments.runs import small_config

ME = PeerId("m" * 32)


class Silent:
    """Answers `good` calls, then none."""

    bootstrap = ()

    def __init__(self, good: int) -> None:
        self.good = good
        self.kept: tuple[PeerRecord, ...] = ()

    def now(self) -> float:
        return 0.0

    async def publish(self, record: PeerRecord, life_seconds: float) -> None:
        self.kept = (record,)

    async def records(self) -> tuple[PeerRecord, ...]:
        self.good -= 1
        if self.good < 0:
            raise DirectoryError("the directory did not answer", "the machine slept", "wait")
        return self.kept


def looks(is_in: bool, good: int, count: int) -> tuple[Placing, list[Event]]:
    events: list[Event] = []

    async def run() -> Placing:
        directory = Silent(good)
        placing = Placing(small_config(), ME, "me", (1,), directory, events.append)  # type: ignore[arg-type]
        machine = Machine(Measured(0.1, 0.2, 10**9, ""), 3, Meter(0.0))
        for _ in range(count):
            await placing.look(machine, "here:1", "serving", is_in)
        return placing

    return asyncio.run(run()), events


def test_a_peer_that_is_in_goes_on_with_what_it_knows() -> None:
    placing, events = looks(is_in=True, good=1, count=10)
    assert [entry.peer for entry in placing.records] == [ME]
    assert sum(isinstance(event, Noted) for event in events) == 9


def test_a_newcomer_gives_up_after_a_few_silent_looks() -> None:
    looks(is_in=False, good=1, count=MOST_SILENT_LOOKS)
    with pytest.raises(DirectoryError):
        looks(is_in=False, good=1, count=MOST_SILENT_LOOKS + 1)
