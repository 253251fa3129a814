"""The frontier rule, against its definition applied to all orders."""

from itertools import combinations, permutations

import pytest

from swarmtrain.plan.paths.sequences import MOST_OF_A_SET, is_legal, orders, stage_sets


@pytest.mark.parametrize(
    ("order", "legal"),
    [
        ((1, 2, 3), True),
        ((2, 1, 3), True),
        ((2, 1, 4, 3), True),
        ((3, 1, 2), False),  # two below the frontier
        ((3, 2, 1), False),  # the frontier stays at 3
        ((2, 1, 4, 3, 6, 5), False),  # three swaps
        ((5, 6), False),  # a jump by 5
        ((1, 1), False),
        ((4, 3), True),
    ],
)
def test_known_orders(order: tuple[int, ...], legal: bool):
    assert is_legal(order, max_swaps=2, max_jump=4) == legal


@pytest.mark.parametrize("middle, count", [(5, 3), (6, 6), (7, 2), (4, 1)])
@pytest.mark.parametrize("swaps, jump", [(0, 4), (2, 2), (1, 1), (3, 7)])
def test_orders_of_all_sets_are_all_legal_orders(middle: int, count: int, swaps: int, jump: int):
    found = [
        order
        for stages in stage_sets(middle, count, (), jump)
        for order in orders(stages, swaps, jump)
    ]
    everything = permutations(range(1, middle + 1), count)
    assert sorted(found) == [order for order in everything if is_legal(order, swaps, jump)]


def test_protected_stages_are_in_every_set():
    found = list(stage_sets(6, 3, (2, 6), 4))
    assert found == [s for s in combinations(range(1, 7), 3) if {2, 6} <= set(s)]


def test_many_stages_without_a_legal_set_end_at_once():
    assert list(stage_sets(200, 100, (), 1)) == [tuple(range(1, 101))]
    assert not list(stage_sets(200, 20, (200,), 4))
    assert not list(stage_sets(199, 59, (*range(100, 140), 199), 4))


def test_of_many_orders_those_of_fewest_swaps_are_looked_at():
    """All sets of swaps of 200 stages would never end."""
    stages = tuple(range(1, 201))
    found = orders(stages, 100, 4)
    assert len(found) == len(set(found)) == MOST_OF_A_SET and found[0] == stages
    assert all(is_legal(order, 2, 4) for order in found)
    assert set(orders(stages, 1, 4)) <= set(found)


def test_two_swaps_among_24_stages_are_all_looked_at():
    assert len(orders(tuple(range(1, 25)), 2, 4)) == 1 + 23 + 22 * 21 // 2


@pytest.mark.parametrize("jump", [1, 2, 3])
def test_where_the_ascending_order_is_not_legal_none_is(jump: int):
    for stages in combinations(range(1, 8), 4):
        if not is_legal(stages, 0, jump):
            assert not any(is_legal(order, 4, jump) for order in permutations(stages))
            assert not orders(stages, 4, jump)
