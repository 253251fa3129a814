"""Text to token ids and back: a byte-level tokenizer that needs no file, and Hugging Face tokenizer.json files.

A tokenizer's digest enters the corpus digest, so two peers that would read the same text as different tokens
find out in the handshake.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from swarmtrain.core.errors import CorpusError
from swarmtrain.core.types import Digest

TokenArray = npt.NDArray[np.unsignedinteger]
"""A flat array of token ids, uint16 or uint32 (see `token_dtype`)."""

END_OF_TEXT_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")
"""Names under which published tokenizers know the end of a document, tried in this order."""


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The little-endian dtype of stored tokens: uint16 up to 65,536 tokens, else uint32."""
    return np.dtype("<u2") if vocab_size <= 65_536 else np.dtype("<u4")


class Tokenizer(Protocol):
    """Token ids are 0..`vocab_size` - 1; `end_of_text` closes every document of a corpus."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def end_of_text(self) -> int: ...

    @property
    def digest(self) -> Digest:
        """Equal for tokenizers that map every text to the same ids."""
        ...

    def encode(self, text: str) -> TokenArray: ...

    def decode(self, ids: Sequence[int] | TokenArray) -> str:
        """Text of `ids`; ends of text are left out, broken characters become U+FFFD."""
        ...


class ByteTokenizer:
    """The UTF-8 bytes of the text as ids 0..255, and 256 for the end of a text."""

    vocab_size = 257
    end_of_text = 256
    digest: Digest = hashlib.sha256(b"swarmtrain byte tokenizer 1: utf-8, end of text 256").digest()

    def encode(self, text: str) -> TokenArray:
        """Ids of `text`. A lone surrogate, which UTF-8 cannot hold, becomes "?"."""
        return np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.uint16)

    def decode(self, ids: Sequence[int] | TokenArray) -> str:
        ids_N = np.asarray(ids, np.int64)
        return ids_N[ids_N < self.end_of_text].astype(np.uint8).tobytes().decode("utf-8", "replace")


class JsonTokenizer:
    """A Hugging Face `tokenizer.json`; no special tokens are added around a text.

    Raises:
        CorpusError: the file is missing, is no tokenizer, or names no end of text.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as HubTokenizer  # a byte-level run does not pay for it

        try:
            content = path.read_bytes()
            self._tokenizer = HubTokenizer.from_str(content.decode("utf-8"))
        except OSError as error:
            raise CorpusError(
                f"the tokenizer {path} cannot be read",
                str(error),
                'give the path of a tokenizer.json, or data.tokenizer = "bytes"',
            ) from error
        except Exception as error:  # the library raises plain Exception for every kind of bad file
            raise CorpusError(
                f"{path} is no tokenizer",
                str(error),
                "give a tokenizer.json as the Hugging Face tokenizers library writes it",
            ) from error
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        ends = [ids[name] for name in END_OF_TEXT_NAMES if name in ids]
        if not ends:
            raise CorpusError(
                f"the tokenizer {path} has no end of text",
                f"none of {', '.join(END_OF_TEXT_NAMES)} is in its vocabulary",
                "add one of them to the tokenizer's special tokens",
            )
        self.end_of_text: int = ends[0]
        # Published vocabularies have holes: the largest id counts, not the number of names.
        self.vocab_size: int = max(ids.values()) + 1
        self.digest: Digest = hashlib.sha256(content).digest()

    def encode(self, text: str) -> TokenArray:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.array(ids, token_dtype(self.vocab_size))

    def decode(self, ids: Sequence[int] | TokenArray) -> str:
        return str(self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=True))


def load_tokenizer(spec: str) -> Tokenizer:
    """The tokenizer of `data.tokenizer`: "bytes", or the path of a tokenizer.json. Raises CorpusError."""
    return ByteTokenizer() if spec == "bytes" else JsonTokenizer(Path(spec))
