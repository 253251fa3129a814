"""Routes without a plan: everybody the same work, and every caller in touch with every replica of the next stage."""

import itertools

import pytest

from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.plan.wiring import next_replica, route_of

LEAD = PeerId("0-0")


def roster_of(*counts: int) -> Roster:
    """`counts[s]` replicas of stage s."""
    return Roster.of(
        1,
        [
            Member(PeerId(f"{s}-{n}"), (s,), "")
            for s, count in enumerate(counts)
            for n in range(count)
        ],
    )


@pytest.mark.parametrize("counts", [(1, 2, 2, 2), (2, 3, 3, 3, 3), (1, 2, 3, 4), (1, 5, 1, 5)])
def test_every_replica_gets_the_same_share(counts: tuple[int, ...]):
    roster, stages = roster_of(*counts), tuple(range(1, len(counts)))
    keys = 60
    for position, stage in enumerate(stages, start=1):
        used = [route_of(roster, stages, key, LEAD)[position].peer for key in range(keys)]
        assert {used.count(peer) for peer in roster.replicas(stage)} == {keys // counts[stage]}


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_every_replica_calls_every_replica_of_the_next_stage(replicas: int):
    roster, stages = roster_of(1, replicas, replicas, replicas), (1, 2, 3)
    routes = [route_of(roster, stages, key, LEAD) for key in range(replicas**2)]
    for position in (1, 2):
        pairs = {(route[position].peer, route[position + 1].peer) for route in routes}
        here, there = roster.replicas(position), roster.replicas(position + 1)
        assert pairs == set(itertools.product(here, there))


def test_the_lead_embeds_and_computes_the_loss():
    route = route_of(roster_of(2, 1), (1,), 5, PeerId("0-1"))
    assert [visit.peer for visit in route] == ["0-1", "1-0", "0-1"]


def test_another_replica_is_one_that_was_not_tried():
    replicas = roster_of(1, 3).replicas(1)
    assert next_replica(replicas, 0, replicas[1], ()) == replicas[1]
    assert next_replica(replicas, 0, replicas[1], [replicas[1]]) in (replicas[0], replicas[2])
    assert next_replica(replicas, 0, replicas[1], list(replicas)) == replicas[1]
    with pytest.raises(ValueError, match="without replicas"):
        next_replica((), 0, None, ())
