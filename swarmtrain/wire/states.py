"""Pieces of a stage's state on slow lines: codec `none` and zstd over split planes, so the same bits in fewer bytes.

Measured on the parameters and both Adam moments of deploy/runs/demo.toml after 180 steps, in pieces of 4 MiB on one
core (benchmarks/state_pieces.py); what is left is mantissas, which are noise:

                    saved, %                      MB/s
    zstd   parameters  moment1  moment2   all    pack  unpack
    1         14.7       15.6     20.4    16.9    408     507
    3         14.2       15.1     20.5    16.6    293     488

A byte then takes 4.4 ns of processor time on its way, and saves what 0.17 bytes take on the line: a gain below 300
Mbit/s, one piece at a time. The bound below leaves room for machines of a third of that speed; on a faster line nobody
spends processor time on it that training could use.
"""

import numpy as np
import torch

from swarmtrain.core.errors import WireError
from swarmtrain.core.tensors import TensorHeader
from swarmtrain.wire.codecs import codec_named
from swarmtrain.wire.tensors import Buffer, decode_tensor, encode_tensor

PACKED_BELOW_BYTES_PER_SECOND = 12.5e6
"""100 Mbit/s: a donor packs what leaves on a line that it measured to be slower."""

_CODEC, _ZSTD_LEVEL, _ELEMENT_BYTES = "none", 1, 4


def is_worth_packing(bytes_per_second: float) -> bool:
    """On a line of that rate; 0 stands for one that was not measured."""
    return 0 < bytes_per_second < PACKED_BELOW_BYTES_PER_SECOND


def pack(piece: memoryview) -> tuple[TensorHeader, Buffer]:
    """The bytes of at least one float32, whatever they are. Raises WireError for a part of one."""
    # A copy: the piece may be read-only, start anywhere, and change before it has left.
    values = np.frombuffer(_whole(piece), dtype=np.float32).copy()
    return encode_tensor(torch.from_numpy(values), _CODEC, _ZSTD_LEVEL)


def unpack(header: TensorHeader, payload: Buffer, piece_bytes: int) -> memoryview:
    """The `piece_bytes` that were packed, read-only. Raises WireError; memory follows from `piece_bytes` alone (I5)."""
    shape = (piece_bytes // _ELEMENT_BYTES,)
    codec = codec_named(_CODEC)
    values = decode_tensor(header, payload, expect_shape=shape, expect_codec=codec)
    return values.numpy().data.cast("B").toreadonly()


def _whole(piece: memoryview) -> memoryview:
    if not piece.nbytes or piece.nbytes % _ELEMENT_BYTES:
        raise WireError("a piece of state is not whole numbers", f"{piece.nbytes} bytes")
    return piece
