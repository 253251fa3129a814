"""Axes of an experiment and their product, and how a setting changes the tables of a SCENARIO.toml. Pure.

A setting is a dotted name and a value: `train.microbatches` (any key of a RUN.toml), `world.latency_seconds`,
`charge.model`, `faults.count`, `machine.NAME.churn` (of the `[[machine]]` called NAME; `*` for all), or a whole
list of `machine` or `fault` tables.
"""

import copy
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from swarmtrain.core.config import RunConfig, fields
from swarmtrain.core.errors import ConfigError

SEED = "seed"
"""The axis over which results are averaged."""

LONGEST_NAME_BYTES = 200
"""A name of a file may have 255 bytes, and some end in more than a run is called."""
LONGEST_PART_BYTES = 48

TABLES = ("world", "charge", "faults")
LISTS = ("machine", "fault")

Tables = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """One value of an axis: its name, and the settings that it stands for."""

    label: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Axis:
    name: str
    choices: tuple[Choice, ...]


Combination = tuple[Choice, ...]
"""A choice of every axis, in the order of the axes."""


def axis_of(name: str, values: object) -> Axis:
    """The axis `name = values` of a `[matrix]`: a list of values of the setting `name` (`seed`: of run.seed), or a
    table of named choices, each a table of settings. Raises ConfigError."""
    if isinstance(values, list) and values:
        key = "run.seed" if name == SEED else name
        choices = tuple(Choice(_label(value), {key: value}) for value in values)
    elif isinstance(values, dict) and values and all(isinstance(v, dict) for v in values.values()):
        choices = tuple(Choice(label, settings) for label, settings in values.items())
    else:
        raise ConfigError(
            f"matrix.{name} = {values!r} is no axis",
            "it is neither a list of values nor a table of named choices",
            f'write it like "{name}" = [1, 2], or {name}.first = {{ "train.microbatches" = 8 }}',
        )
    labels = [choice.label for choice in choices]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"matrix.{name} has a value twice", f"{', '.join(labels)}", "drop one")
    return Axis(name, choices)


def _label(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def narrowed(axis: Axis, wanted: Sequence[object]) -> Axis:
    """The axis with the named choices only, or, of a list axis, with these values. Raises ConfigError."""
    is_named = any(list(choice.settings) != [_key_of(axis)] for choice in axis.choices)
    if not is_named:
        return axis_of(axis.name, list(wanted))
    known = {choice.label: choice for choice in axis.choices}
    missing = [str(label) for label in wanted if label not in known]
    if missing or not wanted:
        raise ConfigError(
            f"quick.matrix.{axis.name} names {', '.join(missing) or 'nothing'}",
            f"the choices of the axis are {', '.join(known)}",
            "name some of these",
        )
    return Axis(axis.name, tuple(known[str(label)] for label in wanted))


def _key_of(axis: Axis) -> str:
    return "run.seed" if axis.name == SEED else axis.name


def product(axes: Iterable[Axis]) -> list[Combination]:
    """All combinations; the last axis changes fastest."""
    return list(itertools.product(*(axis.choices for axis in axes)))


def run_name(axes: Sequence[Axis], combination: Combination) -> str:
    """What the folder of a run is called: `policy=planned,seed=1`. What would be too long is cut and ends in a hash."""
    parts = [
        _plain(part_of(axis.name, choice.label))
        for axis, choice in zip(axes, combination, strict=True)
    ]
    name = ",".join(parts) or "run"
    if len(name.encode()) > LONGEST_NAME_BYTES:
        name = _cut(",".join(_cut(part, LONGEST_PART_BYTES) for part in parts), LONGEST_NAME_BYTES)
    return name


def part_of(axis: str, label: str) -> str:
    """The part of a run's name that says its choice of one axis."""
    return f"{axis.rpartition('.')[2]}={label}"


def is_made_of(wanted: str, labels: Mapping[str, str]) -> bool:
    """Whether `wanted` is a list, joined by commas, of whole parts of the name of the run with these labels."""
    parts = [part_of(axis, label) for axis, label in labels.items()]
    parts += [f"{axis}={label}" for axis, label in labels.items()]
    rest = f",{wanted.replace(', ', ',').strip(',')},"
    # The longest first: a label may itself hold commas, and what is another's part.
    for part in sorted({p.replace(", ", ",") for p in (*parts, *map(_plain, parts))}, key=len)[
        ::-1
    ]:
        rest = rest.replace(f",{part},", ",")
    return rest == ","


def _plain(text: str) -> str:
    """As the name of a folder."""
    return "".join(c if c.isalnum() or c in "=,._+-" else "_" for c in text)


def _cut(text: str, most_bytes: int) -> str:
    encoded = text.encode()
    if len(encoded) <= most_bytes:
        return text
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return f"{encoded[: most_bytes - 9].decode(errors='ignore')}-{digest}"


def applied(tables: Tables, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`tables` with `settings` on top; what is there already stays as it is. Raises ConfigError."""
    changed = copy.deepcopy(dict(tables))
    for name, value in settings.items():
        _apply(changed, name, copy.deepcopy(value))
    return changed


def _apply(tables: dict[str, Any], name: str, value: Any) -> None:
    first, dot, key = name.partition(".")
    if not dot and first in LISTS and isinstance(value, list):
        tables[first] = _of_tables(name, value)
    elif dot and first in TABLES:
        tables[first] = {**tables.get(first, {}), key: value}
    elif dot and first == "machine":
        _change_machines(tables, name, value)
    elif dot and first in RunConfig.model_fields:
        tables["set"] = [*tables.get("set", ()), f"{name}={_as_json(name, value)}"]
    else:
        known = [f"{section}.{field}" for section, field, _ in fields()]
        near = get_close_matches(name, known, n=1)
        raise ConfigError(
            f"{name!r} is not a setting",
            "an experiment varies keys of a RUN.toml, of [world], [charge] or [faults], machine.NAME.key, "
            "and whole lists of machine or fault",
            f"did you mean {near[0]}?" if near else "see swarmtrain/experiments/matrix.py",
        )


def _of_tables(name: str, value: list[Any]) -> list[Any]:
    wrong = [entry for entry in value if not isinstance(entry, dict)]
    if wrong:
        raise ConfigError(
            f"{name} = {value!r} cannot be",
            f"{wrong[0]!r} is no table",
            f'write each of its entries like {{ name = "edge", count = 2 }}, as of a [[{name}]]',
        )
    return value


def _as_json(name: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError as error:  # a date or a time: TOML has them
        raise ConfigError(
            f"{name} = {value} cannot be",
            str(error),
            "give a number, a truth value, a text in quotes, or a list of these",
        ) from error


def _change_machines(tables: dict[str, Any], name: str, value: Any) -> None:
    _, machine, key = (*name.split(".", 2), "")[:3]
    chosen = [
        entry for entry in tables.get("machine", ()) if machine in ("*", entry.get("name")) and key
    ]
    if not chosen:
        names = ", ".join(str(entry.get("name")) for entry in tables.get("machine", ()))
        raise ConfigError(
            f"{name!r} is not a setting",
            f"it should be machine.NAME.key, and the machines are {names or 'not listed'}",
            'write it like "machine.edge.churn", or "machine.*.churn" for all',
        )
    for entry in chosen:
        entry[key] = value
