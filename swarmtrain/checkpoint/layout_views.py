"""A stage's flat parameters as named arrays."""

import math
from collections.abc import Iterator

from swarmtrain.checkpoint.stage_file import Flat, StageState
from swarmtrain.core.layout import flat_layout


def views_of(state: StageState) -> Iterator[tuple[str, Flat]]:
    """Each parameter's name and its values in its shape, as views of the flat array."""
    offsets, _ = flat_layout([shape for _, shape in state.names_shapes])
    for (name, shape), offset in zip(state.names_shapes, offsets, strict=True):
        yield name, state.parameters[offset : offset + math.prod(shape)].reshape(shape)
