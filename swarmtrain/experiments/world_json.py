"""The world of a run as plain values for its folder: machines, network, charge, faults; profiles are resolved."""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from swarmtrain.experiments.profiles import ChurnProfile, MachineProfile
from swarmtrain.experiments.virtual import Scenario

P = TypeVar("P", MachineProfile, ChurnProfile)


def world_json(scenario: Scenario) -> dict[str, Any]:
    """`scenario` for JSON. Each of its `peers` names its profiles by their places in `machines` and `churn`."""
    machines = _distinct(peer.machine for peer in scenario.peers)
    churn = _distinct(peer.churn for peer in scenario.peers)
    told = _told(scenario, besides="peers")
    told["peers"] = [
        {
            "name": peer.name,
            "stages": peer.stages,
            "slowness": peer.slowness,
            "region": peer.region,
            "island": peer.island,
            "machine": machines.index(peer.machine) if peer.machine else None,
            "churn": churn.index(peer.churn) if peer.churn else None,
        }
        for peer in scenario.peers
    ]
    return {**told, "machines": _told(machines), "churn": _told(churn)}


def _distinct(profiles: Iterable[P | None]) -> list[P]:
    found: list[P] = []
    for profile in profiles:
        if profile is not None and profile not in found:
            found.append(profile)
    return found


def _told(value: Any, besides: str = "") -> Any:
    """Records and profiles as tables; all else as it is."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        names = (field.name for field in fields(value) if field.name != besides)
        return {name: _told(getattr(value, name)) for name in names}
    if isinstance(value, (list, tuple)):
        return [_told(entry) for entry in value]
    return value
