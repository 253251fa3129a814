"""Which stages a microbatch visits: straight, or with both ends swapped for every second one (CheckFree+)."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.sequences import sequence_of, stage_sequences


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
