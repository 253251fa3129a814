"""What packing does to a stage's state on its way (swarmtrain/wire/states.py): bytes saved, and speed on one core.

    python benchmarks/state_pieces.py RUN_FOLDER

Reads the newest checkpoint below the folder; every piece is checked to come back as the same bits.
"""

import sys
import time
from collections import defaultdict
from pathlib import Path

import torch

from swarmtrain.checkpoint.store import load, load_stage
from swarmtrain.wire import states

PIECE_BYTES = 4 << 20
REPEATS = 3


def main() -> None:
    torch.set_num_threads(1)
    found = load(Path(sys.argv[1]) / "checkpoint")
    print("zstd  array        MB      saved   pack     unpack")
    for level in (1, 3):
        states._ZSTD_LEVEL = level
        # Bytes in memory, bytes packed, processor seconds to pack, to unpack.
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * 4)
        for entry in found.manifest.stages:
            for name, array in load_stage(found.folder, entry.stage).arrays():
                data = memoryview(array).cast("B")
                for start in range(0, len(data), PIECE_BYTES):
                    figures = measured(data[start : start + PIECE_BYTES])
                    for key in (name, "all"):
                        sums[key] = [a + b for a, b in zip(sums[key], figures, strict=True)]
        for name, (raw, packed, pack_seconds, unpack_seconds) in sums.items():
            speeds = (raw / 1e6 / seconds for seconds in (pack_seconds, unpack_seconds))
            print(
                f"{level:<5} {name:<10} {raw / 1e6:6.2f}   {1 - packed / raw:6.1%}  "
                + "  ".join(f"{speed:4.0f} MB/s" for speed in speeds)
            )


def measured(piece: memoryview) -> tuple[float, float, float, float]:
    """The figures of one piece; times are the shortest of a few."""
    pack_seconds, unpack_seconds = [], []
    for _ in range(REPEATS):
        begin = time.thread_time()
        header, payload = states.pack(piece)
        between = time.thread_time()
        out = states.unpack(header, payload, piece.nbytes)
        pack_seconds.append(between - begin)
        unpack_seconds.append(time.thread_time() - between)
        assert out == piece
    return piece.nbytes, len(payload), min(pack_seconds), min(unpack_seconds)


if __name__ == "__main__":
    main()
