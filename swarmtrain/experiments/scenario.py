"""SCENARIO.toml: a run, the virtual world around it, and what goes wrong there.

run = "../runs/equality.toml"      # relative to the scenario
set = ["run.steps=4"]              # settings on top of that file

[world]
peers = 4                          # equal peers that choose their stages themselves; or [[machine]] entries
network = "gcp12"                  # a profile of peers/networks; or, for every pair alike, the next two
latency_seconds = 0.02             # one way; looking into the directory takes this in any case
bytes_per_second = 100e6           # one direction
jitter_seconds = 0.0               # a frame takes up to so much longer, on every line
loss = 0.0                         # share of frames that are sent again a timeout later
forward_seconds = 0.05             # one microbatch through one position, at machines without a profile
backward_seconds = 0.1
pass_seconds = 1e-8                # one value of a stage, each time it is updated, coded or merged; left out: 0
stall_seconds = 3600               # without an acknowledged step for so long, the run has stalled
patience_seconds = 60              # for the others to end, once one peer has finished

[charge]                           # charge machines and lines with another model than the run's own tiny one
model = "1b"                       # a preset; its blocks spread evenly over the run's middle stages
microbatch_size = 1
sequence_length = 1024
codec = "bf16"                     # none, bf16 or int8: bytes of an activation value

[[machine]]                        # they replace world.peers
name = "edge-a"
count = 3                          # left out: one; else edge-a-0, edge-a-1, ...
stages = [0]                       # left out: chooses itself
slowness = 1.0                     # factor on the compute seconds
island = 0                         # the swarm it is in; several need outer rounds (outer.inner_steps)
profile = "t4"                     # a profile of peers/machines: compute seconds, memory and access line
regions = ["Iowa", "Oregon"]       # of the network, dealt in turn; left out: the profile's region, else all of them
churn = "spot"                     # a profile of peers/churn; left out: stays

[faults]                           # drawn from the seed when the first step opens
count = 3
kinds = ["kill", "freeze"]         # default: all of them
from_seconds = 0.0                 # faults by time lie in this span, counted from the first step's opening
to_seconds = 4.0
longest_seconds = 8.0              # of faults that last
point_share = 0.4                  # of kills and freezes that wait for a named point instead
points = ["sealed", "round.sent"]  # those points; default: all of the step protocol, none of outer rounds
survivable = true                  # draw only what must be survived; holds for churn too
whole_stages = false               # whether faults may take every replica of a stage, for snapshots to bring back
every_seconds = 20.0               # besides: one more after such a time on average, for as long as the run lasts
replace_seconds = 30.0             # until a new machine takes the place of one killed by those; 0: never

[[fault]]                          # a fixed one
kind = "kill"                      # see swarmtrain/experiments/faults.py for kinds and points
peers = ["edge-a"]                 # the victim, the pair, the group cut off, or sender (and receiver)
at_seconds = 1.0
at_point = "sealed"                # instead of at_seconds
nth = 1                            # the how-manieth time the peer passes that point
duration_seconds = 2.0
amount = 1                         # factor, cuts or messages

Calls are given up after `links.silence_seconds` without a sign of life, and a charged body gives none while it is on
the line: set it well above what the largest body takes, its queue included.
"""

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from swarmtrain.core.config import ModelSection
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.presets import PRESETS
from swarmtrain.experiments.costs import Charged
from swarmtrain.experiments.faults import ALL_POINTS, KINDS, PAIRS, POINTS, Chances, Fault, Kind
from swarmtrain.experiments.profiles import (
    NetworkProfile,
    read_churn,
    read_machine,
    read_network,
    wrong_value,
)
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, peers


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _World(_Table):
    peers: int = Field(1, ge=1, le=10_000)
    network: str | None = None
    latency_seconds: float = Field(0.02, ge=0, le=60)
    bytes_per_second: float = Field(100e6, gt=0)
    jitter_seconds: float = Field(0.0, ge=0, le=60)
    loss: float = Field(0.0, ge=0, lt=1)
    forward_seconds: float = Field(0.05, ge=0, le=3600)
    backward_seconds: float = Field(0.1, ge=0, le=3600)
    pass_seconds: float = Field(0.0, ge=0, le=1.0)
    stall_seconds: float = Field(3600.0, gt=0, le=1e6)
    patience_seconds: float = Field(60.0, ge=0, le=1e6)


class _Charge(_Table):
    model: str
    microbatch_size: int = Field(1, ge=1, le=65_536)
    sequence_length: int = Field(1024, ge=1, le=1 << 20)
    codec: Literal["none", "bf16", "int8"] = "bf16"

    @model_validator(mode="after")
    def _is_known(self) -> "_Charge":
        if self.model not in PRESETS:
            raise ValueError(f"{self.model!r} is not a preset; there are {', '.join(PRESETS)}")
        return self

    def charged(self) -> Charged:
        model = ModelSection.model_validate({"preset": self.model})
        return Charged(model, self.microbatch_size, self.sequence_length, self.codec)


