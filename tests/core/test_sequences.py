"""Which stages a microbatch visits: straight, with swapped ends (CheckFree+), or with skips and swaps (SkipPipe)."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core import sequences as module
from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.sequences import Deal, sequence_of, stage_sequences, turns_of


def config_of(stages: int, microbatches: int = 4, swap_ends: bool = True) -> RunConfig:
    swap = str(swap_ends).lower()
    return load_config(
        (),
        [
            f"model.stages={stages}",
            f"train.microbatches={microbatches}",
            f"train.swap_ends={swap}",
        ],
    )


def routes_of(config: RunConfig, steps: int) -> list[tuple[int, ...]]:
    return [
        sequence_of(stage_sequences(config, step), key)
        for step in range(steps)
        for key in range(config.train.microbatches)
    ]


def test_one_sequence_serves_all_keys_without_swaps() -> None:
    assert stage_sequences(config_of(5, swap_ends=False), 3) == ((1, 2, 3, 4, 5),)


def test_a_single_stage_has_nothing_to_swap() -> None:
    assert stage_sequences(config_of(1), 0) == ((1,),)


@pytest.mark.parametrize(
    ("stages", "swapped"),
    [
        (2, (2, 1)),
        (4, (2, 1, 4, 3)),
        (5, (2, 1, 3, 5, 4)),
        (6, (2, 1, 3, 4, 6, 5)),
    ],
)
def test_every_second_key_swaps_both_ends(stages: int, swapped: tuple[int, ...]) -> None:
    straight = tuple(range(1, stages + 1))
    assert stage_sequences(config_of(stages), 0) == (straight, swapped, straight, swapped)


def test_of_three_stages_the_pairs_take_turns() -> None:
    """The one in the middle stands in for both ends, so both pairs must be trained."""
    assert stage_sequences(config_of(3), 0) == ((1, 2, 3), (2, 1, 3), (1, 2, 3), (1, 3, 2))


@pytest.mark.parametrize("microbatches", [1, 2, 3, 5])
@pytest.mark.parametrize("stages", [2, 3, 6])
def test_half_of_a_run_is_swapped_however_many_keys_a_step_has(
    stages: int, microbatches: int
) -> None:
    """With one key a step, "every odd key" would be none at all."""
    counts = Counter(routes_of(config_of(stages, microbatches), 12))
    straight = tuple(range(1, stages + 1))
    assert counts[straight] == 6 * microbatches
    assert len(counts) == (3 if stages == 3 else 2)
    assert max(counts.values()) - min(counts.values()) <= (3 * microbatches if stages == 3 else 0)


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 50), st.booleans())
def test_every_route_visits_every_stage_once(
    stages: int, microbatches: int, step: int, swap_ends: bool
) -> None:
    sequences = stage_sequences(config_of(stages, microbatches, swap_ends), step)
    assert len(sequences) in (1, microbatches)
    assert all(sorted(route) == list(range(1, stages + 1)) for route in sequences)


# ---- skips and swaps ------------------------------------------------------------------------------------------------


@st.composite
def skipping(draw: st.DrawFn, most_stages: int = 12) -> RunConfig:
    """Any configuration that leaves stages out."""
    stages = draw(st.integers(2, most_stages))
    visited = draw(st.integers(1, stages - 1))
    protected = draw(st.sets(st.integers(1, stages), max_size=visited - 1))
    return load_config(
        (),
        [
            f"run.seed={draw(st.integers(0, 9))}",
            f"model.stages={stages}",
            f"train.microbatches={draw(st.integers(1, 20))}",
            f"paths.skip={1 - visited / stages}",
            f"paths.protected={sorted(protected)}",
            f"paths.swaps={draw(st.integers(0, 2))}",
        ],
    )


def visits_of(config: RunConfig, steps: range) -> Counter[int]:
    """How often each stage that may be left out is visited."""
    found = Counter({stage: 0 for stage in range(1, config.model.stages + 1)})
    for step in steps:
        found.update(stage for route in stage_sequences(config, step) for stage in route)
    return Counter({s: n for s, n in found.items() if s not in config.paths.protected})


@given(skipping(), st.integers(0, 10**6))
def test_every_microbatch_visits_its_share_and_the_protected(config: RunConfig, step: int) -> None:
    routes = stage_sequences(config, step)
    assert len(routes) == config.train.microbatches
    for route in routes:
        assert len(set(route)) == len(route) == config.paths.visited(config.model.stages)
        assert set(config.paths.protected) <= set(route) <= set(range(1, config.model.stages + 1))


@given(skipping(), st.integers(0, 10**6), st.integers(1, 4))
def test_all_stages_are_visited_equally_over_any_stretch_of_steps(
    config: RunConfig, first: int, steps: int
) -> None:
    """Within one in a step and from the first step on; two such counts apart, any stretch is within two."""
    one, stretch = visits_of(config, range(first, first + 1)), range(first, first + steps)
    assert max(one.values()) - min(one.values()) <= 1
    some = visits_of(config, stretch)
    assert max(some.values()) - min(some.values()) <= 2
    from_start = visits_of(config, range(steps))
    assert max(from_start.values()) - min(from_start.values()) <= 1


@given(skipping(), st.integers(0, 10**6))
def test_swaps_stay_within_the_limits(config: RunConfig, step: int) -> None:
    """At most `swaps` steps back, each to the stage right below the furthest one so far (SkipPipe, C-b)."""
    for route in stage_sequences(config, step):
        back = [after for before, after in pairwise(route) if after < before]
        assert len(back) <= config.paths.swaps
        for stage in back:
            assert stage == max(route[: route.index(stage)]) - 1


@given(skipping())
def test_sequences_follow_from_seed_step_and_index_alone(config: RunConfig) -> None:
    there = load_config((), [f"limits.{setting}" for setting in ("threads=4", "in_flight=3")])
    there = there.model_copy(
        update={name: getattr(config, name) for name in ("run", "model", "train", "paths")}
    )
    module._seeded.cache_clear()
    first = [stage_sequences(config, step) for step in range(3)]
    module._seeded.cache_clear()
    assert [stage_sequences(there, step) for step in reversed(range(3))] == first[::-1]


def test_sequences_are_pinned() -> None:
    """Peers of two versions must agree, and a checkpoint's run goes on as it began."""
    config = load_config(
        (),
        [
            "model.stages=6",
            "paths.skip=0.33",
            "paths.swaps=2",
            "train.microbatches=4",
            "run.seed=7",
        ],
    )
    assert stage_sequences(config, 11) == PINNED


