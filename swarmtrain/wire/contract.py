"""Holds a codec of one's own to the contract of `wire.codec.Codec`: on a few tensors, once, when it is registered."""

import math

import torch
from torch import Tensor

from swarmtrain.core.errors import ConfigError, WireError
from swarmtrain.wire.codec import Codec

_SHAPES = ((1,), (257,), (4099,), (16384,), (64, 66), (3, 5, 7))
_STATED_ELEMENTS, _STATED_WITHIN = 10_000, 0.1
"""Tensors of so many elements and more take the stated bits to within a tenth, or to the letter if sizes are exact."""


def check_codec(codec: Codec) -> None:
    """Raises ConfigError that says what it does and the contract does not allow."""
    try:
        wrong = _attributes(codec) or next(filter(None, map(_Probe(codec).fault, _SHAPES)), "")
    except Exception as error:  # foreign code, which may raise anything
        wrong = f"{type(error).__name__}: {error}"
    if wrong:
        raise ConfigError(
            f"{getattr(codec, 'name', type(codec).__name__)!r} breaks the contract of codecs",
            wrong,
            "follow the protocol swarmtrain.wire.codec.Codec; docs/own_codec.md shows one",
        )


def _attributes(codec: Codec) -> str:
    if not isinstance(codec.name, str) or not 0 < len(codec.name) <= 256:
        return f"its name is {codec.name!r}"
    if codec.plane_bytes not in (1, 2, 4):
        return f"plane_bytes = {codec.plane_bytes!r}, and planes are of 1, 2 or 4 bytes"
    for flag in ("lossy", "exact_size", "error_feedback", "gathers"):
        if type(getattr(codec, flag)) is not bool:
            return f"{flag} is neither true nor false"
    return ""


class _Probe:
    """Tries `codec` on tensors of one shape after the other."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def fault(self, shape: tuple[int, ...]) -> str:
        """What is wrong with it on `shape`, or nothing."""
        return self._encoding(shape) or self._decoding(shape) or self._hostile(shape)

    def _encoding(self, shape: tuple[int, ...]) -> str:
        codec, x = self._codec, _drawn(shape)
        payload, most_bytes = codec.encode(x), codec.encoded_bytes(*shape)
        if payload.dtype != torch.uint8 or payload.ndim != 1:
            return f"a payload is {payload.dtype} {list(payload.shape)}, not uint8 in a row"
        size_bytes = payload.numel()
        if size_bytes % codec.plane_bytes or not 0 < size_bytes <= most_bytes:
            return f"a tensor {shape} takes {size_bytes} bytes, encoded_bytes says {most_bytes}"
        if codec.exact_size and size_bytes < most_bytes:
            return f"a tensor {shape} takes {size_bytes} bytes, exact_size says {most_bytes}"
        if not torch.equal(payload, codec.encode(_drawn(shape))):
            return "the same tensor is not always encoded to the same bytes"
        bits, stated = 8 * size_bytes / x.numel(), codec.bits_per_parameter(*shape)
        within = 1e-9 if codec.exact_size else _STATED_WITHIN
        is_held = codec.exact_size or x.numel() >= _STATED_ELEMENTS
        if is_held and not math.isclose(bits, stated, rel_tol=within):
            return f"a tensor {shape} takes {bits:g} bits a parameter, stated are {stated:g}"
        return ""

    def _decoding(self, shape: tuple[int, ...]) -> str:
        codec, x = self._codec, _drawn(shape)
        out = codec.decode(codec.encode(x), shape)
        if out.dtype != torch.float32 or out.shape != x.shape or not out.is_contiguous():
            return f"a tensor {shape} comes back as {out.dtype} {list(out.shape)}"
        if not out.isfinite().all():
            return f"a finite tensor {shape} comes back infinite or NaN"
        if not codec.lossy and not torch.equal(out.view(torch.int32), x.view(torch.int32)):
            return "it is not lossy, but changes bits"
        for bad in (math.nan, math.inf):
            x = _drawn(shape)
            x.view(-1)[-1] = bad
            if codec.decode(codec.encode(x), shape).isfinite().all():
                return f"{bad} is lost: the decoded tensor must show that a value was not finite"
        return ""

    def _hostile(self, shape: tuple[int, ...]) -> str:
        codec, payload = self._codec, self._codec.encode(_drawn(shape)).clone()
        longer = torch.cat((payload, payload.new_zeros(codec.encoded_bytes(*shape))))
        try:
            codec.decode(longer, shape)
            return f"{len(longer)} bytes for a tensor {shape} are not refused"
        except WireError:
            pass
        for data in (payload[: len(payload) // 2], torch.full_like(payload, 255)):
            try:
                out = codec.decode(data, shape)
            except WireError:
                continue
            if out.shape != shape:
                return f"damaged bytes of a tensor {shape} come back as {list(out.shape)}"
        return ""


def _drawn(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape))) / 64
