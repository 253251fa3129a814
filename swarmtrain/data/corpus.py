"""Documents: the text a run learns from, in an order that is the same on every machine.

Sources, as `data.source` names them:
    stdlib           Python's own standard library, read from the running interpreter
    text:PATH        a file (one document), or a folder: all files with a suffix of TEXT_SUFFIXES below it, hidden
                     ones left out, sorted by relative path
    datasets:NAME    the column `text` of the train split of a Hugging Face dataset (optional extra `hub`)

Text is read as UTF-8 with universal newlines; undecodable bytes become U+FFFD; empty documents are left out.
Source `shards:FOLDER` holds tokens, not documents: see swarmtrain.data.shards.
"""

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from swarmtrain.core.errors import CorpusError

TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".py"})

# fmt: off
_STRIPPED_FOLDERS = frozenset({
    "__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3",
    "tkinter", "turtledemo", "distutils", "ensurepip", "venv", "pydoc_data", "lib-dynload",
})
# fmt: on
"""Folders that some distributions leave out of their standard library or patch."""

_LOCAL_PREFIXES = (
    "_sysconfigdata",
    "config-",
    "sitecustomize",
    "usercustomize",
    "_distutils_system_mod",
)
"""First letters of names that belong to one build or one machine."""


def read_documents(source: str) -> Iterator[str]:
    """The documents of `source`, in their fixed order. Raises CorpusError."""
    kind, _, name = source.partition(":")
    if source == "stdlib":
        return _read_files(standard_library_files(Path(sysconfig.get_path("stdlib"))), source)
    if kind == "text" and name:
        return _read_files(_text_files(Path(name)), source)
    if kind == "datasets" and name:
        return _read_dataset(name)
    raise CorpusError(
        f"the data source {source!r} is not known",
        "",
        'use data.source = "stdlib", "text:PATH", "shards:FOLDER" or "datasets:NAME"',
    )


def standard_library_files(folder: Path) -> list[Path]:
    """The .py files below `folder` that every distribution of one Python version has alike."""
    files = []
    # Pruned on the way down: site-packages may hold a hundred thousand files.
    for parent, folders, names in os.walk(folder):
        folders[:] = filter(_is_shared, folders)
        files += [Path(parent, name) for name in names if name.endswith(".py") and _is_shared(name)]
    return _sorted_below(folder, files)


def _is_shared(name: str) -> bool:
    return name not in _STRIPPED_FOLDERS and not name.startswith(_LOCAL_PREFIXES)


def _text_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise CorpusError(f"there is no text at {path}", "", "give an existing file or folder")

    def is_wanted(file: Path) -> bool:
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        return file.suffix in TEXT_SUFFIXES and not hidden and file.is_file()

    return _sorted_below(path, [file for file in path.rglob("*") if is_wanted(file)])


def _sorted_below(folder: Path, files: list[Path]) -> list[Path]:
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def _read_files(files: list[Path], source: str) -> Iterator[str]:
    if not files:
        raise CorpusError(
            f"the data source {source!r} holds no text",
            f"no readable files with suffix {', '.join(sorted(TEXT_SUFFIXES))} were found",
            "point data.source at other text",
        )
    return filter(None, map(_read_file, files))


def _read_file(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CorpusError(
            f"{file} cannot be read", str(error), "make it readable, or move it out of the folder"
        ) from error


def _read_dataset(name: str) -> Iterator[str]:
    try:
        import datasets  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise CorpusError(
            f"the data source 'datasets:{name}' needs the datasets library",
            "it is an optional part of the installation",
            "run: pip install 'swarmtrain[hub]'",
        ) from error
    try:
        rows = datasets.load_dataset(name, split="train")
    except Exception as error:  # network, hub and parsing errors share no base class
        raise CorpusError(
            f"the dataset {name!r} cannot be loaded", str(error), "check its name and the network"
        ) from error
    if "text" not in rows.column_names:
        raise CorpusError(
            f"the dataset {name!r} has no column 'text'",
            f"its columns are {', '.join(rows.column_names)}",
            "choose another dataset, or export it as text files",
        )
    return (row["text"] for row in rows if row["text"])
