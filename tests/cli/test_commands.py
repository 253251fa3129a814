"""The commands inside this process: options, refusals with what, why and remedy, and exit codes."""

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click
import pytest
from typer.main import get_command

from swarmtrain.cli.app import app, main
from swarmtrain.cli.host import parse_island, parse_stages
from swarmtrain.core.errors import ConfigError, Incompatible, LinkError, SwarmError
from swarmtrain.core.version import VERSION
from tests.experiments.runs import SMALL

SETTINGS = [part for setting in (*SMALL, "run.steps=2") for part in ("--set", setting)]


class Shell:
    """Runs the command line in this process, in a folder of its own."""

    def __init__(self, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments: object) -> tuple[int, str]:
        """The exit code, and output and errors in one line."""
        self._monkeypatch.setattr(sys, "argv", ["swarmtrain", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = self._capsys.readouterr()
        return code, " ".join((captured.out + captured.err).split())


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Shell(capsys, monkeypatch)


# ---- help and plain facts -------------------------------------------------------------------------------------------


def test_version(shell: Shell):
    assert shell("--version") == (0, VERSION)


def commands_of(group: click.Group, path: str = "") -> Iterator[str]:
    """Every command and group below `group`, as it is typed."""
    for name, command in group.commands.items():
        yield f"{path}{name}"
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{path}{name} ")


COMMANDS = tuple(commands_of(cast(click.Group, get_command(app))))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(shell: Shell, command: str):
    code, text = shell(*command.split(), "--help")
    assert code == 0 and f"Example: swarmtrain {command}" in text
    assert "'swarmtrain'" not in text, "an extra's name in brackets was taken for markup"


def test_exit_codes_are_documented_where_one_looks_first(shell: Shell):
    _, text = shell("--help")
    codes = {error.exit_code for error in (SwarmError, ConfigError, LinkError, Incompatible)}
    assert codes == {1, 2, 3, 4}
    assert "0 done, 1 error, 2 usage, 3 not reachable, 4 another version or run, 130" in text


def test_the_commands_other_programs_call_are_there():
    promised = (
        "up coordinator peer reference simulate plan experiment status doctor bench eval generate export config "
        "pause resume leave"
    )
    assert set(promised.split()) <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_prints_a_table_prints_json_too(shell: Shell, command: str):
    _, text = shell(*command.split(), "--help")
    if "--output" in text:
        code, refused = shell(*command.split(), "-o", "yaml")
        assert code == 2 and "'json'" in refused and "'table'" in refused


def test_an_unknown_command_is_a_usage_error(shell: Shell):
    code, text = shell("fly")
    assert code == 2 and "fly" in text


# ---- stages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "stages"),
    [("auto", None), ("0", (0,)), ("3", (3,)), ("0:1", (0, 1)), ("1:3", (1, 2, 3)), ("2:2", (2,))],
)
def test_stages_are_auto_one_or_a_range(text: str, stages: tuple[int, ...] | None):
    assert parse_stages(text) == stages


@pytest.mark.parametrize("text", ["", "x", "-1", "1:", ":1", "2:1", "1:2:3", "1,2", "1.0"])
def test_anything_else_names_no_stages(text: str):
    with pytest.raises(ConfigError, match="names no stages") as caught:
        parse_stages(text)
    assert caught.value.why and "1:3" in caught.value.remedy


@pytest.mark.parametrize("text", ["0:999999999999", "99999999999999999999"])
@pytest.mark.timeout(5)
def test_an_absurd_range_costs_no_memory(text: str):
    with pytest.raises(ConfigError):
        parse_stages(text)


@pytest.mark.parametrize(("text", "island"), [("auto", None), ("0", 0), ("9999", 9999)])
def test_an_island_is_auto_or_a_number(text: str, island: int | None):
    assert parse_island(text) == island


@pytest.mark.parametrize("text", ["", "x", "-1", "10000", "1.0", "0:1", "none"])
def test_anything_else_names_no_island(text: str):
    with pytest.raises(ConfigError, match="names no island") as caught:
        parse_island(text)
    assert caught.value.why and "auto" in caught.value.remedy


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["up", "coordinator", "reference"])
@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("nowhere.toml",), "nowhere.toml cannot be read"),
        (("--set", "train.microbatch=3"), "train.microbatch"),
        (("--set", "train.microbatches=0"), "train.microbatches = 0"),
        (("--set", "nonsense"), "--set 'nonsense' cannot be used"),
        (("--set", "model.width=30"), "does not split over model.heads"),
    ],
)
def test_a_bad_configuration_is_refused_before_anything_starts(
    shell: Shell, tmp_path: Path, command: str, arguments: tuple[str, ...], what: str
):
    code, text = shell(command, *arguments)
    assert code == 2
    assert what in text and "do:" in text and "Traceback" not in text
    assert list(tmp_path.iterdir()) == [], "no run folder was made"


def test_an_old_run_is_never_written_over(shell: Shell, tmp_path: Path):
    (tmp_path / "config.toml").write_text("old")
    code, text = shell("reference", *SETTINGS, "--out", tmp_path)
    assert code == 2
    assert "already holds a run why:" in text and "do: choose another --out" in text
    assert (tmp_path / "config.toml").read_text() == "old"


