"""`config.json` of the Hugging Face Llama layout: written from a run's configuration, read into `[model]` settings.

What is read may come from anybody (I5): it is size-bounded JSON, every field is checked, and whatever would make the
model compute something else than ours (biases, scaled rotary positions, another activation, quantised weights) is
refused with the name of its key.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swarmtrain.checkpoint.llama_names import check_is_llama
from swarmtrain.core.config import ModelSection
from swarmtrain.core.errors import ModelError

CONFIG_FILE = "config.json"
MODEL_TYPE = "llama"
STAGES_AT_MOST = 8
"""Middle stages that an imported model is cut into when nobody says how many."""

_LARGEST_BYTES = 1 << 22
_DEFAULT_ROPE_BASE = 10_000.0
_DEFAULT_NORM_EPSILON = 1e-6
"""What the layout means where `rope_theta` and `rms_norm_eps` are left out."""

_MUST_BE: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_scaling": (None,),
    "quantization_config": (None,),
    "partial_rotary_factor": (1, None),
}
"""Options of the layout that change what a block computes, and the only values whose meaning is ours."""


def llama_config(
    model: ModelSection, vocab_size: int, context_tokens: int, end_of_text: int
) -> dict[str, Any]:
    """`config.json` for `model`; `context_tokens` is the sequence length it was trained at. Raises ModelError."""
    check_is_llama(model)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": MODEL_TYPE,
        "hidden_size": model.width,
        "intermediate_size": model.ffn_width,
        "num_hidden_layers": model.stages * model.blocks_per_stage,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_width,
        "vocab_size": vocab_size,
        "max_position_embeddings": context_tokens,
        "rms_norm_eps": model.norm_epsilon,
        # Older readers know the first, newer ones the second.
        "rope_theta": model.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_base},
        "tie_word_embeddings": model.tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": end_of_text,
        "dtype": "float32",
        "use_cache": True,
    }


def is_llama_folder(folder: Path) -> bool:
    """Whether `folder` looks like a model in the Hugging Face layout."""
    return (folder / CONFIG_FILE).is_file()


def read_llama_config(folder: Path) -> dict[str, Any]:
    """The checked `config.json` of `folder`. Raises ModelError that names the key."""
    content = _read(folder / CONFIG_FILE)
    if content.get("model_type") != MODEL_TYPE:
        raise _unfit(folder, "model_type", content.get("model_type"), "only llama is read")
    for key, allowed in _MUST_BE.items():
        if content.get(key, allowed[0]) not in allowed:
            raise _unfit(folder, key, content[key], f"it must be {json.dumps(allowed[0])}")
    rope = content.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise _unfit(folder, "rope_parameters", rope, "rotary positions must not be scaled")
    head_width = _count(folder, content, "hidden_size") / _count(
        folder, content, "num_attention_heads"
    )
    if content.get("head_dim") not in (None, head_width):
        raise _unfit(folder, "head_dim", content["head_dim"], "heads must split hidden_size evenly")
    return content


def model_settings(folder: Path, content: Mapping[str, Any]) -> dict[str, int | float | bool]:
    """The fields of `[model]` that `read_llama_config` came to, cut into stages by `cut`. Raises ModelError."""
    heads = _count(folder, content, "num_attention_heads")
    stages, blocks_per_stage = cut(_count(folder, content, "num_hidden_layers"))
    kv_heads = heads if content.get("num_key_value_heads") is None else None
    rope = content.get("rope_parameters") or {}
    rope_base = rope.get("rope_theta", content.get("rope_theta", _DEFAULT_ROPE_BASE))
    epsilon = content.get("rms_norm_eps", _DEFAULT_NORM_EPSILON)
    return {
        "stages": stages,
        "blocks_per_stage": blocks_per_stage,
        "width": _count(folder, content, "hidden_size"),
        "heads": heads,
        "kv_heads": kv_heads or _count(folder, content, "num_key_value_heads"),
        "ffn_width": _count(folder, content, "intermediate_size"),
        "vocab_size": _count(folder, content, "vocab_size"),
        "tied": _flag(folder, content, "tie_word_embeddings"),
        "rope_base": _real(folder, "rope_theta", rope_base),
        "norm_epsilon": _real(folder, "rms_norm_eps", epsilon),
    }


def cut(layers: int) -> tuple[int, int]:
    """Middle stages of equal size, as many as there can be up to STAGES_AT_MOST, and the blocks in each."""
    stages = max(count for count in range(1, STAGES_AT_MOST + 1) if layers % count == 0)
    return stages, layers // stages


def check_fits(folder: Path, model: ModelSection) -> None:
    """Raise ModelError unless `[model]` describes the model in `folder`; stages may be cut otherwise."""
    found = model_settings(folder, read_llama_config(folder))
    layers = int(found.pop("stages") * found.pop("blocks_per_stage"))
    if model.stages * model.blocks_per_stage != layers:
        raise ModelError(
            f"model.stages = {model.stages} x model.blocks_per_stage = {model.blocks_per_stage} does not "
            f"give the layers of model.initial",
            f"{folder} has {layers}",
            f"choose numbers whose product is {layers}",
        )
    check_is_llama(model)
    for key, value in found.items():
        if getattr(model, key) != value:
            raise ModelError(
                f"model.{key} = {getattr(model, key)} is not that of model.initial",
                f"{folder / CONFIG_FILE} says {value}",
                f"write it anew with: swarmtrain config init RUN.toml --from-hf {folder}",
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
        content = json.loads(data) if len(data) <= _LARGEST_BYTES else None
    except OSError as error:
        raise ModelError(
            f"there is no model in {path.parent}",
            str(error),
            "pass a folder with config.json and model.safetensors, as Llama models are published",
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON", str(error)[:300], "copy it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is no model's configuration", "", "copy it again")
    return content


def _count(folder: Path, content: Mapping[str, Any], key: str) -> int:
    value = content.get(key)
    if type(value) is not int or not 1 <= value <= 1 << 24:
        raise _unfit(folder, key, value, "it must be a positive whole number")
    return value


def _flag(folder: Path, content: Mapping[str, Any], key: str) -> bool:
    value = content.get(key, False)
    if not isinstance(value, bool):
        raise _unfit(folder, key, value, "it must be true or false")
    return value


def _real(folder: Path, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unfit(folder, key, value, "it must be a number")
    return float(value)


def _unfit(folder: Path, key: str, value: Any, why: str) -> ModelError:
    shown = "missing" if value is None else json.dumps(value, default=str)[:200]
    return ModelError(
        f"the model in {folder} cannot be trained here: {key} is {shown}",
        why,
        "choose a plain Llama model, without biases, scaled positions or quantised weights",
    )
