"""Tokenizer files of exported models: the byte tokenizer says the same there as here, others are copied."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from swarmtrain.core.errors import CorpusError
from swarmtrain.data.hub_tokenizer import byte_tokenizer_json, tokenizer_spec, write_tokenizer
from swarmtrain.data.tokenizer import END_OF_TEXT_NAMES, ByteTokenizer, JsonTokenizer

THEIRS = Tokenizer.from_str(byte_tokenizer_json())


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_are_the_same_tokens_there(text: str) -> None:
    ids = [int(token) for token in ByteTokenizer().encode(text)]
    if END_OF_TEXT_NAMES[0] not in text:
        assert THEIRS.encode(text).ids == ids
    assert THEIRS.decode(ids) == ByteTokenizer().decode(ids) == text


def test_every_byte_and_the_end_of_text_have_their_place() -> None:
    assert THEIRS.get_vocab_size() == ByteTokenizer.vocab_size
    assert THEIRS.token_to_id(END_OF_TEXT_NAMES[0]) == ByteTokenizer.end_of_text
    for byte in range(128):
        assert THEIRS.encode(chr(byte)).ids == [byte]


def test_our_own_byte_tokenizer_is_known_again(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "bytes", 64)
    assert tokenizer_spec(tmp_path) == "bytes"
    assert JsonTokenizer(tmp_path / "tokenizer.json").end_of_text == ByteTokenizer.end_of_text
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (settings["eos_token"], settings["model_max_length"]) == (END_OF_TEXT_NAMES[0], 64)


def test_another_tokenizer_is_copied_with_its_kin(tmp_path: Path) -> None:
    source, target, bare = (tmp_path / name for name in ("source", "target", "bare"))
    for folder in (source, target, bare):
        folder.mkdir()
    changed = json.loads(byte_tokenizer_json())
    changed["added_tokens"][0]["content"] = "</s>"
    (source / "tokenizer.json").write_text(json.dumps(changed))
    write_tokenizer(bare, str(source / "tokenizer.json"), 64)
    assert json.loads((bare / "tokenizer_config.json").read_text())["eos_token"] == "</s>"
    (source / "tokenizer_config.json").write_text('{"mine": 1}')
    write_tokenizer(target, str(source / "tokenizer.json"), 64)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (target / name).read_bytes() == (source / name).read_bytes()
    assert tokenizer_spec(target) == str(target / "tokenizer.json")


def test_a_tokenizer_that_is_gone_is_missed(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is not here"):
        write_tokenizer(tmp_path, str(tmp_path / "gone.json"), 64)
