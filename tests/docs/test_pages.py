"""The pages on one's own model, data, tokenizer and codec and on experiments: every block of code is run, in order, in
an empty folder.

A block's first line says what it is: `python NAME` and `toml NAME` are files to write, `python` is run, `sh` are
commands; `sh slow` starts processes and is run by the slow tests only.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from swarmtrain.cli.app import main

ROOT = Path(__file__).parents[2]
PAGES = ("own_model", "own_data", "own_tokenizer", "own_codec", "experiments")
_BLOCK = re.compile(r"^```([a-z]+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code: its language, what stands beside that, and its text."""

    language: str
    note: str
    text: str


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found = [Block(match[1], match[2].strip(), match[3]) for match in _BLOCK.finditer(text)]
    assert 2 * len(found) == len(re.findall("^```", text, re.MULTILINE)), "a block is not closed"
    return found


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty folder, no network, and no modules of the page left behind."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) is not None and str(tmp_path) in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_works_as_it_stands(
    page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for block in blocks_of(page):
        if block.note == "slow":
            continue
        if block.note:
            Path(block.note).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, f"{page}.md", "exec"), {"__name__": "page"})
        else:
            assert block.language == "sh"
            for line in block.text.splitlines():
                in_this_process(line, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_works_in_a_shell(page: str) -> None:
    """As a reader would: every command a process, those that start peers as well."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    for block in blocks_of(page):
        if block.language != "sh" and block.note:
            Path(block.note).write_text(block.text, encoding="utf-8")
            continue
        command = ["bash", "-ec"] if block.language == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*command, block.text],
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"


def in_this_process(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A `swarmtrain` command; only with PYTHONPATH=. does it find the modules beside it, as in a shell."""
    words = shlex.split(line)
    path = [entry for entry in sys.path if entry not in ("", str(Path.cwd()))]
    if words[0] == "PYTHONPATH=.":
        path = [str(Path.cwd()), *path]
        words = words[1:]
    assert words[0] == "swarmtrain"
    with monkeypatch.context() as patched:
        patched.setattr(sys, "path", path)
        patched.setattr(sys, "argv", words)
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, f"{line}\n{capsys.readouterr()}"


def test_pages_show_every_kind_of_block() -> None:
    kinds = {(block.language, bool(block.note)) for page in PAGES for block in blocks_of(page)}
    assert kinds == {
        ("python", False),
        ("python", True),
        ("toml", True),
        ("sh", False),
        ("sh", True),
    }
