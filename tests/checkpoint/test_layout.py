"""The flat layout: aligned, in order, without overlap, and as long as it must be."""

import hashlib
import math

from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.layout import ALIGN_ELEMENTS, flat_layout, parameters_sha256

SHAPES = st.lists(st.lists(st.integers(1, 40), max_size=3).map(tuple), max_size=12)


@given(SHAPES)
def test_tensors_are_aligned_in_order_and_close_together(shapes: list[tuple[int, ...]]) -> None:
    offsets, total_elements = flat_layout(shapes)
    assert len(offsets) == len(shapes)
    ends = [*offsets, total_elements][1:]
    for shape, offset, following in zip(shapes, offsets, ends, strict=True):
        gap = following - offset - math.prod(shape)
        assert offset % ALIGN_ELEMENTS == 0
        assert 0 <= gap < ALIGN_ELEMENTS
    assert total_elements % ALIGN_ELEMENTS == 0


def test_a_known_layout() -> None:
    assert flat_layout([(3,), (16,), (), (2, 9)]) == ((0, 16, 32, 48), 80)
    assert flat_layout([]) == ((), 0)


def test_the_models_digest_depends_on_stage_order() -> None:
    one, two = hashlib.sha256(b"1").digest(), hashlib.sha256(b"2").digest()
    assert parameters_sha256([one, two]) == hashlib.sha256(one + two).hexdigest()
    assert parameters_sha256([one, two]) != parameters_sha256([two, one])
