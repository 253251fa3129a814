"""Axes of an experiment and their product, and how a setting changes the tables of a SCENARIO.toml. Pure.

A setting is a dotted name and a value: `train.microbatches` (any key of a RUN.toml), `world.latency_seconds`,
`charge.model`, `faults.count`, `machine.NAME.churn` (of the `[[machine]]` called NAME; `*` for all), or a whole
list of `machine` or `fault` tables.
"""

import copy
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
    """What the folder of a run is called: `policy=planned,seed=1`."""
    parts = [
        f"{axis.name.rpartition('.')[2]}={choice.label}"
        for axis, choice in zip(axes, combination, strict=True)
    ]
    return "".join(c if c.isalnum() or c in "=,._+-" else "_" for c in ",".join(parts)) or "run"


def applied(tables: Tables, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`tables` with `settings` on top; what is there already stays as it is. Raises ConfigError."""
    changed = copy.deepcopy(dict(tables))
    for name, value in settings.items():
        _apply(changed, name, copy.deepcopy(value))
    return changed


def _apply(tables: dict[str, Any], name: str, value: Any) -> None:
    first, dot, key = name.partition(".")
    if not dot and first in LISTS and isinstance(value, list):
        tables[first] = value
    elif dot and first in TABLES:
        tables[first] = {**tables.get(first, {}), key: value}
    elif dot and first == "machine":
        _change_machines(tables, name, value)
    elif dot and first in RunConfig.model_fields:
        tables["set"] = [*tables.get("set", ()), f"{name}={json.dumps(value)}"]
    else:
        known = [f"{section}.{field}" for section, field, _ in fields()]
        near = get_close_matches(name, known, n=1)
        raise ConfigError(
            f"{name!r} is not a setting",
            "an experiment varies keys of a RUN.toml, of [world], [charge] or [faults], machine.NAME.key, "
            "and whole lists of machine or fault",
            f"did you mean {near[0]}?" if near else "see swarmtrain/experiments/matrix.py",
        )


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
