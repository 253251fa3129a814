"""Many seeded runs of groups that reduce in slices, and proof that they would notice each safeguard missing."""

from collections import Counter

import pytest

from tests.outer import group_mutants as mutants
from tests.outer.group_faults import run
from tests.outer.group_mutants import Mutant
from tests.outer.group_world import Violation
from tests.outer.slice_world import SlicedWorld


def check(
    seeds: range, faults: int = 7, is_stormy: bool = False, is_forgetful: bool = False
) -> Counter[str]:
    """All that a round comes to is the mean of what it counts, at everybody, and no run stops that could go on."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        verdict = run(seed, faults, is_stormy, is_forgetful=is_forgetful, world=SlicedWorld)
        assert verdict.has_progressed or not verdict.is_intact, seed
        seen["rounds"] += verdict.front
        seen["intact"] += verdict.is_intact
        seen.update(verdict.figures)
    return seen


def test_faults_split_no_sliced_round_and_stall_nothing() -> None:
    """Owners die, freeze, and are cut off at every point; a tenth of the means they serve are damaged."""
    seen = check(range(50))
    assert seen["intact"] > 30 and seen["sliced rounds"] > 500
    assert seen["damaged means"] > 200 and seen["slices of others"] > 100


def test_storms_split_no_sliced_round_and_stall_nothing() -> None:
    seen = check(range(60), faults=3, is_stormy=True)
    assert seen["intact"] > 30 and seen["sliced rounds"] > 200


def test_stages_lost_whole_split_no_sliced_round_and_stall_nothing() -> None:
    """Owners that start again take their own means from those who accepted them."""
    seen = check(range(60), is_forgetful=True)
    assert seen["intact"] > 30 and seen["sliced rounds"] > 100 and seen["given anew"] > 50


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", range(1000, 5000, 1000))
def test_thousands_of_runs(first: int) -> None:
    check(range(first, first + 500))
    check(range(first, first + 500), is_forgetful=True)
    check(range(first, first + 500), faults=3, is_stormy=True)


def goes_wrong(seed: int) -> bool:
    try:
        verdict = run(seed, world=SlicedWorld)
    except Violation:
        return True
    return verdict.is_intact and not verdict.has_progressed


@pytest.mark.parametrize(
    ("mutant", "seeds"),
    [
        (mutants.sections_are_not_checked, range(40)),
        (mutants.means_do_not_say_what_they_are_of, range(200)),
    ],
)
def test_a_missing_safeguard_of_slices_is_noticed(
    mutant: Mutant, seeds: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        mutant(patch)
        found = next((seed for seed in seeds if goes_wrong(seed)), None)
    assert found is not None
    assert not goes_wrong(found)
