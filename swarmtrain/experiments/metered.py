"""A virtual world that notes in its journal how many bytes its lines had carried whenever a step was committed.

A charged model's bytes count as charged. The notes are `Traffic` events of the world itself, so that loss against
bytes can be drawn from a journal alone.
"""

from collections import Counter
from dataclasses import replace

from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import Event, StepCommitted, Traffic
from swarmtrain.core.types import PeerId
from swarmtrain.data.stream import Corpus
from swarmtrain.experiments.virtual import WORLD, Scenario, Stage
from swarmtrain.experiments.wires import Way


class MeteredStage(Stage):
    """`sent_bytes` says what each ordered pair of machines sent, `control_bytes` what was no charged body: both of
    worlds with networks, machine profiles or a charged model only."""

    def __init__(self, config: RunConfig, scenario: Scenario, corpus: Corpus) -> None:
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

    def _write(self, peer: PeerId, event: Event) -> None:
        super()._write(peer, event)
        if isinstance(event, StepCommitted):
            super()._write(WORLD, Traffic(WORLD, self.carried_bytes, 0, 0))

    def _count_bytes(self) -> None:
        self.run.bytes_sent = self.carried_bytes
