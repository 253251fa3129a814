"""Tables of sections: what fits, what is refused, and how sections go together into pieces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.errors import WireError
from swarmtrain.outer.parcel import Bounds, Table

parcels = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=12)


@settings(deadline=None)
@given(parcels)
def test_a_table_survives_the_wire(sections: list[bytes]) -> None:
    table = Table.of(sections)
    read = Table.read(table.encoded(), Bounds(len(sections), 40))
    assert read == table and read.digest == table.digest
    assert table.total_bytes == len(table.encoded()) + sum(map(len, sections))


@settings(deadline=None)
@given(parcels, st.data())
def test_pieces_cover_their_sections_and_are_no_larger_than_allowed(
    sections: list[bytes], data: st.DataObject
) -> None:
    table = Table.of(sections)
    first = data.draw(st.integers(0, len(sections)))
    stop = data.draw(st.integers(first, len(sections)))
    pieces = table.pieces(first, stop, 50)
    assert [n for piece in pieces for n in range(*piece)] == list(range(first, stop))
    for begin, end in pieces:
        size = sum(table.lengths[begin:end])
        assert size <= 50 or end == begin + 1
        assert [bytes(s) for s in table.split(begin, end, b"".join(sections[begin:end]))] == (
            sections[begin:end]
        )


@settings(deadline=None)
@given(parcels, st.data())
def test_any_other_byte_is_noticed(sections: list[bytes], data: st.DataObject) -> None:
    table, body = Table.of(sections), bytearray(b"".join(sections))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError, match="not the one"):
        table.split(0, len(sections), body)


def test_another_length_is_refused() -> None:
    table = Table.of([b"one", b"two"])
    for body in (b"", b"onetw", b"onetwoo"):
        with pytest.raises(WireError, match="another size"):
            table.split(0, 2, body)
    for first, stop in ((0, 3), (-1, 1), (2, 1)):
        with pytest.raises(WireError, match="does not have"):
            table.split(first, stop, b"one")


@pytest.mark.parametrize(
    "bounds", [Bounds(1, 40), Bounds(3, 40), Bounds(2, 2), Bounds(1, 40, is_exact=False)]
)
def test_a_table_beyond_its_bounds_is_refused(bounds: Bounds) -> None:
    with pytest.raises(WireError):
        Table.read(Table.of([b"one", b"two"]).encoded(), bounds)


def test_tables_that_are_cut_short_or_empty_are_refused() -> None:
    data = Table.of([b"one", b"two"]).encoded()
    for bad in (data[:-1], b"", Table.of([b"", b"two"]).encoded()):
        with pytest.raises(WireError):
            Table.read(bad, Bounds(2, 40))
