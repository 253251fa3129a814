"""Routes without a plan: everybody the same work, and every caller in touch with every replica of the next stage."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.sequences import turns_of
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.plan.wiring import ALIKE, FADES_AFTER, Turn, Wiring, deal, next_replica, route_of

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


@pytest.mark.parametrize("position", [1, 2, 3])
@pytest.mark.parametrize("count", [3, 6, 24])
def test_the_keys_of_a_replica_that_is_gone_go_to_many_others(count: int, position: int):
    replicas = roster_of(1, count).replicas(1)
    dealt = deal([1.0] * count, 8 * count, position)
    keys = [key for key, index in enumerate(dealt) if index == 1]
    others = [peer for peer in replicas if peer != replicas[1]]
    for known in (replicas, others):
        went = Counter(next_replica(known, key, replicas[1], [replicas[1]]) for key in keys)
        assert max(went.values()) <= max(3, 0.75 * len(keys) * min(1, 4 / len(others))), went


# ---- by what replicas say a microbatch takes --------------------------------------------------------------------

FAST, SLOW, NEW = PeerId("fast"), PeerId("slow"), PeerId("new")


def shares(wiring: Wiring, replicas: list[PeerId], keys: int, position: int = 0) -> Counter[PeerId]:
    return Counter(
        wiring.choose(1, replicas, Turn(key, keys), position, 1.0) for key in range(keys)
    )


def measured(**seconds: float) -> Wiring:
    wiring = Wiring()
    for name, each_seconds in seconds.items():
        wiring.answered(1, PeerId(name), each_seconds, 0.0)
    return wiring


def test_replicas_that_are_alike_are_dealt_keys_in_turn() -> None:
    assert shares(measured(fast=1.0, slow=1.1), [FAST, SLOW], 8) == {FAST: 4, SLOW: 4}
    assert shares(Wiring(), [FAST, SLOW], 8) == {FAST: 4, SLOW: 4}


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("factor", [2, 3, 10])
def test_a_slower_replica_gets_less_in_proportion(factor: int, position: int) -> None:
    keys = 12 * (factor + 1)
    found = shares(measured(fast=1.0, slow=float(factor)), [FAST, SLOW], keys, position)
    assert found[SLOW] / keys == pytest.approx(1 / (factor + 1), rel=ALIKE - 1, abs=1 / keys)


def test_few_keys_all_go_where_they_end_first() -> None:
    assert shares(measured(fast=1.0, slow=10.0), [FAST, SLOW], 8) == {FAST: 8}


def test_what_was_never_called_counts_as_a_usual_replica() -> None:
    wiring = measured(fast=1.0, slow=2.0)
    found = shares(wiring, [FAST, SLOW, NEW], 20)
    assert found[NEW] == found[FAST] == 8 and found[SLOW] == 4


def test_what_a_replica_says_last_counts() -> None:
    wiring = measured(fast=1.0, slow=1.0)
    wiring.answered(1, SLOW, 10.0, 0.0)
    wiring.answered(1, SLOW, 0.0, 0.0)  # it cannot say
    assert shares(wiring, [FAST, SLOW], 11)[SLOW] <= 2


def test_a_slow_replica_that_gets_nothing_is_tried_again_after_a_while() -> None:
    wiring, peers = measured(fast=1.0, slow=10.0), [FAST, SLOW]
    end = 10 * FADES_AFTER
    wiring.answered(1, FAST, 1.0, end - 1)
    assert SLOW not in [wiring.choose(1, peers, Turn(turn, 4), 0, end - 1) for turn in range(4)]
    assert SLOW in [wiring.choose(1, peers, Turn(turn, 4), 0, end) for turn in range(4)]


@given(
    st.lists(st.floats(0.1, 1e300), min_size=1, max_size=9),
    st.integers(0, 5),
    st.integers(1, 20),
)
def test_no_replica_ends_later_than_it_must(
    seconds: list[float], position: int, rounds: int
) -> None:
    """By virtual time no key could end sooner at another replica, and whole rounds lose or repeat no turn."""
    peers = [PeerId(str(index)) for index in range(len(seconds))]
    wiring = measured(**{peer: each for peer, each in zip(peers, seconds, strict=True)})
    found = shares(wiring, peers, rounds * len(peers), position)
    charges = [ALIKE**power for power in wiring._powers(1, peers, 1.0)]
    ends = [charge * found[peer] for charge, peer in zip(charges, peers, strict=True)]
    assert sum(found.values()) == rounds * len(peers)
    assert max(ends) <= min(end + charge for end, charge in zip(ends, charges, strict=True)) * 1.001


def test_callers_that_know_the_same_deal_every_key_alike() -> None:
    """Each on its own, many callers with few keys would all begin at the same fastest replicas."""
    names = {f"{index}": 1.0 + (index % 3) for index in range(12)}
    peers = [PeerId(name) for name in names]
    callers = [measured(**names) for _ in range(24)]
    # Each caller deals its own four keys of 96.
    together = Counter(
        caller.choose(1, peers, Turn(turn, 96), 0, 1.0)
        for index, caller in enumerate(callers)
        for turn in range(4 * index, 4 * index + 4)
    )
    assert together == shares(callers[0], peers, 96)
    assert max(together.values()) <= 14


@given(st.integers(2, 24), st.integers(1, 9), st.integers(0, 5), st.data())
def test_callers_that_have_not_heard_of_a_slow_replica_agree_on_all_turns_but_its_own(
    count: int, rounds: int, position: int, data: st.DataObject
) -> None:
    slow = data.draw(st.integers(0, count - 1))
    usual = deal([1.0] * count, rounds * count, position)
    heard = deal(
        [10.0 if index == slow else 1.0 for index in range(count)], rounds * count, position
    )
    assert all(mine == slow for mine, theirs in zip(usual, heard, strict=True) if mine != theirs)
    kept = [turn for turn, index in enumerate(heard) if index == slow]
    assert kept == [turn for turn, index in enumerate(usual) if index == slow][: len(kept)]
