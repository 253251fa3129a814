"""Documents: which files are read, in which order, and what is said when there are none."""

import sys
import types
from pathlib import Path

import pytest

from swarmtrain.core.errors import CorpusError
from swarmtrain.data.corpus import read_documents, standard_library_files


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def test_standard_library_is_there_and_stable() -> None:
    documents = list(read_documents("stdlib"))
    assert sum(map(len, documents)) > 2_000_000
    assert documents == list(read_documents("stdlib"))
    assert any("class Thread" in document for document in documents)


def test_standard_library_leaves_out_what_differs_between_distributions(tmp_path: Path) -> None:
    kept = ["abc.py", "asyncio/tasks.py", "asyncio.py", "unittest/case.py"]
    left_out = [
        "site-packages/torch/nn.py",
        "test/test_abc.py",
        "unittest/tests/test_case.py",
        "tkinter/ttk.py",
        "idlelib/run.py",
        "lib2to3/pytree.py",
        "config-3.11-x86_64-linux-gnu/python-config.py",
        "_sysconfigdata__linux_x86_64.py",
        "sitecustomize.py",
        "README.txt",
    ]
    write(tmp_path, dict.fromkeys(kept + left_out, "x"))
    found = [file.relative_to(tmp_path).as_posix() for file in standard_library_files(tmp_path)]
    assert found == sorted(kept)


def test_text_folder_is_sorted_and_filtered(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "b.txt": "B",
            "a/z.md": "Z",
            "a.py": "A",
            "empty.txt": "",
            ".hidden/c.txt": "H",
            "d.bin": "D",
        },
    )
    assert list(read_documents(f"text:{tmp_path}")) == ["A", "Z", "B"]


def test_text_file_of_any_suffix(tmp_path: Path) -> None:
    (tmp_path / "novel").write_bytes(b"one\r\ntwo \xff")
    assert list(read_documents(f"text:{tmp_path / 'novel'}")) == ["one\ntwo �"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("text:{}/nothing", "there is no text"),
        ("text:{}", "holds no text"),
        ("text:", "is not known"),
        ("wikipedia", "is not known"),
    ],
)
def test_missing_text(tmp_path: Path, source: str, says: str) -> None:
    with pytest.raises(CorpusError, match=says) as caught:
        list(read_documents(source.format(tmp_path)))
    assert caught.value.remedy


def test_dataset_without_the_library_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r"pip install 'swarmtrain\[hub\]'"):
        read_documents("datasets:stories")


class Rows(list[dict[str, str]]):
    column_names = ("text",)


def fake_datasets(rows: Rows) -> types.ModuleType:
    module = types.ModuleType("datasets")

    def load_dataset(name: str, split: str) -> Rows:
        if name != "stories":
            raise FileNotFoundError(name)
        assert split == "train"
        return rows

    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    return module


def test_dataset_rows_are_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows([{"text": "one"}, {"text": ""}, {"text": "two"}])
    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(rows))
    assert list(read_documents("datasets:stories")) == ["one", "two"]
    with pytest.raises(CorpusError, match="cannot be loaded"):
        read_documents("datasets:unheard")
    monkeypatch.setattr(Rows, "column_names", ("story",))
    with pytest.raises(CorpusError, match="has no column 'text'"):
        read_documents("datasets:stories")
