"""A scenario's machines and lines as real processes on this machine can have them, and what they cannot have.

Lines are shaped where each process sends (transport.shaping), compute takes at least the scenario's seconds
(compute.lane), access lines are the caps that a volunteer would state. All figures are those of the virtual world.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from swarmtrain.compute.lane import Kind, Task
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.types import PeerId
from swarmtrain.experiments.faults import MESSAGES
from swarmtrain.experiments.figures import Figures
from swarmtrain.experiments.virtual import Scenario, VirtualPeer
from swarmtrain.experiments.wires import site_of
from swarmtrain.peer.staging import Staging

MOST_PROCESSES = 48
"""Each takes some 300 MB and seconds of a core to start."""

Pair = tuple[str, str]


def check_expressible(scenario: Scenario) -> None:
    """Raise ConfigError for what real processes cannot do, saying what to change."""
    if len(scenario.peers) > MOST_PROCESSES:
        raise _refused(
            f"{len(scenario.peers)} machines",
            f"each is a process; at most {MOST_PROCESSES} are started",
            "name fewer machines",
        )
    if scenario.charged is not None:
        raise _refused(
            "a charged model",
            "real tensors travel and take what they take",
            "leave [charge] out and set the run's own model.*, or world.bytes_per_second lower",
        )
    for peer in scenario.peers:
        stages = peer.stages
        if stages and stages != tuple(range(stages[0], stages[-1] + 1)):
            raise _refused(
                f"machine {peer.name} with stages {', '.join(map(str, stages))}",
                "--stage of a real peer names one range",
                "give it stages next to each other, or none: then it chooses",
            )
    _check_faults(scenario)


def _check_faults(scenario: Scenario) -> None:
    chances = scenario.chances
    kinds = {fault.kind for fault in scenario.faults}
    if chances.count or chances.every_seconds:
        kinds |= set(chances.kinds)
    if wrong := sorted(kinds & MESSAGES):
        raise _refused(
            f"faults of single messages ({', '.join(wrong)})",
            "nothing between two real processes knows one message from another",
            "name other kinds: [[fault]] kind and faults.kinds may be kill, freeze, blackhole, "
            "one_way, flap, partition, slow_link, straggler",
        )
    if any(fault.at_point for fault in scenario.faults) or (chances.count and chances.point_share):
        raise _refused(
            "faults at named points of the protocol",
            "they are seen from inside a process",
            "use at_seconds, and set faults.point_share = 0",
        )


def _refused(what: str, why: str, remedy: str) -> ConfigError:
    return ConfigError(
        f"--world processes cannot have {what}", why, f"{remedy}; or --world virtual"
    )


def staging_of(
    peer: VirtualPeer,
    figures: Figures,
    config: RunConfig,
    names: Mapping[str, PeerId],
    cut: Collection[Pair],
) -> Staging:
    """What `peer` is made to be under the conditions of the moment; nothing of what it sends along `cut` arrives."""

    def seconds(kind: Kind) -> tuple[float, ...]:
        stages = range(config.model.stages + 1)
        return tuple(figures.cost_seconds(peer, Task(kind, stage)) for stage in stages)

    lines = {
        names[other]: replace(figures.shape(peer.name, other), is_cut=(peer.name, other) in cut)
        for other in names
        if other != peer.name
    }
    return Staging(
        seed=config.run.seed,
        lines=lines,
        forward_seconds=seconds(Kind.FORWARD),
        backward_seconds=seconds(Kind.BACKWARD),
        loss_seconds=figures.cost_seconds(peer, Task(Kind.LOSS, 0)),
    )


def arguments_of(peer: VirtualPeer, scenario: Scenario, folder: Path) -> list[str]:
    """The command line of `swarmtrain peer` for this machine, whose files are in `folder`."""
    said = ["--name", peer.name, "--island", str(peer.island or 0)]
    said += ["--config", str(island_file(folder, peer.island))]
    said += ["--identity", str(folder / "keys" / peer.name)]
    said += ["--staged-by", str(folder / "staging" / f"{peer.name}.json")]
    said += ["--out", str(folder / "peers" / peer.name)]
    if peer.stages:
        said += ["--stage", f"{peer.stages[0]}:{peer.stages[-1]}"]
    if peer.region:
        said += ["--region", peer.region]
    site = site_of(peer.machine, scenario.network)
    for option, rate in (("up", site.up_bytes_per_second), ("down", site.down_bytes_per_second)):
        if rate != float("inf"):
            said += [f"--{option}load-limit", f"{round(8 * rate)}bit"]
    return said


def island_file(folder: Path, island: int | None) -> Path:
    """The settings that peers of one island have to themselves."""
    return folder / f"island-{island or 0}.toml"
