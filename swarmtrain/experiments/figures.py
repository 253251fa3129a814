"""What things take in one virtual world: seconds of a task, of a line, bytes a second, memory of a machine."""

import random
from typing import TYPE_CHECKING

from swarmtrain.compute.lane import Kind, Task
from swarmtrain.core.config import RunConfig
from swarmtrain.experiments.costs import Weights, shape_of
from swarmtrain.experiments.nemesis import Conditions
from swarmtrain.experiments.wires import Site, Way, Weigh, plain_weight, site_of
from swarmtrain.transport.shaping import Shape

if TYPE_CHECKING:
    from swarmtrain.experiments.virtual import Scenario, VirtualPeer

AMPLE_MEMORY_BYTES = 1 << 50


class Figures:
    """The scenario's figures under the faults of the moment (`conditions`)."""

    def __init__(self, scenario: "Scenario", config: RunConfig, tokenizer_tokens: int) -> None:
        self._scenario = scenario
        self.conditions = Conditions()
        self._own = self._shape = shape_of(config, tokenizer_tokens)
        self._weigh: Weigh = plain_weight
        if scenario.charged is not None:
            self._shape = scenario.charged.shape(config)
            self._weigh = Weights(config, self._own.vocab_size, self._shape).weigh
        self._chance = random.Random(f"lines {config.run.seed}")
        self._sites: dict[str, Site] = {}
        self._rows: dict[str, int] = {}

    def place(self, peer: "VirtualPeer") -> None:
        """From here on lines may lead to `peer`."""
        network = self._scenario.network
        self._sites[peer.name] = site_of(peer.machine, network)
        if network is not None:
            self._rows[peer.name] = network.place(peer.region)

    def cost_seconds(self, peer: "VirtualPeer", task: Task) -> float:
        scenario = self._scenario
        if task.kind is Kind.STATE:
            if not task.values or not scenario.pass_seconds:
                return 0.0
            seconds = task.values * self._weight(task.stage) * scenario.pass_seconds
        elif peer.machine is not None:
            seconds = self._shape.flops(task) / peer.machine.effective_flops_per_second
        else:
            is_forward = task.kind is Kind.FORWARD
            seconds = scenario.forward_seconds if is_forward else scenario.backward_seconds
        return seconds * peer.slowness * self.conditions.compute(peer.name)

    def _weight(self, stage: int) -> float:
        """How many parameters are charged for one of the run's own."""
        return self._shape.parameters(stage) / self._own.parameters(stage)

    def memory_bytes(self, peer: "VirtualPeer") -> int:
        """What lets just as many of the tiny stages fit in as would of the charged ones, with the most to spare."""
        if peer.machine is None:
            return AMPLE_MEMORY_BYTES
        capacity = self._shape.capacity_stages(peer.machine.memory_bytes)
        return self._own.needed_bytes(capacity + 1) - 1

    def latency_seconds(self, sender: str, receiver: str) -> float:
        """One way."""
        network = self._scenario.network
        if network is None:
            return self._scenario.latency_seconds
        return network.one_way_latency_seconds[self._rows[sender]][self._rows[receiver]]

    def shape(self, sender: str, receiver: str) -> Shape:
        """The line between the two in this direction."""
        scenario = self._scenario
        return Shape(
            self.bytes_per_second(sender, receiver),
            self.latency_seconds(sender, receiver),
            scenario.jitter_seconds,
            scenario.loss,
        )

    def delay_seconds(self, sender: str, receiver: str) -> float:
        """What one frame takes from its leaving to its arriving: latency, and by chance jitter and a loss."""
        if not (self._scenario.jitter_seconds or self._scenario.loss):
            return self.latency_seconds(sender, receiver)
        return self.shape(sender, receiver).delay_seconds(self._chance)

    def bytes_per_second(self, sender: str, receiver: str) -> float:
        """Of one flow between the two; access lines come on top, see `way`."""
        slowness, network = self.conditions.link(sender, receiver), self._scenario.network
        if network is None:
            return self._scenario.bytes_per_second / slowness
        return network.bytes_per_second[self._rows[sender]][self._rows[receiver]] / slowness

    @property
    def has_ways(self) -> bool:
        """Whether machines share access lines or frames are charged; without, each pair has its own line."""
        scenario = self._scenario
        has_machines = any(peer.machine for peer in scenario.peers)
        return scenario.network is not None or scenario.charged is not None or has_machines

    def way(self, sender: str, receiver: str) -> Way:
        return Way(sender, receiver, self._sites, self._weigh)
