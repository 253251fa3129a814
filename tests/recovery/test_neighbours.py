"""A lost stage from its neighbours: weights, empty moments, equal bits everywhere, and what is refused."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.core.config import ModelSection
from swarmtrain.core.errors import StateError
from swarmtrain.core.layout import flat_layout
from swarmtrain.core.messages import StageSum
from swarmtrain.model.stages import stage_parameter_shapes
from swarmtrain.recovery.neighbours import gradient_weight, neighbour_state

NAMES_SHAPES = (("blocks.0.gain", (5,)), ("blocks.0.weight", (4, 6)))
ELEMENTS = flat_layout([shape for _, shape in NAMES_SHAPES])[1]


def state_of(stage: int, seed: int, names_shapes: tuple = NAMES_SHAPES) -> StageState:
    values = np.random.default_rng(seed).normal(size=(3, ELEMENTS)).astype(np.float32)
    return StageState(stage, names_shapes, *values)


def test_neighbours_count_by_their_squared_gradient_norm():
    """W = (w1 W1 + w3 W3) / (w1 + w3), in fp64, rounded once (CheckFree, algorithm 1)."""
    left, right = state_of(1, 1), state_of(3, 2)
    found = neighbour_state(2, [(left, 0.5), (right, 1.5)])
    for value, a, b in zip(found.parameters, left.parameters, right.parameters, strict=True):
        exact = (Fraction(float(a)) + 3 * Fraction(float(b))) / 4
        assert value == np.float32(float(exact))
    assert (found.stage, found.names_shapes) == (2, NAMES_SHAPES)


def test_the_optimizer_begins_anew():
    found = neighbour_state(2, [(state_of(1, 1), 1.0), (state_of(3, 2), 1.0)])
    for moment in (found.moment1, found.moment2):
        assert moment is not None and moment.shape == (ELEMENTS,) and not moment.any()


def test_a_single_neighbour_is_copied_to_the_bit():
    """Also its negative zeros, whose bits enter a digest."""
    only = state_of(2, 1)
    only.parameters[3] = -0.0
    found = neighbour_state(1, [(only, 0.25)])
    assert found.parameters.tobytes() == only.parameters.tobytes()
    assert not np.shares_memory(found.parameters, only.parameters)


def test_without_any_gradient_neighbours_count_alike():
    left, right = state_of(1, 1), state_of(3, 2)
    silent = neighbour_state(2, [(left, 0.0), (right, 0.0)])
    equal = neighbour_state(2, [(left, 2.0), (right, 2.0)])
    assert silent.parameters.tobytes() == equal.parameters.tobytes()


@given(st.floats(0, 1e30), st.floats(0, 1e30))
def test_the_average_lies_between_its_neighbours(left_weight: float, right_weight: float):
    left, right = state_of(1, 1), state_of(3, 2)
    found = neighbour_state(2, [(left, left_weight), (right, right_weight)]).parameters
    again = neighbour_state(2, [(left, left_weight), (right, right_weight)]).parameters
    assert found.tobytes() == again.tobytes()
    low, high = (bound(left.parameters, right.parameters) for bound in (np.minimum, np.maximum))
    assert (found >= low).all() and (found <= high).all()


def test_the_inputs_are_left_as_they_were():
    left, right = state_of(1, 1), state_of(3, 2)
    before = left.parameters.tobytes(), right.parameters.tobytes()
    neighbour_state(2, [(left, 1.0), (right, 2.0)])
    assert (left.parameters.tobytes(), right.parameters.tobytes()) == before


def test_padding_stays_zero():
    """A checkpoint refuses anything else (the digest covers it)."""
    left, right = state_of(1, 1), state_of(3, 2)
    for state in (left, right):
        state.parameters[5:16] = 0.0
    assert not neighbour_state(2, [(left, 1.0), (right, 3.0)]).parameters[5:16].any()


def test_neighbours_of_different_shapes_are_refused():
    """An edge stage, or stages of different depth: an average of them would mean nothing."""
    other = (("blocks.0.gain", (5,)), ("blocks.0.weight", (6, 4)))
    with pytest.raises(StateError, match="cannot be made from its neighbours"):
        neighbour_state(2, [(state_of(1, 1), 1.0), (state_of(3, 2, other), 1.0)])


def test_no_neighbour_is_refused():
    with pytest.raises(StateError, match="none"):
        neighbour_state(2, [])


def test_all_middle_stages_of_a_model_share_one_layout():
    """Their parameters' names carry the block's place in the stage, not its layer in the model."""
    model = ModelSection(stages=4, blocks_per_stage=2, width=16, heads=2, kv_heads=1, ffn_width=16)
    layouts = {tuple(stage_parameter_shapes(model, 257, stage)) for stage in range(1, 5)}
    assert len(layouts) == 1


@given(st.integers(0, 2**90), st.integers(0, 200))
def test_the_weight_is_the_committed_sum_of_squares(square: int, exponent: int):
    facts = StageSum(1, b"", str(square), exponent)
    assert gradient_weight(facts) == pytest.approx(square / 2**exponent)
