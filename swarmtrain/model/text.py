"""A whole model in one process: its loss on held-out text, and text out of it.

Both take the stages as a list [edge, middle 1, ..., middle S] on one device and leave them unchanged.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from swarmtrain.core.errors import CorpusError
from swarmtrain.model.edge import EdgeStage


class TextCodec(Protocol):
    """What `generate` needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def end_of_text(self) -> int: ...

    def encode(self, text: str) -> Any: ...

    def decode(self, ids: Any) -> str: ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 takes the likeliest; `top_k` 0 leaves all tokens in."""

    max_new_tokens: int
    context_tokens: int
    """The model sees this many last tokens: the sequence length it was trained at."""
    temperature: float = 0.8
    top_k: int = 40


@torch.no_grad()
def evaluate(stages: Sequence[nn.Module], batches: Iterable[npt.NDArray[np.int64]]) -> float:
    """Mean cross entropy in nats a token over (B, T+1) `batches`. Raises CorpusError if there are none."""
    edge, device = _edge_of(stages)
    loss_sum, tokens = 0.0, 0
    for batch in batches:
        batch_BT = torch.from_numpy(batch).to(device)
        x_BTD = _through(stages, batch_BT[:, :-1])
        loss_sum += edge.loss_sum(x_BTD, batch_BT[:, 1:]).item()
        tokens += batch_BT[:, 1:].numel()
    if tokens == 0:
        raise CorpusError(
            "there is nothing to evaluate on", "no batches", "hold out more of the corpus"
        )
    return loss_sum / tokens


@torch.no_grad()
def generate(
    stages: Sequence[nn.Module],
    codec: TextCodec,
    prompt: str,
    sampling: Sampling,
    generator: torch.Generator,
    told: Callable[[int], None] = lambda tokens: None,
) -> str:
    """Continue `prompt`; returns the new text alone. Stops early at an end of text. `generator` is a CPU one.
    `told` hears how many tokens are there.

    Every token runs the whole context again (no key-value cache), cropped to `sampling.context_tokens`: meant for
    samples of a training run, not for serving.
    """
    edge, device = _edge_of(stages)
    ids = [int(token) for token in codec.encode(prompt)] or [codec.end_of_text]
    prompt_tokens = len(ids)
    for _ in range(sampling.max_new_tokens):
        context_BT = torch.tensor([ids[-sampling.context_tokens :]], device=device)
        last_BTD = _through(stages, context_BT)[:, -1:]
        # Rows of the head beyond the tokenizer's vocabulary have no text.
        logits_V = edge.logits(last_BTD)[0, 0, : codec.vocab_size].float().cpu()
        token = _choose(logits_V, sampling, generator)
        if token == codec.end_of_text:
            break
        ids.append(token)
        told(len(ids) - prompt_tokens)
    return codec.decode(ids[prompt_tokens:])


def _choose(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    if 0 < sampling.top_k < len(logits_V):
        logits_V, ids_V = logits_V.topk(sampling.top_k)
    else:
        ids_V = torch.arange(len(logits_V))
    chances_V = torch.softmax(logits_V / sampling.temperature, 0)
    return int(ids_V[torch.multinomial(chances_V, 1, generator=generator)])


def _edge_of(stages: Sequence[nn.Module]) -> tuple[EdgeStage, torch.device]:
    edge = stages[0]
    assert isinstance(edge, EdgeStage), "stages start with the edge"
    return edge, edge.embed.weight.device


def _through(stages: Sequence[nn.Module], tokens_BT: Tensor) -> Tensor:
    """Embed and pass all middle stages in order."""
    edge, _ = _edge_of(stages)
    x_BTD: Tensor = edge.embed(tokens_BT)
    for stage in stages[1:]:
        x_BTD = stage(x_BTD)
    return x_BTD
