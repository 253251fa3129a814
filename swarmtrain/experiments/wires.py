"""Lines of the virtual world that share what machines share: one access line outwards, one inwards.

A frame takes its bytes from three places at once: the sender's access, the flow between the two regions, the
receiver's access; it has left when the slowest of them has passed it. Frames that carry a charged body wait for
each other and not for small ones, as chunks of a real link do.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from swarmtrain.experiments.profiles import MachineProfile, NetworkProfile

Weigh = Callable[[str, str, bytes], tuple[float, bool]]
"""(sender, receiver, frame) -> bytes to charge, and whether it carries a charged body."""


@dataclass(slots=True)
class Gate:
    """What passes bytes at a rate; bodies wait in a row of their own, behind which small frames do not wait."""

    _free_at_seconds: float = 0.0
    _bodies_free_at_seconds: float = 0.0

    def passes(self, seconds: float, now_seconds: float, is_body: bool) -> float:
        """When something that takes `seconds` has passed."""
        if is_body:
            begin = max(self._bodies_free_at_seconds, self._free_at_seconds, now_seconds)
            self._bodies_free_at_seconds = begin + seconds
            return self._bodies_free_at_seconds
        self._free_at_seconds = max(self._free_at_seconds, now_seconds) + seconds
        # It took its place between the chunks of the bodies under way.
        self._bodies_free_at_seconds += seconds
        return self._free_at_seconds


@dataclass(frozen=True, slots=True)
class Site:
    """A machine's access lines in bytes per second; infinite: not the narrow place."""

    up_bytes_per_second: float = math.inf
    down_bytes_per_second: float = math.inf
    up: Gate = field(default_factory=Gate)
    down: Gate = field(default_factory=Gate)


def site_of(machine: MachineProfile | None, network: NetworkProfile | None) -> Site:
    """The narrower of what the machine and its network's access line can do."""
    up, down = [math.inf], [math.inf]
    for profile in (machine, network):
        if profile is not None:
            up.append(profile.up_bytes_per_second or math.inf)
            down.append(profile.down_bytes_per_second or math.inf)
    return Site(min(up), min(down))


@dataclass(frozen=True, slots=True)
class Way:
    """One direction between two machines. `sites` may grow; unknown names have no access line of their own."""

    sender: str
    receiver: str
    sites: Mapping[str, Site]
    weigh: Weigh
    flow: Gate = field(default_factory=Gate)

    def carry(
        self, frame: bytes, now_seconds: float, flow_bytes_per_second: float
    ) -> tuple[float, bool]:
        """When the last byte of `frame` leaves, and whether later small frames may arrive before it."""
        weight_bytes, is_body = self.weigh(self.sender, self.receiver, frame)
        here, there = self.sites[self.sender], self.sites[self.receiver]
        places = (
            (here.up, here.up_bytes_per_second),
            (self.flow, flow_bytes_per_second),
            (there.down, there.down_bytes_per_second),
        )
        left = [gate.passes(weight_bytes / rate, now_seconds, is_body) for gate, rate in places]
        return max(left), is_body


def plain_weight(sender: str, receiver: str, frame: bytes) -> tuple[float, bool]:
    """What is sent is what is charged."""
    return float(len(frame)), False
