"""Tensor frames: what goes in comes out, no copy where promised, and no false claim gets through."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swarmtrain.core.errors import WireError
from swarmtrain.core.tensors import TensorHeader
from swarmtrain.wire.codecs import CODECS
from swarmtrain.wire.tensors import (
    Buffer,
    decode_tensor,
    encode_tensor,
    is_finite,
    roundtrip,
    tensor_digest,
)

CODEC_NAMES = sorted(CODECS)


def smooth(*shape: int, seed: int = 1) -> Tensor:
    """Values whose exponents repeat, so that zstd has something to win in every codec."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 8, shape, generator=generator).float() / 8


def aligned(payload: Buffer, shift_bytes: int = 0) -> memoryview:
    """A writable copy whose address is `shift_bytes` past a multiple of 64, as a link hands it over."""
    memory = np.zeros(len(payload) + 128, dtype=np.uint8)
    start = -memory.ctypes.data % 64 + shift_bytes
    view = memory[start : start + len(payload)]
    view[:] = np.frombuffer(payload, dtype=np.uint8)
    return view.data


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 9), max_size=4),
    st.sampled_from(CODEC_NAMES),
    st.sampled_from([0, 1, 3]),
    st.integers(0, 99),
)
def test_the_receiver_sees_the_roundtrip(
    shape: list[int], codec: str, zstd_level: int, seed: int
) -> None:
    x = smooth(*shape, seed=seed)
    header, payload = encode_tensor(x, codec, zstd_level)
    out = decode_tensor(header, payload, expect_shape=tuple(shape))
    assert out.dtype == torch.float32 and out.shape == x.shape and out.is_contiguous()
    assert torch.equal(out, roundtrip(x, codec))


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_zstd_is_used_and_undone(codec: str) -> None:
    x = smooth(64, 256)
    header, payload = encode_tensor(x, codec, 1)
    assert header.compression == "zstd"
    assert header.payload_bytes == len(payload) < header.raw_bytes
    assert torch.equal(decode_tensor(header, payload, expect_shape=(64, 256)), roundtrip(x, codec))


def test_byte_planes_compress_better_than_the_plain_payload() -> None:
    x = torch.randn(512, 512, generator=torch.Generator().manual_seed(3))
    header, _ = encode_tensor(x, "bf16", 1)
    _, plain = encode_tensor(x, "bf16", 0)
    assert header.payload_bytes < 0.95 * len(zstandard.ZstdCompressor(level=1).compress(plain))


def test_what_zstd_would_not_shrink_travels_uncompressed() -> None:
    noise = torch.randint(0, 256, (4096,), generator=torch.Generator().manual_seed(2))
    x = noise.to(torch.uint8).view(torch.float32).nan_to_num(1.0, 1.0, 1.0)
    header, payload = encode_tensor(x, "none", 1)
    assert header.compression == "none" and len(payload) == header.raw_bytes
    assert torch.equal(decode_tensor(header, payload, expect_shape=(1024,)), x)


def test_none_copies_nothing_either_way() -> None:
    x = smooth(4, 256)
    _, payload = encode_tensor(x, "none", 0)
    assert np.frombuffer(payload, dtype=np.uint8).ctypes.data == x.data_ptr()
    header, payload = encode_tensor(x, "none", 0)
    received = aligned(payload)
    out = decode_tensor(header, received, expect_shape=(4, 256))
    assert out.data_ptr() == np.frombuffer(received, dtype=np.uint8).ctypes.data


def test_payload_and_tensor_keep_their_memory_alive() -> None:
    header, payload = encode_tensor(smooth(512), "none", 0)  # nothing else holds the tensor
    out = decode_tensor(header, aligned(payload), expect_shape=(512,))  # nor the memory here
    churn = [torch.full((512,), 7.0) for _ in range(50)]
    assert torch.equal(out, smooth(512)) and len(churn) == 50


@pytest.mark.parametrize("shift_bytes", [1, 2, 4, 32, 63])
@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_unaligned_memory_is_copied_to_aligned(codec: str, shift_bytes: int) -> None:
    x = smooth(3, 300)
    header, payload = encode_tensor(x, codec, 0)
    out = decode_tensor(header, aligned(payload, shift_bytes), expect_shape=(3, 300))
    assert out.data_ptr() % 64 == 0
    assert torch.equal(out, roundtrip(x, codec))


