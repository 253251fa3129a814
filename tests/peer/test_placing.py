"""A directory that falls silent costs a peer of a run nothing, and a newcomer a clear error."""

import asyncio
from dataclasses import replace

import pytest

from swarmtrain.compute.meter import Meter
from swarmtrain.core.closing import Closing, Scalars
from swarmtrain.core.errors import DirectoryError
from swarmtrain.core.events import Event, Measured, Noted
from swarmtrain.core.messages import Commit, Decision, Open
from swarmtrain.core.types import MOST_MEMBERS, Member, PeerId, Roster
from swarmtrain.peer.placing import (
    MOST_SILENT_LOOKS,
    RECORD_BYTES,
    SERVING_BYTES_PER_SECOND,
    Machine,
    Placing,
)
from swarmtrain.swarm.records import PeerRecord
from swarmtrain.transport.link import LinkLimits
from swarmtrain.transport.step_messages import encode_roster, encode_step
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


def test_an_island_of_more_peers_than_a_roster_can_have_does_not_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    placing, _ = looks(is_in=True, good=1, count=1)
    own = replace(placing.records[0], state="joining", pinned=True)
    placing.records = tuple(
        replace(own, peer=PeerId(f"{number:032x}"), stages=(number % 3,)) for number in range(6)
    )
    assert placing.obstacle() == ""
    monkeypatch.setattr("swarmtrain.peer.placing.MOST_MEMBERS", 5)
    assert "6 peers are more than one island can have (5)" in placing.obstacle()


def test_a_decision_of_the_largest_island_is_short_when_one_comes_or_goes() -> None:
    members = [
        Member(PeerId(f"{number:032x}"), (number % 100,), f"{number}.example.org:31330", "region")
        for number in range(MOST_MEMBERS)
    ]
    roster, scalars = Roster.of(1 << 20, members), Scalars(1e-3, 0.1, 0.2)
    commit = Commit(9, 9, 9, bytes(32), roster, (), Closing(scalars, 10), 4, 1.0, b"")
    opening = Open(9, 10, bytes(32), roster.without(members[7].peer), (), 4, ((1, 2),), 400)
    assert len(encode_step(Decision(9, commit, opening), roster)) < 1000
    assert len(encode_roster(roster)) < LinkLimits().meta_bytes
