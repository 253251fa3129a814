"""SCENARIO.toml: a run, the virtual world around it, and what goes wrong there.

run = "../runs/equality.toml"      # relative to the scenario
set = ["run.steps=4"]              # settings on top of that file

[world]
peers = 4                          # equal peers that choose their stages themselves; or [[machine]] entries
latency_seconds = 0.02             # one way, every pair
bytes_per_second = 100e6           # one direction, every pair
forward_seconds = 0.05             # one microbatch through one position
backward_seconds = 0.1
stall_seconds = 3600               # without an acknowledged step for so long, the run has stalled
patience_seconds = 60              # for the others to end, once one peer has finished

[[machine]]                        # one peer each; they replace world.peers
name = "edge-a"
stages = [0]                       # left out: chooses itself
slowness = 1.0                     # factor on the compute seconds

[faults]                           # drawn from the seed when the first step opens
count = 3
kinds = ["kill", "freeze"]         # default: all of them
from_seconds = 0.0                 # faults by time lie in this span, counted from the first step's opening
to_seconds = 4.0
longest_seconds = 8.0              # of faults that last
point_share = 0.4                  # of kills and freezes that wait for a named point instead
survivable = true                  # draw only what must be survived

[[fault]]                          # a fixed one
kind = "kill"                      # see swarmtrain/experiments/faults.py for kinds and points
peers = ["edge-a"]                 # the victim, the pair, the group cut off, or sender (and receiver)
at_seconds = 1.0
at_point = "sealed"                # instead of at_seconds
nth = 1                            # the how-manieth time the peer passes that point
duration_seconds = 2.0
amount = 1                         # factor, cuts or messages
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from swarmtrain.core.errors import ConfigError
from swarmtrain.experiments.faults import KINDS, PAIRS, POINTS, Chances, Fault, Kind
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, peers


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _World(_Table):
    peers: int = Field(1, ge=1, le=10_000)
    latency_seconds: float = Field(0.02, ge=0, le=60)
    bytes_per_second: float = Field(100e6, gt=0)
    forward_seconds: float = Field(0.05, ge=0, le=3600)
    backward_seconds: float = Field(0.1, ge=0, le=3600)
    stall_seconds: float = Field(3600.0, gt=0, le=1e6)
    patience_seconds: float = Field(60.0, ge=0, le=1e6)


class _Machine(_Table):
    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    stages: tuple[int, ...] | None = None
    slowness: float = Field(1.0, gt=0, le=1e6)


class _Faults(_Table):
    count: int = Field(0, ge=0, le=1000)
    kinds: tuple[Kind, ...] = Field(KINDS, min_length=1)
    from_seconds: float = Field(0.0, ge=0)
    to_seconds: float = Field(4.0, ge=0)
    longest_seconds: float = Field(8.0, ge=0.05)
    point_share: float = Field(0.4, ge=0, le=1)
    survivable: bool = True


class _Fault(_Table):
    kind: Kind
    peers: tuple[str, ...] = Field(min_length=1)
    at_seconds: float = Field(0.0, ge=0)
    at_point: str = ""
    nth: int = Field(1, ge=1)
    duration_seconds: float = Field(0.0, ge=0)
    amount: float = Field(1.0, ge=1)

    @model_validator(mode="after")
    def _makes_sense(self) -> "_Fault":
        if self.at_point and self.at_point not in POINTS:
            raise ValueError(f"{self.at_point!r} is not a point; there are {', '.join(POINTS)}")
        if self.kind in PAIRS and len(self.peers) != 2:
            raise ValueError(f"{self.kind} is between two peers")
        return self


class _ScenarioFile(_Table):
    run: str
    set: tuple[str, ...] = ()
    world: _World = Field(default_factory=_World)
    machine: tuple[_Machine, ...] = ()
    faults: _Faults = Field(default_factory=_Faults)
    fault: tuple[_Fault, ...] = ()

    @model_validator(mode="after")
    def _names_exist(self) -> "_ScenarioFile":
        names = [peer.name for peer in self._peers()]
        if len(set(names)) < len(names):
            raise ValueError("two machines have the same name")
        for fault in self.fault:
            for name in fault.peers:
                if name not in names:
                    raise ValueError(f"fault names {name!r}; the machines are {', '.join(names)}")
        return self

    def _peers(self) -> tuple[VirtualPeer, ...]:
        if not self.machine:
            return peers(self.world.peers)
        return tuple(VirtualPeer(m.name, m.stages, m.slowness) for m in self.machine)

    def scenario(self) -> Scenario:
        world = self.world
        return Scenario(
            peers=self._peers(),
            latency_seconds=world.latency_seconds,
            bytes_per_second=world.bytes_per_second,
            forward_seconds=world.forward_seconds,
            backward_seconds=world.backward_seconds,
            faults=tuple(Fault(**entry.model_dump()) for entry in self.fault),
            chances=Chances(**self.faults.model_dump()),
            stall_seconds=world.stall_seconds,
            patience_seconds=world.patience_seconds,
        )


@dataclass(frozen=True, slots=True)
class ScenarioFile:
    """What a SCENARIO.toml says: the run's file, settings on top of it, and the world."""

    run: Path
    overrides: tuple[str, ...]
    scenario: Scenario


def read_scenario(path: Path) -> ScenarioFile:
    """Raises ConfigError naming the key, the value and the remedy."""
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
        key = ".".join(map(str, first["loc"])) or "the scenario"
        value = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
        raise ConfigError(
            f"{path}: {key}{value} cannot be",
            first["msg"].removeprefix("Value error, "),
            "see swarmtrain/experiments/scenario.py for every key",
        ) from error
    run_file = (path.parent / content.run).resolve()
    return ScenarioFile(run_file, content.set, content.scenario())
