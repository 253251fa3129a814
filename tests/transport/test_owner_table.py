"""Owners by their places in the roster: the same assignment in fewer bytes, or the list that it replaces."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.closing import Closing, Scalars
from swarmtrain.core.errors import WireError
from swarmtrain.core.messages import Assign, Ownership, pack_items
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.proto import step_pb2
from swarmtrain.steps.holdings import ownerships
from swarmtrain.transport.owner_table import pack_owners, unpack_owners
from swarmtrain.transport.step_messages import encode_step, read_step


def roster_of(count: int) -> Roster:
    return Roster.of(1, [Member(PeerId(f"{n:032x}"), (n % 17,), f"{n}:1") for n in range(count)])


ROSTER = roster_of(200)
OWNERS = st.dictionaries(
    st.tuples(st.integers(0, 6), st.integers(0, 20)), st.sampled_from(ROSTER.peers), max_size=140
).map(ownerships)


def assign(owners: tuple[Ownership, ...], roster: Roster = ROSTER) -> Assign:
    return Assign(1, 2, 3, roster, owners, b"", 1.0, Closing(Scalars(1e-3, 0.1, 0.2), 3))


@settings(max_examples=200, deadline=None)
@given(OWNERS)
def test_an_assignment_is_the_same_by_places_and_by_names(owners: tuple[Ownership, ...]) -> None:
    table = pack_owners(owners, ROSTER)
    assert not table or unpack_owners(table, ROSTER) == owners
    message = assign(owners)
    assert read_step(encode_step(message, None)).whole(ROSTER) == message


def test_one_item_each_takes_two_bytes_and_in_a_small_island_what_it_always_took() -> None:
    items = [(position, key) for position in range(18) for key in range(150)]
    many = roster_of(len(items))
    owners = ownerships(dict(zip(items, many.peers, strict=True)))
    assert len(encode_step(assign(owners, many), many)) < 2 * len(items) + 200
    few = roster_of(3)
    envelope = step_pb2.StepEnvelope.FromString(encode_step(assign(owners[:3], few), None))
    assert not envelope.owners and len(envelope.assign.owners) == 3


def test_what_no_table_can_say_is_told_as_a_list() -> None:
    single = [Ownership(peer, pack_items([(1, 1)])) for peer in ROSTER.peers[:2]]
    strangers = tuple(Ownership(PeerId(f"f{n:031x}"), pack_items([(0, n)])) for n in range(9))
    backwards = ownerships({(0, n): ROSTER.peers[n] for n in range(9)})[::-1]
    for owners in (tuple(single), strangers, backwards):
        assert pack_owners(owners, ROSTER) == b""
        assert read_step(encode_step(assign(owners), None)).whole(ROSTER) == assign(owners)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_random_tables_raise_nothing_but_wire_error(table: bytes) -> None:
    try:
        owners = unpack_owners(table, roster_of(9))
    except WireError:
        return
    assert {share.peer for share in owners} <= set(roster_of(9).peers)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (b"\1", "less than a header"),
        (struct.pack("<HH", 5000, 1), "5000 positions of 1 keys"),
        (struct.pack("<HH", 4000, 4000), "4000 positions of 4000 keys"),
        (struct.pack("<HHH", 1, 2, 0), "6 bytes for 2 items"),
        (struct.pack("<HHH", 1, 1, 9), "place 9 of a roster of 9"),
    ],
)
def test_absurd_tables_are_refused(table: bytes, why: str) -> None:
    with pytest.raises(WireError) as refused:
        unpack_owners(table, roster_of(9))
    assert why in refused.value.why


def test_a_table_stands_for_nothing_but_the_owners_of_a_named_roster() -> None:
    items = [(0, key) for key in range(100)]
    owners = ownerships(dict(zip(items, ROSTER.peers, strict=False)))
    envelope = step_pb2.StepEnvelope.FromString(encode_step(assign(owners), None))
    assert envelope.owners
    envelope.assign.owners.add(peer="a")
    with pytest.raises(WireError, match="places in no named roster"):
        read_step(envelope.SerializeToString())
    small = step_pb2.StepEnvelope.FromString(
        encode_step(replace(assign(()), roster=roster_of(3)), None)
    )
    small.owners = pack_owners(owners, ROSTER)
    with pytest.raises(WireError, match="places in no named roster"):
        read_step(small.SerializeToString())
