"""Which replica serves which position of a microbatch when there is no plan (SWARM, first form).

Keys are dealt round robin to the replicas of each stage, so replicas share a step's work evenly and every peer
that knows the roster finds the same route. Measured response times enter with the scheduler.
"""

from collections.abc import Collection, Sequence

from swarmtrain.core.types import EDGE_STAGE, PeerId, Roster, Route, Visit


def route_of(roster: Roster, sequence: Sequence[int], key: int, lead: PeerId) -> Route:
    """The route of `key`: `lead` embeds and computes the loss, replicas alternate by key in between."""
    middle = (Visit(stage, _dealt(roster.replicas(stage), key)) for stage in sequence)
    return (Visit(EDGE_STAGE, lead), *middle, Visit(EDGE_STAGE, lead))


def next_replica(
    replicas: Sequence[PeerId], key: int, wanted: PeerId | None, tried: Collection[PeerId]
) -> PeerId:
    """The replica to call: the wanted one, else the next by key that was not tried, else all over again.

    Raises:
        ValueError: the stage has no replica at all.
    """
    if not replicas:
        raise ValueError("a stage without replicas cannot be called")
    untried = [peer for peer in replicas if peer not in tried] or list(replicas)
    return wanted if wanted in untried else _dealt(untried, key)


def _dealt(replicas: Sequence[PeerId], key: int) -> PeerId:
    return replicas[key % len(replicas)]
