"""Evaluation and generation over whole models."""

import numpy as np
import pytest
import torch
from torch import nn

from swarmtrain.core.config import ModelSection
from swarmtrain.core.errors import CorpusError
from swarmtrain.data.tokenizer import ByteTokenizer
from swarmtrain.model.edge import EdgeStage
from swarmtrain.model.stages import build_edge, build_middle
from swarmtrain.model.text import Sampling, evaluate, generate

MODEL = ModelSection(preset="nano")
TOKENIZER = ByteTokenizer()


def make_stages(vocab_size: int = 257) -> list[nn.Module]:
    return [build_edge(MODEL, vocab_size, 1), build_middle(MODEL, 1, 1), build_middle(MODEL, 2, 1)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Counting(EdgeStage):
    """Says byte after byte: the next token is the last one plus `stride`. Notes the contexts it saw."""

    def __init__(self, stride: int = 1, vocab_size: int = 257) -> None:
        super().__init__(ModelSection(width=2, heads=1, kv_heads=1), vocab_size)
        self.stride, self.vocab_size = stride, vocab_size
        self.contexts: list[list[int]] = []
        self.embed.forward = self._note  # type: ignore[method-assign]

    def _note(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        self.contexts.append(tokens_BT[0].tolist())
        return tokens_BT[..., None].float()

    def logits(self, x_BTD: torch.Tensor) -> torch.Tensor:
        following = (x_BTD[..., 0].long() + self.stride) % self.vocab_size
        return 10.0 * nn.functional.one_hot(following, self.vocab_size).float()


def test_evaluate_is_the_mean_over_all_tokens_of_uneven_batches() -> None:
    stages = make_stages()
    rows = np.random.default_rng(0).integers(0, 257, (5, 9))
    whole = evaluate(stages, [rows])
    assert evaluate(stages, [rows[:4], rows[4:]]) == pytest.approx(whole, rel=1e-6)
    assert whole == pytest.approx(np.log(257), rel=0.05)
    edge = stages[0]
    assert isinstance(edge, EdgeStage)
    tokens = torch.from_numpy(rows)
    x_BTD = stages[2](stages[1](edge.embed(tokens[:, :-1])))
    expected = nn.functional.cross_entropy(
        edge.logits(x_BTD).flatten(0, 1), tokens[:, 1:].flatten()
    )
    assert whole == pytest.approx(expected.item(), rel=1e-6)
    assert all(p.grad is None for stage in stages for p in stage.parameters())


def test_evaluate_needs_something() -> None:
    with pytest.raises(CorpusError, match="nothing to evaluate"):
        evaluate(make_stages(), [])


def test_greedy_text_follows_the_logits_and_returns_only_what_is_new() -> None:
    sampling = Sampling(max_new_tokens=4, context_tokens=8, temperature=0)
    assert generate([Counting()], TOKENIZER, "ab", sampling, generator()) == "cdef"


def test_context_is_cropped() -> None:
    edge = Counting()
    generate([edge], TOKENIZER, "abcdef", Sampling(3, context_tokens=4, temperature=0), generator())
    assert [bytes(context) for context in edge.contexts] == [b"cdef", b"defg", b"efgh"]


def test_end_of_text_ends_the_text() -> None:
    stride = TOKENIZER.end_of_text - ord("c")
    sampling = Sampling(max_new_tokens=9, context_tokens=8, temperature=0)
    assert generate([Counting(stride)], TOKENIZER, "abc", sampling, generator()) == ""
    edge = Counting(1)
    generate([edge], TOKENIZER, "", Sampling(1, 8, temperature=0), generator())
    assert edge.contexts == [[TOKENIZER.end_of_text]]


def test_rows_beyond_the_vocabulary_are_never_chosen() -> None:
    edge = Counting(stride=260 - ord("a"), vocab_size=300)
    sampling = Sampling(max_new_tokens=20, context_tokens=8, temperature=50.0, top_k=0)
    assert generate([edge], TOKENIZER, "a", sampling, generator())
    assert all(token < 257 for context in edge.contexts for token in context)


def test_sampling_follows_its_generator() -> None:
    stages = make_stages()
    sampling = Sampling(max_new_tokens=12, context_tokens=16, temperature=1.0, top_k=20)
    state = torch.random.get_rng_state()
    text = generate(stages, TOKENIZER, "def ", sampling, generator(1))
    assert text == generate(stages, TOKENIZER, "def ", sampling, generator(1))
    assert text != generate(stages, TOKENIZER, "def ", sampling, generator(2))
    assert torch.equal(state, torch.random.get_rng_state())


def test_top_k_of_one_is_greedy() -> None:
    sampling = Sampling(max_new_tokens=4, context_tokens=8, temperature=5.0, top_k=1)
    assert generate([Counting()], TOKENIZER, "ab", sampling, generator()) == "cdef"
