"""Many seeded runs of a group under faults, and proof that they would notice each safeguard missing."""

from collections import Counter
from dataclasses import dataclass

import pytest

from tests.outer import group_mutants as mutants
from tests.outer.group_faults import FaultyWorld, ForsakenWorld, LonelyWorld, LyingWorld, run
from tests.outer.group_mutants import Mutant
from tests.outer.group_world import Violation


def check(
    seeds: range,
    faults: int = 7,
    is_stormy: bool = False,
    is_forgetful: bool = False,
    is_young: bool = False,
    world: type[FaultyWorld] = FaultyWorld,
) -> Counter[str]:
    """No two choices of a round in any run, and none that stops although it could go on (`FaultyWorld.is_intact`)."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        kind = {"is_forgetful": is_forgetful, "is_young": is_young}
        verdict = run(seed, faults, is_stormy, world=world, **kind)
        assert verdict.has_progressed or not verdict.is_intact, seed
        seen["rounds"] += verdict.front
        seen["intact"] += verdict.is_intact
        seen.update(verdict.figures)
    return seen


def test_a_run_follows_from_its_seed() -> None:
    for seed in (2, 3):
        assert run(seed) == run(seed)


def test_without_faults_every_run_goes_on() -> None:
    seen = check(range(30), faults=0)
    assert seen["intact"] == 30 and seen["rounds"] > 150


def test_faults_split_no_round_and_stall_nothing() -> None:
    seen = check(range(150))
    assert seen["intact"] > 90 and seen["rounds"] > 700 and seen["killed"] > 200


def test_storms_split_no_round_and_stall_nothing() -> None:
    seen = check(range(200), faults=3, is_stormy=True)
    assert seen["intact"] > 120 and seen["rounds"] > 400


def test_stages_lost_whole_split_no_round_and_stall_nothing() -> None:
    seen = check(range(200), is_forgetful=True)
    assert seen["intact"] > 120 and seen["rounds"] > 800
    assert seen["given anew"] > 250 and seen["fallen choices"] > 20


def test_the_first_result_outlives_the_island_that_chose_it() -> None:
    """It alone votes in the first round, and dies whole when another island learns what came of it."""
    seen = check(range(50), faults=0, is_young=True)
    assert seen["killed"] > 50 and seen["rounds"] > 125 and seen["intact"] > 25
    assert not seen["results lost"]
    assert check(range(40), is_young=True)["rounds"] > 80


def test_who_held_a_result_outside_its_list_votes_for_it_when_it_is_back() -> None:
    """The first island dies, and in one of the two that are left a replica is out of the list at the second vote. What
    it fetched to learn that, it took for what it had held: its vote was missing for good."""
    seen = check(range(20013, 20014), is_young=True)
    assert seen["intact"] == 1 and seen["rounds"] > 2


def test_newcomers_that_do_not_come_to_hold_the_first_result_hold_nobody_up() -> None:
    """They are cut off or die when the first island gathers or holds it, or when they learned that it was chosen."""
    seen = check(range(60), faults=0, world=LonelyWorld)
    assert seen["parted"] == 60 and seen["died holding"] > 3 and seen["intact"] > 54
    assert check(range(60), faults=5, world=LonelyWorld)["parted"] > 54


def test_a_chair_that_dies_with_newcomers_gone_for_good_holds_nobody_up() -> None:
    """It and its siblings had the result that newcomers were to vote behind, and no newcomer has it."""
    seen = check(range(60), faults=0, world=ForsakenWorld)
    assert seen["died holding"] > 30 and seen["withdrawn"] > 15 and seen["intact"] == 60
    assert check(range(60), faults=5, world=ForsakenWorld)["withdrawn"] > 10


def test_one_that_lies_about_decisions_and_votes_misleads_nobody_and_holds_nobody_up() -> None:
    seen = check(range(40), faults=0, world=LyingWorld)
    assert seen["lies"] > 1000 and seen["intact"] == 40 and seen["rounds"] > 200
    assert check(range(60), world=LyingWorld)["intact"] > 30


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", range(0, 10000, 2500))
def test_twenty_thousand_runs(first: int) -> None:
    check(range(first, first + 2000))
    check(range(first, first + 2000), is_forgetful=True)
    check(range(first, first + 2000), is_young=True)
    check(range(first, first + 500), faults=5, world=LonelyWorld)
    check(range(first, first + 500), faults=5, world=ForsakenWorld)
    check(range(first, first + 500), world=LyingWorld)
    check(range(first + 2000, first + 2500), faults=6, is_stormy=True)


@dataclass(frozen=True)
class Hunt:
    """Where a mutant shows: within `seeds` runs of this kind."""

    mutant: Mutant
    seeds: range
    faults: int = 7
    is_stormy: bool = False
    is_forgetful: bool = False
    is_young: bool = False
    world: type[FaultyWorld] = FaultyWorld


# Each range begins where the mutant showed last, so that looking for it is short while nothing changes.
HUNTS = [
    Hunt(mutants.promises_are_not_kept, range(280, 830), 0, True),
    Hunt(mutants.promises_end_with_gathering, range(1220, 2020), 0, True),
    Hunt(mutants.accepted_is_not_proposed_again, range(440, 790), 0, True),
    Hunt(mutants.one_replica_votes_for_all, range(60)),
    Hunt(mutants.a_minority_decides, range(60)),
    Hunt(mutants.any_base_will_do, range(60)),
    Hunt(mutants.everybody_is_sure, range(150, 400)),
    Hunt(mutants.others_are_not_heard, range(20, 400), is_forgetful=True),
    Hunt(mutants.only_voters_hold_results, range(60), 0, is_young=True),
    Hunt(mutants.decisions_need_no_proof, range(60), 0, world=LyingWorld),
    Hunt(mutants.votes_need_no_signature, range(60), 0, world=LyingWorld),
    Hunt(mutants.nothing_is_withdrawn, range(60), 0, world=ForsakenWorld),
]


def goes_wrong(seed: int, wanted: Hunt) -> bool:
    try:
        verdict = run(
            seed,
            wanted.faults,
            wanted.is_stormy,
            is_forgetful=wanted.is_forgetful,
            is_young=wanted.is_young,
            world=wanted.world,
        )
    except Violation:
        return True
    return verdict.is_intact and not verdict.has_progressed


@pytest.mark.parametrize("wanted", HUNTS, ids=[wanted.mutant.__name__ for wanted in HUNTS])
def test_a_missing_safeguard_is_noticed(wanted: Hunt, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same runs are clean with it: see `check` for what goes wrong without."""
    first = next(iter(wanted.seeds))
    with monkeypatch.context() as patch:
        wanted.mutant(patch)
        found = next((seed for seed in wanted.seeds if goes_wrong(seed, wanted)), None)
    assert found is not None, f"not noticed from {first} on"
    assert not goes_wrong(found, wanted)
