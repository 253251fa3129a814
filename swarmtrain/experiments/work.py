"""What the result of a run follows from, as hashes: its settings, its corpus, the code that it names, the program.

A folder whose record has other hashes holds another run, and what differs says why it is done again.
"""

import hashlib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from swarmtrain.core.config import DataSection, RunConfig
from swarmtrain.core.errors import ConfigError
from swarmtrain.data.stream import load_corpus

PACKAGE = Path(__file__).parents[1]

_CHANGED = {
    "settings_sha256": "settings changed",
    "program_sha256": "program changed",
    "corpus_sha256": "corpus changed",
    "named_code_sha256": "rule, model family or codec changed",
}


@dataclass(frozen=True, slots=True)
class Work:
    """Hex SHA-256 of each part; empty where a run has no such part."""

    settings_sha256: str
    program_sha256: str
    corpus_sha256: str = ""
    named_code_sha256: str = ""

    @property
    def sha256(self) -> str:
        """Of all parts: equal for equal work."""
        return _sha256(" ".join(asdict(self).values()).encode())

    def entries(self) -> dict[str, str]:
        """For a run's record: the parts, and `work_sha256` of all of them."""
        return {**asdict(self), "work_sha256": self.sha256}

    def changes(self, record: Mapping[str, Any]) -> list[str]:
        """In words, what is other here than in a run's `record`."""
        if not _CHANGED.keys() <= record.keys():
            return ["program changed"]  # one that kept no such record
        mine = self.entries()
        return [said for part, said in _CHANGED.items() if record[part] != mine[part]]


class Sources:
    """Reads what runs follow from, and everything only once: one of it is good for one command."""

    def __init__(self) -> None:
        self._corpora: dict[DataSection, str] = {}

    @cached_property
    def _program_sha256(self) -> str:
        return program_sha256()

    def work(self, settings: str, config: RunConfig | None) -> Work:
        """Of a run with these `settings` in words; `config` is None where nothing is trained.

        Raises ConfigError for code that is not there, CorpusError for a corpus.
        """
        settings_sha256 = _sha256(settings.encode())
        if config is None:
            return Work(settings_sha256, self._program_sha256)
        if config.data not in self._corpora:
            self._corpora[config.data] = load_corpus(config.data, None).digest
        names = [
            (key, name)
            for key, name in (
                ("planner.wiring", config.planner.wiring),
                ("model.family", config.model.family),
                ("outer.codec", config.outer.codec),
            )
            if ":" in name
        ]
        code = b"".join(_source_of(key, name).read_bytes() for key, name in names)
        code_sha256 = _sha256(code) if names else ""
        return Work(settings_sha256, self._program_sha256, self._corpora[config.data], code_sha256)


def program_sha256() -> str:
    """Over the names and contents of all source files of this package."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(PACKAGE).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _source_of(key: str, name: str) -> Path:
    """The file of the module that `name` ("package.module:attribute") names. Raises ConfigError."""
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(name.partition(":")[0])
        why = "Python finds no such module"
    except Exception as error:  # the packages around it are imported, which may raise anything
        spec, why = None, f"{type(error).__name__}: {error}"
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(
            f"{key} = {name!r} cannot be found",
            why,
            "check the name, and that Python finds the module: PYTHONPATH=. for one beside you",
        )
    return Path(spec.origin)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