def test_read_only_memory_is_never_written_through() -> None:
    x = smooth(256)
    header, payload = encode_tensor(x, "none", 0)
    received = aligned(payload).toreadonly()
    decode_tensor(header, received, expect_shape=(256,)).zero_()
    assert torch.equal(decode_tensor(header, received, expect_shape=(256,)), x)


def test_a_gradient_and_a_transposed_tensor_can_be_sent() -> None:
    x = smooth(8, 32).requires_grad_()
    header, payload = encode_tensor(x.t(), "none", 0)
    assert torch.equal(decode_tensor(header, payload, expect_shape=(32, 8)), x.detach().t())


def test_only_float32_is_encoded() -> None:
    with pytest.raises(WireError, match="float64"):
        encode_tensor(torch.zeros(3, dtype=torch.float64), "none", 0)


WRONG: list[tuple[str, dict[str, object]]] = [
    ("dtype", {"dtype": "int64"}),
    ("shape", {"shape": (8, 127)}),
    ("shape", {"shape": (1024,)}),
    ("shape", {"shape": (-8, -128)}),
    ("codec", {"codec": "pickle"}),
    ("compression", {"compression": "gzip"}),
    ("raw_bytes", {"raw_bytes": 10 * 2**30}),
    ("raw_bytes", {"raw_bytes": -1}),
    ("payload_bytes", {"payload_bytes": 10 * 2**30}),
    ("payload_bytes", {"payload_bytes": -1}),
    ("payload_bytes", {"payload_bytes": 0}),
    ("digest", {"digest": bytes(16)}),
    ("digest", {"digest": b""}),
]


@pytest.mark.parametrize("zstd_level", [0, 1])
@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize(("field", "change"), WRONG)
def test_every_false_claim_is_named(
    field: str, change: dict[str, object], codec: str, zstd_level: int
) -> None:
    header, payload = encode_tensor(smooth(8, 128), codec, zstd_level)
    with pytest.raises(WireError, match=field):
        decode_tensor(replace(header, **change), payload, expect_shape=(8, 128))  # type: ignore[arg-type]


def test_the_receiver_decides_the_shape_and_the_dtype() -> None:
    header, payload = encode_tensor(smooth(8, 128), "none", 0)
    with pytest.raises(WireError, match="shape"):
        decode_tensor(header, payload, expect_shape=(128, 8))
    with pytest.raises(WireError, match="dtype"):
        decode_tensor(header, payload, expect_shape=(8, 128), expect_dtype="bfloat16")


def test_another_codecs_label_is_refused() -> None:
    header, payload = encode_tensor(smooth(8, 128), "bf16", 0)
    with pytest.raises(WireError, match="raw_bytes"):
        decode_tensor(replace(header, codec="int8"), payload, expect_shape=(8, 128))


