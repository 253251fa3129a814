"""Packed pieces of a stage's state: the same bits, fewer bytes, and nothing that was not packed gets through."""

from dataclasses import replace

import numpy as np
import pytest
import zstandard

from swarmtrain.core.errors import WireError
from swarmtrain.wire.states import PACKED_BELOW_BYTES_PER_SECOND, is_worth_packing, pack, unpack
from swarmtrain.wire.tensors import DIGEST_BYTES, _payload_digest

PIECE = np.random.default_rng(1).normal(0.0, 0.02, 5000).astype(np.float32)


def test_any_bits_come_back_in_fewer_bytes() -> None:
    odd = PIECE.copy()
    odd[:4] = np.frombuffer(b"\x01\x00\x80\x7f" * 2 + b"\x00\x00\x00\x80" * 2, dtype=np.float32)
    data = odd.tobytes()  # NaN with a payload, minus zero; bytes are read-only
    for start in (0, 3):  # and at any address
        header, payload = pack(memoryview(bytes(start) + data)[start:])
        assert bytes(unpack(header, bytes(payload), len(data))) == data
        assert len(payload) == header.payload_bytes < 0.95 * len(data)


def test_noise_travels_as_it_is() -> None:
    noise = memoryview(np.random.default_rng(2).bytes(4096))
    header, payload = pack(noise)
    assert len(payload) == 4096 and bytes(unpack(header, payload, 4096)) == bytes(noise)


def test_what_unpacks_to_more_is_refused_before_memory_is_taken() -> None:
    header, _ = pack(PIECE.data.cast("B"))
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    header = replace(header, payload_bytes=len(bomb), digest=_payload_digest(bomb))
    assert len(header.digest) == DIGEST_BYTES
    for claimed in (header, replace(header, raw_bytes=64 << 20, shape=(16 << 20,))):
        with pytest.raises(WireError, match=r"zstd size|shape|raw_bytes"):
            unpack(claimed, bomb, PIECE.nbytes)


def test_damage_and_other_codecs_are_refused() -> None:
    header, payload = pack(PIECE.data.cast("B"))
    damaged = bytearray(payload)
    damaged[100] ^= 1
    with pytest.raises(WireError, match="digest"):
        unpack(header, damaged, PIECE.nbytes)
    with pytest.raises(WireError, match="codec"):
        unpack(replace(header, codec="int8"), payload, PIECE.nbytes)
    with pytest.raises(WireError, match="not whole numbers"):
        pack(memoryview(b"12345"))


def test_slow_lines_alone_are_worth_it() -> None:
    assert is_worth_packing(2.5e6)
    assert not is_worth_packing(0.0), "not measured"
    assert not is_worth_packing(PACKED_BELOW_BYTES_PER_SECOND) and not is_worth_packing(1.25e9)
