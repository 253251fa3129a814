"""Key bitmaps and what an Open says about its items."""

from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.messages import Open, PositionKeys, pack_items, unpack_items
from swarmtrain.core.types import Item, Roster

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
