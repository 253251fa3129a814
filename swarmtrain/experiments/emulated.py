"""Peers on this machine made like the machines and lines of `peers/`, as far as real processes can be.

A machine's memory caps a peer's, its access line becomes the caps of a volunteer, its region what the peer says of
itself; a network's lines are shaped below each connection. Compute runs at this machine's own speed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swarmtrain.core.errors import ConfigError
from swarmtrain.core.units import format_bytes, format_bytes_per_second, format_seconds
from swarmtrain.experiments.profiles import (
    MachineProfile,
    NetworkProfile,
    read_machine,
    read_network,
)
from swarmtrain.experiments.wires import site_of


@dataclass(frozen=True, slots=True)
class Emulated:
    """One peer: its further arguments, the most memory it may use (None: its share), and what that is in words."""

    arguments: tuple[str, ...]
    memory_bytes: int | None
    says: str


def emulated(
    machines: Sequence[str], network: str | None, peers: int, folder: Path
) -> tuple[Emulated, ...]:
    """What each of `peers` is like: the named machines are dealt in turn, on the lines of the named network.

    Empty where nothing is named. Profiles are looked for from `folder` on.

    Raises:
        ConfigError: there is no such profile, or the network's lines differ from pair to pair.
    """
    known = [(name, read_machine(name, folder)) for name in machines]
    lines = read_network(network, folder) if network else None
    if lines is not None:
        _check_alike(network or "", lines)
    if not known and lines is None:
        return ()
    dealt = [known[index % len(known)] if known else ("", None) for index in range(peers)]
    return tuple(_like(name, machine, lines) for name, machine in dealt)


def _check_alike(name: str, network: NetworkProfile) -> None:
    if len(network.regions) == 1:
        return
    raise ConfigError(
        f"--network {name} has {len(network.regions)} regions",
        "all lines of a process on this machine are shaped alike, and those between regions differ",
        "choose a network of one region, such as home or lan; swarmtrain simulate and swarmtrain experiment run "
        "--world processes have lines between regions",
    )


def _like(name: str, machine: MachineProfile | None, network: NetworkProfile | None) -> Emulated:
    arguments: list[str] = []
    words: list[str] = []
    if machine is not None:
        words.append(f"at most {format_bytes(machine.memory_bytes)} of memory")
    site = site_of(machine, network)
    access = {"upload": site.up_bytes_per_second, "download": site.down_bytes_per_second}
    for way, rate in access.items():
        if math.isfinite(rate):
            arguments += [f"--{way}-limit", f"{rate:.0f}B"]
            words.append(f"{way} {format_bytes_per_second(rate)}")
    region = machine.region if machine is not None else None
    if network is not None:
        region = network.regions[0]
        flow, latency = network.bytes_per_second[0][0], network.one_way_latency_seconds[0][0]
        arguments += ["--shape", f"{flow:.0f}B:{latency:.6f}s"]
        words.append(f"lines of {format_bytes_per_second(flow)} and {format_seconds(latency)}")
    if region:
        arguments += ["--region", region]
        words.append(f"region {region}")
    says = f"{name or 'this machine'}: {', '.join(words)}; compute at this machine's own speed"
    return Emulated(tuple(arguments), machine.memory_bytes if machine is not None else None, says)
