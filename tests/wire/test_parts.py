"""Many tensors in one payload: each as its codec alone would write it, gaps zero, shapes held to."""

import pytest
import torch

from swarmtrain.core.errors import WireError
from swarmtrain.wire.codecs import CODECS, codec_named
from swarmtrain.wire.parts import PartsCodec
from swarmtrain.wire.tensors import decode_tensor, encode_tensor, roundtrip

PARTS = [(0, (40, 50)), (2000, (7,)), (2016, (33, 64))]
NUMEL = 4144  # 16 elements of nothing at the end


def flat() -> torch.Tensor:
    x = torch.randn(NUMEL, generator=torch.Generator().manual_seed(1))
    x[2007:2016] = 0
    x[4128:] = 0
    return x


@pytest.mark.parametrize("name", sorted(CODECS))
def test_every_part_is_what_its_codec_alone_makes_of_it(name: str) -> None:
    codec = PartsCodec(codec_named(name), NUMEL, PARTS)
    x = flat()
    header, payload = encode_tensor(x, codec, 3)
    out = decode_tensor(header, payload, expect_shape=(NUMEL,), expect_codec=codec)
    for offset, shape in PARTS:
        part = slice(offset, offset + torch.Size(shape).numel())
        assert torch.equal(out[part], roundtrip(x[part].view(shape), name).view(-1))
    assert out[2007:2016].eq(0).all() and out[4128:].eq(0).all()
    actual_bits = 8 * header.raw_bytes / NUMEL
    assert actual_bits == pytest.approx(codec.bits_per_parameter(NUMEL), rel=0.05)
    assert header.raw_bytes <= codec.encoded_bytes(NUMEL)


def test_the_receiver_needs_the_same_codec() -> None:
    codec = PartsCodec(codec_named("rank8"), NUMEL, PARTS)
    header, payload = encode_tensor(flat(), codec, 0)
    with pytest.raises(WireError, match="not known"):
        decode_tensor(header, payload, expect_shape=(NUMEL,))
    with pytest.raises(WireError, match="codec"):
        decode_tensor(header, payload, expect_shape=(NUMEL,), expect_codec=codec_named("rank8"))
    other = PartsCodec(codec_named("rank8"), NUMEL, PARTS[:2])
    with pytest.raises(WireError, match="raw_bytes"):
        decode_tensor(header, payload, expect_shape=(NUMEL,), expect_codec=other)


@pytest.mark.parametrize("length_bytes", [0, -1, 3, 10**9])
def test_false_lengths_are_refused(length_bytes: int) -> None:
    codec = PartsCodec(codec_named("top64"), NUMEL, PARTS)
    payload = codec.encode(flat()).clone()
    payload[:4] = torch.tensor([length_bytes], dtype=torch.int32).view(torch.uint8)
    with pytest.raises(WireError):
        codec.decode(payload, (NUMEL,))


def test_parts_follow_each_other_within_the_flat_tensor() -> None:
    inner = codec_named("int4")
    for parts in ([], [(0, (10,)), (9, (3,))], [(0, (101,))], [(-1, (5,))]):
        with pytest.raises(ValueError, match="parts"):
            PartsCodec(inner, 100, parts)
    with pytest.raises(ValueError, match="in a row"):
        PartsCodec(inner, 100, [(0, (10, 10))]).encode(torch.zeros(10, 10))
