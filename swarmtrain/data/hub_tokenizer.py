"""Tokenizer files of an exported model: for the byte tokenizer made here, for a tokenizer.json copied with its kin."""

import json
import shutil
from functools import cache
from pathlib import Path

from swarmtrain.core.errors import CorpusError
from swarmtrain.data.tokenizer import END_OF_TEXT_NAMES

TOKENIZER_FILE, TOKENIZER_CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
_KIN = (TOKENIZER_CONFIG_FILE, "special_tokens_map.json", "chat_template.jinja")
"""Files that published models keep beside a tokenizer.json."""


@cache
def byte_tokenizer_json() -> str:
    """The byte tokenizer as a tokenizer.json: a token for each byte, no merges, and the end of a text."""
    from tokenizers import AddedToken, decoders, pre_tokenizers
    from tokenizers import Tokenizer as HubTokenizer
    from tokenizers.models import BPE

    ids = {_character(byte): byte for byte in range(256)}
    tokenizer = HubTokenizer(BPE(vocab=ids, merges=[]))
    # The regular expression would only cut the text into words, which no merge could cross.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT_NAMES[0], special=True, normalized=False)])
    return tokenizer.to_str(pretty=False)


def write_tokenizer(folder: Path, spec: str, context_tokens: int) -> None:
    """The files of `data.tokenizer` = `spec` in `folder`. Raises CorpusError or OSError."""
    if spec == "bytes":
        (folder / TOKENIZER_FILE).write_text(byte_tokenizer_json(), encoding="utf-8")
        _write_config(folder, END_OF_TEXT_NAMES[0], context_tokens)
        return
    source = Path(spec)
    if not source.is_file():
        raise CorpusError(
            f"the run's tokenizer {source} is not here",
            "the exported model would have none",
            "run the command where that file lies, or put a copy there",
        )
    shutil.copyfile(source, folder / TOKENIZER_FILE)
    for name in _KIN:
        if (source.parent / name).is_file():
            shutil.copyfile(source.parent / name, folder / name)
    if not (folder / TOKENIZER_CONFIG_FILE).exists():
        _write_config(folder, _end_of_text_name(source), context_tokens)


def tokenizer_spec(folder: Path) -> str:
    """What `data.tokenizer` has to be for the model in `folder`: bytes where it has none, or our own byte tokenizer."""
    path = folder / TOKENIZER_FILE
    if not path.is_file() or path.read_bytes() == byte_tokenizer_json().encode():
        return "bytes"
    return str(path)


def _write_config(folder: Path, end_of_text: str, context_tokens: int) -> None:
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_of_text,
        "model_max_length": context_tokens,
        "clean_up_tokenization_spaces": False,
    }
    path = folder / TOKENIZER_CONFIG_FILE
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _end_of_text_name(path: Path) -> str:
    """The name behind `end_of_text` of the tokenizer at `path`, which this package read before."""
    from tokenizers import Tokenizer as HubTokenizer

    ids = HubTokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    return next(name for name in END_OF_TEXT_NAMES if name in ids)


def _character(byte: int) -> str:
    """The character that stands for a byte in byte-level tokenizers: itself where it prints, else one from 256 on."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printed:
        return chr(byte)
    others = [other for other in range(256) if other not in printed]
    return chr(256 + others.index(byte))
