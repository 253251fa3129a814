"""SCENARIO.toml: a run and the virtual world around it.

run = "../runs/equality.toml"      # relative to the scenario

[world]
peers = 4                          # equal peers that choose their stages themselves
latency_seconds = 0.02             # one way, every pair
bytes_per_second = 100e6           # one direction, every pair
forward_seconds = 0.05             # one microbatch through one position
backward_seconds = 0.1
"""

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from swarmtrain.core.errors import ConfigError
from swarmtrain.experiments.virtual import Scenario, peers


class _World(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    peers: int = Field(1, ge=1, le=10_000)
    latency_seconds: float = Field(0.02, ge=0, le=60)
    bytes_per_second: float = Field(100e6, gt=0)
    forward_seconds: float = Field(0.05, ge=0, le=3600)
    backward_seconds: float = Field(0.1, ge=0, le=3600)


class _ScenarioFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    world: _World = Field(default_factory=_World)


def read_scenario(path: Path) -> tuple[Path, Scenario]:
    """The run's file and the world. Raises ConfigError naming the key, the value and the remedy."""
    try:
        content = _ScenarioFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", str(error), "check the path") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path} is no TOML", str(error), "see the example in the docs"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"{path}: {key} = {first['input']!r} cannot be",
            first["msg"],
            "see swarmtrain/experiments/scenario.py for every key",
        ) from error
    world = content.world
    scenario = Scenario(
        peers=peers(world.peers),
        latency_seconds=world.latency_seconds,
        bytes_per_second=world.bytes_per_second,
        forward_seconds=world.forward_seconds,
        backward_seconds=world.backward_seconds,
    )
    return (path.parent / content.run).resolve(), scenario