@pytest.mark.parametrize("zstd_level", [0, 1])
@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_every_flipped_bit_and_every_cut_is_refused(codec: str, zstd_level: int) -> None:
    header, payload = encode_tensor(smooth(300), codec, zstd_level)
    good = bytes(payload)
    for position in [*range(0, len(good), 7), len(good) - 1]:
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        with pytest.raises(WireError, match="digest"):
            decode_tensor(header, bad, expect_shape=(300,))
    for length_bytes in (0, 1, 4, len(good) // 2, len(good) - 1):
        with pytest.raises(WireError, match="payload_bytes"):
            decode_tensor(header, good[:length_bytes], expect_shape=(300,))
    with pytest.raises(WireError, match="payload_bytes"):
        decode_tensor(header, good + b"\0", expect_shape=(300,))


def relabelled(header: TensorHeader, payload: bytes) -> TensorHeader:
    """A liar's header: everything consistent with `payload`, digest included."""
    honest_digest = encode_tensor(torch.zeros(1), "none", 0)[0].digest
    digest = tensor_digest(torch.frombuffer(bytearray(payload), dtype=torch.uint8))
    return replace(
        header, payload_bytes=len(payload), digest=digest[: len(honest_digest)], compression="zstd"
    )


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_a_liars_frame_is_refused_after_the_digest(codec: str) -> None:
    """Broken, foreign, short, long and chained zstd frames under a digest that fits."""
    header, payload = encode_tensor(smooth(4096), codec, 1)
    good = bytes(payload)
    compress = zstandard.ZstdCompressor().compress
    sizeless = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(header.raw_bytes))
    frames = [
        good[:-1],
        b"\0" + good[1:],
        good[:20] + bytes([good[20] ^ 255]) + good[21:],
        good + b"\0",
        good[:4],
        b"not a frame",
        compress(bytes(header.raw_bytes - 1)),
        compress(bytes(header.raw_bytes + 1)),
        compress(b"") + compress(bytes(header.raw_bytes)),
        compress(bytes(header.raw_bytes)) + compress(b"x"),
        b"\x50\x2a\x4d\x18" + (8).to_bytes(4, "little") + bytes(8),  # a skippable frame
        b"\x50\x2a\x4d\x18" + header.raw_bytes.to_bytes(4, "little") + bytes(8),
        sizeless,
    ]
    for frame in frames:
        outcome: Tensor | None = None
        try:
            outcome = decode_tensor(relabelled(header, frame), frame, expect_shape=(4096,))
        except WireError:
            continue
        # A flipped byte inside a block may still be a whole frame: then it is just other numbers.
        assert outcome.shape == (4096,) and frame is frames[2]


BOMB = """
import resource, zstandard, torch
from dataclasses import replace
from swarmtrain.core.errors import WireError
from swarmtrain.wire.tensors import decode_tensor, encode_tensor, tensor_digest
header, _ = encode_tensor(torch.zeros(2**18), "bf16", 1)
claims = zstandard.ZstdCompressor(write_content_size=True).compressobj(size=10 * 2**30)
head = claims.compress(bytes(1)) + claims.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
bombs = {
    "declared": (head + bytes(1024 - len(head)), 10 * 2**30),
    "real": (zstandard.ZstdCompressor(level=1).compress(bytes(2**28)), 2**28),
}
def digest(data):
    return tensor_digest(torch.frombuffer(bytearray(data), dtype=torch.uint8))[:16]
for name, (bomb, claimed) in bombs.items():
    assert zstandard.get_frame_parameters(bomb).content_size == claimed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    liar = replace(header, payload_bytes=len(bomb), digest=digest(bomb))
    try:
        decode_tensor(liar, bomb, expect_shape=(2**18,))
        raise SystemExit(f"{name}: accepted")
    except WireError as error:
        assert "zstd size" in str(error), error
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024, (name, grown)
print("refused")
"""


def test_a_zstd_bomb_is_refused_before_anything_is_allocated() -> None:
    """10 GiB declared in 1 KiB, and a real 256 MiB one; in a process of its own for its peak memory."""
    # The claim of 256 MiB fits in 64 KiB: small enough to pass the check of payload_bytes.
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", BOMB], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "refused", done.stdout + done.stderr


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_is_finite_sees_every_kind(bad: float) -> None:
    x = smooth(3, 100)
    assert is_finite(x)
    assert is_finite(torch.full((64,), 3e38)), "large is not infinite"
    for position in (0, 150, 299):
        spoiled = x.clone()
        spoiled.view(-1)[position] = bad
        assert not is_finite(spoiled)
    both = x.clone()
    both[0, 0], both[2, 99] = math.inf, -math.inf
    assert not is_finite(both)


def test_roundtrip_of_a_lossless_codec_is_free() -> None:
    x = smooth(4)
    assert roundtrip(x, "none") is x


def test_tensor_digest_is_over_the_raw_bytes() -> None:
    x = smooth(6, 7)
    assert tensor_digest(x) == tensor_digest(x.clone()) == tensor_digest(x.t().contiguous().t())
    assert tensor_digest(x) != tensor_digest(-x)
    assert len(tensor_digest(x)) == 32
    zero = torch.zeros(4)
    assert tensor_digest(zero) != tensor_digest(-zero), "bits, not values"
