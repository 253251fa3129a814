"""A directory that falls silent costs a peer of a run nothing, and a newcomer a clear error."""

import asyncio

import pytest

from swarmtrain.compute.meter import Meter
from swarmtrain.core.errors import DirectoryError
from swarmtrain.core.events import Event, Measured, Noted
from swarmtrain.core.types import PeerId
from swarmtrain.peer.placing import (
    MOST_SILENT_LOOKS,
    RECORD_BYTES,
    SERVING_BYTES_PER_SECOND,
    Machine,
    Placing,
)
from swarmtrain.swarm.records import PeerRecord
from tests.experiments.runs import small_config

ME = PeerId("m" * 32)


class Silent:
    """Answers `good` calls, then none."""

    bootstrap = ()

    def __init__(self, good: int) -> None:
        self.good = good
        self.kept: tuple[PeerRecord, ...] = ()
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

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
            directory.seconds += 1.0
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


def test_looks_carry_no_more_than_their_share_however_many_peers_there_are() -> None:
    """Ten thousand records are 10 MB: who serves reads them every few minutes, and says of itself as often as ever."""

    class Crowded(Silent):
        published = read = 0

        async def publish(self, record: PeerRecord, life_seconds: float) -> None:
            self.published += 1
            self.kept = (record,) * 10_000

        async def records(self) -> tuple[PeerRecord, ...]:
            self.read += 1
            return self.kept

    async def run(seconds: int) -> Crowded:
        directory = Crowded(0)
        config = small_config("swarm.announce_seconds=30")
        placing = Placing(config, ME, "me", (1,), directory, lambda _: None)  # type: ignore[arg-type]
        machine = Machine(Measured(0.1, 0.2, 10**9, ""), 3, Meter(0.0))
        for second in range(seconds):
            directory.seconds = float(second)
            await placing.look(machine, "here:1", "serving", True)
        return directory

    directory = asyncio.run(run(600))
    read_bytes = directory.read * 10_000 * RECORD_BYTES
    assert directory.read >= 2 and read_bytes <= SERVING_BYTES_PER_SECOND * (600 + 160)
    assert directory.published >= 600 / 11
