"""Configuration errors: each names the key, the value, what was expected, and what to do."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.config import config_from_json, load_config
from swarmtrain.core.errors import ConfigError


def _error(*overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config((), overrides)
    return caught.value


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("train.microbatchs=3", "did you mean train.microbatches?"),
        ("train.learning_rate=1", "did you mean optimizer.learning_rate?"),
        ("trian.steps=2", "did you mean train?"),
        ("run.zzz=1", "[run] has name, seed, steps"),
        ("qqqq.zzz=1", "the sections are run, model, data"),
    ],
)
def test_unknown_keys_are_refused_with_a_hint(override: str, remedy: str) -> None:
    error = _error(override)
    assert remedy in error.remedy
    assert "--set" in error.what


def test_a_setting_outside_its_section_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("steps = 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"did you mean run\.steps") as caught:
        load_config([path])
    assert str(path) in caught.value.what


@pytest.mark.parametrize(
    ("override", "must"),
    [
        ("run.steps=eight", "valid integer"),
        ("run.steps=0", "greater than or equal to 1"),
        ("run.steps=2.5", "valid integer"),
        ("run.seed=true", "valid integer"),
        ("run.name=../../etc", "match"),
        ("model.tied=1", "valid boolean"),
        ("model.stages=513", "less than or equal to 512"),
        ("model.stages=[1]", "valid integer"),
        ("model.family=os.system", "match"),
        ("data.source=nowhere", "match"),
        ("data.held_out=1.0", "less than 1"),
        ("train.microbatches=4097", "less than or equal to 4096"),
        ("wire.codec=fp8", "'none', 'bf16' or 'int8'"),
        ("wire.zstd_level=20", "less than or equal to 19"),
        ("optimizer.learning_rate=nan", "finite"),
        ("optimizer.clip_norm=inf", "finite"),
        ("limits.message_bytes=3apples", "'3apples' is not a quantity"),
        ("links.chunk_bytes=2MiB", "less than or equal to 1048576"),
    ],
)
def test_wrong_values_name_key_value_and_expectation(override: str, must: str) -> None:
    error = _error(override)
    key, value = override.split("=")
    assert error.what.startswith(f"{key} = ")
    assert value.lower() in error.what.lower() or "2097152" in error.what
    assert must in error.why
    assert key in error.remedy
    assert error.exit_code == 2


def test_several_mistakes_are_told_at_once() -> None:
    error = _error("run.steps=eight", "train.x=1", "wire.codec=no")
    assert "3 settings" in error.what
    assert all(key in error.why for key in ("run.steps", "train.x", "wire.codec"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        '"run"',
        "[" * 100_000,
        '{"run": 3}',
        '{"run": null}',
        '{"x": {}}',
        '{"extends": "/etc/passwd"}',
        '{"run": {"seed": NaN}}',
        '{"run": {"seed": 1e400}}',
        '{"run": {"seed": 99999999999999999999}}',
        '{"run": {"steps": "5"}}',
        '{"run": {"name": "\\ud800"}}',
        '{"model": {"preset": []}}',
        '{"model": {"preset": "x"}}',
        '{"run": {"name": "' + "a" * 10_000 + '"}}',
    ],
)
def test_bad_json_from_the_network_is_a_short_config_error(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_json(text)
    assert len(str(caught.value)) < 600


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["run", "model", "preset", "stages", "train", "x", "limits", "message_bytes"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=10,
    )
)
def test_arbitrary_json_is_a_configuration_or_a_config_error(value: object) -> None:
    try:
        config = config_from_json(json.dumps(value))
    except ConfigError:
        return
    assert config_from_json(config.to_json()) == config
