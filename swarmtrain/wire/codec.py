"""What a codec is: one way to write a float32 tensor down as payload bytes, with the error it may make.

A codec is deterministic and knows nothing of headers, digests or compression (`wire.tensors` does).
Values that are not finite never get lost: the decoded tensor then holds a value that is not finite
too, so the receiver's `is_finite` sees it and the key is voided. Decoding gives the same bits on
every machine, whatever its number of threads: all its sums are exact. Payloads are little-endian,
as all machines we run on are.
"""

import math
from typing import Protocol

from torch import Tensor

from swarmtrain.core.errors import WireError


class Codec(Protocol):
    """One way to write a tensor down; stateless."""

    @property
    def name(self) -> str: ...

    @property
    def lossy(self) -> bool: ...

    @property
    def plane_bytes(self) -> int:
        """Bytes of one element in the payload: the planes zstd splits it into."""
        ...

    @property
    def exact_size(self) -> bool:
        """Whether every payload takes `encoded_bytes`, rather than at most that."""
        ...

    @property
    def error_feedback(self) -> bool:
        """Whether outer rounds keep what this codec left out for the next round, unless told otherwise."""
        ...

    @property
    def gathers(self) -> bool:
        """Whether a group sends whole payloads to every member, because a sum of them would not fit the codec."""
        ...

    def encoded_bytes(self, *shape: int) -> int:
        """Payload bytes of a tensor of `shape`, at least one element; the most when not `exact_size`."""
        ...

    def bits_per_parameter(self, *shape: int) -> float:
        """Payload bits an element before zstd; the expected number when not `exact_size`."""
        ...

    def encode(self, x: Tensor) -> Tensor:
        """Contiguous float32 -> uint8 [at most encoded_bytes(*x.shape)]; may share the memory of `x`."""
        ...

    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        """uint8 [bytes] -> contiguous float32 of `shape`; may share the memory.

        Memory is bounded by `shape`, whatever the bytes say. Raises WireError for bytes that `encode`
        cannot have written; where any bytes are numbers, it decodes them.
        """
        ...


class FixedSize:
    """Base of codecs whose payload size follows from the shape, and that no error feedback helps."""

    exact_size = True
    error_feedback = False
    gathers = False

    def encoded_bytes(self, *shape: int) -> int:
        raise NotImplementedError

    def bits_per_parameter(self, *shape: int) -> float:
        return 8 * self.encoded_bytes(*shape) / math.prod(shape)


def check_size(codec: Codec, payload: Tensor, shape: tuple[int, ...]) -> None:
    """Raise WireError unless `payload` has a size that `codec` may write for `shape`."""
    most_bytes = codec.encoded_bytes(*shape)
    size_bytes = payload.numel()
    if not (size_bytes == most_bytes or (0 < size_bytes < most_bytes and not codec.exact_size)):
        bound = "" if codec.exact_size else "at most "
        raise bad_payload(codec.name, f"got {size_bytes} bytes, expected {bound}{most_bytes}")


def bad_payload(codec: str, why: str) -> WireError:
    """The error for bytes that the codec called `codec` cannot have written."""
    return WireError(
        f"a payload is not what the codec {codec} writes",
        why,
        "the sender is faulty or of another version: call another replica",
    )
