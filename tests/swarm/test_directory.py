"""The rules both directories share: which entries count, what is remembered, what is reported."""

from dataclasses import replace

import pytest

from swarmtrain.core.errors import WireError
from swarmtrain.core.events import BadMessage, Event
from swarmtrain.swarm.directory import Author, Entry, Reader, check_entry
from swarmtrain.swarm.identity import Identity
from swarmtrain.swarm.records import PeerRecord

RUN = "ab" * 32
NOW = 1000.0
ANN, BOB = Identity.from_seed(b"a" * 32), Identity.from_seed(b"b" * 32)


def record_of(identity: Identity) -> PeerRecord:
    return PeerRecord(
        run=RUN,
        peer=identity.peer_id,
        name="name",
        address="",
        stages=(),
        state="joining",
        pinned=False,
        capacity_stages=1,
        seconds_per_stage=1.0,
        edge_capable=True,
        version="1",
        sequence=0,
        expires=0.0,
    )


def entry_of(identity: Identity, now: float = NOW, life_seconds: float = 30.0) -> Entry:
    return Author(RUN, identity).entry(record_of(identity), now, life_seconds)


def reader() -> tuple[Reader, list[Event]]:
    events: list[Event] = []
    return Reader(RUN, events.append), events


def test_an_entry_must_be_under_its_peer_and_expire_as_signed() -> None:
    entry = entry_of(ANN)
    assert check_entry(entry).peer == ANN.peer_id
    with pytest.raises(WireError, match="signed it, not"):
        check_entry(replace(entry, peer=BOB.peer_id))
    with pytest.raises(WireError, match="expiry"):
        check_entry(replace(entry, expires=entry.expires + 1))


def test_each_entry_of_an_author_is_newer_even_at_the_same_time() -> None:
    author = Author(RUN, ANN)
    entries = [author.entry(record_of(ANN), NOW, life) for life in (30.0, 30.0, 5.0)]
    assert entries[0].expires < entries[1].expires < entries[2].expires
    sequences = [check_entry(entry).sequence for entry in entries]
    assert sequences == sorted(set(sequences))


def test_a_farewell_hides_the_peer_exactly_as_long_as_its_record_lived() -> None:
    author = Author(RUN, ANN)
    assert author.farewell(NOW) is None
    entry = author.entry(record_of(ANN), NOW, 30.0)
    farewell = author.farewell(NOW + 1)
    assert farewell is not None
    assert entry.expires < farewell.expires < entry.expires + 0.001
    read, events = reader()
    assert read.newest([entry, farewell], NOW + 1) == ()
    assert read.newest([entry], NOW + 1) == (), "the old record came back"
    assert not events
    assert author.farewell(NOW + 31) is None


def test_a_failed_lookup_hides_nobody_who_is_known() -> None:
    read, _ = reader()
    found = read.newest([entry_of(ANN), entry_of(BOB)], NOW)
    assert [record.peer for record in found] == sorted((ANN.peer_id, BOB.peer_id))
    assert read.newest([], NOW + 1) == found
    assert read.newest([], NOW + 30) == ()


def test_an_entry_that_just_expired_is_nobodys_fault() -> None:
    read, events = reader()
    assert read.newest([entry_of(ANN)], NOW + 30) == ()
    assert not events


def test_bad_entries_are_reported_once_and_the_memory_of_them_is_bounded() -> None:
    read, events = reader()
    for _ in range(2):
        for index in range(1000):
            read.newest([Entry("<b>", b"%d" % index, NOW + 1)], NOW)
    assert len(events) == 1000
    assert isinstance(events[0], BadMessage) and events[0].peer == "unknown"
    for index in range(5000):
        read.report(ANN.peer_id, b"%d" % index, "flood")
    assert len(read._reported) <= 1024
