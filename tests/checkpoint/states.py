"""Small stage states for the checkpoint tests."""

import math

import numpy as np

from swarmtrain.checkpoint.stage_file import Flat, NamesShapes, StageState
from swarmtrain.core.config import RunConfig
from swarmtrain.core.layout import flat_layout

NAMES_SHAPES: NamesShapes = (("zeta.weight", (5, 7)), ("alpha", (16,)), ("norm/scale", ()))
CONFIG_JSON = RunConfig().to_json()
BASE = bytes(range(32))


def flat(names_shapes: NamesShapes, seed: int) -> Flat:
    """Normal values with zero padding."""
    random = np.random.default_rng(seed)
    offsets, total_elements = flat_layout([shape for _, shape in names_shapes])
    array = np.zeros(total_elements, dtype=np.float32)
    for offset, (_, shape) in zip(offsets, names_shapes, strict=True):
        count = math.prod(shape)
        array[offset : offset + count] = random.standard_normal(count, dtype=np.float32)
    return array


def stage_state(stage: int, seed: int = 0, names_shapes: NamesShapes = NAMES_SHAPES) -> StageState:
    arrays = [flat(names_shapes, 1000 * seed + 10 * stage + section) for section in range(3)]
    return StageState(stage, names_shapes, *arrays)


def assert_same(left: StageState, right: StageState) -> None:
    """Equal to the bit, padding included."""
    assert left.stage == right.stage and left.names_shapes == right.names_shapes
    mine, theirs = dict(left.sections()), dict(right.sections())
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert mine[name].tobytes() == theirs[name].tobytes(), name