def test_a_folder_that_cannot_be_made_is_refused(shell: Shell, tmp_path: Path):
    (tmp_path / "file").write_text("")
    code, text = shell("reference", *SETTINGS, "--out", tmp_path / "file" / "run")
    assert code == 2 and "cannot be written" in text and "do:" in text


@pytest.mark.parametrize("command", ["eval", "generate", "export"])
def test_a_folder_without_a_checkpoint_is_refused(shell: Shell, tmp_path: Path, command: str):
    more = [tmp_path / "out"] if command == "export" else []
    code, text = shell(command, tmp_path, *more)
    assert code == 1 and text.startswith("error: ") and "do:" in text and "Traceback" not in text


@pytest.mark.parametrize(
    "command",
    [
        ("status", "127.0.0.1:1"),
        # This very process would become nice.
        ("peer", "--join", "127.0.0.1:1", "--join-timeout", "0s", "--nice", "0"),
        ("export", "127.0.0.1:1", "model"),
    ],
)
def test_nobody_at_an_address_is_said_plainly(shell: Shell, command: tuple[str, ...]):
    code, text = shell(*command)
    assert code == 3
    assert "error: cannot reach 127.0.0.1:1 why:" in text and "do: check the address" in text


@pytest.mark.parametrize(
    "content", ['run = "nowhere.toml"', "run = 3", "[world]\npeers = 0", "x = ["]
)
def test_a_bad_scenario_is_refused(shell: Shell, tmp_path: Path, content: str):
    (tmp_path / "scenario.toml").write_text(content)
    code, text = shell("simulate", tmp_path / "scenario.toml")
    assert code == 2 and text.startswith("error: ") and "do:" in text


# ---- runs in this process -------------------------------------------------------------------------------------------


def test_run_folders_are_numbered_and_steps_can_be_given(shell: Shell, tmp_path: Path):
    for number in (1, 2):
        code, text = shell("reference", *SETTINGS, "--steps", "1", "--set", "run.name=mine")
        assert code == 0, text
        folder = tmp_path / "runs" / f"mine-{number}"
        config = tomllib.loads((folder / "config.toml").read_text())
        assert (config["run"]["steps"], config["optimizer"]["warmup_steps"]) == (1, 1)
        assert json.loads((folder / "summary.json").read_text())["steps"] == 1


def test_simulate_ends_with_the_parameters_of_the_reference(shell: Shell, tmp_path: Path):
    code, text = shell("reference", *SETTINGS, "--out", tmp_path / "reference")
    assert code == 0, text
    (tmp_path / "scenario.toml").write_text('run = "reference/config.toml"\n[world]\npeers = 3\n')
    code, text = shell("simulate", tmp_path / "scenario.toml", "--out", tmp_path / "virtual")
    assert code == 0, text
    summaries = [
        json.loads((tmp_path / name / "summary.json").read_text())
        for name in ("reference", "virtual")
    ]
    assert summaries[0]["parameters_sha256"] == summaries[1]["parameters_sha256"]
    assert summaries[0].keys() <= summaries[1].keys()
    assert summaries[1]["peers"] == 3 and summaries[1]["bytes_sent"] > 0
    assert summaries[0]["bytes_per_token"] is None
    assert summaries[1]["bytes_per_token"] == summaries[1]["bytes_sent"] / summaries[1]["tokens"]
    for name in ("journal.jsonl", "metrics.jsonl", "config.toml"):
        assert (tmp_path / "virtual" / name).stat().st_size > 0


def test_simulate_takes_another_seed(shell: Shell, tmp_path: Path):
    (tmp_path / "run.toml").write_text('[model]\npreset = "nano"\n')
    (tmp_path / "scenario.toml").write_text('run = "run.toml"\n')
    digests = set()
    for seed in ("1", "2"):
        out = tmp_path / seed
        code, text = shell(
            "simulate", tmp_path / "scenario.toml", "--seed", seed, "--steps", "1", "--out", out
        )
        assert code == 0, text
        digests.add(json.loads((out / "summary.json").read_text())["parameters_sha256"])
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("arguments", "founders"),
    [
        (("--islands", 3), 3),
        (("--islands", 3, "--set", "outer.founders=1"), 1),
        ((), 1),
    ],
)
def test_islands_that_begin_together_found_their_group_together(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], founders: int
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("swarmtrain.cli.up.run_up", lambda config, *_: asked.append(config))
    rounds = ("--set", "outer.inner_steps=5")
    assert shell("up", *SETTINGS, *rounds, "--out", "here", *arguments)[0] == 0
    assert asked[0].outer.founders == founders


def test_a_run_that_goes_on_has_the_founders_it_began_with(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However many islands there are now; and other settings leave what it knows of itself as it is."""
    asked: list[Any] = []
    monkeypatch.setattr("swarmtrain.cli.up.run_up", lambda config, *_: asked.append(config))
    command = ("up", *SETTINGS, "--set", "outer.inner_steps=5", "--out", "here")
    for more in (("--islands", 3), ("--islands", 2, "--resume", "auto"), ("--resume", "auto")):
        code, text = shell(*command, *more)
        assert code == 0, text
    assert [config.outer.founders for config in asked] == [3, 3, 3]
    known = (tmp_path / "here" / "config.toml").read_text()
    code, text = shell(*command, "--resume", "auto", "--set", "run.seed=5")
    assert code != 0 and "holds a run with other settings" in text
    assert (tmp_path / "here" / "config.toml").read_text() == known
