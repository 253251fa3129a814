"""Peers on this machine made like the machines and lines of `peers/`, as far as real processes can be.

A machine's memory caps a peer's, its access line becomes the caps of a volunteer, its region what the peer says of
itself; a network's lines are shaped below each connection between two peers, as their files say (peer.staging).
Compute runs at this machine's own speed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from swarmtrain.peer.staging import Staging, write_staging
from swarmtrain.swarm.identity import Identity
from swarmtrain.transport.shaping import Shape


@dataclass(frozen=True, slots=True)
class Emulated:
    """One peer: its further arguments, the most memory it may use (None: its share), and what that is in words.

    `towards` has its lines to all peers in their order, itself among them; empty where they are as they are.
    """

    arguments: tuple[str, ...]
    memory_bytes: int | None
    says: str
    towards: tuple[Shape, ...] = ()


def emulated(
    machines: Sequence[str], network: str | None, peers: int, folder: Path
) -> tuple[Emulated, ...]:
    """What each of `peers` is like: the named machines are dealt in turn, on the lines of the named network.

    Machines whose profile names no region are dealt to the network's regions in turn, too. Empty where nothing is
    named. Profiles are looked for from `folder` on.

    Raises:
        ConfigError: there is no such profile, or a machine stands where the network has no lines.
    """
    known = [(name, read_machine(name, folder)) for name in machines]
    lines = read_network(network, folder) if network else None
    if not known and lines is None:
        return ()
    dealt = [known[index % len(known)] if known else ("", None) for index in range(peers)]
    own = [machine.region or "" if machine is not None else "" for _, machine in dealt]
    regions = own if lines is None else [_region(lines, *each) for each in enumerate(own)]
    return tuple(
        _like(name, machine, lines, regions, index) for index, (name, machine) in enumerate(dealt)
    )


def staged(machines: Sequence[Emulated], folder: Path) -> tuple[Emulated, ...]:
    """`machines` with arguments that name what is written here to `folder`: their keys, and their lines."""
    if not any(machine.towards for machine in machines):
        return tuple(machines)
    names = [f"peer-{number}" for number in range(1, len(machines) + 1)]
    peers = [Identity.load_or_create(folder / "keys" / name).peer_id for name in names]
    (folder / "staging").mkdir(exist_ok=True)
    made = []
    for number, (name, machine) in enumerate(zip(names, machines, strict=True)):
        lines = dict(zip(peers, machine.towards, strict=True))
        del lines[peers[number]]
        path = folder / "staging" / f"{name}.json"
        write_staging(Staging(seed=number, lines=dict(lines)), path)
        more = ("--identity", str(folder / "keys" / name), "--staged-by", str(path))
        made.append(replace(machine, arguments=(*machine.arguments, *more)))
    return tuple(made)


def _region(network: NetworkProfile, index: int, own: str) -> str:
    if own and own not in network.regions:
        raise ConfigError(
            f"a machine stands in {own}, where the network has no lines",
            f"its regions are {', '.join(network.regions)}",
            "name another --machine or another --network",
        )
    return own or network.regions[index % len(network.regions)]


def _like(
    name: str,
    machine: MachineProfile | None,
    network: NetworkProfile | None,
    regions: Sequence[str],
    index: int,
) -> Emulated:
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
    towards: tuple[Shape, ...] = ()
    if network is not None:
        towards = tuple(_line(network, regions[index], region) for region in regions)
        words.append(_span(towards[:index] + towards[index + 1 :]))
    if regions[index]:
        arguments += ["--region", regions[index]]
        words.append(f"region {regions[index]}")
    told = ", ".join(filter(None, words))
    says = f"{name or 'this machine'}: {told}; compute at this machine's own speed"
    memory_bytes = machine.memory_bytes if machine is not None else None
    return Emulated(tuple(arguments), memory_bytes, says, towards)


def _line(network: NetworkProfile, here: str, there: str) -> Shape:
    row, column = network.place(here), network.place(there)
    flow_bytes_per_second = network.bytes_per_second[row][column]
    return Shape(flow_bytes_per_second, network.one_way_latency_seconds[row][column])


def _span(lines: Sequence[Shape]) -> str:
    """The range of the lines in words; empty without any."""
    if not lines:
        return ""
    slow, fast = (pick(line.bytes_per_second for line in lines) for pick in (min, max))
    near, far = (pick(line.latency_seconds for line in lines) for pick in (min, max))
    rates = list(dict.fromkeys(map(format_bytes_per_second, (slow, fast))))
    waits = list(dict.fromkeys(map(format_seconds, (near, far))))
    return f"lines of {' to '.join(rates)} and {' to '.join(waits)}"