class _Machine(_Table):
    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,56}$")
    count: int = Field(0, ge=0, le=10_000)
    stages: tuple[int, ...] | None = None
    slowness: float = Field(1.0, gt=0, le=1e6)
    profile: str | None = None
    regions: tuple[str, ...] = ()
    churn: str | None = None
    island: int = Field(0, ge=0, le=9999)

    @property
    def names(self) -> list[str]:
        return [f"{self.name}-{index}" for index in range(self.count)] or [self.name]

    def peers(self, folder: Path, network: NetworkProfile | None) -> list[VirtualPeer]:
        """Raises ConfigError for a profile or a region that is not there."""
        machine = read_machine(self.profile, folder) if self.profile else None
        churn = read_churn(self.churn, folder) if self.churn else None
        own = (machine.region,) if machine is not None and machine.region else ()
        known = network.regions if network is not None else ()
        regions = self.regions or own or known or ("",)
        unknown = [region for region in regions if known and region not in known]
        if unknown or (self.regions and not known):
            raise ConfigError(
                f"machine {self.name!r} cannot stand in {', '.join(unknown or regions)}",
                f"the regions of the network are {', '.join(known) or 'none: world.network is not set'}",
                "name regions of the network, or leave machine.regions out",
            )
        places = zip(self.names, itertools.cycle(regions), strict=False)
        return [
            VirtualPeer(name, self.stages, self.slowness, machine, region, churn, self.island)
            for name, region in places
        ]


class _Faults(_Table):
    count: int = Field(0, ge=0, le=1000)
    kinds: tuple[Kind, ...] = Field(KINDS, min_length=1)
    from_seconds: float = Field(0.0, ge=0)
    to_seconds: float = Field(4.0, ge=0)
    longest_seconds: float = Field(8.0, ge=0.05)
    point_share: float = Field(0.4, ge=0, le=1)
    survivable: bool = True
    whole_stages: bool = False
    every_seconds: float = Field(0.0, ge=0, le=1e6)
    replace_seconds: float = Field(0.0, ge=0, le=1e6)
    points: tuple[str, ...] = tuple(POINTS)

    @model_validator(mode="after")
    def _points_exist(self) -> "_Faults":
        unknown = [point for point in self.points if point not in ALL_POINTS]
        if unknown:
            raise ValueError(_no_point(unknown[0]))
        return self


def _no_point(name: str) -> str:
    return f"{name!r} is not a point; there are {', '.join(ALL_POINTS)}"


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
        if self.at_point and self.at_point not in ALL_POINTS:
            raise ValueError(_no_point(self.at_point))
        if self.kind in PAIRS and len(self.peers) != 2:
            raise ValueError(f"{self.kind} is between two peers")
        return self


class _ScenarioFile(_Table):
    run: str
    set: tuple[str, ...] = ()
    world: _World = Field(default_factory=_World)
    charge: _Charge | None = None
    machine: tuple[_Machine, ...] = ()
    faults: _Faults = Field(default_factory=_Faults)
    fault: tuple[_Fault, ...] = ()

    @model_validator(mode="after")
    def _names_exist(self) -> "_ScenarioFile":
        names = [name for machine in self.machine for name in machine.names]
        names = names or [peer.name for peer in peers(self.world.peers)]
        if len(set(names)) < len(names):
            raise ValueError("two machines have the same name")
        if self.charge is not None and not all(machine.profile for machine in self.machine):
            raise ValueError("a charged model needs machines with a profile")
        if self.charge is not None and not self.machine:
            raise ValueError("a charged model needs [[machine]] entries with a profile")
        for fault in self.fault:
            for name in fault.peers:
                if name not in names:
                    raise ValueError(f"fault names {name!r}; the machines are {', '.join(names)}")
        return self

    def scenario(self, folder: Path) -> Scenario:
        """With the profiles it names, looked for from `folder` on. Raises ConfigError."""
        world = self.world
        network = read_network(world.network, folder) if world.network else None
        machines = self.machine or tuple(_Machine(name=p.name) for p in peers(world.peers))
        return Scenario(
            peers=tuple(peer for entry in machines for peer in entry.peers(folder, network)),
            latency_seconds=world.latency_seconds,
            bytes_per_second=world.bytes_per_second,
            jitter_seconds=world.jitter_seconds,
            loss=world.loss,
            forward_seconds=world.forward_seconds,
            backward_seconds=world.backward_seconds,
            pass_seconds=world.pass_seconds,
            faults=tuple(Fault(**entry.model_dump()) for entry in self.fault),
            chances=Chances(**self.faults.model_dump()),
            stall_seconds=world.stall_seconds,
            patience_seconds=world.patience_seconds,
            network=network,
            charged=self.charge.charged() if self.charge is not None else None,
        )


@dataclass(frozen=True, slots=True)
class ScenarioFile:
    """What a SCENARIO.toml says: the run's file, settings on top of it, and the world."""

    run: Path
    overrides: tuple[str, ...]
    scenario: Scenario


def read_scenario(path: Path) -> ScenarioFile:
    """Raises ConfigError naming the key, the value and the remedy."""
    return scenario_from(read_tables(path), path)


def read_tables(path: Path) -> dict[str, Any]:
    """The TOML at `path` as it stands. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", str(error), "check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no UTF-8 text", str(error), "save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path} is no TOML", str(error), "see the example in the docs"
        ) from error


def scenario_from(tables: Mapping[str, Any], path: Path) -> ScenarioFile:
    """The scenario that these tables of a SCENARIO.toml say; `path` is where relative ones lead from. As above."""
    try:
        content = _ScenarioFile.model_validate(tables)
    except ValidationError as error:
        remedy = "see swarmtrain/experiments/scenario.py for every key"
        raise wrong_value(path, error, remedy) from error
    run_file = (path.parent / content.run).resolve()
    return ScenarioFile(run_file, content.set, content.scenario(path.parent))
