"""Every codec by name: `wire.codec` says what one is, `floats`, `blocks`, `low_rank`, `top_k` are the kinds.

Which to take for what: `none` and `bf16` for activations, `int4` with zstd for outer rounds (the
default), `ternary` for slower links, `rank*` and `top*` for the slowest, after a look at what they
cost (`swarmtrain bench codecs`). At equal bits low rank leaves less error than top-k.

`outer.codec` may also be "package.module:Name", a class of one's own (docs/own_codec.md). It is code, so it is imported
only where a person put it into a local RUN.toml (`trust_codec`), never because another peer sent its name.
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from swarmtrain.core.errors import ConfigError, WireError
from swarmtrain.wire.blocks import BLOCK_ELEMENTS, Int4Codec, Int8Codec, TernaryCodec
from swarmtrain.wire.codec import Codec
from swarmtrain.wire.contract import check_codec
from swarmtrain.wire.floats import Bfloat16Codec, Float16Codec, Float32Codec
from swarmtrain.wire.low_rank import LowRankCodec
from swarmtrain.wire.top_k import TopKCodec

__all__ = [
    "BLOCK_ELEMENTS",
    "BUILT_IN",
    "CODECS",
    "ROUND_CODEC",
    "ROUND_ZSTD_LEVEL",
    "Codec",
    "codec_named",
    "register",
    "trust_codec",
]

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

BUILT_IN = frozenset(codec.name for codec in _ALL)

_known: dict[str, Codec] = {codec.name: codec for codec in _ALL}

CODECS: Mapping[str, Codec] = MappingProxyType(_known)
"""Every codec by the name that the configuration and tensor headers use: built in, and registered since."""


def codec_named(name: str) -> Codec:
    """The codec called `name`. Raises WireError when there is none."""
    codec = CODECS.get(name)
    if codec is None:
        raise WireError(
            f"the codec {name[:40]!r} is not known",
            f"known are {', '.join(CODECS)}",
            "let both peers run the same version; start from a local RUN.toml that names a codec of your own",
        )
    return codec


def register(codec: Codec) -> None:
    """Know `codec` by its name from here on, in this process.

    Raises ConfigError when the name is taken, or when it breaks the contract of `wire.codec.Codec` on a few tensors.
    """
    check_codec(codec)
    if codec.name in _known:
        raise ConfigError(
            f"there is a codec {codec.name!r} already",
            f"known are {', '.join(CODECS)}",
            "give yours another name",
        )
    _known[codec.name] = codec


def trust_codec(name: str) -> None:
    """Import and register the codec that `outer.codec` of a local configuration names, if that is one of its own.

    Never call it with a configuration from the network or from a checkpoint: it runs the code that is named (I5).
    Raises ConfigError when it cannot be imported, or as `register`.
    """
    module_name, colon, attribute = name.partition(":")
    if name in CODECS or not colon:
        return
    try:
        codec: Any = getattr(importlib.import_module(module_name), attribute)()
    except (
        Exception
    ) as error:  # importing and constructing run foreign code, which may raise anything
        raise ConfigError(
            f"outer.codec = {name!r} cannot be loaded",
            f"{type(error).__name__}: {error}",
            "check the name, that Python finds the module (PYTHONPATH=. for one beside you), and that the class needs "
            "no arguments",
        ) from error
    if getattr(codec, "name", None) != name:
        raise ConfigError(
            f"outer.codec = {name!r} calls itself {getattr(codec, 'name', None)!r}",
            "by its name others know what was sent to them",
            f"give the class the attribute name = {name!r}",
        )
    register(codec)
