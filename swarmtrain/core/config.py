"""Reading and writing a run's configuration: TOML files with `extends`, `--set section.key=value`, JSON from peers.

Later files win over earlier ones, a file wins over the one it extends, `--set` wins over files, and every setting
wins over a preset. Each failure is a ConfigError that names the key or the place in the file.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from swarmtrain.core.config_errors import explain
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.presets import PRESETS
from swarmtrain.core.section import ByteCount, Section
from swarmtrain.core.sections import (
    DataSection,
    LimitsSection,
    LinksSection,
    ModelSection,
    OptimizerSection,
    PathsSection,
    RunConfig,
    RunSection,
    SwarmSection,
    TrainSection,
    WireSection,
)
from swarmtrain.core.units import format_bytes, parse_bytes

__all__ = [
    "ByteCount",
    "DataSection",
    "LimitsSection",
    "LinksSection",
    "ModelSection",
    "OptimizerSection",
    "PathsSection",
    "RunConfig",
    "RunSection",
    "SwarmSection",
    "TrainSection",
    "WireSection",
    "config_from_json",
    "fields",
    "load_config",
    "origins",
    "to_toml",
    "toml_value",
]

TomlValue = bool | int | float | str


def load_config(paths: Sequence[Path], overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of these files and `section.key=value` overrides; defaults where nothing is said."""
    merged = _merge(paths, overrides)
    try:
        return RunConfig.model_validate(merged.values)
    except ValidationError as error:
        raise explain(error, merged.origins) from None


def config_from_json(text: str) -> RunConfig:
    """The configuration another peer sent, under the same checks as a file (I5)."""
    try:
        return RunConfig.model_validate_json(text)
    except ValidationError as error:
        raise explain(error, {}) from None


def origins(paths: Sequence[Path], overrides: Sequence[str] = ()) -> dict[str, str]:
    """Where each `section.key` has its value from: "default", "preset tiny", a file's path or "--set"."""
    merged = _merge(paths, overrides)
    name = merged.values.get("model", {}).get("preset")
    shape = PRESETS[name].shape if name in PRESETS else {}
    found = {}
    for section, key, _ in fields():
        fallback = f"preset {name}" if section == "model" and key in shape else "default"
        found[f"{section}.{key}"] = merged.origins.get(f"{section}.{key}", fallback)
    return found


def fields() -> Iterator[tuple[str, str, FieldInfo]]:
    """Every setting as (section, key, its field), in the order of the classes."""
    for section, outer in RunConfig.model_fields.items():
        for key, inner in cast(type[Section], outer.annotation).model_fields.items():
            yield section, key, inner


def to_toml(config: RunConfig) -> str:
    """All settings as a RUN.toml; reading it gives an equal configuration."""
    lines: list[str] = []
    for section, key, _ in fields():
        if f"[{section}]" not in lines:
            lines += ["", f"[{section}]"] if lines else [f"[{section}]"]
        value = getattr(getattr(config, section), key)
        if value is not None:
            lines.append(f"{key} = {toml_value(key, value)}")
    return "\n".join(lines) + "\n"


def toml_value(key: str, value: TomlValue | tuple[int, ...]) -> str:
    """`value` as TOML text; whole numbers of bytes get their unit."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return str(list(value))
    if key.endswith("_bytes") and isinstance(value, int):
        text = format_bytes(value)
        is_exact = "." not in text and parse_bytes(text) == value
        return f'"{text}"' if is_exact else str(value)
    if isinstance(value, str):
        # JSON's escapes are TOML's too, but for this one character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


@dataclass(slots=True)
class _Merged:
    """Settings as read, by section, and where each `section.key` came from."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def add(self, layer: Mapping[str, Any], origin: str) -> None:
        """Put `layer` over what is there."""
        for section, settings in layer.items():
            self.origins[section] = origin
            if not isinstance(settings, dict):
                self.values[section] = settings
                continue
            below = self.values.get(section)
            self.values[section] = {**(below if isinstance(below, dict) else {}), **settings}
            self.origins |= {f"{section}.{key}": origin for key in settings}


def _merge(paths: Sequence[Path], overrides: Sequence[str]) -> _Merged:
    merged = _Merged()
    for path in paths:
        for layer_path, layer in _with_bases(path, ()):
            merged.add(layer, str(layer_path))
    for override in overrides:
        merged.add(_parse_override(override), "--set")
    return merged


def _with_bases(path: Path, above: tuple[Path, ...]) -> list[tuple[Path, dict[str, Any]]]:
    """The file at `path` and, before it, the files it extends; `above` are those that led here."""
    if path.resolve() in (other.resolve() for other in above):
        chain = " -> ".join(str(entry) for entry in (*above, path))
        raise ConfigError(
            f"{path} extends itself", f"the chain is {chain}", "remove one of these extends lines"
        )
    layer = _read(path)
    base = layer.pop("extends", None)
    if base is None:
        return [(path, layer)]
    if not isinstance(base, str):
        raise ConfigError(
            f"extends = {base!r} in {path} cannot be used",
            "it must be the path of one file, relative to this one",
            'write it like extends = "base.toml"',
        )
    return [*_with_bases(path.parent / base, (*above, path)), (path, layer)]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read",
            (error.strerror or str(error)).lower(),
            f"check the path, or write a new file with: swarmtrain config init {path}",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not text", f"byte {error.start} is not UTF-8", "save the file as UTF-8"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path} is not valid TOML",
            str(error),
            'correct that place; text needs quotes, as in name = "demo"',
        ) from None


def _parse_override(override: str) -> dict[str, Any]:
    """`section.key=value` as settings; a value that is not TOML is taken as text."""
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise ConfigError(
            f"--set {override!r} cannot be used",
            "it must name a section, a key and a value",
            "write it like --set train.microbatches=16",
        )
    return {section: {key: _parse_value(text.strip())}}


def _parse_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # A line break in the text could smuggle in more keys, and a date is meant as text.
    if len(table) == 1 and isinstance(table["value"], TomlValue | list | dict):
        return table["value"]
    return text
