"""Which stages stand in for a lost one, and why none may (CheckFree, CheckFree+)."""

import pytest

from swarmtrain.core.neighbours import neighbour_stages


@pytest.mark.parametrize("swap_ends", [False, True])
@pytest.mark.parametrize("lost", [2, 3, 4, 5])
def test_a_stage_between_others_is_averaged_from_both(lost: int, swap_ends: bool) -> None:
    assert neighbour_stages(lost, (lost,), 6, swap_ends) == (lost - 1, lost + 1)


@pytest.mark.parametrize(("lost", "near"), [(1, 2), (6, 5)])
def test_an_end_is_copied_only_when_ends_were_swapped(lost: int, near: int) -> None:
    assert neighbour_stages(lost, (lost,), 6, True) == (near,)
    assert "train.swap_ends is off" in str(neighbour_stages(lost, (lost,), 6, False))


def test_the_edge_has_no_neighbour() -> None:
    assert "snapshot" in str(neighbour_stages(0, (0,), 6, True))


def test_a_single_middle_stage_has_no_neighbour() -> None:
    assert "only middle stage" in str(neighbour_stages(1, (1,), 1, True))


def test_two_middle_stages_are_both_ends() -> None:
    assert [neighbour_stages(lost, (lost,), 2, True) for lost in (1, 2)] == [(2,), (1,)]
    assert isinstance(neighbour_stages(1, (1,), 2, False), str)


@pytest.mark.parametrize("lost", [2, 3])
def test_adjacent_stages_cannot_replace_each_other(lost: int) -> None:
    assert "together" in str(neighbour_stages(lost, (2, 3), 6, True))


def test_stages_lost_together_but_apart_can() -> None:
    assert neighbour_stages(2, (2, 5), 6, False) == (1, 3)
    assert neighbour_stages(5, (2, 5), 6, False) == (4, 6)
