"""What one member sends for one fragment of a stage, and what the others read of it.

Codecs of blocks and tiles share scales over a payload, so a fragment is encoded grain by grain: whoever cuts it into
slices of whole grains, whatever their sizes, decodes the same bits. Codecs whose payloads are gathered whole
(low rank, top-k) see tensors instead, and none of the padding between them.

The sections of a payload (`outer.parcel`) are its grains, each with a zstd frame of its own, or 1 MiB at a time of a
payload that cannot be cut.

Where a round is reduced in slices, the mean is encoded once more, grain by grain. What that leaves out is lost: it is
not kept to be sent later, as feedback helped no codec of blocks in our measurements (`outer.residual`) and the residual
would have to move with the ownership. So the codec of the mean must be fine enough. Four islands, 0.6M parameters,
300 steps of H = 10 after 100 in common, two seeds, nats of held-out text (benchmarks.diloco on that setting):

    contributions    gathered           mean in int8       mean in int4       mean in ternary
    int4             2.0966  2.1020     2.0970  2.1021     2.0976  2.1020
    ternary          2.1080  2.1164                        2.1069  2.1152     2.1284  2.1390

The same codec costs int4 nothing that can be told from chance, and half the bytes of int8; ternary means cost 0.02, so
they come back in int4.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from swarmtrain.core.errors import StateError, WireError
from swarmtrain.core.rounds import Measured
from swarmtrain.core.tensors import TensorHeader
from swarmtrain.outer.budget import measure_candidates
from swarmtrain.outer.merge import Form, Merged
from swarmtrain.outer.parcel import Bounds, section_digest
from swarmtrain.outer.residual import Residual
from swarmtrain.outer.slices import Sizes
from swarmtrain.wire.codec import Codec
from swarmtrain.wire.codecs import codec_named
from swarmtrain.wire.parts import Part, PartsCodec
from swarmtrain.wire.tensors import (
    DTYPE,
    UNCOMPRESSED,
    ZSTD,
    Buffer,
    decode_tensor,
    encode_tensor,
    is_finite,
)

GRAIN_ELEMENTS = 65536
"""Whole blocks of every codec; what one takes to encode hides what calling it costs."""

SECTION_BYTES = 1 << 20
"""Of a payload that cannot be cut by elements."""

_WHOLE_HEAD = struct.Struct("<?Q")
"""Before a payload that cannot be cut: whether it is compressed, and its size before that."""

MOST_MAGNITUDE = 2.0**120
"""Of an element that is reduced in a slice."""

_ANSWERS = {"ternary": "int4"}
"""Codecs whose own error is too large for the mean as well, by which one it is sent instead."""


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


def answer_codec(name: str) -> str:
    """In which codec the mean of a slice comes back where contributions are sent in the codec called `name`."""
    return _ANSWERS.get(name, name)


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """What is on its way: `values` float32 [elements] as everybody decodes it, in the form of the codec.

    `measured` is what the codecs that the next round could choose do to it.
    """

    values: Tensor
    sections: tuple[Buffer, ...]
    measured: tuple[Measured, ...] = ()

    @property
    def payload_bytes(self) -> int:
        """On the wire, after zstd, without the table of the sections."""
        return sum(len(section) for section in self.sections)


class Sender:
    """A member's payloads for one fragment, round after round, with what is still to be sent."""

    def __init__(
        self,
        codec: Codec,
        elements: int,
        feedback: bool | None = None,
        zstd_level: int = 0,
        measures: bool = False,
    ) -> None:
        """`feedback` keeps what payloads leave out; None asks the codec. `measures`: all that could be chosen."""
        self.codec, self._zstd_level, self._measures = codec, zstd_level, measures
        self.residual = Residual(elements, codec.error_feedback if feedback is None else feedback)

    @property
    def form(self) -> Form:
        return Form.of(self.codec)

    def make(self, base: Tensor, local: Tensor, rate_ratio: float = 1.0) -> Payload:
        """The payload of a member that got from `base` to `local`, both float32 [elements].

        What is still to be sent goes with it. `rate_ratio` is as in `Residual.take`. Raises StateError when there is
        nothing finite to send; nothing is lost then of what was still to be sent.
        """
        is_exact = self.form is Form.VALUES
        payload = (self._exact if is_exact else self._difference)(base, local, rate_ratio)
        if not self._measures:
            return payload
        return replace(payload, measured=measure_candidates(base - local, self._zstd_level))

    def _difference(self, base: Tensor, local: Tensor, rate_ratio: float) -> Payload:
        taken = self.residual.take(base - local, rate_ratio)
        payload = through(taken, self.codec, self._zstd_level)
        try:
            self.residual.sent(taken, payload.values)
        except StateError:
            self.residual.restore(taken)
            raise
        return payload

    def again(self, values: Tensor) -> Payload | None:
        """The payload that others decoded to `values`; None where encoding these anew gives others."""
        payload = through(values, self.codec, self._zstd_level)
        is_same = torch.equal(payload.values.view(torch.int32), values.view(torch.int32))
        return payload if is_same else None

    def lost(self, values: Tensor, base: Tensor) -> None:
        """The round went without the payload of `values`, made against `base`: send it again. Once for a payload."""
        is_values = self.form is Form.VALUES
        self.residual.restore(base - values if is_values else values)

    def _exact(self, _base: Tensor, local: Tensor, rate_ratio: float) -> Payload:
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
    """`x`, float32 [elements], on its way: what others decode of it, the same shape. `codec` is `round_codec`'s."""
    sections = sections_of(x, codec, zstd_level)
    return Payload(values_of(sections, codec, x.numel()), sections)


