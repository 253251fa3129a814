"""Weights out: a checkpoint, or the newest state of a live run, as a folder in the Hugging Face Llama layout.

The folder is written beside its place and renamed, so that it is there whole or not at all. One stage is held in
memory at a time; every byte that is read was verified against the manifest, or against the digests a coordinator
promised.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swarmtrain.checkpoint.layout_views import views_of
from swarmtrain.checkpoint.llama_config import CONFIG_FILE, llama_config
from swarmtrain.checkpoint.llama_names import LlamaTensor, check_is_llama, stage_tensors
from swarmtrain.checkpoint.stage_file import Flat, StageState
from swarmtrain.checkpoint.store import load, load_parameters, load_stage
from swarmtrain.checkpoint.tensor_files import SHARD_BYTES, ShardWriter, plan_shards
from swarmtrain.core.config import RunConfig, config_from_json
from swarmtrain.core.errors import ConfigError, StateError
from swarmtrain.data.hub_tokenizer import write_tokenizer
from swarmtrain.data.tokenizer import load_tokenizer
from swarmtrain.outer.stage import outer_parameters

EXPORTED = frozenset(
    {
        CONFIG_FILE,
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
    }
)
"""Besides *.safetensors, all that an exported folder may hold; a folder with anything else is never replaced."""

Progress = Callable[[int, int], None]
"""`progress(done, total)`, in bytes of parameters."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A model at `step`. `read(stage)` gives a stage's state, verified; `which` says which parameters these are."""

    config: RunConfig
    step: int
    read: Callable[[int], StageState]
    which: str = "the parameters as trained"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    folder: Path
    step: int
    which: str
    parameters: int
    files: tuple[str, ...]


def checkpoint_weights(folder: Path) -> Weights:
    """The newest whole checkpoint in `folder`. Raises StateError when nothing there is whole."""
    found = load(folder)
    config = config_from_json(found.manifest.config_json)
    # What outer rounds keep is part of the whole state; without them the parameters are all there is to read.
    read = load_stage if config.outer.inner_steps else load_parameters
    return Weights(config, found.manifest.step, lambda stage: read(found.folder, stage))


def merged_if_any(weights: Weights) -> Weights:
    """Of a run with outer rounds the outer parameters, where every fragment had a round; else `weights` as they are."""
    config = weights.config
    if not config.outer.inner_steps:
        return weights
    if any(_merged(weights.read(stage)) is None for stage in range(config.model.stages + 1)):
        return replace(weights, which="one island's own parameters: some part had no round yet")

    def read(stage: int) -> StageState:
        state = weights.read(stage)
        merged = _merged(state)
        if merged is None:
            raise StateError("the outer parameters are gone meanwhile", "", "export again")
        return replace(state, parameters=merged)

    return replace(weights, read=read, which="outer parameters, merged over the islands")


def export(
    weights: Weights,
    folder: Path,
    is_forced: bool,
    progress: Progress,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Write `weights` to `folder`, which must be new or empty, or with `is_forced` an exported model to replace.

    Raises:
        ConfigError: the folder may not be replaced, or cannot be written.
        ModelError: the model has no Llama layout.
        StateError, CorpusError: the checkpoint or the tokenizer is not whole.
    """
    check_target(folder, is_forced)
    check_is_llama(weights.config.model)
    weights = merged_if_any(weights)
    folder = folder.absolute()
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        parameters = _write(weights, partial, progress, shard_bytes)
        _publish(partial, folder)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written", str(error), "free space there, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    files = tuple(sorted(path.name for path in folder.iterdir()))
    return Exported(folder, weights.step, weights.which, parameters, files)


def check_target(folder: Path, is_forced: bool) -> None:
    """Raise ConfigError unless `folder` may be written: nothing but an earlier export is ever replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file", "", "choose another folder")
    names = {path.name for path in folder.iterdir()}
    strange = sorted(name for name in names - EXPORTED if not name.endswith(".safetensors"))
    if strange:
        raise ConfigError(
            f"{folder} holds other things than an exported model",
            f"as {strange[0]}; they would be lost",
            "choose another folder",
        )
    if names and not is_forced:
        raise ConfigError(
            f"{folder} is not empty",
            "it holds a model already",
            "choose another folder, or replace the model with --force",
        )


def _write(weights: Weights, folder: Path, progress: Progress, shard_bytes: int) -> int:
    """All files; returns how many parameters there are."""
    config = weights.config
    tokenizer = load_tokenizer(config.data.tokenizer)
    vocab_size = config.model.vocab_size or tokenizer.vocab_size
    context_tokens = config.train.sequence_length
    described = llama_config(config.model, vocab_size, context_tokens, tokenizer.end_of_text)
    _write_json(folder / CONFIG_FILE, described)
    generation = {"eos_token_id": tokenizer.end_of_text, "pad_token_id": tokenizer.end_of_text}
    _write_json(folder / "generation_config.json", generation)
    write_tokenizer(folder, config.data.tokenizer, context_tokens)
    stages = [
        stage_tensors(config.model, vocab_size, stage) for stage in range(config.model.stages + 1)
    ]
    names = [(tensor.hub, tensor.shape) for tensors in stages for tensor in tensors]
    total = sum(math.prod(shape) for _, shape in names)
    writer, done = ShardWriter(folder, plan_shards(names, shard_bytes)), 0
    try:
        for stage, tensors in enumerate(stages):
            for name, array in _renamed(weights.read(stage), tensors):
                writer.add(name, array)
                done += array.size
                progress(4 * done, 4 * total)
        writer.finish()
    finally:
        writer.close()
    return total


def _renamed(state: StageState, tensors: Sequence[LlamaTensor]) -> Iterator[tuple[str, Flat]]:
    """A stage's parameters under their names there. Raises StateError when they are not those of the model."""
    if state.names_shapes != tuple((tensor.own, tensor.shape) for tensor in tensors):
        raise StateError(
            f"stage {state.stage} has other parameters than its model",
            "the checkpoint was written for another architecture",
            "use the version of swarmtrain that wrote it",
        )
    for (_, array), tensor in zip(views_of(state), tensors, strict=True):
        yield tensor.hub, array


def _merged(state: StageState) -> Flat | None:
    if state.rounds is None:
        return None
    return outer_parameters(state.rounds, state.parameters.size)


def _publish(partial: Path, folder: Path) -> None:
    """Give `partial` its name; an earlier export steps aside first, as folders cannot be swapped."""
    replaced = partial.with_name(f"{partial.name}.replaced")
    if folder.exists():
        os.replace(folder, replaced)
    os.replace(partial, folder)
    shutil.rmtree(replaced, ignore_errors=True)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
