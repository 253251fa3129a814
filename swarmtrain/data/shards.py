"""Token shards: a folder of memory-mapped .bin files and an index.json that vouches for them.

    index.json  {"version": 1, "dtype": "uint16" | "uint32", "vocab_size": V, "tokenizer": hex digest,
                 "shards": [{"file": name, "tokens": count, "sha256": hex digest}, ...]}

A .bin file is nothing but little-endian tokens. Files are written beside their place, synced and renamed, the
index last: a folder with an index is whole. Nothing in the index is believed: names must stay in the folder,
sizes must agree, and on opening every hash and every token id is checked (one sequential read).
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from swarmtrain.core.errors import CorpusError
from swarmtrain.core.types import Digest
from swarmtrain.data.tokenizer import TokenArray, token_dtype

VERSION = 1
INDEX_NAME = "index.json"
INDEX_LIMIT_BYTES = 16 << 20
SHARD_TOKENS = 1 << 26
_CHECK_TOKENS = 1 << 20
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


class TokenShards:
    """A corpus on disk, read as if it were one array of `len(shards)` tokens; nothing is loaded up front."""

    def __init__(self, pieces: list[TokenArray], vocab_size: int, tokenizer_digest: Digest) -> None:
        self.pieces = pieces
        """One memory map a shard, in order."""
        self.vocab_size = vocab_size
        self.tokenizer_digest = tokenizer_digest
        self._ends = np.cumsum([len(piece) for piece in pieces])

    @staticmethod
    def open(folder: Path, verify: bool = True) -> "TokenShards":
        """Open a folder of shards; without `verify`, hashes and token ids are taken on trust.

        Raises:
            CorpusError: the folder is not whole or not what its index claims.
        """
        index = _read_index(folder)
        pieces = [_open_shard(folder, index, entry, verify) for entry in index["shards"]]
        return TokenShards(pieces, index["vocab_size"], bytes.fromhex(index["tokenizer"]))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, window: slice) -> TokenArray:
        """Tokens `window.start`..`window.stop` (step 1): a view inside one shard, a copy across shards."""
        start, stop, step = window.indices(len(self))
        if step != 1:
            raise ValueError("token shards are read in order, with step 1")
        first = int(np.searchsorted(self._ends, start, side="right"))
        parts: list[TokenArray] = []
        while start < stop:
            piece = self.pieces[first]
            offset = start - (int(self._ends[first]) - len(piece))
            parts.append(piece[offset : offset + stop - start])
            start += len(parts[-1])
            first += 1
        if not parts:
            return self.pieces[0][:0]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def write_shards(
    folder: Path,
    token_arrays: Iterable[TokenArray],
    vocab_size: int,
    tokenizer_digest: Digest,
    shard_tokens: int = SHARD_TOKENS,
) -> None:
    """Write the joined `token_arrays` as shards of `shard_tokens` tokens; memory stays at one shard.

    Raises:
        CorpusError: no tokens, or one that is not below `vocab_size`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for number, tokens in enumerate(_in_shards(token_arrays, shard_tokens)):
        if int(tokens.max()) >= vocab_size:
            raise CorpusError(
                f"token {int(tokens.max())} does not fit the vocabulary",
                f"ids must be below {vocab_size}",
                "tokenise with the tokenizer that the vocabulary size belongs to",
            )
        content = tokens.astype(token_dtype(vocab_size)).tobytes()
        name = f"tokens_{number:05d}.bin"
        _write_whole(folder / name, content)
        shards.append(
            {"file": name, "tokens": len(tokens), "sha256": hashlib.sha256(content).hexdigest()}
        )
    if not shards:
        raise CorpusError("there are no tokens to write", "the corpus is empty")
    index = {
        "version": VERSION,
        "dtype": token_dtype(vocab_size).name,
        "vocab_size": vocab_size,
        "tokenizer": tokenizer_digest.hex(),
        "shards": shards,
    }
    _write_whole(folder / INDEX_NAME, json.dumps(index, indent=1).encode())


