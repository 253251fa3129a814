"""Bytes that no codec wrote: a WireError or some tensor of the expected shape, never a crash, never much memory."""

import tracemalloc
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swarmtrain.core.errors import WireError
from swarmtrain.wire.codec import Codec
from swarmtrain.wire.codecs import CODECS
from swarmtrain.wire.parts import PartsCodec
from swarmtrain.wire.tensors import DIGEST_BYTES, decode_tensor, encode_tensor, tensor_digest

SHAPES = [(1,), (7,), (300,), (4096,), (9000,), (64, 66), (3, 40, 33)]

CASES: list[tuple[Codec, tuple[int, ...]]] = [
    (codec, shape) for codec in CODECS.values() for shape in SHAPES
]
CASES += [
    (PartsCodec(CODECS[name], 6000, [(0, (40, 40)), (1600, (33,)), (1648, (1, 4200))]), (6000,))
    for name in ("rank8", "top64", "int4")
]
CASE = st.sampled_from(CASES)


def honest(codec: Codec, shape: tuple[int, ...]) -> Tensor:
    return codec.encode(torch.randn(shape, generator=torch.Generator().manual_seed(3)))


def survive(codec: Codec, payload: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """What `decode` gives; None for a WireError. Any other outcome fails the test."""
    try:
        out = codec.decode(payload, shape)
    except WireError as error:
        assert len(str(error)) < 400
        return None
    assert out.dtype == torch.float32 and out.shape == shape and out.is_contiguous()
    return out


@settings(deadline=None, max_examples=300)
@given(CASE, st.integers(0, 2**32), st.sampled_from([0, 1, 128, 255]), st.data())
def test_any_bytes(
    case: tuple[Codec, tuple[int, ...]], seed: int, fill: int, data: st.DataObject
) -> None:
    """Noise, or one byte everywhere, of the right size and of others."""
    codec, shape = case
    most_bytes = codec.encoded_bytes(*shape)
    size_bytes = data.draw(st.sampled_from([0, 1, 2, most_bytes // 2, most_bytes, most_bytes + 1]))
    noise = torch.randint(0, 256, (size_bytes,), generator=torch.Generator().manual_seed(seed))
    payload = noise.to(torch.uint8) if seed % 2 else torch.full((size_bytes,), fill).byte()
    out = survive(codec, payload, shape)
    if size_bytes in (0, most_bytes + 1):
        assert out is None, "such a size is never written"


@settings(deadline=None, max_examples=300)
@given(CASE, st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 7)), max_size=4))
def test_flipped_bits(case: tuple[Codec, tuple[int, ...]], flips: list[tuple[int, int]]) -> None:
    codec, shape = case
    payload = honest(codec, shape).clone()
    for position, bit in flips:
        payload[position % len(payload)] ^= 1 << bit
    survive(codec, payload, shape)


@settings(deadline=None, max_examples=200)
@given(CASE, st.floats(0, 1), st.booleans())
def test_truncated_and_stretched(
    case: tuple[Codec, tuple[int, ...]], share: float, stretch: bool
) -> None:
    codec, shape = case
    payload = honest(codec, shape)
    cut = payload[: int(share * (len(payload) - 1))]
    assert survive(codec, cut, shape) is None
    if stretch:
        longer = torch.cat((payload, payload.new_zeros(1 + int(share * 50))))
        assert survive(codec, longer, shape) is None


@pytest.mark.parametrize("zstd_level", [0, 3])
@pytest.mark.parametrize("name", ["top64", "rank8", "ternary", "int4"])
def test_a_liars_header_over_hostile_bytes(name: str, zstd_level: int) -> None:
    """Size and digest agree with the bytes, so that the codec itself has to refuse them."""
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(64, 256, generator=generator)
    refused = 0
    for trial in range(60):
        raw = CODECS[name].encode(x).clone()
        raw[torch.randint(0, len(raw), (1 + trial,), generator=generator)] = 255
        liar = Replayed(name, raw)
        header, payload = encode_tensor(x, liar, zstd_level)
        try:
            out = decode_tensor(header, payload, expect_shape=(64, 256))
            assert out.shape == (64, 256)
        except WireError:
            refused += 1
    assert refused > 0 or name in ("int4", "rank8"), "255 is a pair of honest levels"


class Replayed:
    """A codec that writes the given bytes, whatever the tensor."""

    lossy, plane_bytes, exact_size, error_feedback, gathers = True, 1, False, False, False

    def __init__(self, name: str, raw: Tensor) -> None:
        self.name, self.raw = name, raw

    def encoded_bytes(self, *shape: int) -> int:
        return len(self.raw)

    def bits_per_parameter(self, *shape: int) -> float:
        return 0.0

    def encode(self, x: Tensor) -> Tensor:
        return self.raw

    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("name", ["top64", "top128"])
def test_inexact_sizes_are_bounded_before_anything_is_read(name: str) -> None:
    x = torch.randn(9000, generator=torch.Generator().manual_seed(1))
    header, payload = encode_tensor(x, name, 3)
    most_bytes = CODECS[name].encoded_bytes(9000)
    for claimed in (0, -1, most_bytes + 1, 10 * 2**30):
        with pytest.raises(WireError, match="raw_bytes"):
            decode_tensor(replace(header, raw_bytes=claimed), payload, expect_shape=(9000,))
    assert len(header.digest) == DIGEST_BYTES and len(tensor_digest(x)) == 32


@pytest.mark.parametrize("name", sorted(CODECS))
def test_memory_is_bounded_by_the_shape(name: str) -> None:
    """numpy's allocations, which tracemalloc sees; torch's follow from the shape by construction."""
    codec, shape = CODECS[name], (1, 1 << 18)
    payloads = [honest(codec, shape)]
    payloads += [torch.full((codec.encoded_bytes(*shape),), fill).byte() for fill in (0, 255)]
    for payload in payloads:
        tracemalloc.start()
        survive(codec, payload, shape)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak_bytes < 2 * 4 * (1 << 18)
