"""`swarmtrain export` and the commands that read what it wrote, as programs call them."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from swarmtrain.cli.app import app
from swarmtrain.core.errors import ConfigError, LinkError, StateError
from swarmtrain.experiments.reference import Reference
from tests.experiments.runs import corpus, small_config


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a checkpoint of two steps."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    loop = Reference(small_config(steps=2), corpus(), corpus().tokenizer.vocab_size)
    list(loop.train())
    loop.save(folder / "checkpoint")
    return folder


def called(*arguments: object) -> str:
    outcome = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_programs_learn_what_was_written(run_folder: Path, tmp_path: Path) -> None:
    facts = json.loads(called("export", run_folder, tmp_path / "out", "-o", "json"))
    assert set(facts) == {"folder", "step", "which", "parameters", "files"}
    assert (facts["step"], facts["parameters"]) == (2, 125_376)
    assert set(facts["files"]) == {path.name for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ConfigError, match="is not empty"):
        called("export", run_folder, tmp_path / "out")
    assert "wrote" in called("export", run_folder, tmp_path / "out", "--force")


def test_eval_reads_another_corpus(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("aaaa bbbb " * 2000)
    own = json.loads(called("eval", run_folder, "--batches", 1, "-o", "json"))
    more = ("--data", f"text:{tmp_path}/text.txt", "--batches", 1, "-o", "json")
    other = json.loads(called("eval", run_folder, *more))
    assert own["step"] == other["step"] == 2 and own["eval_loss"] != other["eval_loss"]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("no-such-folder", StateError),
        ("no-such-folder:x", StateError),
        ("127.0.0.1:1", LinkError),
        ("[::1]:1", LinkError),
    ],
)
def test_a_source_is_a_folder_or_an_address(
    source: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        called("export", source, "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_may_be_called_like_an_address(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run:8765").symlink_to(run_folder)
    assert "step 2" in called("export", "run:8765", "out")