def _in_shards(token_arrays: Iterable[TokenArray], shard_tokens: int) -> Iterator[TokenArray]:
    """Regroup arrays of any length into arrays of `shard_tokens` (the last one may be shorter)."""
    waiting: list[TokenArray] = []
    waiting_tokens = 0
    for tokens in token_arrays:
        while len(tokens):
            part = tokens[: shard_tokens - waiting_tokens]
            waiting.append(part)
            waiting_tokens += len(part)
            tokens = tokens[len(part) :]
            if waiting_tokens == shard_tokens:
                yield np.concatenate(waiting)
                waiting, waiting_tokens = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _write_whole(path: Path, content: bytes) -> None:
    """Write so that `path` is either absent, old, or complete; several processes may write it at once."""
    own = path.with_name(f".{path.name}.{os.getpid()}")
    with own.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(own, path)


def _damaged(folder: Path, why: str) -> CorpusError:
    return CorpusError(
        f"the token shards in {folder} are damaged",
        why,
        "write the shards again, or fetch them again",
    )


def _read_index(folder: Path) -> dict[str, Any]:
    """The index with every field of the right type and range; files are checked in `_open_shard`."""
    path = folder / INDEX_NAME
    if not path.is_file():
        raise CorpusError(
            f"there are no token shards in {folder}",
            f"{INDEX_NAME} is missing: the folder is another one, or was not written to its end",
            "give the folder of finished shards",
        )
    if path.stat().st_size > INDEX_LIMIT_BYTES:
        raise _damaged(folder, f"{INDEX_NAME} is longer than {INDEX_LIMIT_BYTES} bytes")
    try:
        index = json.loads(path.read_bytes())
        problem = _index_problem(index)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged(folder, f"{INDEX_NAME}: {type(error).__name__}: {error}") from error
    if problem:
        raise _damaged(folder, f"{INDEX_NAME}: {problem}")
    checked: dict[str, Any] = index
    return checked


def _index_problem(index: Any) -> str:
    """What is wrong with the parsed index, or an empty string. May raise KeyError or TypeError as well."""
    if index["version"] != VERSION:
        return f"version {index['version']!r} is not {VERSION}"
    vocab_size = index["vocab_size"]
    if type(vocab_size) is not int or not 1 <= vocab_size <= 1 << 32:
        return f"vocab_size {vocab_size!r} is not a whole number from 1 to 2**32"
    if index["dtype"] != token_dtype(vocab_size).name:
        return f"dtype {index['dtype']!r} is not {token_dtype(vocab_size).name}, which {vocab_size} tokens need"
    if len(bytes.fromhex(index["tokenizer"])) != 32:
        return "tokenizer is no SHA-256 digest"
    if type(index["shards"]) is not list or not index["shards"]:
        return "it lists no shards"
    for shard in index["shards"]:
        if type(shard["tokens"]) is not int or shard["tokens"] < 1:
            return f"a shard of {shard['tokens']!r} tokens"
        if len(bytes.fromhex(shard["sha256"])) != 32:
            return "sha256 is no SHA-256 digest"
        if type(shard["file"]) is not str or not _FILE_NAME.fullmatch(shard["file"]):
            return f"a file called {shard['file']!r}"
    return ""


def _open_shard(
    folder: Path, index: dict[str, Any], entry: dict[str, Any], verify: bool
) -> TokenArray:
    name, dtype = entry["file"], token_dtype(index["vocab_size"])
    path = (folder / name).resolve()
    if path.parent != folder.resolve():
        raise _damaged(folder, f"{name!r} lies outside the folder")
    if not path.is_file():
        raise _damaged(folder, f"{name} is missing")
    if path.stat().st_size != entry["tokens"] * dtype.itemsize:
        claimed = entry["tokens"] * dtype.itemsize
        raise _damaged(folder, f"{name} has {path.stat().st_size} bytes, the index says {claimed}")
    tokens: TokenArray = np.memmap(path, dtype, mode="r")
    if not verify:
        return tokens
    digest, highest = hashlib.sha256(), 0
    for start in range(0, len(tokens), _CHECK_TOKENS):
        part = tokens[start : start + _CHECK_TOKENS]
        digest.update(part.data)
        highest = max(highest, int(part.max()))
    if digest.hexdigest() != entry["sha256"]:
        raise _damaged(folder, f"{name} has another SHA-256 than the index says")
    if highest >= index["vocab_size"]:
        raise _damaged(
            folder, f"{name} holds token {highest}, the vocabulary has {index['vocab_size']}"
        )
    return tokens
