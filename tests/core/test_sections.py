"""Sections: what they cover, what peers must agree on, and which combinations are impossible."""

import pytest
from pydantic import ValidationError

from swarmtrain.core.config import ModelSection, RunConfig, fields, load_config
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.presets import PRESETS

NOT_AGREED = {
    "run.name=other",
    "limits.threads=2",
    "limits.message_bytes=64MiB",
    "links.silence_seconds=9.0",
    "swarm.min_peers=2",
}


@pytest.mark.parametrize("override", sorted(NOT_AGREED))
def test_hash_ignores_what_peers_may_choose(override: str) -> None:
    assert load_config((), [override]).hash == RunConfig().hash


def test_hash_covers_every_other_setting() -> None:
    changed = {
        int: lambda value: value * 2,
        float: lambda value: value / 2,
        bool: lambda value: not value,
    }
    by_name = {
        "model.family": "mine:Family",
        "model.initial_sha256": "ab" * 32,
        "model.vocab_size": 300,
        "data.source": "text:a",
        "data.tokenizer": "b.json",
        "train.accumulation": "fast",
        "wire.codec": "int8",
        "wire.zstd_level": 3,
        "paths.skip": 0.5,
        "paths.protected": (1,),
        "paths.swaps": 1,
        "paths.shares": (1.0,) * RunConfig().model.stages,
        "outer.inner_steps": 50,
        "outer.optimizer": "average",
        "outer.codec": "ternary",
        "outer.feedback": "on",
        "outer.merge_factor": 0.5,
    }
    one_choice_yet = "paths.visits"
    seen = {RunConfig().hash}
    for section, key, entry in fields():
        name = f"{section}.{key}"
        if section in ("limits", "links", "swarm", "recovery", "planner") or name in (
            "run.name",
            "model.preset",
            "model.initial",
            "outer.grace_seconds",
            one_choice_yet,
        ):
            continue
        value = by_name.get(name) or changed[type(entry.default)](entry.default)
        needs = {
            "model.kv_heads": {"heads": 8},
            "model.initial_sha256": {"initial": "folder"},
            "outer.every_seconds": {"inner_steps": 5},
            "outer.distortion": {"codec": "auto"},
        }
        beside = needs.get(name, {})
        config = RunConfig.model_validate({section: {key: value, **beside}})
        assert config.hash not in seen, name
        seen.add(config.hash)


def test_hash_does_not_depend_on_where_an_imported_model_lies() -> None:
    weights = "model.initial_sha256=" + "ab" * 32
    one, other = (load_config((), [weights, f"model.initial={path}"]) for path in ("a", "b"))
    assert one.hash == other.hash != RunConfig().hash
    for half in (weights, "model.initial=a"):
        with pytest.raises(ConfigError, match="belong together"):
            load_config((), [half])


def test_hash_does_not_depend_on_how_values_were_given() -> None:
    shape = dict(PRESETS["tiny"].shape)
    by_preset = RunConfig(model=ModelSection(preset="tiny"))
    by_value = RunConfig.model_validate({"model": shape, "optimizer": {"clip_norm": 1}})
    assert by_preset.hash == by_value.hash


def test_hash_is_pinned() -> None:
    # Peers of one version must agree across machines; a change here refuses every older peer and checkpoint.
    assert RunConfig().hash == "8efd3661c8608c66ff592d8db9b6c5cf3c46ea8a622e2d83cd1fb484887d330c"
    # What came later counts only where it says something else than before.
    assert RunConfig.model_validate({"outer": {"founders": 2}}).hash != RunConfig().hash


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().run.steps = 3  # type: ignore[misc]


def test_every_setting_is_described_in_one_line() -> None:
    for section, key, entry in fields():
        assert entry.description, f"{section}.{key}"
        assert "\n" not in entry.description


def _error(*overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config((), overrides)
    return caught.value


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["model.width=100", "model.heads=3"], ["model.width", "model.heads"]),
        (["model.kv_heads=3"], ["model.kv_heads", "model.heads"]),
        (["model.width=12"], ["model.width", "model.heads", "odd"]),
        (["model.preset=tinny"], ["model.preset", "tinny"]),
        (["model.vocab_size=256"], ["model.vocab_size", "byte tokenizer"]),
        (["run.steps=5"], ["optimizer.warmup_steps", "run.steps"]),
        (["limits.keys_per_step=7"], ["limits.keys_per_step", "train.microbatches"]),
        (
            ["limits.message_bytes=1MiB", "train.microbatch_size=64"],
            ["limits.message_bytes", "activation of 4MiB"],
        ),
        (["links.silence_seconds=1.5"], ["links.silence_seconds", "links.heartbeat_seconds"]),
        (["paths.protected=[3]"], ["paths.protected"]),
        (["paths.protected=[0]"], ["paths.protected"]),
        (["paths.protected=[2, 1]"], ["paths.protected"]),
        (["paths.protected=[1, 1]"], ["paths.protected"]),
        (["paths.skip=0.5", "paths.protected=[1]"], ["paths.skip", "paths.protected"]),
        (["paths.shares=[1]"], ["paths.shares", "model.stages"]),
        (["paths.shares=[1, 2]"], ["paths.shares", "paths.skip"]),
        (["paths.shares=[1, 0]"], ["paths.shares"]),
        (["paths.shares=[1, true]"], ["paths.shares"]),
        (
            ["model.stages=6", "paths.skip=0.5", "paths.protected=[1, 2, 5, 6]"],
            ["paths.skip", "paths.protected"],
        ),
        (["paths.skip=0.5", "train.swap_ends=true"], ["paths.skip", "train.swap_ends"]),
        (["paths.swaps=1", "train.swap_ends=true"], ["paths.swaps", "train.swap_ends"]),
    ],
)
def test_impossible_combinations_name_both_sides(overrides: list[str], keys: list[str]) -> None:
    error = _error(*overrides)
    assert all(key in error.what for key in keys)
    assert error.remedy


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.tied=true"],
        ["wire.codec=int8", "train.accumulation=exact"],
        ["optimizer.warmup_steps=100"],
        ["limits.keys_per_step=8"],
        ["train.microbatches=4096"],
        [
            "limits.message_bytes=1MiB",
            "train.microbatch_size=64",
            "train.sequence_length=64",
            "wire.codec=bf16",
        ],
        ["links.silence_seconds=2.0"],
        ["model.vocab_size=257"],
        ["paths.protected=[1, 2]"],
        ["model.stages=6", "paths.skip=0.5", "paths.protected=[1, 6]"],
        ["paths.skip=0.1", "train.swap_ends=true"],
        ["model.vocab_size=100", "data.tokenizer=my.json"],
    ],
)
def test_the_nearest_possible_combinations_are_allowed(overrides: list[str]) -> None:
    load_config((), overrides)
