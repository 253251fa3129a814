"""What a peer's links carried, by the peer at the other end: the traffic on the map of an experiment."""

from dataclasses import dataclass

from swarmtrain.core.events import Event

CarriedRow = tuple[str, int, int]
"""The peer at the other end, bytes sent to it and received from it, framing and retries included."""


@dataclass(frozen=True, slots=True)
class LinksCarried(Event):
    """All links that a peer ever had, told once as it ends; one that is killed is known by what others got of it."""

    peer: str
    links: tuple[CarriedRow, ...]
