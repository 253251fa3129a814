"""What the searches of the planner spend their time on is compiled by numba where that is installed
(`pip install swarmtrain[fast]`), and run by the interpreter, slowly, where it is not: from one source, with the same
figures to the last bit. So functions that change their last bit between libraries have no part in it.

Compiled functions take plain numbers and named tuples of flat arrays, which the interpreter has as lists: those it
reads faster. Compiling takes seconds, once a machine: the result is cached beside the file. Files with compiled
functions are imported where a search begins, so that a first plan waits for nothing.
"""

# numba's cache does not notice when a function of another file has changed that was compiled into this one: after
# changes of moves.py or draft.py, touch the files that use them.

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

IS_COMPILED = find_spec("numba") is not None


def compiled(inline: Literal["never", "always"] = "never") -> Callable[[Any], Any]:
    """Compiled where numba is installed, else as it is; what is called most is put in its callers' place."""
    if not IS_COMPILED:
        return lambda function: function
    from numba import njit

    # Nothing is allocated, so references need not be counted (`_nrt`): that took longer than all the rest.
    options: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}
    return njit(inline=inline, **options)  # type: ignore[no-any-return]


def counts(values: Iterable[int]) -> Any:
    """Whole numbers for compiled functions."""
    return np.array(list(values), np.int64) if IS_COMPILED else list(values)


def figures(values: Iterable[float]) -> Any:
    """Numbers for compiled functions."""
    return np.array(list(values), np.float64) if IS_COMPILED else list(values)
