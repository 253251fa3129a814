"""A virtual world that notes in its journal how many bytes its lines had carried whenever a step was committed.

Of some steps it also notes what every machine did (experiments.gantt). A charged model's bytes count as charged. The
notes are events of the world or of its peers, so that curves and charts can be drawn from a journal alone.
"""

import asyncio
from collections import Counter
from dataclasses import replace

from swarmtrain.compute.lane import Observer
from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import Event, StepCommitted, Traffic
from swarmtrain.core.types import PeerId
from swarmtrain.data.stream import Corpus
from swarmtrain.experiments.gantt import MOST_MACHINES, sampler_of
from swarmtrain.experiments.virtual import WORLD, Scenario, Stage
from swarmtrain.experiments.wires import Way
from swarmtrain.peer.vitals import StepSampler


class MeteredStage(Stage):
    """`sent_bytes` says what each ordered pair of machines sent, `control_bytes` what was no charged body: both of
    worlds with networks, machine profiles or a charged model only."""

    def __init__(self, config: RunConfig, scenario: Scenario, corpus: Corpus) -> None:
        self._samplers: dict[PeerId, StepSampler] = {}
        super().__init__(config, scenario, corpus)
        self.sent_bytes: Counter[tuple[str, str]] = Counter()
        self._carried_bytes = 0.0
        self.control_bytes = 0.0
        if self.figures.has_ways:
            self.network.way = self._metered_way

    @property
    def carried_bytes(self) -> int:
        """By all lines so far: as charged, or what all links there ever were have sent."""
        if self.figures.has_ways:
            return int(self._carried_bytes)
        return sum(session.links.totals().bytes_sent for session in self.sessions.values())

    def _metered_way(self, sender: str, receiver: str) -> Way:
        way = self.figures.way(sender, receiver)

        def weigh(a: str, b: str, frame: bytes) -> tuple[float, bool]:
            weight_bytes, is_body = way.weigh(a, b, frame)
            self._carried_bytes += weight_bytes
            self.control_bytes += 0.0 if is_body else weight_bytes
            self.sent_bytes[sender, receiver] += int(weight_bytes)
            return weight_bytes, is_body

        return replace(way, weigh=weigh)

    def _observer(self, name: str) -> Observer:
        observe = super()._observer(name)
        if len(self.scenario.peers) > MOST_MACHINES:
            return observe
        me, write = self.names[name], super()._write
        now = asyncio.get_running_loop().time
        sampler = sampler_of(me, self.config.run.steps, lambda event: write(me, event), now)
        self._samplers[me] = sampler
        return sampler.observe(observe)

    def _write(self, peer: PeerId, event: Event) -> None:
        super()._write(peer, event)
        if peer in self._samplers:
            self._samplers[peer].heard(event)
        if isinstance(event, StepCommitted):
            super()._write(WORLD, Traffic(WORLD, self.carried_bytes, 0, 0))

    def _count_bytes(self) -> None:
        self.run.bytes_sent = self.carried_bytes
