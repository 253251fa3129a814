"""A trained model to use, from a checkpoint or from a folder in the Hugging Face layout: held-out loss and text."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from swarmtrain.checkpoint.initial import InitialModel
from swarmtrain.checkpoint.layout_views import views_of
from swarmtrain.checkpoint.llama_config import is_llama_folder
from swarmtrain.checkpoint.manifest import MANIFEST_FILE
from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.checkpoint.store import load, load_parameters
from swarmtrain.core.config import RunConfig, config_from_json
from swarmtrain.core.errors import StateError
from swarmtrain.data.stream import Corpus, held_out_batches, load_corpus
from swarmtrain.data.tokenizer import Tokenizer, load_tokenizer
from swarmtrain.experiments.imported import config_of
from swarmtrain.model.stages import build_stage, model_vocab_size
from swarmtrain.model.text import Sampling, evaluate, generate

Batch = npt.NDArray[np.int64]

EVAL_BATCHES = 32
"""Held-out batches behind a quick figure: 32 x 4 x 128 tokens in the demo."""


@dataclass(slots=True)
class TrainedModel:
    """All stages of a model in this process; `step` steps trained, 0 where that is not known.

    `progress(done, total)`, if set, hears of every batch that is measured and every token that is chosen.
    """

    config: RunConfig
    tokenizer: Tokenizer
    stages: list[nn.Module]
    step: int
    _corpus: Corpus | None = None
    progress: Callable[[int, int], None] | None = None

    @staticmethod
    def load(folder: Path, data: str | None = None) -> "TrainedModel":
        """The newest whole checkpoint in `folder`, or the Llama model that lies there.

        `data` is what `held_out_loss` reads instead of the run's own data.source; of a model without a run it is
        stdlib. Raises StateError, ModelError or CorpusError.
        """
        if is_llama_folder(folder) and not (folder / MANIFEST_FILE).exists():
            config, step = config_of(folder), 0
            read: Callable[[int], StageState] = InitialModel(config.model).stage
        else:
            checkpoint = load(folder)
            config = config_from_json(checkpoint.manifest.config_json)
            step, place = checkpoint.manifest.step, checkpoint.folder

            def read(stage: int) -> StageState:
                return load_parameters(place, stage)

        if data is not None:
            chosen = config.data.model_validate({**config.data.model_dump(), "source": data})
            config = config.model_copy(update={"data": chosen})
        torch.set_num_threads(config.limits.threads)
        tokenizer = load_tokenizer(config.data.tokenizer)
        vocab_size = model_vocab_size(config.model, tokenizer.vocab_size)
        stages = [
            _with_values(build_stage(config.model, vocab_size, stage, config.run.seed), read(stage))
            for stage in range(config.model.stages + 1)
        ]
        return TrainedModel(config, tokenizer, stages, step)

    def move(self, device: torch.device) -> None:
        """Compute on `device` from here on, in fp32."""
        for stage in self.stages:
            stage.to(device)

    def held_out_loss(
        self, batches: int = EVAL_BATCHES, middle: Sequence[int] | None = None
    ) -> float:
        """Mean nats per token over the first `batches` held-out batches. Raises CorpusError.

        `middle` are the middle stages to go through, in this order; None is all of them.
        """
        train = self.config.train
        if self._corpus is None:
            self._corpus = load_corpus(self.config.data, None)
        held_out = held_out_batches(self._corpus, train.microbatch_size, train.sequence_length)
        route = range(1, len(self.stages)) if middle is None else middle
        stages = [self.stages[0], *(self.stages[stage] for stage in route)]
        return evaluate(stages, self._counted(islice(held_out, batches), batches))

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
        told = partial(self._tell, total=max_new_tokens)
        return generate(self.stages, self.tokenizer, prompt, sampling, generator, told)

    def _counted(self, batches: Iterable[Batch], total: int) -> Iterator[Batch]:
        for done, batch in enumerate(batches, 1):
            yield batch
            self._tell(done, total)

    def _tell(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)


def _with_values(module: nn.Module, state: StageState) -> nn.Module:
    """`module` with the parameters of `state`, without a copy. Raises StateError when they are others."""
    named = dict(module.named_parameters())
    if [name for name, _ in state.names_shapes] != list(named):
        raise StateError(
            f"stage {state.stage} has other parameters than its model",
            "the checkpoint was written for another architecture",
            "use the version of swarmtrain that wrote it",
        )
    for name, values in views_of(state):
        named[name].data = torch.from_numpy(values)
    return module
