"""What peers measured of themselves and of their links, as one view for planning; pure.

A peer measures what it sends: its own uplink on the way to each neighbour. Figures that rest on few calls are drawn
towards the median of all links, and pairs that never spoke are taken to be like the way back, or else like the median.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from swarmtrain.core.types import PeerId

SURE_CALLS = 8
"""A rate measured over as many calls counts in full; one over fewer counts in proportion."""

UNKNOWN_ONE_WAY_SECONDS = 0.05
UNKNOWN_BYTES_PER_SECOND = 12.5e6
"""Two peers on different continents, 100 Mbit/s: only while nobody has measured anything."""

FORWARD_SHARE = 1 / 3
"""Of a microbatch's pass through a stage: backward computes two gradients, forward one product; until measured."""


@dataclass(frozen=True, slots=True)
class LinkFigure:
    """One direction of a link as its sender measured it; `calls` is what the rate rests on."""

    to: PeerId
    one_way_seconds: float
    bytes_per_second: float
    calls: int


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """Seconds of one microbatch through one stage, and the links that this peer sends on.

    `pass_seconds` is forward and backward by the self-test; the others were measured under work, 0 before that.
    """

    peer: PeerId
    pass_seconds: float
    measured_forward_seconds: float = 0.0
    measured_backward_seconds: float = 0.0
    measured_loss_seconds: float = 0.0
    links: tuple[LinkFigure, ...] = ()

    @property
    def forward_seconds(self) -> float:
        return self.measured_forward_seconds or FORWARD_SHARE * self.pass_seconds

    @property
    def backward_seconds(self) -> float:
        return self.measured_backward_seconds or (1 - FORWARD_SHARE) * self.pass_seconds

    @property
    def loss_seconds(self) -> float:
        """Of an edge peer; before it is measured, a guess that it is as much as a stage."""
        return self.measured_loss_seconds or self.pass_seconds


@dataclass(frozen=True, slots=True)
class Costs:
    """All pairs' figures. `send_seconds` of a peer to itself is 0."""

    links: Mapping[tuple[PeerId, PeerId], LinkFigure]
    one_way_seconds: float
    bytes_per_second: float

    def send_seconds(self, sender: PeerId, receiver: PeerId, sent_bytes: int) -> float:
        """Latency plus bytes over bandwidth, one direction."""
        if sender == receiver:
            return 0.0
        figure = self.links.get((sender, receiver)) or self.links.get((receiver, sender))
        if figure is None:
            return self.one_way_seconds + sent_bytes / self.bytes_per_second
        confidence = min(figure.calls / SURE_CALLS, 1.0) if figure.bytes_per_second else 0.0
        # Seconds per byte are what adds up along a route, so those are averaged.
        per_byte = (1 - confidence) / self.bytes_per_second
        if confidence:
            per_byte += confidence / figure.bytes_per_second
        return figure.one_way_seconds + sent_bytes * per_byte

    def matrix(self, peers: Sequence[PeerId], sent_bytes: int) -> list[list[float]]:
        """Send seconds between all of `peers`, row by sender."""
        return [[self.send_seconds(a, b, sent_bytes) for b in peers] for a in peers]


def costs_of(figures: Iterable[PeerFigures]) -> Costs:
    """The view that follows from what everybody published."""
    links = {(entry.peer, link.to): link for entry in figures for link in entry.links}
    rates = [link.bytes_per_second for link in links.values() if link.bytes_per_second > 0]
    delays = [link.one_way_seconds for link in links.values()]
    return Costs(
        links,
        statistics.median(delays) if delays else UNKNOWN_ONE_WAY_SECONDS,
        statistics.median(rates) if rates else UNKNOWN_BYTES_PER_SECOND,
    )
