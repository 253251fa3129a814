"""Reading and writing configurations: layers, overrides, round trips, files that cannot be read, shipped runs."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.config import (
    RunConfig,
    config_from_json,
    fields,
    load_config,
    origins,
    to_toml,
)
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.presets import PRESETS

RUNS = sorted((Path(__file__).parents[2] / "deploy" / "runs").glob("*.toml"))


def _write(folder: Path, **texts: str) -> list[Path]:
    paths = []
    for name, text in texts.items():
        path = folder / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


@st.composite
def configs(draw: st.DrawFn) -> RunConfig:
    """Valid configurations that differ from the default in every kind of value."""
    heads = draw(st.sampled_from([2, 4, 8]))
    text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
    sections: dict[str, Any] = {
        "run": {
            "name": draw(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z")),
            "seed": draw(st.integers(0, 2**63 - 1)),
            "steps": draw(st.integers(10, 10**9)),
        },
        "model": {
            "preset": draw(st.sampled_from([None, *PRESETS])),
            "heads": heads,
            "kv_heads": draw(st.sampled_from([1, 2])),
            "width": heads * 2 * draw(st.integers(1, 64)),
            "tied": draw(st.booleans()),
        },
        "data": {"tokenizer": draw(text), "source": "text:" + draw(text)},
        "train": {"accumulation": draw(st.sampled_from(["exact", "fast"]))},
        "paths": {"skip": draw(st.floats(0, 0.2)), "protected": draw(st.sampled_from([(), (1,)]))},
        "optimizer": {"learning_rate": draw(st.floats(1e-12, 1.0)), "epsilon": draw(st.floats(1e-20, 1))},
        "limits": {"message_bytes": draw(st.integers(128 << 20, 1 << 32))},
    }  # fmt: skip
    return RunConfig(**sections)


def test_defaults_need_no_file() -> None:
    assert load_config(()) == RunConfig()


def test_later_files_win_setting_by_setting(tmp_path: Path) -> None:
    paths = _write(tmp_path, a="[run]\nsteps = 50\nseed = 3\n", b="[run]\nsteps = 60\n")
    config = load_config(paths)
    assert (config.run.steps, config.run.seed) == (60, 3)


def test_set_wins_over_files(tmp_path: Path) -> None:
    paths = _write(tmp_path, a="[run]\nsteps = 50\n")
    assert load_config(paths, ["run.steps=70", "run.steps=80"]).run.steps == 80


def test_extends_is_relative_to_its_file_and_loses_to_it(tmp_path: Path) -> None:
    (tmp_path / "bases").mkdir()
    _write(tmp_path / "bases", base="[run]\nsteps = 50\nseed = 3\n")
    (path,) = _write(tmp_path, run='extends = "bases/base.toml"\n[run]\nsteps = 60\n')
    config = load_config([path])
    assert (config.run.steps, config.run.seed) == (60, 3)


def test_two_files_may_extend_the_same_one(tmp_path: Path) -> None:
    _, *paths = _write(
        tmp_path,
        base="[run]\nseed = 3\n",
        a='extends = "base.toml"\n[run]\nseed = 4\n',
        b='extends = "base.toml"\n[run]\nsteps = 60\n',
    )
    # A file brings its base along, so the base of the later file wins over the earlier file.
    assert load_config(paths).run.seed == 3


def test_a_cycle_of_extends_is_an_error(tmp_path: Path) -> None:
    paths = _write(tmp_path, a='extends = "b.toml"\n', b='extends = "./a.toml"\n')
    with pytest.raises(ConfigError, match="extends itself") as caught:
        load_config(paths[:1])
    assert "a.toml" in caught.value.why
    assert "b.toml" in caught.value.why


def test_preset_fills_what_is_not_set(tmp_path: Path) -> None:
    paths = _write(tmp_path, a="[model]\nwidth = 192\n")
    model = load_config(paths, ["model.preset=tiny"]).model
    assert model.width == 192, "a setting wins over a preset, also over one named later"
    assert model.ffn_width == PRESETS["tiny"].shape["ffn_width"]


def test_origins_name_the_layer(tmp_path: Path) -> None:
    base, top = _write(
        tmp_path, base="[run]\nseed = 3\nsteps = 50\n", top='extends = "base.toml"\n[run]\nsteps = 60\n'
    )  # fmt: skip
    found = origins([top], ["model.preset=nano", "model.heads=2"])
    assert found["run.steps"] == str(top)
    assert found["run.seed"] == str(base)
    assert found["model.heads"] == "--set"
    assert found["model.width"] == "preset nano"
    assert found["run.name"] == "default"
    assert list(found) == [f"{section}.{key}" for section, key, _ in fields()]


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.microbatches=16", "train", "microbatches", 16),
        (" train.microbatches = 16 ", "train", "microbatches", 16),
        ("wire.codec=bf16", "wire", "codec", "bf16"),
        ('wire.codec="bf16"', "wire", "codec", "bf16"),
        ("model.tied=true", "model", "tied", True),
        ("optimizer.learning_rate=1e-4", "optimizer", "learning_rate", 1e-4),
        ("optimizer.learning_rate=1", "optimizer", "learning_rate", 1.0),
        ("limits.message_bytes=64MiB", "limits", "message_bytes", 64 << 20),
        ("limits.message_bytes=67108864", "limits", "message_bytes", 64 << 20),
        ("data.source=text:/a=b/c.txt", "data", "source", "text:/a=b/c.txt"),
        ("run.name=2024-01-01", "run", "name", "2024-01-01"),
        ("paths.protected=[1, 2]", "paths", "protected", (1, 2)),
    ],
)
def test_overrides_are_toml_or_bare_words(
    override: str, section: str, key: str, value: object
) -> None:
    found = getattr(getattr(load_config((), [override]), section), key)
    assert found == value
    assert type(found) is type(value)


def test_an_override_cannot_bring_in_a_second_key() -> None:
    config = load_config((), ['data.tokenizer="a"\nother = 1'])
    assert config.data.tokenizer == '"a"\nother = 1'


@settings(max_examples=60, deadline=None)
@given(configs())
def test_json_and_toml_round_trip(
    tmp_path_factory: pytest.TempPathFactory, config: RunConfig
) -> None:
    assert config_from_json(config.to_json()) == config
    path = tmp_path_factory.mktemp("toml") / "config.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert load_config([path]) == config
    assert load_config([path]).hash == config.hash


def test_control_characters_survive_toml(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"data": {"tokenizer": 'a\t"\\\n\x7f\x1f\U0001f41d'}})
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert load_config([path]) == config


@pytest.mark.parametrize("override", ["steps=3", "run.steps", "run=3", ".steps=3", "run.=3"])
def test_misshapen_overrides_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_config((), [override])


def test_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file") as caught:
        load_config([tmp_path / "none.toml"])
    assert "config init" in caught.value.remedy


def test_missing_base_is_named(tmp_path: Path) -> None:
    paths = _write(tmp_path, a='extends = "none.toml"\n')
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read"):
        load_config(paths)


def test_bad_toml_gives_the_place(tmp_path: Path) -> None:
    paths = _write(tmp_path, a="[run]\nsteps = \n")
    with pytest.raises(ConfigError, match=r"at line 2, column 9"):
        load_config(paths)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"[run]\nname = '\xff'\n")
    with pytest.raises(ConfigError, match="byte 14 is not UTF-8"):
        load_config([path])


@pytest.mark.parametrize("extends", ["3", '["a.toml"]'])
def test_extends_must_be_one_path(tmp_path: Path, extends: str) -> None:
    paths = _write(tmp_path, a=f"extends = {extends}\n")
    with pytest.raises(ConfigError, match="extends"):
        load_config(paths)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_shipped_runs_load(path: Path) -> None:
    assert load_config([path]).run.name == path.stem


def test_shipped_runs_are_these() -> None:
    assert {"demo", "equality", "small", "tied"} <= {path.stem for path in RUNS}


def test_shipped_equality_runs_are_exact() -> None:
    for path in RUNS:
        if path.stem in ("equality", "tied"):
            config = load_config([path])
            assert config.train.accumulation == "exact"
            assert config.wire.codec == "none"
            assert config.limits.threads == 1


def test_planned_visits_need_a_planner() -> None:
    load_config((), ["paths.visits=planned", "planner.use=true"])
    with pytest.raises(ConfigError, match="needs a planner"):
        load_config((), ["paths.visits=planned"])
