"""Machines, networks and churn by name: the TOML files under `peers/`, checked field by field.

`t4` is the file `t4.toml` in `machines/`, `networks/` or `churn/` of the nearest folder called `peers`, looked for
in the folder of whoever names it and in those above, and at last in the copy of the project that runs; a name that
ends in `.toml` is a path instead. Every field is documented where it is declared below; rates and sizes may be text
with a unit ("20Mbit/s", "16GiB").
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from swarmtrain.core.errors import ConfigError
from swarmtrain.core.section import ByteCount
from swarmtrain.core.units import parse_bytes_per_second

Folder = Literal["machines", "networks", "churn"]
P = TypeVar("P", bound="Profile")


def _rate(value: object) -> object:
    """Pydantic takes a ValueError as the field's own fault and adds the key."""
    if not isinstance(value, str):
        return value
    try:
        return parse_bytes_per_second(value)
    except ConfigError as error:
        raise ValueError(f"{error.what}; {error.remedy}") from error


Rate = Annotated[float, BeforeValidator(_rate), Field(gt=0, le=1e13)]
"""Bytes per second, as a number or as text with a unit such as "20Mbit/s"."""

RegionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class Profile(BaseModel):
    """Base of all profiles: frozen, no unknown keys, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    description: str = Field(min_length=1, description="What it is, for people")
    source: str = Field(min_length=1, description="Where the figures come from")


class MachineProfile(Profile):
    """One machine: how fast it computes, what it holds, how it hangs on its network."""

    flops_per_second: float = Field(
        gt=0, le=1e18, description="Peak floating point operations per second in its training type"
    )
    utilisation: float = Field(gt=0, le=1, description="Share of the peak that training reaches")
    memory_bytes: ByteCount = Field(ge=1 << 28, description="Memory that stages may use")
    up_bytes_per_second: Rate = Field(description="What the machine can send, over all its links")
    down_bytes_per_second: Rate = Field(
        description="What the machine can receive, over all its links"
    )
    region: RegionName | None = Field(None, description="Where it stands, unless a scenario says")

    @property
    def effective_flops_per_second(self) -> float:
        return self.flops_per_second * self.utilisation


class NetworkProfile(Profile):
    """Lines between regions. Row and column `i` of both tables belong to `regions[i]`; rows send."""

    regions: tuple[RegionName, ...] = Field(min_length=1, max_length=256)
    one_way_latency_seconds: tuple[tuple[float, ...], ...]
    bytes_per_second: tuple[tuple[Rate, ...], ...] = Field(
        description="One flow between two machines in these regions"
    )
    up_bytes_per_second: Rate | None = Field(
        None, description="Access line of every machine, outwards; none: only the machine's own"
    )
    down_bytes_per_second: Rate | None = Field(
        None, description="Access line of every machine, inwards"
    )

    @model_validator(mode="after")
    def _tables_fit(self) -> "NetworkProfile":
        if len(set(self.regions)) < len(self.regions):
            raise ValueError("two regions have the same name")
        for name in ("one_way_latency_seconds", "bytes_per_second"):
            table = getattr(self, name)
            if [len(row) for row in table] != [len(self.regions)] * len(self.regions):
                raise ValueError(f"{name} must have a row and a column for each of the regions")
        if not all(0 <= entry <= 60 for row in self.one_way_latency_seconds for entry in row):
            raise ValueError("one_way_latency_seconds must lie within 0 and 60")
        return self

    def place(self, region: str) -> int:
        """The row and column of `region`."""
        return self.regions.index(region)


class ChurnEvent(BaseModel):
    """One entry of a recorded trace: `machines` of those that follow the trace come or go."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    at_seconds: float = Field(ge=0, description="Since the first step opened")
    kind: Literal["leave", "arrive"]
    machines: int = Field(1, ge=1, le=10_000)
    notice_seconds: float = Field(0.0, ge=0, le=3600, description="Warning before it leaves")


class ChurnProfile(Profile):
    """When machines leave and come: drawn from the run's seed, or an explicit list of `[[event]]`.

    Drawn lives and absences are exponential. A machine that leaves is replaced by a new one of its kind.
    """

    mean_life_seconds: float | None = Field(
        None, gt=0, description="Mean time until a machine leaves; none: only the events below"
    )
    mean_absence_seconds: float = Field(
        300.0, ge=0, description="Mean time until its replacement arrives"
    )
    notice_seconds: float = Field(
        0.0, ge=0, le=3600, description="Warning before a machine leaves; 0: it is just gone"
    )
    burst_share: float = Field(
        0.0, ge=0, le=1, description="Share of departures that take others of the region along"
    )
    burst_machines: int = Field(1, ge=1, le=1000, description="Machines that such a burst takes")
    event: tuple[ChurnEvent, ...] = ()

    @model_validator(mode="after")
    def _is_one_kind(self) -> "ChurnProfile":
        if self.mean_life_seconds is not None and self.event:
            raise ValueError("a trace is either drawn (mean_life_seconds) or a list of events")
        return self


PROJECT = Path(__file__).parents[2]
"""Of what runs; an installed copy has no profiles beside it."""


def find_profiles(folder: Path) -> Path:
    """The nearest `peers` folder at or above `folder`, else the project's own. Raises ConfigError."""
    for above in (folder.resolve(), *folder.resolve().parents, PROJECT):
        if (above / "peers").is_dir():
            return above / "peers"
    raise ConfigError(
        f"there is no folder of profiles for {folder}",
        "profiles are looked for in the nearest folder called peers",
        "keep the scenario inside a copy of the project, or name a profile by the path of its .toml",
    )


def read_machine(name: str, folder: Path) -> MachineProfile:
    """The machine called `name` by a file in `folder`. Raises ConfigError."""
    return _read("machines", name, folder, MachineProfile)


def read_network(name: str, folder: Path) -> NetworkProfile:
    """The network called `name` by a file in `folder`. Raises ConfigError."""
    return _read("networks", name, folder, NetworkProfile)


def read_churn(name: str, folder: Path) -> ChurnProfile:
    """The churn trace called `name` by a file in `folder`. Raises ConfigError."""
    return _read("churn", name, folder, ChurnProfile)


def _read(kind: Folder, name: str, folder: Path, model: type[P]) -> P:
    path = _path_of(kind, name, folder)
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", str(error), "check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no UTF-8 text", str(error), "save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML", str(error), "correct that place") from error
    except ValidationError as error:
        raise wrong_value(path, error, f"see class {model.__name__} in {__file__}") from None


def _path_of(kind: Folder, name: str, folder: Path) -> Path:
    if name.endswith(".toml"):
        return folder / name
    shelf = find_profiles(folder) / kind
    path = shelf / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(entry.stem for entry in shelf.glob("*.toml"))) or "none"
        raise ConfigError(
            f"{name!r} is not a profile in {shelf}", f"there are {known}", "name one of these"
        )
    return path


def wrong_value(path: Path, error: ValidationError, remedy: str) -> ConfigError:
    """The first of pydantic's findings in the file at `path`: key, value, why, what to do."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"])) or "the file"
    shown = repr(first["input"])
    value = "" if isinstance(first["input"], dict) or len(shown) > 80 else f" = {shown}"
    why = first["msg"].removeprefix("Value error, ")
    return ConfigError(f"{path}: {key}{value} cannot be", why, remedy)
