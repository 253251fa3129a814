"""Parameter counts and memory: against figures worked out by hand and against known models."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.config import ModelSection, RunConfig, load_config
from swarmtrain.core.presets import PRESETS
from swarmtrain.core.sizes import memory_estimate, parameter_count, stage_parameters, vocabulary

# Published sizes of the models that two presets take their shape from.
LLAMA_3_8B = 8_030_261_248
LLAMA_3_2_1B = 1_235_814_400


def test_parameters_by_hand() -> None:
    model = ModelSection(stages=3, blocks_per_stage=2, width=8, heads=2, kv_heads=1, ffn_width=5)
    query_output = 2 * 8 * 8
    key_value = 2 * 8 * 4
    feed_forward = 3 * 8 * 5
    norms = 2 * 8
    middle = 2 * (query_output + key_value + feed_forward + norms)
    edge = 11 * 8 + 8 + 11 * 8
    assert [stage_parameters(model, 11, stage) for stage in range(4)] == [edge] + 3 * [middle]
    assert parameter_count(model, 11) == edge + 3 * middle


def test_a_tied_head_is_counted_once() -> None:
    plain, tied = ModelSection(tied=False), ModelSection(tied=True)
    assert stage_parameters(plain, 257, 0) - stage_parameters(tied, 257, 0) == 257 * plain.width


@pytest.mark.parametrize(("preset", "parameters"), [("8b", LLAMA_3_8B), ("1b", LLAMA_3_2_1B)])
def test_presets_have_the_published_size(preset: str, parameters: int) -> None:
    model = ModelSection(preset=preset)
    assert parameter_count(model, vocabulary(model)) == parameters


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_and_say_their_size(preset: str) -> None:
    model = ModelSection(preset=preset)
    number, unit = (
        PRESETS[preset].description.split(" ")[0][:-1],
        PRESETS[preset].description.split(" ")[0][-1],
    )
    said = float(number) * {"M": 1e6, "B": 1e9}[unit]
    assert parameter_count(model, vocabulary(model)) == pytest.approx(said, rel=0.04)
    assert f"{model.stages} middle stages" in PRESETS[preset].description


def test_tiny_has_a_million_parameters_in_four_middle_stages() -> None:
    model = ModelSection(preset="tiny")
    assert parameter_count(model, vocabulary(model)) >= 1_000_000
    assert model.stages == 4


@pytest.mark.parametrize(("accumulation", "per_parameter"), [("exact", 40), ("fast", 32)])
def test_bytes_per_parameter(accumulation: str, per_parameter: int) -> None:
    config = load_config((), [f"train.accumulation={accumulation}"])
    estimate = memory_estimate(config, 257, [1])
    state = (
        estimate.total_bytes
        - estimate.gradient_bytes
        - estimate.retained_bytes
        - estimate.graph_bytes
        - estimate.snapshot_bytes
    )
    assert state == per_parameter * stage_parameters(config.model, 257, 1)


def test_retained_and_graphs_by_hand() -> None:
    config = load_config(
        (), ["train.microbatches=6", "train.microbatch_size=2", "train.sequence_length=16",
             "model.width=8", "model.heads=2", "model.ffn_width=5", "limits.slots_shared=3"]
    )  # fmt: skip
    tokens = 2 * 16
    middle = memory_estimate(config, 257, [1])
    assert middle.retained_bytes == 3 * 6 * tokens * 8 * 4
    assert middle.graph_bytes == 4 * (1 + 3) * tokens * (10 * 8 + 4 * 5)
    edge = memory_estimate(config, 257, [0])
    head = tokens * (3 * 8 + 2 * 257)
    assert edge.graph_bytes == 4 * (tokens * 8 + (1 + 3) * head)


@pytest.mark.parametrize(
    ("settings_", "states"),
    [
        (("recovery.snapshot_steps=0",), 0),
        (("recovery.snapshot_steps=0", "recovery.checkpoint_steps=5"), 2),
        (("recovery.snapshot_steps=5", "recovery.snapshot_holders=0"), 2),
        (("recovery.snapshot_steps=5", "recovery.snapshot_holders=2"), 6),
    ],
)
def test_snapshots_count(settings_: tuple[str, ...], states: int) -> None:
    config = load_config((), list(settings_))
    estimate = memory_estimate(config, 257, [1])
    assert estimate.snapshot_bytes == states * 12 * stage_parameters(config.model, 257, 1)


def test_nothing_hosted_needs_nothing() -> None:
    assert memory_estimate(RunConfig(), 257, []).total_bytes == 0


@settings(deadline=None)
@given(st.sets(st.integers(0, 8), min_size=1), st.integers(0, 8))
def test_more_stages_never_need_less(stages: set[int], extra: int) -> None:
    config = load_config((), ["model.stages=8"])
    one = memory_estimate(config, 257, sorted(stages))
    more = memory_estimate(config, 257, sorted(stages | {extra}))
    assert more.total_bytes >= one.total_bytes
    # The one gradient in work is not paid once a stage.
    parts = [memory_estimate(config, 257, [stage]) for stage in stages]
    assert one.total_bytes - one.graph_bytes <= sum(p.total_bytes - p.graph_bytes for p in parts)


def test_a_slot_holds_the_graphs_of_the_run_of_positions_it_covers() -> None:
    config = load_config((), ["model.stages=4", "limits.slots_shared=3"])

    def graphs(*stages: int) -> int:
        return memory_estimate(config, 257, stages).graph_bytes

    block = graphs(1) // (1 + 3)
    assert graphs(2) == graphs(1)
    # Entered at 1 a slot holds both stages, entered at 2 only the second; three shared slots may hold both.
    assert graphs(1, 2) == (2 + 1 + 3 * 2) * block
    assert graphs(1, 3) == (1 + 1 + 3 * 1) * block


def test_slots_when_stages_are_left_out_or_swapped() -> None:
    """One stage is then visited at several positions, each with a slot of its own; runs may close over gaps."""
    shape = ["model.stages=6", "limits.slots_shared=3"]

    def graphs(stages: tuple[int, ...], *paths: str) -> int:
        return memory_estimate(load_config((), [*shape, *paths]), 257, stages).graph_bytes

    block = graphs((1,)) // (1 + 3)
    half = "paths.skip=0.5"
    assert graphs((1,), half) == (1 + 3) * block
    assert graphs((3,), half) == (3 + 3) * block
    assert graphs((6,), half) == (1 + 3) * block
    assert graphs((6,), half, "paths.swaps=1") == (2 + 3) * block
    assert graphs((1, 6), half) == (2 + 3) * 2 * block
    assert graphs((1, 2, 3, 4, 5, 6), half) == (3 + 3) * 3 * block
    assert graphs((0, 1), half) >= graphs((0,), half) + graphs((1,), half)
    assert graphs((0,), half) == graphs((0,))