# ---- sections -------------------------------------------------------------------------------------------------------


def sections_of(x: Tensor, codec: Codec, zstd_level: int) -> tuple[Buffer, ...]:
    """`x`, float32 [elements] from the start of a grain on, encoded by `codec`, which is `round_codec`'s."""
    if codec.gathers:
        header, data = encode_tensor(x, codec, zstd_level)
        head = _WHOLE_HEAD.pack(header.compression == ZSTD, header.raw_bytes)
        whole = memoryview(b"".join((head, data)))
        return tuple(whole[at : at + SECTION_BYTES] for at in range(0, len(whole), SECTION_BYTES))
    inner, parts = _of_grain(codec), grains(x.numel())
    return tuple(encode_tensor(x[at : at + n], inner, zstd_level)[1] for at, (n,) in parts)


def values_of(sections: Sequence[Buffer], codec: Codec, elements: int) -> Tensor:
    """float32 [elements] of all sections of a payload, or of those of a run of grains. Raises WireError."""
    if codec.gathers:
        return _values_of_whole(b"".join(sections), codec, elements)
    inner, parts = _of_grain(codec), grains(elements)
    if len(sections) != len(parts):
        raise WireError(
            "a payload has another number of sections than its elements", f"{len(sections)}"
        )
    out = torch.empty(elements)
    for section, (at, (length,)) in zip(sections, parts, strict=True):
        raw_bytes = inner.encoded_bytes(length)
        compression = UNCOMPRESSED if len(section) == raw_bytes else ZSTD
        out[at : at + length] = _decoded(section, inner, length, compression, raw_bytes)
    return out


def parcel_bounds(codec: Codec, elements: int) -> Bounds:
    """What the sections of `elements` by `codec` may be."""
    if codec.gathers:
        most_bytes = codec.encoded_bytes(elements) + _WHOLE_HEAD.size
        return Bounds(-(-most_bytes // SECTION_BYTES), SECTION_BYTES, is_exact=False)
    largest = _of_grain(codec).encoded_bytes(min(elements, GRAIN_ELEMENTS))
    return Bounds(len(grains(elements)), largest)


def slice_elements(sections: tuple[int, int], elements: int) -> tuple[int, int]:
    """Where the grains from the first of `sections` up to the second begin and end in a fragment of `elements`."""
    first, stop = sections
    return first * GRAIN_ELEMENTS, min(stop * GRAIN_ELEMENTS, elements)


def mean_sections(merged: Merged, answer: Codec, zstd_level: int) -> tuple[Buffer, ...]:
    """The mean of a slice, encoded for everybody who wants it. Raises StateError when nothing was weighed."""
    if merged.values is None:
        raise StateError("a slice that nobody brought tokens to has no mean", "", "")
    return sections_of(merged.values, answer, zstd_level)


def may_be_sliced(values: Tensor) -> bool:
    """Whether every mean of such values fits its codec, whatever the others bring.

    A block's scale is rounded up, so that the largest float32 of all would decode to infinity.
    """
    return float(torch.linalg.vector_norm(values, math.inf)) <= MOST_MAGNITUDE


def sizes_of(codec: Codec, answer: Codec, elements: int) -> Sizes:
    """What it costs to send a fragment of `elements`; both codecs are `round_codec`'s."""
    if codec.gathers:
        return Sizes(0, codec.encoded_bytes(elements), 0)
    count = len(grains(elements))
    return Sizes(count, codec.encoded_bytes(elements), answer.encoded_bytes(elements))


def _of_grain(codec: Codec) -> Codec:
    return codec.inner if isinstance(codec, PartsCodec) else codec


def _values_of_whole(data: bytes, codec: Codec, elements: int) -> Tensor:
    if len(data) <= _WHOLE_HEAD.size:
        raise WireError("a payload is too short", f"{len(data)} bytes")
    is_compressed, raw_bytes = _WHOLE_HEAD.unpack_from(data)
    rest = memoryview(data)[_WHOLE_HEAD.size :]
    return _decoded(rest, codec, elements, ZSTD if is_compressed else UNCOMPRESSED, raw_bytes)


def _decoded(data: Buffer, codec: Codec, elements: int, compression: str, raw_bytes: int) -> Tensor:
    header = TensorHeader(
        dtype=DTYPE,
        shape=(elements,),
        codec=codec.name,
        compression=compression,
        raw_bytes=raw_bytes,
        payload_bytes=len(data),
        digest=section_digest(data),
    )
    return decode_tensor(header, data, expect_shape=(elements,), expect_codec=codec)
