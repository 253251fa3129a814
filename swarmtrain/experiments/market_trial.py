"""A rebalancing rule on a synthetic spot market as one run of an experiment (market.py, preemption.py): no peers."""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from swarmtrain.core.errors import ConfigError
from swarmtrain.experiments.market import Market, market_trace
from swarmtrain.experiments.preemption import (
    LOOK_SECONDS,
    Result,
    Rule,
    Setup,
    no_rebalancing,
    our_rebalancing,
    play,
    swarm_rebalancing,
)
from swarmtrain.experiments.profiles import wrong_value
from swarmtrain.monitor.lines import json_line
from swarmtrain.plan.rebalance import Policy


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class _Rule:
    name: Literal["none", "swarm", "ours"] = "none"
    period_seconds: Annotated[float, Field(gt=0, le=1e6)] = LOOK_SECONDS

    def rule(self) -> Rule:
        """A new one: ours remembers its last look."""
        if self.name == "ours":
            return our_rebalancing(Policy())
        return swarm_rebalancing if self.name == "swarm" else no_rebalancing


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MarketTrial:
    """Everything that one such run needs, checked."""

    market: Market
    setup: Setup
    rule: _Rule
    seed: int

    def play(self) -> Result:
        changes = market_trace(self.market, random.Random(f"trace {self.seed}"))
        rule, hours = self.rule.rule(), self.market.hours
        return play(changes, self.setup, rule, self.rule.period_seconds, hours)


_adapter = TypeAdapter(MarketTrial)


def applied(tables: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`tables` of a market experiment with `settings` on top. Raises ConfigError."""
    changed = dict(tables)
    for name, value in settings.items():
        table, dot, key = name.partition(".")
        if name == "run.seed":
            changed["seed"] = value
        elif dot and table in ("market", "setup", "rule"):
            changed[table] = {**changed[table], key: value}
        else:
            raise ConfigError(
                f"{name!r} is not a setting",
                "an experiment about markets varies market.*, setup.* and rule.*",
                "see swarmtrain/experiments/market.py and preemption.py for their keys",
            )
    return changed


def trial_of(tables: Mapping[str, Any], path: Path) -> MarketTrial:
    """The run that these tables say. Raises ConfigError naming key, value and remedy."""
    try:
        return _adapter.validate_python(dict(tables))
    except ValidationError as error:
        raise wrong_value(path, error, "see market.py and preemption.py for the keys") from None


def write_trial(trial: MarketTrial, folder: Path) -> dict[str, Any]:
    """Play `trial`, write config.json and metrics.jsonl (one line an hour), and return its summary."""
    (folder / "config.json").write_text(json.dumps(asdict(trial), indent=2, sort_keys=True) + "\n")
    result = trial.play()
    hours = zip(result.done, result.possible, strict=True)
    lines = [
        json_line({"hour": hour, "done": done, "possible": possible})
        for hour, (done, possible) in enumerate(hours)
    ]
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    overall, first, last = result.shares
    return {
        "overall_percent": overall,
        "first_hour_percent": first,
        "last_hour_percent": last,
        "moves_per_hour": result.moves / trial.market.hours,
        "seed": trial.seed,
        "outcome": "ok",
    }
