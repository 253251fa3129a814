"""Key bitmaps and what an Open says about its items."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.messages import (
    Open,
    PositionKeys,
    pack_items,
    pack_paths,
    pack_remaining,
    unpack_items,
)
from swarmtrain.core.types import Item, PeerId, Roster

items_strategy = st.sets(st.tuples(st.integers(0, 600), st.integers(0, 4095)), max_size=60)
sequences_strategy = st.lists(
    st.lists(st.integers(1, 9), unique=True, max_size=6).map(tuple), min_size=1, max_size=6
).map(tuple)


@given(items_strategy)
def test_packing_loses_nothing(items: set[Item]) -> None:
    assert unpack_items(pack_items(items)) == tuple(sorted(items))


@given(items_strategy, st.randoms(use_true_random=False))
def test_packing_does_not_depend_on_order_or_repeats(items: set[Item], random: object) -> None:
    shuffled = sorted(items) * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert pack_items(shuffled) == pack_items(sorted(items))


@given(items_strategy)
def test_packed_form_is_canonical(items: set[Item]) -> None:
    packed = pack_items(items)
    assert [entry.position for entry in packed] == sorted({position for position, _ in items})
    assert all(entry.keys and entry.keys[-1] for entry in packed), "no empty or padded bitmap"
    assert all(len(entry.keys) <= 512 for entry in packed)


def test_bitmap_is_little_endian_by_key() -> None:
    assert pack_items([(3, 0), (3, 9)]) == (PositionKeys(3, b"\x01\x02"),)


def test_padded_and_empty_bitmaps_unpack() -> None:
    assert unpack_items([PositionKeys(1, b"\x01\x00\x00"), PositionKeys(2, b"")]) == ((1, 0),)


def _open(microbatches: int, sequences: tuple[tuple[int, ...], ...]) -> Open:
    return Open(
        term=1,
        step=0,
        base=bytes(32),
        roster=Roster.of(0, ()),
        leads=(),
        microbatches=microbatches,
        sequences=sequences,
        tokens=1,
    )


@given(st.integers(1, 20), st.lists(st.integers(1, 9), unique=True, max_size=6).map(tuple))
def test_one_sequence_serves_all_keys(microbatches: int, sequence: tuple[int, ...]) -> None:
    opened = _open(microbatches, (sequence,))
    assert all(opened.sequence(key) == sequence for key in range(microbatches))
    assert len(opened.items()) == microbatches * (len(sequence) + 2)


@given(sequences_strategy)
def test_every_position_of_every_key_is_one_item(sequences: tuple[tuple[int, ...], ...]) -> None:
    opened = _open(len(sequences), sequences)
    items = opened.items()
    assert list(items) == sorted(set(items))
    for key, sequence in enumerate(sequences):
        positions = [position for position, item_key in items if item_key == key]
        assert positions == list(range(len(sequence) + 2))
        stages = [opened.stage_at(position, key) for position in positions]
        assert stages == [0, *sequence, 0]


# ---- planned paths ----------------------------------------------------------------------------------------------


def planned_open(paths: bytes, path_peers: tuple[PeerId, ...]) -> Open:
    return replace(_open(2, ((1, 2),)), path_peers=path_peers, paths=paths)


def test_a_plan_names_the_replica_of_every_middle_position() -> None:
    a, b, c = PeerId("a"), PeerId("b"), PeerId("c")
    peers, packed = pack_paths(((c, a), (b, c)))
    planned = planned_open(packed, peers)
    named = [[planned.planned(position, key) for position in range(4)] for key in (0, 1)]
    assert named == [[None, c, a, None], [None, b, c, None]]


@pytest.mark.parametrize("paths", [b"", b"\0", b"\0" * 6, b"\0" * 9, b"\xff" * 8])
def test_a_plan_that_makes_no_sense_names_nobody(paths: bytes) -> None:
    planned = planned_open(paths, (PeerId("a"),))
    assert [planned.planned(1, key) for key in (0, 1)] == [None, None]


def test_what_remains_of_a_round_trip_is_by_key_and_task() -> None:
    planned = replace(planned_open(b"", ()), remaining=pack_remaining(range(14)))
    assert [planned.remaining_seconds(task, 0) for task in range(-1, 8)] == [None, *range(7), None]
    assert planned.remaining_seconds(0, 1) == 7


@pytest.mark.parametrize("remaining", [b"", b"\0" * 52, b"\xff" * 56])
def test_a_remainder_that_makes_no_sense_is_none(remaining: bytes) -> None:
    assert replace(planned_open(b"", ()), remaining=remaining).remaining_seconds(0, 0) is None
