"""Model shapes by name: plain data, read by `[model] preset` (sections.py) and listed by `config show --explain`."""

from collections.abc import Mapping
from dataclasses import dataclass

ShapeValue = int | float | bool


@dataclass(frozen=True, slots=True)
class Preset:
    """A named model shape; `shape` holds `[model]` fields, `description` says what it is for."""

    description: str
    shape: Mapping[str, ShapeValue]


PRESETS: Mapping[str, Preset] = {
    "nano": Preset(
        "0.13M parameters, 2 middle stages: for tests, milliseconds a step",
        dict(stages=2, blocks_per_stage=1, width=64, heads=4, kv_heads=2, ffn_width=176),
    ),
    "tiny": Preset(
        "1.2M parameters, 4 middle stages: learns on a laptop in minutes",
        dict(stages=4, blocks_per_stage=1, width=160, heads=4, kv_heads=2, ffn_width=432),
    ),
    "small": Preset(
        "5.9M parameters, 4 middle stages of 2 blocks: an evening on a few desktops",
        dict(stages=4, blocks_per_stage=2, width=256, heads=8, kv_heads=4, ffn_width=688),
    ),
    "30m": Preset(
        "29M parameters, 5 middle stages of 2 blocks: a day on several desktops",
        dict(stages=5, blocks_per_stage=2, width=512, heads=8, kv_heads=4, ffn_width=1376),
    ),
    "125m": Preset(
        "125M parameters with a 32,000 token vocabulary, 6 middle stages of 2 blocks: GPUs",
        dict(
            stages=6,
            blocks_per_stage=2,
            width=768,
            heads=12,
            kv_heads=4,
            ffn_width=2048,
            vocab_size=32_000,
        ),
    ),
    "1b": Preset(
        "1.2B parameters in the shape of Llama-3.2-1B, head tied, 8 middle stages of 2 blocks: GPUs",
        dict(
            stages=8,
            blocks_per_stage=2,
            width=2048,
            heads=32,
            kv_heads=8,
            ffn_width=8192,
            vocab_size=128_256,
            tied=True,
            rope_base=500_000.0,
        ),
    ),
    "8b": Preset(
        "8.0B parameters in the shape of Llama-3-8B, 32 middle stages of 1 block: large GPUs",
        dict(
            stages=32,
            blocks_per_stage=1,
            width=4096,
            heads=32,
            kv_heads=8,
            ffn_width=14_336,
            vocab_size=128_256,
            rope_base=500_000.0,
        ),
    ),
}
