"""A checkpoint as a model to use: held-out loss and text."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from swarmtrain.checkpoint.layout_views import views_of
from swarmtrain.checkpoint.store import load, load_stage
from swarmtrain.core.config import RunConfig, config_from_json
from swarmtrain.core.errors import StateError
from swarmtrain.data.stream import Corpus, held_out_batches, load_corpus
from swarmtrain.model.stages import build_stage
from swarmtrain.model.text import Sampling, evaluate, generate

EVAL_BATCHES = 32
"""Held-out batches behind a quick figure: 32 x 4 x 128 tokens in the demo."""


@dataclass(slots=True)
class TrainedModel:
    """All stages of a checkpoint in this process; `step` steps trained."""

    config: RunConfig
    corpus: Corpus
    stages: list[nn.Module]
    step: int

    @staticmethod
    def load(folder: Path) -> "TrainedModel":
        """The newest whole checkpoint in `folder`. Raises StateError or CorpusError."""
        checkpoint = load(folder)
        config = config_from_json(checkpoint.manifest.config_json)
        torch.set_num_threads(config.limits.threads)
        corpus = load_corpus(config.data, None)
        vocab_size = config.model.vocab_size or corpus.tokenizer.vocab_size
        stages: list[nn.Module] = []
        for stage in range(config.model.stages + 1):
            module = build_stage(config.model, vocab_size, stage, config.run.seed)
            named = dict(module.named_parameters())
            state = load_stage(checkpoint.folder, stage)
            if [name for name, _ in state.names_shapes] != list(named):
                raise StateError(
                    f"stage {stage} of {checkpoint.folder} has other parameters than its model",
                    "the checkpoint was written for another architecture",
                    "use the version of swarmtrain that wrote it",
                )
            for name, values in views_of(state):
                named[name].data = torch.from_numpy(values)
            stages.append(module)
        return TrainedModel(config, corpus, stages, checkpoint.manifest.step)

    def held_out_loss(
        self, batches: int = EVAL_BATCHES, middle: Sequence[int] | None = None
    ) -> float:
        """Mean nats per token over the first `batches` held-out batches.

        `middle` are the middle stages to go through, in this order; None is all of them.
        """
        train = self.config.train
        held_out = held_out_batches(self.corpus, train.microbatch_size, train.sequence_length)
        route = range(1, len(self.stages)) if middle is None else middle
        stages = [self.stages[0], *(self.stages[stage] for stage in route)]
        return evaluate(stages, islice(held_out, batches))

    def sample(
        self,
        prompt: str,
        max_new_tokens: int,
        temperature: float = 0.8,
        top_k: int = 40,
        seed: int = 0,
    ) -> str:
        """Text that continues `prompt`."""
        context = self.config.train.sequence_length
        sampling = Sampling(max_new_tokens, context, temperature, top_k)
        generator = torch.Generator().manual_seed(seed)
        return generate(self.stages, self.corpus.tokenizer, prompt, sampling, generator)
