"""Other rules of wiring than the built-in one: which replica a key goes to, as one pure function, named in a RUN.toml.

`planner.wiring` is "swarm" (wiring.py), "in_turn", or "package.module:function", the name of a `WiringRule`. A named
function is code, so it is imported only where a person put it into a local file (`trust_wiring`), never because another
peer sent its name: a process that was not told so wires by "swarm". Rules change who computes, never a number (I2).
"""

import importlib
from collections.abc import Callable
from typing import Any

from swarmtrain.core.errors import ConfigError

WiringRule = Callable[[int, tuple[float, ...]], int]
"""(turn, seconds) -> the index of the replica to call.

`seconds` has an entry for each replica of the stage that may be called, at least one, in the same order at all
callers: how long a microbatch occupies it, or the line to it, by what this caller heard lately; 0.0 where it heard
nothing. `turn` counts the keys that visit the stage in this step, from 0, the same at all callers."""


def in_turn(turn: int, seconds: tuple[float, ...]) -> int:
    """Every replica the same number of keys, however slow it is."""
    return turn % len(seconds)


BUILT_IN: dict[str, WiringRule | None] = {"swarm": None, "in_turn": in_turn}
"""None stands for what `wiring.Wiring` does by itself."""

_rules: dict[str, WiringRule | None] = dict(BUILT_IN)
"""The built-in rules and those this process was allowed to import."""


def wiring_rule(name: str) -> tuple[WiringRule | None, str]:
    """The rule called `name`, and why it is another one when it is (I7)."""
    if name in _rules:
        return _rules[name], ""
    return None, f"{name!r} was not named by a local file of this peer, so it wires by 'swarm'"


def trust_wiring(name: str) -> None:
    """Import the rule that a local configuration names; the parts of this process may use it then.

    Never call it with a configuration from the network or from a checkpoint: it runs the code that is named (I5).
    Raises ConfigError when it cannot be imported.
    """
    if name in _rules:
        return
    module_name, _, attribute = name.partition(":")
    try:
        rule: Any = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # importing runs foreign code, which may raise anything
        raise ConfigError(
            f"planner.wiring = {name!r} cannot be loaded",
            f"{type(error).__name__}: {error}",
            "check the name, and that Python finds the module: PYTHONPATH=. for one beside you",
        ) from error
    if not callable(rule):
        raise ConfigError(
            f"planner.wiring = {name!r} is no function",
            f"it is a {type(rule).__name__}",
            "name a function (turn, seconds) -> index, see swarmtrain/plan/wiring_rules.py",
        )
    _rules[name] = rule


def ruled(rule: WiringRule, name: str, turn: int, seconds: tuple[float, ...]) -> int:
    """What `rule` answers, held to its contract. Raises ConfigError."""
    index = rule(turn, seconds)
    if type(index) is int and 0 <= index < len(seconds):
        return index
    raise ConfigError(
        f"planner.wiring = {name!r} answered {index!r}",
        f"of {len(seconds)} replicas it must choose one by its index",
        f"return an int from 0 to {len(seconds) - 1}",
    )
