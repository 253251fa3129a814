"""Work is done once for the very same arguments, again for equal ones; an address used again fools nobody."""

import gc

from swarmtrain.core.remembered import remembered


def test_the_same_arguments_are_worked_on_once_and_equal_ones_again() -> None:
    calls: list[tuple[int, ...]] = []

    @remembered(2)
    def total(values: tuple[int, ...], more: tuple[int, ...]) -> int:
        calls.append(values)
        return sum(values) + sum(more)

    one, other, more = tuple([1, 2]), tuple([1, 2]), tuple([3])
    assert [total(one, more), total(one, more), total(other, more)] == [6, 6, 6]
    assert len(calls) == 2


def test_what_was_forgotten_is_never_taken_for_another() -> None:
    @remembered(3)
    def first(values: tuple[int, ...]) -> int:
        return values[0]

    for number in range(2000):
        assert first(tuple([number, number + 1])) == number
        if number % 500 == 0:
            gc.collect()
