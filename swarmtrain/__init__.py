"""swarmtrain: train one language model on machines that differ, sit far apart, and come and go.

The names below are the public API; each is imported when it is first used, so that `import swarmtrain` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from swarmtrain.core.version import VERSION as __version__

if TYPE_CHECKING:
    from swarmtrain.core.config import RunConfig, load_config
    from swarmtrain.core.errors import SwarmError
    from swarmtrain.experiments.reference import Reference
    from swarmtrain.experiments.trained import TrainedModel
    from swarmtrain.experiments.virtual import Scenario, simulate

_HOMES = {
    "Reference": "swarmtrain.experiments.reference",
    "RunConfig": "swarmtrain.core.config",
    "Scenario": "swarmtrain.experiments.virtual",
    "SwarmError": "swarmtrain.core.errors",
    "TrainedModel": "swarmtrain.experiments.trained",
    "load_config": "swarmtrain.core.config",
    "simulate": "swarmtrain.experiments.virtual",
}

__all__ = [
    "Reference",
    "RunConfig",
    "Scenario",
    "SwarmError",
    "TrainedModel",
    "__version__",
    "load_config",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
