"""Tensors to bytes and back: header, digest, optional zstd; every claim checked before use (I5).

The digest is the first 16 bytes of SHA-256 over the payload: a check against damage, not a
signature. Measured on 1 MiB, one thread: SHA-256 1.76 GB/s with the processor's own instructions,
BLAKE2b 0.94 GB/s. Splitting the bytes of an element into planes before zstd lifts the ratio on bf16
activations from 1.38 to 1.75.
"""

import hashlib
import math

import numpy as np
import torch
import zstandard
from torch import Tensor

from swarmtrain.core.errors import WireError
from swarmtrain.core.tensors import TensorHeader
from swarmtrain.wire.codec import Codec
from swarmtrain.wire.codecs import codec_named

Buffer = bytes | bytearray | memoryview

DTYPE = "float32"
"""The dtype of every tensor that travels; codecs narrow it underway."""

DIGEST_BYTES = 16
ALIGN_BYTES = 64

UNCOMPRESSED = "none"
ZSTD = "zstd"


def encode_tensor(x: Tensor, codec: str | Codec, zstd_level: int) -> tuple[TensorHeader, Buffer]:
    """Header and payload of `x`: float32 in main memory, at least one element.

    `codec` is the name of one, or one that no name stands for (then the receiver needs it too).
    With codec `none` and level 0 the payload *is* the memory of a contiguous `x`, which must then
    stay unchanged until the payload was sent; the payload keeps it alive. Level 0 turns zstd off; a
    payload that zstd would not shrink travels uncompressed.
    """
    if x.dtype != torch.float32:
        raise WireError(
            f"a tensor of {x.dtype} cannot be encoded", f"only {DTYPE} travels", "convert it first"
        )
    chosen = codec_named(codec) if isinstance(codec, str) else codec
    raw = chosen.encode(x.detach().contiguous())
    payload: Buffer = _memory(raw)
    compression = UNCOMPRESSED
    if zstd_level:
        planes = _split_planes(raw, chosen.plane_bytes)
        packed = zstandard.ZstdCompressor(level=zstd_level).compress(_memory(planes))
        if len(packed) < raw.numel():
            payload, compression = packed, ZSTD
    header = TensorHeader(
        dtype=DTYPE,
        shape=tuple(x.shape),
        codec=chosen.name,
        compression=compression,
        raw_bytes=raw.numel(),
        payload_bytes=len(payload),
        digest=_payload_digest(payload),
    )
    return header, payload


def decode_tensor(
    header: TensorHeader,
    payload: Buffer,
    *,
    expect_shape: tuple[int, ...],
    expect_dtype: str = DTYPE,
    expect_codec: Codec | None = None,
) -> Tensor:
    """The tensor of `expect_shape` that `payload` holds, or WireError saying which claim is false.

    Any named codec is accepted, or `expect_codec` alone.
    Nothing is allocated from the header's figures: sizes follow from `expect_shape`. An
    uncompressed `none` payload on writable, 64-byte aligned memory is not copied: the tensor then
    shares that memory and keeps it alive. Values may still be infinite or NaN: see `is_finite`.
    """
    view = memoryview(payload).cast("B")
    if expect_codec is not None:
        _check("codec", header.codec, expect_codec.name)
    codec = expect_codec or codec_named(header.codec)
    _check_claims(header, codec, expect_shape, expect_dtype)
    _check("payload_bytes", header.payload_bytes, view.nbytes)
    _check("digest", header.digest.hex(), _payload_digest(view).hex())
    if header.compression == ZSTD:
        raw = _join_planes(_decompress(view, header.raw_bytes), codec.plane_bytes)
    else:
        raw = _bytes_tensor(view)
    return codec.decode(raw, expect_shape)


def roundtrip(x: Tensor, codec: str | Codec) -> Tensor:
    """What another peer would decode from `x`, for a hop inside one peer (R15).

    `x` itself when the codec loses nothing.
    """
    chosen = codec_named(codec) if isinstance(codec, str) else codec
    if not chosen.lossy:
        return x
    return chosen.decode(chosen.encode(x.detach().contiguous()), tuple(x.shape))


