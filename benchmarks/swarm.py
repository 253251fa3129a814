"""A swarm of two real peer processes over loopback, with pinned stages: start it, return its steps' seconds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarmtrain.coordinator.state import RunState
from swarmtrain.core.config import RunConfig
from swarmtrain.experiments.children import start_child
from swarmtrain.experiments.local import LocalSwarm

TWO_PEERS = ("0:1", "2")
"""Peer 1 has the edge and stage 1, peer 2 stage 2."""


@dataclass(slots=True)
class PinnedSwarm(LocalSwarm):
    """`swarmtrain up` with a choice of stages for every peer; keeps each step's seconds and each peer's events."""

    pinned: Sequence[str] = TWO_PEERS
    seconds: list[float] = field(default_factory=list)

    async def _start_peers(self) -> None:
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        for index, stages in enumerate(self.pinned):
            name = f"peer-{index + 1}"
            arguments = ["peer", "--join", self.coordinator.address, "--name", name, "--lifeline"]
            arguments += ["--listen", "127.0.0.1:0", "--stage", stages]
            arguments += ["--out", str(self.folder / name)]
            arguments += ["--nice", "0", "--state", str(self.folder / name / "state")]
            self.children.append(await start_child(name, arguments, logs / f"{name}.log"))

    async def _save(self) -> None:
        """A benchmark keeps no checkpoint."""


async def run_swarm(
    config: RunConfig, folder: Path, pinned: Sequence[str] = TWO_PEERS
) -> PinnedSwarm:
    """Train `config` in an existing folder; `.seconds` are those between commits, as its conductor saw them."""
    seconds: list[float] = []

    def changed(state: RunState, entry: dict[str, Any]) -> None:
        event = entry["event"]
        if event["kind"] == "step_committed":
            seconds.append(float(event["seconds"]))

    swarm = PinnedSwarm(config, len(pinned), folder, changed, pinned=pinned, seconds=seconds)
    await swarm.run()
    return swarm
