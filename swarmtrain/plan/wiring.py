"""Which replica serves which position of a microbatch when there is no plan (SWARM, first form).

Keys are dealt to the replicas of each stage in turn, so replicas share a step's work evenly and every peer that knows
the roster finds the same route. The turn is shifted from one position to the next: otherwise every caller would know
one replica of the next stage only, and could not tell a slow one from a busy stage (plan.deadlines). Measured
response times enter with the scheduler.
"""

from collections.abc import Collection, Sequence

from swarmtrain.core.types import EDGE_STAGE, PeerId, Roster, Route, Visit


def route_of(roster: Roster, sequence: Sequence[int], key: int, lead: PeerId) -> Route:
    """The route of `key`: `lead` embeds and computes the loss, replicas alternate by key in between."""
    middle = (
        Visit(stage, _dealt(roster.replicas(stage), key, position))
        for position, stage in enumerate(sequence, start=1)
    )
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


def _dealt(replicas: Sequence[PeerId], key: int, position: int = 0) -> PeerId:
    """In each round of as many keys as there are replicas everybody has one; rounds are rotated by `position`."""
    count = len(replicas)
    return replicas[(key + position * (key // count)) % count]
