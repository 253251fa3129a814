"""The corpus of a run and the microbatches that follow from it.

The first part of the tokens is for training, the tail is held out. The samples of a microbatch follow from
(seed, step, index) alone, so any edge peer can produce any microbatch at any time, in any order.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swarmtrain.core.config import DataSection
from swarmtrain.core.errors import CorpusError
from swarmtrain.data.corpus import read_documents
from swarmtrain.data.shards import TokenShards, write_shards
from swarmtrain.data.tokenizer import (
    ByteTokenizer,
    TokenArray,
    Tokenizer,
    load_tokenizer,
    token_dtype,
)

log = logging.getLogger(__name__)

Tokens = TokenArray | TokenShards
"""A whole corpus: has a length, and slices of it are arrays."""


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Tokens and how they are shared out: `tokens[:train_tokens]` for training, the rest held out."""

    tokens: Tokens
    tokenizer: Tokenizer
    train_tokens: int
    digest: str
    """Hex SHA-256 over the tokenizer's digest and all tokens; peers of a run must agree on it."""

    @staticmethod
    def of(tokens: Tokens, tokenizer: Tokenizer, held_out: float) -> "Corpus":
        """Share out `tokens`; `held_out` is the share of the tail, from 0 to below 1. Raises CorpusError."""
        if len(tokens) == 0:
            raise CorpusError("the corpus is empty", "", "point data.source at some text")
        train_tokens = len(tokens) - int(len(tokens) * held_out)
        return Corpus(tokens, tokenizer, train_tokens, _corpus_digest(tokens, tokenizer))

    @property
    def held_out_tokens(self) -> int:
        """How many tokens the held-out tail has."""
        return len(self.tokens) - self.train_tokens


def load_corpus(data: DataSection, cache_folder: Path | None) -> Corpus:
    """Read, tokenise and share out the corpus that `data` names.

    Text under a tokenizer.json is kept as shards below `cache_folder`, keyed by tokenizer and content; None
    keeps nothing. The byte tokenizer is faster than its cache would be.

    Raises:
        CorpusError: the source or tokenizer is missing, damaged, empty, or they do not belong together.
    """
    tokenizer = load_tokenizer(data.tokenizer)
    if data.source.startswith("shards:"):
        tokens: Tokens = _open_shards(Path(data.source.removeprefix("shards:")), tokenizer)
    elif cache_folder is None or isinstance(tokenizer, ByteTokenizer):
        arrays = list(_tokenise(data.source, tokenizer))
        tokens = np.concatenate(arrays) if arrays else np.empty(0, np.uint16)
    else:
        tokens = _cached_shards(data.source, tokenizer, cache_folder)
    return Corpus.of(tokens, tokenizer, data.held_out)


def microbatch(
    corpus: Corpus, *, seed: int, step: int, index: int, microbatch_size: int, sequence_length: int
) -> npt.NDArray[np.int64]:
    """Samples of the microbatch with key (step, index): (B, T+1) tokens; inputs [:, :-1], targets [:, 1:].

    Each row starts at a place drawn by SHA-256 of (seed, step, index, row) from the training part.

    Raises:
        CorpusError: the training part is shorter than one row.
    """
    starts = corpus.train_tokens - sequence_length
    if starts < 1:
        raise _too_short("training part", corpus.train_tokens, sequence_length)
    rows = []
    for row in range(microbatch_size):
        name = f"swarmtrain microbatch {seed} {step} {index} {row}"
        start = int.from_bytes(hashlib.sha256(name.encode()).digest(), "little") % starts
        rows.append(corpus.tokens[start : start + sequence_length + 1])
    return np.stack(rows).astype(np.int64)


def held_out_batches(
    corpus: Corpus, batch_size: int, sequence_length: int
) -> Iterator[npt.NDArray[np.int64]]:
    """The held-out tail as (B, T+1) batches; the last may have fewer rows, a rest shorter than a row is left out.

    Rows are T tokens apart, so that no token is a target twice: the last token of a row is the first of the next.

    Raises:
        CorpusError: the held-out tail is shorter than one row.
    """
    windows = (corpus.held_out_tokens - 1) // sequence_length
    if windows < 1:
        raise _too_short("held-out tail", corpus.held_out_tokens, sequence_length)
    starts = [corpus.train_tokens + window * sequence_length for window in range(windows)]
    for first in range(0, windows, batch_size):
        rows = [
            corpus.tokens[s : s + sequence_length + 1] for s in starts[first : first + batch_size]
        ]
        yield np.stack(rows).astype(np.int64)


def _too_short(part: str, tokens: int, sequence_length: int) -> CorpusError:
    return CorpusError(
        f"the {part} of the corpus is too short",
        f"it has {tokens} tokens, one sequence of length {sequence_length} needs {sequence_length + 1}",
        "use more text, a shorter train.sequence_length, or another data.held_out",
    )


def _tokenise(source: str, tokenizer: Tokenizer) -> Iterator[TokenArray]:
    """Tokens of each document, closed by the end of text."""
    end = np.array([tokenizer.end_of_text], token_dtype(tokenizer.vocab_size))
    for document in read_documents(source):
        yield tokenizer.encode(document)
        yield end


def _open_shards(folder: Path, tokenizer: Tokenizer) -> TokenShards:
    shards = TokenShards.open(folder)
    theirs, ours = (
        (shards.tokenizer_digest, shards.vocab_size),
        (tokenizer.digest, tokenizer.vocab_size),
    )
    if theirs != ours:
        raise CorpusError(
            f"the token shards in {folder} were written with another tokenizer",
            f"theirs has digest {theirs[0].hex()[:16]} and {theirs[1]} tokens, "
            f"data.tokenizer has {ours[0].hex()[:16]} and {ours[1]}",
            "set data.tokenizer to the tokenizer of the shards",
        )
    return shards


def _cached_shards(source: str, tokenizer: Tokenizer, cache_folder: Path) -> TokenShards:
    content = hashlib.sha256(tokenizer.digest)
    for document in read_documents(source):
        encoded = document.encode("utf-8", "replace")
        content.update(len(encoded).to_bytes(8, "little") + encoded)
    folder = cache_folder / content.hexdigest()
    try:
        return _open_shards(folder, tokenizer)
    except CorpusError as error:
        log.info("tokenising %s into %s (%s)", source, folder, error.what)
    try:
        write_shards(folder, _tokenise(source, tokenizer), tokenizer.vocab_size, tokenizer.digest)
    except OSError as error:
        raise CorpusError(
            f"the tokenised text cannot be kept in {cache_folder}",
            str(error),
            "free some space there, make it writable, or choose another cache folder",
        ) from error
    return _open_shards(folder, tokenizer)


def _corpus_digest(tokens: Tokens, tokenizer: Tokenizer) -> str:
    # Shards and arrays of the same tokens must agree: where shards end does not enter the digest.
    digest = hashlib.sha256(tokenizer.digest)
    for piece in tokens.pieces if isinstance(tokens, TokenShards) else [tokens]:
        digest.update(np.ascontiguousarray(piece, token_dtype(tokenizer.vocab_size)).data)
    return digest.hexdigest()
