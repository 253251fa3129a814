"""Pydantic's findings as one ConfigError a person can act on: which key, which value, what it must be."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from swarmtrain.core.errors import ConfigError
from swarmtrain.core.section import Section
from swarmtrain.core.sections import RunConfig

SHOWN_CHARACTERS = 80


def explain(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    """All findings of `error` in one; `origins` says which file a `section.key` came from."""
    found = [_finding(details, origins) for details in error.errors(include_url=False)]
    if len(found) == 1:
        return found[0]
    return ConfigError(
        f"{len(found)} settings cannot be used",
        "\n       ".join(f"{entry.what}: {entry.why}" for entry in found),
        "correct each; `swarmtrain config show --explain` tells what every setting means",
    )


def _finding(details: ErrorDetails, origins: Mapping[str, str]) -> ConfigError:
    key = ".".join(str(part) for part in details["loc"])
    source = f" (from {origins[key]})" if key in origins else ""
    if details["type"] == "json_invalid":
        return ConfigError(
            "the configuration is not JSON",
            details["msg"].removeprefix("Invalid JSON: "),
            "check that the sender runs the same version of swarmtrain",
        )
    if details["type"] == "extra_forbidden":
        return _unknown(key, source)
    must = details["msg"].removeprefix("Value error, ")
    must = re.sub("^(Input should be|String should)", r"it must be", must).replace(
        "be match", "match"
    )
    if details["type"] == "model_type":
        must = (
            f"it must be a section of settings, as in [{key}]" if key else "it must have sections"
        )
    what = f"{key or 'the configuration'} = {_shown(details['input'])}{source} cannot be used"
    return ConfigError(what, must, _remedy(key))


def _unknown(key: str, source: str) -> ConfigError:
    """The error for a key that does not exist, with the one that was likely meant."""
    section, _, name = key.rpartition(".")
    sections = list(RunConfig.model_fields)
    settings = [f"{outer}.{inner}" for outer in sections for inner in _keys_of(outer)]
    same_name = [entry for entry in settings if entry.rpartition(".")[2] == name]
    meant = same_name or get_close_matches(key, settings if section else sections, n=1)
    if meant:
        remedy = f"did you mean {meant[0]}?"
    elif section in sections:
        remedy = f"[{section}] has {', '.join(_keys_of(section))}"
    else:
        remedy = f"the sections are {', '.join(sections)}"
    kind = "setting" if section else "section"
    return ConfigError(f"{key}{source} is not a {kind}", f"there is no {kind} of this name", remedy)


def _remedy(key: str) -> str:
    """What a setting is for, and its default."""
    section, _, name = key.partition(".")
    if section not in RunConfig.model_fields or name not in _keys_of(section):
        return "`swarmtrain config show --explain` lists all settings"
    entry = _section_class(section).model_fields[name]
    return f"give another value; {key} means: {entry.description} (default {entry.default!r})"


def _section_class(section: str) -> type[Section]:
    return cast(type[Section], RunConfig.model_fields[section].annotation)


def _keys_of(section: str) -> list[str]:
    return list(_section_class(section).model_fields)


def _shown(value: Any) -> str:
    """`value` cut to a length that fits a terminal: it may come from the network."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
