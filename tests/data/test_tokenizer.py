"""Tokenizers: round trips, ids in range, and what a bad tokenizer file says."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.errors import CorpusError
from swarmtrain.data.tokenizer import ByteTokenizer, JsonTokenizer, load_tokenizer, token_dtype

WORDS = {"<|endoftext|>": 0, "the": 1, "swarm": 2, "trains": 3, "[UNK]": 9}


def write_tokenizer(path: Path, vocabulary: dict[str, int] = WORDS) -> Path:
    """A word-level tokenizer.json with a hole in its ids (4 to 8 are missing)."""
    content = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    path.write_text(json.dumps(content))
    return path


@given(st.text())
def test_bytes_round_trip(text: str) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.dtype == token_dtype(tokenizer.vocab_size)
    assert len(ids) == len(text.encode())
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids.tolist(), tokenizer.end_of_text]) == text


def test_bytes_decode_of_half_a_character_does_not_raise() -> None:
    assert ByteTokenizer().decode([0x61, 0xC3]) == "a�"


def test_lone_surrogate_is_replaced() -> None:
    assert ByteTokenizer().decode(ByteTokenizer().encode("a\ud800b")) == "a?b"


def test_token_dtype_turns_at_65536() -> None:
    assert (token_dtype(65_536).itemsize, token_dtype(65_537).itemsize) == (2, 4)


def test_json_tokenizer_counts_holes_and_finds_the_end(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(write_tokenizer(tmp_path / "tokenizer.json")))
    assert tokenizer.vocab_size == 10
    assert tokenizer.end_of_text == 0
    ids = tokenizer.encode("the swarm trains")
    assert ids.tolist() == [1, 2, 3]
    assert ids.dtype == np.uint16
    assert tokenizer.decode(ids).split() == ["the", "swarm", "trains"]


def test_json_tokenizer_digest_follows_content(tmp_path: Path) -> None:
    one = JsonTokenizer(write_tokenizer(tmp_path / "one.json"))
    same = JsonTokenizer(write_tokenizer(tmp_path / "same.json"))
    other = JsonTokenizer(write_tokenizer(tmp_path / "other.json", {**WORDS, "fast": 4}))
    assert one.digest == same.digest != other.digest
    assert one.digest != ByteTokenizer().digest


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"{}", "is no tokenizer"),
        (b"\xff\xfe", "is no tokenizer"),
    ],
)
def test_bad_tokenizer_file(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorpusError, match=says) as caught:
        load_tokenizer(str(path))
    assert caught.value.remedy


def test_tokenizer_without_end_of_text(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json", {"the": 0, "[UNK]": 1})
    with pytest.raises(CorpusError, match="has no end of text"):
        load_tokenizer(str(path))
