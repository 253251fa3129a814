"""One payload for the many tensors that lie in a flat one: for codecs that need to see matrices, as low rank does."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from swarmtrain.wire.codec import Codec, bad_payload, check_size

Part = tuple[int, tuple[int, ...]]
"""Where a tensor starts in the flat one, in elements, and its shape."""

_LENGTH_BYTES = 4


class PartsCodec:
    """Every part by `inner`, one after the other; elements between the parts decode to zero.

    For flat tensors of `numel` elements alone. Both sides need the same parts, so no name stands for it
    in `CODECS`: hand it to `encode_tensor` and `decode_tensor` itself. Where `inner` is not of exact
    size, four bytes before each part say how many it takes.
    """

    plane_bytes = 1

    def __init__(self, inner: Codec, numel: int, parts: Sequence[Part]) -> None:
        ends = [offset + math.prod(shape) for offset, shape in parts]
        starts = [offset for offset, _ in parts] + [numel]
        if not parts or any(end > start for end, start in zip([0, *ends], starts, strict=True)):
            raise ValueError(f"parts must follow each other within {numel} elements: {parts}")
        self.inner, self.numel, self.parts = inner, numel, tuple(parts)
        self.name = f"parts-{inner.name}"
        self.lossy = inner.lossy
        self.exact_size = inner.exact_size
        self.error_feedback = inner.error_feedback
        self.gathers = inner.gathers

    def encoded_bytes(self, *shape: int) -> int:
        self._check(shape)
        most_bytes = sum(self.inner.encoded_bytes(*part) for _, part in self.parts)
        return most_bytes + (0 if self.exact_size else _LENGTH_BYTES * len(self.parts))

    def bits_per_parameter(self, *shape: int) -> float:
        self._check(shape)
        bits = sum(math.prod(part) * self.inner.bits_per_parameter(*part) for _, part in self.parts)
        lengths = 0 if self.exact_size else 8 * _LENGTH_BYTES * len(self.parts)
        return (bits + lengths) / self.numel

    def encode(self, x: Tensor) -> Tensor:
        self._check(tuple(x.shape))
        pieces = []
        for offset, shape in self.parts:
            piece = self.inner.encode(x[offset : offset + math.prod(shape)].view(shape))
            if not self.exact_size:
                pieces.append(torch.tensor([len(piece)], dtype=torch.int32).view(torch.uint8))
            pieces.append(piece)
        return torch.cat(pieces)

    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        check_size(self, payload, shape)
        out = torch.zeros(self.numel)
        at = 0
        for offset, part in self.parts:
            taken = self.inner.encoded_bytes(*part)
            if not self.exact_size:
                taken = self._length(payload[at : at + _LENGTH_BYTES])
                at += _LENGTH_BYTES
            # A copy, because a float16 within cannot be read from an odd address.
            decoded = self.inner.decode(payload[at : at + taken].clone(), part)
            out[offset : offset + math.prod(part)] = decoded.view(-1)
            at += taken
        if at != payload.numel():
            raise bad_payload(self.name, f"{payload.numel() - at} bytes are left over")
        return out

    def _length(self, payload: Tensor) -> int:
        if len(payload) < _LENGTH_BYTES:
            raise bad_payload(self.name, "it ends within a length")
        length_bytes = int(payload.clone().view(torch.int32))
        if length_bytes < 1:
            raise bad_payload(self.name, f"a part claims {length_bytes} bytes")
        return length_bytes

    def _check(self, shape: tuple[int, ...]) -> None:
        if shape != (self.numel,):
            raise ValueError(f"{self.name} is for {self.numel} elements in a row, not {shape}")
