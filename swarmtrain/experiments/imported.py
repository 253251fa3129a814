"""Weights in: what a folder in the Hugging Face Llama layout says of the run that would continue it."""

from pathlib import Path

from swarmtrain.checkpoint.llama_config import model_settings, read_llama_config
from swarmtrain.checkpoint.tensor_files import weights_sha256
from swarmtrain.core.config import RunConfig, load_config, toml_value
from swarmtrain.core.errors import ModelError
from swarmtrain.core.sections import BYTE_TOKENS
from swarmtrain.data.hub_tokenizer import tokenizer_spec

CONTEXT_AT_MOST = 1024
"""Tokens per sample where the model could take more: attention over all of them is dear."""


def settings_of(folder: Path) -> list[str]:
    """`section.key=value` overrides that describe the model in `folder`. Raises ModelError or CorpusError."""
    content = read_llama_config(folder)
    model = model_settings(folder, content)
    tokenizer = tokenizer_spec(folder)
    if tokenizer == "bytes" and model["vocab_size"] < BYTE_TOKENS:
        raise ModelError(
            f"the model in {folder} brings no tokenizer",
            f"it has {model['vocab_size']} tokens, too few for bytes ({BYTE_TOKENS})",
            "put its tokenizer.json beside config.json",
        )
    settings = {f"model.{key}": toml_value(key, value) for key, value in model.items()}
    settings["model.initial"] = toml_value("initial", str(folder))
    settings["model.initial_sha256"] = toml_value("initial_sha256", weights_sha256(folder))
    settings["data.tokenizer"] = toml_value("tokenizer", tokenizer)
    settings["train.sequence_length"] = str(_context_tokens(content.get("max_position_embeddings")))
    return [f"{key}={value}" for key, value in settings.items()]


def config_of(folder: Path) -> RunConfig:
    """The configuration of a run that would continue the model in `folder`. Raises ModelError or ConfigError."""
    return load_config((), settings_of(folder))


def _context_tokens(positions: object) -> int:
    known = positions if type(positions) is int and positions > 0 else CONTEXT_AT_MOST
    return min(known, CONTEXT_AT_MOST)
