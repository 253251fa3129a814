"""Which peer takes which stage: first along chains of near peers, then by moves that join those of routes.

Only peers without a place are moved.
"""

from collections.abc import Iterator
from itertools import combinations, islice

from swarmtrain.plan.paths.instance import Instance

MORE_EDGES = 0.25
"""Share of all peers that starts as edges where sizes are free."""


MOST_PLACEMENTS = 64
"""Placements that are looked at where slots hold no whole route: beyond that there is said to be none (I8)."""


def placements(instance: Instance) -> Iterator[Instance]:
    """Everybody placed: as usual; then, as far as sizes are free, in other ways.

    A microbatch cannot visit all stages of a crowded peer there. So of the stages that only such peers host one after
    the other gets a peer for itself, as many at a time as there are peers for.
    """
    yield first_placement(instance)
    if instance.stage_sizes is not None:
        return
    hosts, crowded = instance.hosts, instance.crowded
    short = [stage for stage, own in enumerate(hosts) if own and crowded.issuperset(own)]
    spare = min(len(short), len(instance.unplaced) - sum(not own for own in hosts))
    if spare:
        for relieved in islice(combinations(short, spare), MOST_PLACEMENTS):
            yield first_placement(instance, relieved)


def first_placement(instance: Instance, relieved: tuple[int, ...] = ()) -> Instance:
    """Everybody placed: whoever is near follows in the chain, and every stretch of it has all stages in proportion.

    The stages `relieved` get one peer each before others get a second; there have to be so many.
    """
    hosted = [len(hosts) for hosts in instance.hosts]
    sizes = instance.stage_sizes or _even_sizes(instance, relieved)
    wanted = [max(0, size - count) for size, count in zip(sizes, hosted, strict=True)]
    spare = len(instance.unplaced) - sum(wanted)
    for extra in range(spare):
        wanted[1 + extra % (instance.stages - 1)] += 1
    places: dict[int, int] = {}
    dealt = [0] * instance.stages
    for step, peer in enumerate(_chain(instance), 1):
        # Whichever stage is furthest behind its share of the chain so far.
        behind = [
            want * step / sum(wanted) - have for want, have in zip(wanted, dealt, strict=True)
        ]
        places[peer] = max(range(instance.stages), key=behind.__getitem__)
        dealt[places[peer]] += 1
    return instance.placed(
        (places[index],) if peer.stages is None else peer.stages
        for index, peer in enumerate(instance.peers)
    )


def _chain(instance: Instance) -> list[int]:
    """Peers without a place, each followed by the nearest one left."""
    send, left = instance.send_seconds, list(instance.unplaced)
    chain = [left.pop(0)] if left else []
    while left:
        last = chain[-1]
        chain.append(min(left, key=lambda peer: send[last][peer] + send[peer][last]))
        left.remove(chain[-1])
    return chain


def _even_sizes(instance: Instance, relieved: tuple[int, ...]) -> tuple[int, ...]:
    """Every stage with one peer at least, those relieved with one more, a quarter of all at the edge, the rest spread
    over the middle."""
    hosted = [len(hosts) for hosts in instance.hosts]
    sizes = [max(1, count) + (stage in relieved) for stage, count in enumerate(hosted)]
    left = len(instance.unplaced) - sum(
        size - count for size, count in zip(sizes, hosted, strict=True)
    )
    for _ in range(left):
        if sizes[0] < MORE_EDGES * len(instance.peers):
            sizes[0] += 1
        else:
            sizes[min(range(1, len(sizes)), key=lambda stage: sizes[stage])] += 1
    return tuple(sizes)
