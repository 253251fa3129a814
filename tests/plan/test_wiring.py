"""Routes without a plan: everybody the same work, and every caller in touch with every replica of the next stage."""

import itertools

import pytest

from swarmtrain.core.sequences import turns_of
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.plan.wiring import Wiring, next_replica, route_of

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
        used = [
            route_of(roster, stages, (key,) * len(stages), LEAD)[position].peer
            for key in range(keys)
        ]
        assert {used.count(peer) for peer in roster.replicas(stage)} == {keys // counts[stage]}


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_every_replica_calls_every_replica_of_the_next_stage(replicas: int):
    roster, stages = roster_of(1, replicas, replicas, replicas), (1, 2, 3)
    routes = [route_of(roster, stages, (key,) * len(stages), LEAD) for key in range(replicas**2)]
    for position in (1, 2):
        pairs = {(route[position].peer, route[position + 1].peer) for route in routes}
        here, there = roster.replicas(position), roster.replicas(position + 1)
        assert pairs == set(itertools.product(here, there))


def test_with_stages_left_out_replicas_still_get_the_same_share():
    """Dealt by key, such visitors of a stage would all meet in one replica."""
    roster, sequences = (
        roster_of(1, 2, 2),
        tuple(((1,) if key % 4 in (0, 3) else (2,)) for key in range(24)),
    )
    turns = turns_of(sequences)
    used = [route_of(roster, sequences[key], turns[key], LEAD)[1].peer for key in range(24)]
    assert {used.count(peer) for stage in (1, 2) for peer in roster.replicas(stage)} == {6}
    by_key = [route_of(roster, sequences[key], (key,), LEAD)[1].peer for key in range(24)]
    assert {by_key.count(peer) for peer in roster.replicas(1)} == {0, 12}


def test_the_lead_embeds_and_computes_the_loss():
    route = route_of(roster_of(2, 1), (1,), (5,), PeerId("0-1"))
    assert [visit.peer for visit in route] == ["0-1", "1-0", "0-1"]


def test_another_replica_is_one_that_was_not_tried():
    replicas = roster_of(1, 3).replicas(1)
    assert next_replica(replicas, 0, replicas[1], ()) == replicas[1]
    assert next_replica(replicas, 0, replicas[1], [replicas[1]]) in (replicas[0], replicas[2])
    assert next_replica(replicas, 0, replicas[1], list(replicas)) == replicas[1]
    with pytest.raises(ValueError, match="without replicas"):
        next_replica((), 0, None, ())


# ---- by measured times ------------------------------------------------------------------------------------------

FAST, SLOW, NEW = PeerId("fast"), PeerId("slow"), PeerId("new")


def shares(wiring: Wiring, replicas: list[PeerId], keys: int, step: int = 0) -> dict[PeerId, int]:
    chosen = [
        wiring.choose(step, 1, replicas, replicas[key % len(replicas)]) for key in range(keys)
    ]
    return {peer: chosen.count(peer) for peer in replicas}


def measured(**seconds: float) -> Wiring:
    wiring = Wiring()
    for name, each_seconds in seconds.items():
        for _ in range(3):
            wiring.answered(1, PeerId(name), each_seconds)
    return wiring


def test_replicas_that_are_alike_are_dealt_keys_in_turn() -> None:
    assert shares(measured(fast=1.0, slow=1.2), [FAST, SLOW], 8) == {FAST: 4, SLOW: 4}
    assert shares(Wiring(), [FAST, SLOW], 8) == {FAST: 4, SLOW: 4}


@pytest.mark.parametrize("factor", [2, 3, 10])
def test_a_slower_replica_gets_less_in_proportion(factor: int) -> None:
    keys = 6 * (factor + 1)
    found = shares(measured(fast=1.0, slow=float(factor)), [FAST, SLOW], keys)
    assert found[SLOW] == pytest.approx(keys / (factor + 1), abs=1)


def test_few_keys_all_go_where_they_end_first() -> None:
    assert shares(measured(fast=1.0, slow=10.0), [FAST, SLOW], 9) == {FAST: 9, SLOW: 0}


def test_what_was_never_called_is_tried() -> None:
    found = shares(measured(fast=1.0, slow=10.0), [FAST, SLOW, NEW], 4)
    assert found == {FAST: 2, SLOW: 0, NEW: 2}


def test_a_new_step_begins_with_empty_queues() -> None:
    wiring = measured(fast=1.0, slow=3.0)
    first = shares(wiring, [FAST, SLOW], 3, step=1)
    assert shares(wiring, [FAST, SLOW], 3, step=2) == first


def test_a_replica_that_became_slow_is_found_out() -> None:
    wiring = measured(fast=1.0, slow=1.0)
    for _ in range(20):
        wiring.answered(1, SLOW, 10.0)
    assert shares(wiring, [FAST, SLOW], 11)[SLOW] <= 2
