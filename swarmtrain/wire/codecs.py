"""Every codec by name: `wire.codec` says what one is, `floats`, `blocks`, `low_rank`, `top_k` are the kinds.

Which to take for what: `none` and `bf16` for activations, `int4` with zstd for outer rounds (the
default), `ternary` for slower links, `rank*` and `top*` for the slowest, after a look at what they
cost (`swarmtrain bench codecs`). At equal bits low rank leaves less error than top-k.
"""

from collections.abc import Mapping
from types import MappingProxyType

from swarmtrain.core.errors import WireError
from swarmtrain.wire.blocks import BLOCK_ELEMENTS, Int4Codec, Int8Codec, TernaryCodec
from swarmtrain.wire.codec import Codec
from swarmtrain.wire.floats import Bfloat16Codec, Float16Codec, Float32Codec
from swarmtrain.wire.low_rank import LowRankCodec
from swarmtrain.wire.top_k import TopKCodec

__all__ = ["BLOCK_ELEMENTS", "CODECS", "ROUND_CODEC", "ROUND_ZSTD_LEVEL", "Codec", "codec_named"]

ROUND_CODEC = "int4"
ROUND_ZSTD_LEVEL = 3
"""The defaults of outer rounds."""

_ALL: tuple[Codec, ...] = (
    Float32Codec(),
    Bfloat16Codec(),
    Float16Codec(),
    Int8Codec(),
    Int4Codec(),
    TernaryCodec(),
    LowRankCodec(32),
    LowRankCodec(16),
    LowRankCodec(8),
    TopKCodec(128),
    TopKCodec(64),
)

CODECS: Mapping[str, Codec] = MappingProxyType({codec.name: codec for codec in _ALL})
"""Every codec by the name that the configuration and tensor headers use."""


def codec_named(name: str) -> Codec:
    """The codec called `name`. Raises WireError when there is none."""
    codec = CODECS.get(name)
    if codec is None:
        raise WireError(
            f"the codec {name[:40]!r} is not known",
            f"known are {', '.join(CODECS)}",
            "let both peers run the same version",
        )
    return codec
