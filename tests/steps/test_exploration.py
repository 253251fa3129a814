"""Random exploration of the step protocol, and proof that it would notice each safeguard missing."""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.steps import mutants
from tests.steps.explorer import explore
from tests.steps.mutants import Mutant
from tests.steps.world import Setting, Verdict

GOOD = {"ok", "stopped", "lost"}


def setting_of(seed: int, **fixed: Any) -> Setting:
    """Shapes vary with the seed; every other seed lets tells of one link overtake each other."""
    chance = random.Random(seed * 7 + 1)
    shape = {"keys": chance.choice((3, 4)), "steps": chance.choice((2, 3)), "fifo": bool(seed % 2)}
    return Setting(**{**shape, **fixed})


def explore_all(first: int, end: int, **fixed: Any) -> dict[int, Verdict]:
    return {seed: explore(seed, setting_of(seed, **fixed)) for seed in range(first, end)}


def check(verdicts: dict[int, Verdict]) -> None:
    """No wrong step and no stall; nearly all runs reach their last step, acknowledged."""
    bad = {seed: verdict for seed, verdict in verdicts.items() if verdict.result not in GOOD}
    assert not bad, bad
    counts = Counter(verdict.result for verdict in verdicts.values())
    assert counts["ok"] >= 0.97 * len(verdicts), counts


def test_a_run_follows_from_its_seed() -> None:
    for seed in (3, 17, 40):
        assert explore(seed, setting_of(seed)) == explore(seed, setting_of(seed))


def test_faultless_runs_commit_everything() -> None:
    verdicts = explore_all(0, 40, faults=0)
    assert {verdict.result for verdict in verdicts.values()} == {"ok"}
    assert all(verdict.acknowledged and verdict.takeovers == 1 for verdict in verdicts.values())


def test_faults_change_no_count_and_stall_nothing() -> None:
    verdicts = explore_all(0, 300)
    check(verdicts)
    assert sum(verdict.takeovers > 1 for verdict in verdicts.values()) > 30
    assert sum(verdict.repeats > 0 for verdict in verdicts.values()) > 100


def test_sloppy_reduces_are_caught_by_their_digests() -> None:
    check(explore_all(0, 60, kinds=("sloppy reduce", "reroute", "slow")))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 5000, 1000))
def test_five_thousand_runs(first: int) -> None:
    check(explore_all(first, first + 1000))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fixed",
    [{"fast": True}, {"replicas": 3}, {"faults": 6}, {"kinds": ("overlap", "lose", "partition")}],
    ids=["fast", "three replicas", "six faults", "takeovers"],
)
def test_other_mixes(fixed: dict[str, Any]) -> None:
    verdicts = explore_all(0, 1000, **fixed)
    bad = {seed: verdict for seed, verdict in verdicts.items() if verdict.result not in GOOD}
    assert not bad, bad


# ---- each safeguard left out --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hunt:
    """Where a mutant shows: as one of `results`, within `seeds` runs."""

    mutant: Mutant
    results: tuple[str, ...]
    seeds: int
    fixed: dict[str, Any] = field(default_factory=dict)


HUNTS = [
    Hunt(mutants.dedupe_off, ("I1",), 30),
    Hunt(mutants.every_holder_owns, ("I1",), 20),
    Hunt(mutants.owners_by_route, ("stalled",), 10),
    Hunt(mutants.answer_counts_as_held, ("stalled",), 60),
    Hunt(mutants.items_without_embedding, ("I1",), 5),
    Hunt(mutants.embedding_has_no_position, ("I1",), 150),
    Hunt(mutants.head_has_no_position, ("I1",), 30),
    Hunt(mutants.never_reopened, ("stalled",), 20),
    Hunt(mutants.late_work_counts, ("I1",), 60, {"kinds": ("reroute", "slow"), "faults": 10}),
    Hunt(mutants.decides_without_everybody, ("I3",), 10),
    Hunt(mutants.dropped_when_answered, ("stalled",), 30),
    Hunt(mutants.untagged_pieces, ("I1",), 20, {"kinds": ("crash",)}),
    Hunt(mutants.digests_not_compared, ("I1", "I3"), 30, {"kinds": ("sloppy reduce",)}),
    Hunt(mutants.lost_ready_stays_lost, ("stalled",), 60),
]


def hunt(wanted: Hunt, patch: pytest.MonkeyPatch) -> None:
    wanted.mutant(patch)
    seen: Counter[str] = Counter()
    for seed in range(wanted.seeds):
        verdict = explore(seed, setting_of(seed, **{"events": 2500, **wanted.fixed}))
        seen[verdict.result] += 1
        if verdict.result in wanted.results:
            return
    pytest.fail(f"{wanted.mutant.__name__} was not noticed in {wanted.seeds} runs: {dict(seen)}")


@pytest.mark.parametrize("wanted", HUNTS, ids=[wanted.mutant.__name__ for wanted in HUNTS])
def test_a_missing_safeguard_is_noticed(wanted: Hunt, monkeypatch: pytest.MonkeyPatch) -> None:
    hunt(wanted, monkeypatch)


def test_without_mutants_the_same_runs_are_clean() -> None:
    """What the hunts find is the mutant's doing."""
    for wanted in HUNTS:
        fixed = {"events": 2500, **wanted.fixed}
        verdicts = explore_all(0, min(wanted.seeds, 30), **fixed)
        bad = {seed: v for seed, v in verdicts.items() if v.result not in GOOD}
        assert not bad, (wanted.mutant.__name__, bad)


SPLIT = {"fast": True, "kinds": ("partition", "crash", "freeze")}
RARE_HUNTS = [
    Hunt(mutants.no_majority, ("I3",), 1000, SPLIT),
    Hunt(mutants.no_terms, ("I3", "stalled"), 1000, {"fast": True}),
]


@pytest.mark.slow
@pytest.mark.parametrize("wanted", RARE_HUNTS, ids=[w.mutant.__name__ for w in RARE_HUNTS])
def test_a_rarely_missed_safeguard_is_noticed(
    wanted: Hunt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal bits hide a split in exact mode, so these runs are in fast mode (protocol.md, point 3)."""
    hunt(wanted, monkeypatch)
