"""Token shards: what is written is read back, across files, and nothing damaged is believed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.errors import CorpusError
from swarmtrain.data.shards import INDEX_NAME, TokenShards, write_shards

DIGEST = bytes(range(32))
VOCAB_SIZE = 300
TOKENS = np.arange(1000, dtype=np.uint16) % VOCAB_SIZE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """1000 tokens in four shards, the last one shorter."""
    write_shards(tmp_path, [TOKENS[:10], TOKENS[10:10], TOKENS[10:]], VOCAB_SIZE, DIGEST, 300)
    return tmp_path


def edit_index(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    edit(index)
    (folder / INDEX_NAME).write_text(json.dumps(index))


def test_round_trip(folder: Path) -> None:
    shards = TokenShards.open(folder)
    assert (len(shards), len(shards.pieces)) == (1000, 4)
    assert (shards.vocab_size, shards.tokenizer_digest) == (VOCAB_SIZE, DIGEST)
    assert np.array_equal(shards[:], TOKENS)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_every_window_equals_that_of_the_array(tmp_path: Path) -> None:
    write_shards(tmp_path, [TOKENS[:40]], VOCAB_SIZE, DIGEST, 7)
    shards = TokenShards.open(tmp_path)

    @given(st.integers(-50, 50), st.integers(-50, 50))
    def check(start: int, stop: int) -> None:
        assert np.array_equal(shards[start:stop], TOKENS[:40][start:stop])

    check()


def test_a_window_inside_one_shard_is_not_copied(folder: Path) -> None:
    shards = TokenShards.open(folder)
    assert np.shares_memory(shards[10:20], shards.pieces[0])
    assert np.shares_memory(shards[300:600], shards.pieces[1])
    with pytest.raises(ValueError, match="step 1"):
        shards[::2]


def test_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    tokens = np.array([0, 70_000, 5], np.uint32)
    write_shards(tmp_path, [tokens], 70_001, DIGEST)
    assert (tmp_path / "tokens_00000.bin").stat().st_size == 12
    assert np.array_equal(TokenShards.open(tmp_path)[:], tokens)


@pytest.mark.parametrize("tokens", [np.array([300], np.uint16), np.array([], np.uint16)])
def test_writing_refuses_what_could_not_be_read(tmp_path: Path, tokens: Any) -> None:
    with pytest.raises(CorpusError):
        write_shards(tmp_path, [tokens], VOCAB_SIZE, DIGEST)
    assert not (tmp_path / INDEX_NAME).exists()


def test_interrupted_writing_leaves_no_index(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Any]:
        yield TOKENS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path, interrupted(), VOCAB_SIZE, DIGEST, 300)
    assert list(tmp_path.glob("*.bin"))
    with pytest.raises(CorpusError, match="there are no token shards"):
        TokenShards.open(tmp_path)


def test_a_second_writer_does_not_disturb_a_reader(folder: Path) -> None:
    shards = TokenShards.open(folder)
    write_shards(folder, [TOKENS[::-1]], VOCAB_SIZE, DIGEST, 300)
    assert np.array_equal(shards[:], TOKENS)
    assert np.array_equal(TokenShards.open(folder)[:], TOKENS[::-1])


def test_flipped_bit_is_found_unless_told_not_to_look(folder: Path) -> None:
    content = bytearray((folder / "tokens_00001.bin").read_bytes())
    content[100] ^= 1
    (folder / "tokens_00001.bin").write_bytes(content)
    with pytest.raises(CorpusError, match=r"tokens_00001\.bin has another SHA-256"):
        TokenShards.open(folder)
    assert len(TokenShards.open(folder, verify=False)) == 1000


def test_truncated_file_is_found_always(folder: Path) -> None:
    content = (folder / "tokens_00002.bin").read_bytes()
    (folder / "tokens_00002.bin").write_bytes(content[:-2])
    with pytest.raises(CorpusError, match="has 598 bytes, the index says 600"):
        TokenShards.open(folder, verify=False)


def test_token_beyond_the_vocabulary(folder: Path) -> None:
    edit_index(folder, lambda index: index.update(vocab_size=299))
    with pytest.raises(CorpusError, match="holds token 299"):
        TokenShards.open(folder)


@pytest.mark.parametrize(
    "name", ["../outside.bin", "/etc/hosts", "..", "", "a/b.bin", "x\0y", 7, ".x"]
)
def test_names_that_leave_the_folder(folder: Path, name: Any) -> None:
    (folder.parent / "outside.bin").write_bytes(TOKENS[:300].tobytes())
    edit_index(folder, lambda index: index["shards"][0].update(file=name))
    with pytest.raises(CorpusError, match="a file called"):
        TokenShards.open(folder, verify=False)


def test_link_out_of_the_folder(folder: Path) -> None:
    outside = folder.parent / "outside.bin"
    (folder / "tokens_00000.bin").rename(outside)
    (folder / "tokens_00000.bin").symlink_to(outside)
    with pytest.raises(CorpusError, match="lies outside the folder"):
        TokenShards.open(folder)


def test_missing_file_and_missing_index(folder: Path) -> None:
    (folder / "tokens_00003.bin").unlink()
    with pytest.raises(CorpusError, match=r"tokens_00003\.bin is missing"):
        TokenShards.open(folder)
    (folder / INDEX_NAME).unlink()
    with pytest.raises(CorpusError, match="there are no token shards"):
        TokenShards.open(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("dtype", "uint32"),
        ("dtype", "float32"),
        ("vocab_size", 0),
        ("vocab_size", True),
        ("vocab_size", "300"),
        ("vocab_size", 1 << 40),
        ("tokenizer", "00"),
        ("tokenizer", "zz" * 32),
        ("tokenizer", None),
        ("shards", []),
        ("shards", {}),
        ("shards", [1]),
        ("shards", [{"file": "tokens_00000.bin"}]),
        ("shards", [{"file": "tokens_00000.bin", "tokens": 300, "sha256": "00"}]),
        ("shards", [{"file": "tokens_00000.bin", "tokens": -1, "sha256": "00" * 32}]),
        ("shards", [{"file": "tokens_00000.bin", "tokens": 3e2, "sha256": "00" * 32}]),
    ],
)
def test_false_index(folder: Path, field: str, value: Any) -> None:
    edit_index(folder, lambda index: index.update({field: value}))
    with pytest.raises(CorpusError, match="are damaged"):
        TokenShards.open(folder, verify=False)


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"{}", b"\xff", b"[" * 100_000])
def test_index_that_is_no_index(folder: Path, content: bytes) -> None:
    (folder / INDEX_NAME).write_bytes(content)
    with pytest.raises(CorpusError, match="are damaged"):
        TokenShards.open(folder)


def test_an_endless_index_is_not_read(folder: Path) -> None:
    with (folder / INDEX_NAME).open("ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(CorpusError, match="longer than"):
        TokenShards.open(folder)
