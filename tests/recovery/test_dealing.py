"""Pieces dealt to donors: each comes once, a donor that fails is left out, and lines are left alone where asked."""

import asyncio
from collections import Counter

import pytest

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.errors import LinkSilent, WireError
from swarmtrain.recovery.dealing import Pace, deal

PACE = Pace(silence_seconds=4.0, piece_bytes=4)


async def dealt(
    count: int, broken: dict[str, int], pace: Pace = PACE
) -> tuple[Counter[str], float]:
    """Pieces by donor, of `a`, `b` and `c`, each of which takes a second; `broken` fail from their n-th on."""
    got: dict[int, str] = {}
    asked: Counter[str] = Counter()

    async def pull(donor: str, number: int) -> None:
        asked[donor] += 1
        await asyncio.sleep(1.0)
        if asked[donor] > broken.get(donor, count):
            raise LinkSilent("no answer") if donor == "a" else WireError("damaged")
        assert number not in got
        got[number] = donor

    begin = asyncio.get_running_loop().time()
    await deal(count, ["a", "b", "c"], pull, pace)
    assert sorted(got) == list(range(count))
    return Counter(got.values()), asyncio.get_running_loop().time() - begin


def test_all_donors_give_pieces() -> None:
    shares, seconds = run_virtual(dealt(12, {}))
    assert shares == {"a": 4, "b": 4, "c": 4} and seconds == pytest.approx(4.0)


def test_what_a_donor_fails_to_give_comes_from_another() -> None:
    shares, _ = run_virtual(dealt(12, {"a": 1, "b": 0}))
    assert shares == {"a": 1, "c": 11}


def test_with_no_donor_left_the_last_error_is_told() -> None:
    with pytest.raises((LinkSilent, WireError)):
        run_virtual(dealt(12, {"a": 1, "b": 1, "c": 1}))


def test_lines_are_left_alone_between_two_pieces() -> None:
    """Four pieces of a second each, and three rests of two."""
    _, seconds = run_virtual(dealt(12, {}, Pace(4.0, 4, rest=2.0)))
    assert seconds == pytest.approx(10.0)