def is_finite(x: Tensor) -> bool:
    """Whether no element is infinite or NaN; NaN passes through both extremes.

    Measured on 1 MiB, one thread: 29 us; `x.abs().amax()` 40 us; `isfinite(x).all()` 393 us.
    """
    return math.isfinite(x.amax().item()) and math.isfinite(x.amin().item())


def tensor_digest(x: Tensor) -> bytes:
    """SHA-256 of the raw little-endian bytes of `x`; a contiguous tensor is not copied."""
    return hashlib.sha256(_memory(x.detach().contiguous().reshape(-1).view(torch.uint8))).digest()


def _memory(raw: Tensor) -> memoryview:
    """The memory of uint8 [bytes], without a copy; it keeps the tensor's storage alive."""
    return raw.numpy().data


def _payload_digest(payload: Buffer) -> bytes:
    return hashlib.sha256(payload).digest()[:DIGEST_BYTES]


def _check(field: str, claimed: object, expected: object) -> None:
    if claimed != expected:
        raise WireError(
            f"a tensor's {field} is not what was expected",
            f"got {str(claimed)[:200]}, expected {expected}",
            "the sender is faulty or of another version: call another replica",
        )


def _check_claims(
    header: TensorHeader, codec: Codec, shape: tuple[int, ...], expect_dtype: str
) -> None:
    """Every field but the digest against what follows from `shape`, the receiver's own figure."""
    _check("dtype", header.dtype, expect_dtype)
    _check("shape", header.shape, shape)
    most_bytes = codec.encoded_bytes(*shape)
    if codec.exact_size or not 0 < header.raw_bytes <= most_bytes:
        _check("raw_bytes", header.raw_bytes, most_bytes)
    if header.compression == UNCOMPRESSED:
        _check("payload_bytes", header.payload_bytes, header.raw_bytes)
    elif header.compression != ZSTD:
        _check("compression", header.compression, f"{UNCOMPRESSED} or {ZSTD}")


def _bytes_tensor(view: memoryview) -> Tensor:
    """`view` as uint8 [bytes], without a copy where that is safe."""
    aligned = np.frombuffer(view, dtype=np.uint8).ctypes.data % ALIGN_BYTES == 0
    if aligned and not view.readonly:
        return torch.frombuffer(view, dtype=torch.uint8)
    raw = torch.empty(view.nbytes, dtype=torch.uint8)
    raw.numpy()[:] = view
    return raw


def _decompress(view: memoryview, raw_bytes: int) -> Tensor:
    """uint8 [raw_bytes]; the frame's own size claim comes first, as zstandard allocates by it."""
    try:
        _check("zstd size", zstandard.get_frame_parameters(view).content_size, raw_bytes)
        raw = zstandard.ZstdDecompressor().decompress(
            view, max_output_size=raw_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise WireError(
            "a tensor's payload is not a whole zstd frame", str(error), "call another replica"
        ) from error
    return _bytes_tensor(memoryview(raw))


_PLANE_INTEGER = {2: torch.int16, 4: torch.int32}


def _split_planes(raw: Tensor, plane_bytes: int) -> Tensor:
    """uint8 [n * plane_bytes] -> the lowest byte of each element, then the next, and so on.

    Shifts of whole elements are four to forty times faster than a transposed copy of single bytes.
    """
    if plane_bytes == 1:
        return raw
    elements_N = raw.view(_PLANE_INTEGER[plane_bytes])
    planes_PN = torch.empty(plane_bytes, len(elements_N), dtype=torch.uint8)
    for plane in range(plane_bytes):
        planes_PN[plane] = elements_N >> 8 * plane
    return planes_PN.view(-1)


def _join_planes(planes: Tensor, plane_bytes: int) -> Tensor:
    """The inverse of `_split_planes`."""
    if plane_bytes == 1:
        return planes
    integer = _PLANE_INTEGER[plane_bytes]
    planes_PN = planes.view(plane_bytes, -1)
    elements_N = planes_PN[-1].to(integer)
    for plane in reversed(range(plane_bytes - 1)):
        elements_N.bitwise_left_shift_(8).bitwise_or_(planes_PN[plane])
    return elements_N.view(torch.uint8)
