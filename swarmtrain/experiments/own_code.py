"""Code of one's own that a run names: a model family, a codec, a wiring rule."""

from swarmtrain.core.config import RunConfig
from swarmtrain.model.registry import trust_family
from swarmtrain.plan.wiring_rules import trust_wiring
from swarmtrain.wire.codecs import trust_codec


def trust_code(config: RunConfig) -> None:
    """Import all that a configuration of this machine's own names; this process may use it then.

    Never call it with a configuration from the network or from a checkpoint (I5). Raises ModelError or ConfigError.
    """
    trust_family(config.model)
    trust_codec(config.outer.codec)
    trust_wiring(config.planner.wiring)