PINNED = ((2, 1, 4, 3), (1, 3, 6, 5), (2, 4, 5, 6), (1, 4, 5, 6))


@pytest.mark.parametrize(
    ("skip", "stages", "visited"),
    [
        (0.25, 8, 6), (0.33, 6, 4), (0.33, 12, 8), (0.5, 6, 3), (0.25, 6, 5), (0.5, 1, 1),
        (0.99, 6, 1), (0.05, 6, 6), (0.0, 6, 6), (0.3, 5, 4),
    ],
)  # fmt: skip
def test_the_share_is_taken_to_the_nearest_stage(skip: float, stages: int, visited: int) -> None:
    config = load_config((), [f"model.stages={stages}", f"paths.skip={skip}"])
    assert config.paths.visited(stages) == visited
    assert {len(route) for route in stage_sequences(config, 0)} == {visited}


@pytest.mark.parametrize("skip", [0.0, 0.05])
def test_without_skips_and_swaps_it_is_exactly_the_full_pipeline(skip: float) -> None:
    config = load_config((), ["model.stages=6", f"paths.skip={skip}", "paths.protected=[2]"])
    assert stage_sequences(config, 5) == ((1, 2, 3, 4, 5, 6),)


def test_every_choice_comes_up_about_as_often() -> None:
    config = load_config((), ["model.stages=5", "paths.skip=0.4", "train.microbatches=10"])
    counts = Counter(routes_of(config, 200))
    assert len(counts) == 10 and min(counts.values()) > 150 and max(counts.values()) < 250


def test_steps_and_seeds_draw_differently() -> None:
    settings = ["model.stages=6", "paths.skip=0.5", "paths.swaps=1"]
    drawn = [
        stage_sequences(load_config((), [*settings, f"run.seed={seed}"]), step)
        for seed in (1, 2)
        for step in (0, 1)
    ]
    assert len(set(drawn)) == 4


def test_swaps_alone_leave_no_stage_out() -> None:
    config = load_config((), ["model.stages=4", "paths.swaps=2", "train.microbatches=64"])
    routes = stage_sequences(config, 0)
    assert all(sorted(route) == [1, 2, 3, 4] for route in routes)
    assert set(routes) == {(1, 2, 3, 4), (2, 1, 3, 4), (1, 3, 2, 4), (1, 2, 4, 3), (2, 1, 4, 3)}


@given(
    st.integers(0, 1000),
    st.lists(st.floats(0.2, 5.0), min_size=3, max_size=8),
    st.integers(1, 40),
    st.integers(0, 500),
)
def test_stated_shares_are_kept_within_one_in_every_step(
    seed: int, shares: list[float], microbatches: int, step: int
) -> None:
    each = max(1, int(sum(shares) / max(shares)))
    stages = tuple(range(1, len(shares) + 1))
    hands = Deal(seed, stages, each, microbatches, tuple(shares)).hands(step)
    assert all(len(set(hand)) == each for hand in hands)
    visits = Counter(stage for hand in hands for stage in hand)
    for stage, share in zip(stages, shares, strict=True):
        due = each * microbatches * share / sum(shares)
        assert abs(visits[stage] - due) < 1 + 1e-6


def test_shares_come_out_over_a_run() -> None:
    """Fractions of a visit add up: nobody is favoured for long."""
    shares, visits = (1.0, 2.5, 0.7, 1.8), Counter[int]()
    for step in range(300):
        for hand in Deal(3, (1, 2, 3, 4), 2, 5, shares).hands(step):
            visits.update(hand)
    for stage, share in zip((1, 2, 3, 4), shares, strict=True):
        assert abs(visits[stage] - 300 * 10 * share / 6.0) < 4


def test_shares_are_read_from_the_configuration() -> None:
    config = load_config(
        [], ["model.stages=4", "paths.skip=0.5", "paths.protected=[1]", "paths.shares=[2, 1, 1]"]
    )
    visits = visits_of(config, range(100))
    keys = 100 * config.train.microbatches
    assert visits[2] == keys / 2 and visits[3] + visits[4] == keys / 2


def test_turns_count_the_keys_that_visit_a_stage() -> None:
    assert turns_of(((1, 2), (2, 3), (1, 3), (3, 2))) == ((0, 0), (1, 0), (1, 1), (2, 2))
