"""The same numbers elsewhere: transformers loads what we export, and we train on what it wrote."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.experiments.export import checkpoint_weights, export
from swarmtrain.experiments.imported import settings_of
from swarmtrain.experiments.reference import Reference
from swarmtrain.experiments.trained import TrainedModel
from tests.experiments.runs import corpus, small_config

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", reason="part of the dev extra")

LOGITS_TOLERANCE = 1e-4
PROMPT = "import os\ndef f(x):\n"


def trained(config: RunConfig, folder: Path) -> TrainedModel:
    """The model of `config` after all of its steps, from its checkpoint."""
    torch.set_num_threads(1)
    loop = Reference(config, corpus(), config.model.vocab_size or corpus().tokenizer.vocab_size)
    list(loop.train())
    loop.save(folder)
    return TrainedModel.load(folder)


@torch.no_grad()
def our_logits(model: TrainedModel, tokens_BT: Tensor) -> Tensor:
    edge, *middle = model.stages
    x_BTD: Any = edge.embed(tokens_BT)  # type: ignore[operator]
    for stage in middle:
        x_BTD = stage(x_BTD)
    return edge.logits(x_BTD)  # type: ignore[operator, no-any-return]


@torch.no_grad()
def assert_equal_there(ours: TrainedModel, folder: Path) -> None:
    """Logits within the tolerance and greedy text equal, by what AutoModel and AutoTokenizer make of `folder`."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    context_tokens = ours.config.train.sequence_length
    tokens_BT = torch.randint(257, (3, context_tokens), generator=torch.Generator().manual_seed(5))
    difference = (theirs(tokens_BT).logits - our_logits(ours, tokens_BT)).abs().max().item()
    assert difference < LOGITS_TOLERANCE
    prompt = tokenizer(PROMPT, return_tensors="pt")
    new_tokens = context_tokens - prompt["input_ids"].shape[1]
    assert new_tokens > 10
    text = theirs.generate(**prompt, max_new_tokens=new_tokens, do_sample=False)[0]
    expected = ours.sample(PROMPT, new_tokens, temperature=0.0)
    assert tokenizer.decode(text, skip_special_tokens=True) == PROMPT + expected


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_trained_here_computes_the_same_there(tied: bool, tmp_path: Path) -> None:
    settings = [f"model.tied={str(tied).lower()}", "model.blocks_per_stage=2", "run.seed=3"]
    config = small_config(*settings, "train.sequence_length=48", "optimizer.learning_rate=0.01")
    ours = trained(config, tmp_path / "checkpoint")
    export(checkpoint_weights(tmp_path / "checkpoint"), tmp_path / "out", False, lambda *_: None)
    assert_equal_there(ours, tmp_path / "out")


LLAMAS: dict[str, dict[str, Any]] = {
    "untied": {},
    "tied, one key head": {"tie_word_embeddings": True, "num_key_value_heads": 1},
    "as many key heads, other base and epsilon": {
        "num_key_value_heads": 4, "rope_theta": 5e5, "rms_norm_eps": 1e-6,
    },
}  # fmt: skip


@pytest.mark.parametrize("options", LLAMAS.values(), ids=LLAMAS.keys())
def test_a_random_llama_is_trained_on_here(options: dict[str, Any], tmp_path: Path) -> None:
    shape = {
        "hidden_size": 64, "intermediate_size": 144, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300,
        "max_position_embeddings": 48, "initializer_range": 0.1,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        source = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**{**shape, **options})
        ).eval()
    source.save_pretrained(tmp_path / "source")

    untrained = TrainedModel.load(tmp_path / "source")
    tokens_BT = torch.arange(96).reshape(2, 48)
    with torch.no_grad():
        difference = source(tokens_BT).logits - our_logits(untrained, tokens_BT)
    assert difference.abs().max().item() < LOGITS_TOLERANCE

    more = ["run.steps=4", "optimizer.warmup_steps=1", "train.microbatch_size=2"]
    config = load_config((), [*settings_of(tmp_path / "source"), *more])
    ours = trained(config, tmp_path / "checkpoint")
    assert ours.held_out_loss(2) < untrained.held_out_loss(2)
    export(checkpoint_weights(tmp_path / "checkpoint"), tmp_path / "out", False, lambda *_: None)
    assert_equal_there(ours, tmp_path / "out")
