"""What one member sends for one fragment of a stage, and what the others read of it.

Codecs of blocks and tiles share scales over a payload, so a fragment is encoded grain by grain: whoever cuts it into
slices of whole grains, whatever their sizes, decodes the same bits. Codecs whose payloads are gathered whole
(low rank, top-k) see tensors instead, and none of the padding between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from swarmtrain.core.errors import StateError
from swarmtrain.core.tensors import TensorHeader
from swarmtrain.outer.merge import Form, Merged
from swarmtrain.outer.residual import Residual
from swarmtrain.wire.codec import Codec
from swarmtrain.wire.codecs import codec_named
from swarmtrain.wire.parts import Part, PartsCodec
from swarmtrain.wire.tensors import Buffer, decode_tensor, encode_tensor, is_finite

GRAIN_ELEMENTS = 65536
"""Whole blocks of every codec; what one takes to encode hides what calling it costs."""


def grains(elements: int) -> tuple[Part, ...]:
    """The grains of a fragment of `elements`; the last may be short."""
    return tuple(
        (start, (min(GRAIN_ELEMENTS, elements - start),))
        for start in range(0, elements, GRAIN_ELEMENTS)
    )


def round_codec(name: str, elements: int, tensors: Sequence[Part]) -> Codec:
    """The codec called `name` as rounds use it for a fragment whose `tensors` lie in `elements`. Raises WireError."""
    codec = codec_named(name)
    if codec.gathers:
        return PartsCodec(codec, elements, tensors)
    # An element that takes just its own bytes is the same in any slice.
    by_element = codec.exact_size and codec.encoded_bytes(1) == codec.plane_bytes
    return codec if by_element else PartsCodec(codec, elements, grains(elements))


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """What is on its way: `values` float32 [elements] as everybody decodes it, in the form of the codec."""

    values: Tensor
    header: TensorHeader
    data: Buffer

    @property
    def payload_bytes(self) -> int:
        """On the wire, after zstd."""
        return len(self.data)


class Sender:
    """A member's payloads for one fragment, round after round, with what is still to be sent."""

    def __init__(
        self, codec: Codec, elements: int, feedback: bool | None = None, zstd_level: int = 0
    ) -> None:
        """`feedback` keeps what payloads leave out; None asks the codec."""
        self.codec, self.form, self._zstd_level = codec, Form.of(codec), zstd_level
        self.residual = Residual(elements, codec.error_feedback if feedback is None else feedback)

    def make(self, base: Tensor, local: Tensor, rate_ratio: float = 1.0) -> Payload:
        """The payload of a member that got from `base` to `local`, both float32 [elements].

        What is still to be sent goes with it. `rate_ratio` is as in `Residual.take`. Raises StateError when there is
        nothing finite to send; nothing is lost then of what was still to be sent.
        """
        if self.form is Form.VALUES:
            return self._exact(local, rate_ratio)
        taken = self.residual.take(base - local, rate_ratio)
        payload = through(taken, self.codec, self._zstd_level)
        try:
            self.residual.sent(taken, payload.values)
        except StateError:
            self.residual.restore(taken)
            raise
        return payload

    def lost(self, values: Tensor, base: Tensor) -> None:
        """The round went without the payload of `values`, made against `base`: send it again. Once for a payload."""
        is_values = self.form is Form.VALUES
        self.residual.restore(base - values if is_values else values)

    def _exact(self, local: Tensor, rate_ratio: float) -> Payload:
        if not is_finite(local):
            raise StateError("parameters that are not finite cannot be sent", "", "leave them out")
        # Where nothing is to be sent later this subtracts +0, which leaves every bit as it is.
        values = local - self.residual.take(torch.zeros_like(local), rate_ratio)
        return through(values, self.codec, self._zstd_level)


def answered(merged: Merged, codec: Codec, zstd_level: int) -> tuple[Merged, int]:
    """The merged round as it comes back to the members, encoded once more, and the bytes that takes.

    Values that travel as they are stay as they are: then `codec` must be one that loses nothing. Raises StateError
    when the codec cannot hold them.
    """
    if merged.values is None:
        return merged, 0
    if codec.lossy and merged.tag.form is Form.VALUES:
        raise ValueError(f"{codec.name} is for differences, not for parameters")
    payload = through(merged.values, codec, zstd_level)
    values, payload_bytes = payload.values, payload.payload_bytes
    if not is_finite(values):
        raise StateError(
            f"a merged round does not fit {codec.name}", "it decodes to infinity or NaN", "use int4"
        )
    return replace(merged, values=values), payload_bytes


def through(x: Tensor, codec: Codec, zstd_level: int) -> Payload:
    """`x` on its way: what others decode of it, float32 of the same shape."""
    header, data = encode_tensor(x, codec, zstd_level)
    decoded = decode_tensor(header, data, expect_shape=tuple(x.shape), expect_codec=codec)
    return Payload(decoded, header, data)
