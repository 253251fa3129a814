"""`swarmtrain config`: what it prints, what it writes, and that it stays light."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from swarmtrain.cli.config import app, starter_toml
from swarmtrain.core.config import RunConfig, config_from_json, fields, load_config
from swarmtrain.core.errors import SwarmError
from swarmtrain.core.presets import PRESETS
from swarmtrain.experiments.imported import settings_of
from tests.checkpoint.llamas import MODEL, write_llama

ROOT = Path(__file__).parents[2]


def _run(*arguments: str) -> str:
    outcome = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def _error(*arguments: str) -> SwarmError:
    """Errors reach the caller of the app, which turns them into text and an exit code."""
    with pytest.raises(SwarmError) as caught:
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    return caught.value


def test_show_prints_every_setting_with_its_origin() -> None:
    lines = _run("show", "--set", "model.preset=nano", "--set", "run.steps=77").splitlines()
    by_name = {line.split()[0]: line.split() for line in lines if "." in line.split(" ")[0]}
    assert all(f"{section}.{key}" in by_name for section, key, _ in fields())
    assert by_name["run.steps"] == ["run.steps", "77", "--set"]
    assert by_name["model.width"] == ["model.width", "64", "preset", "nano"]
    assert by_name["limits.message_bytes"] == ["limits.message_bytes", '"256MiB"', "default"]
    assert any(line.startswith("parameters") and "125,376" in line for line in lines)


def test_show_explains() -> None:
    output = _run("show", "--explain")
    assert all(str(entry.description) in output for _, _, entry in fields())
    assert all(preset.description in output for preset in PRESETS.values())


def test_show_json_can_be_read_back() -> None:
    shown = json.loads(_run("show", "-o", "json", "--set", "run.seed=9"))
    config = config_from_json(json.dumps(shown["config"]))
    assert config.run.seed == 9
    assert shown["hash"] == config.hash
    assert shown["origins"]["run.seed"] == "--set"


def test_show_toml_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "shown.toml"
    path.write_text(_run("show", "-o", "toml", "--set", "model.preset=tiny"), encoding="utf-8")
    assert load_config([path]) == load_config((), ["model.preset=tiny"])


def test_show_refuses_what_the_loader_refuses() -> None:
    assert "microbatchs" in _error("show", "--set", "train.microbatchs=3").what
    assert _error("show", "nowhere.toml").exit_code == 2


def test_init_writes_a_file_that_loads_and_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "RUN.toml"
    output = _run("init", str(path))
    assert f"swarmtrain up {path}" in output
    assert load_config([path]).model.preset == "tiny"
    path.write_text("mine", encoding="utf-8")
    assert "never overwrites" in _error("init", str(path)).why
    assert path.read_text(encoding="utf-8") == "mine"


def test_init_describes_the_model_to_continue(tmp_path: Path) -> None:
    folder, path = write_llama(tmp_path / "llama"), tmp_path / "RUN.toml"
    assert "learns bytes" in _run("init", str(path), "--from-hf", str(folder))
    config = load_config([path])
    assert (config.model.width, config.model.initial) == (MODEL.width, str(folder))
    assert config == load_config((), settings_of(folder))
    again = tmp_path / "again.toml"
    assert "there is no model" in _error("init", str(again), "--from-hf", str(tmp_path)).what
    assert not again.exists()


def test_init_into_a_missing_folder_is_explained(tmp_path: Path) -> None:
    assert "no such file" in _error("init", str(tmp_path / "none" / "RUN.toml")).why


def test_uncommenting_the_starter_changes_nothing(tmp_path: Path) -> None:
    text = starter_toml()
    names = {f"#{key} = " for _, key, _ in fields()}
    uncommented = "\n".join(
        line[1:] if line.startswith(tuple(names)) else line for line in text.splitlines()
    )
    assert uncommented != text
    as_is, open_ = tmp_path / "a.toml", tmp_path / "b.toml"
    as_is.write_text(text, encoding="utf-8")
    open_.write_text(uncommented, encoding="utf-8")
    assert load_config([open_]) == load_config([as_is])
    assert load_config([as_is]).run == RunConfig().run
    assert all(f"{key} = " in text and str(entry.description) in text for _, key, entry in fields())


def test_showing_a_configuration_imports_no_torch() -> None:
    code = (
        "import sys; from swarmtrain.cli.config import app; app(['show', '--explain'], standalone_mode=False);"
        "sys.exit(sorted({'torch', 'hivemind', 'grpc', 'numpy'} & set(sys.modules)) or 0)"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert outcome.returncode == 0, outcome.stderr
