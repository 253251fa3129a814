"""Small Llama folders for tests, written without transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from swarmtrain.checkpoint.llama_config import llama_config
from swarmtrain.checkpoint.llama_names import stage_tensors
from swarmtrain.core.config import ModelSection
from swarmtrain.core.sections import BYTE_TOKENS

MODEL = ModelSection(
    stages=2,
    blocks_per_stage=1,
    width=16,
    heads=4,
    kv_heads=2,
    ffn_width=24,
    vocab_size=BYTE_TOKENS,
)


def tensors_of(model: ModelSection, seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor by its name in the layout, with normal values."""
    random = np.random.default_rng(seed)
    return {
        tensor.hub: random.standard_normal(tensor.shape, dtype=np.float32)
        for stage in range(model.stages + 1)
        for tensor in stage_tensors(model, model.vocab_size, stage)
    }


def write_llama(
    folder: Path,
    model: ModelSection = MODEL,
    tensors: dict[str, np.ndarray] | None = None,
    **config: Any,
) -> Path:
    """A model folder; `config` replaces keys of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**llama_config(model, model.vocab_size, 32, 256), **config}
    (folder / "config.json").write_text(json.dumps(content))
    save_file(tensors_of(model) if tensors is None else tensors, folder / "model.safetensors")
    return folder
