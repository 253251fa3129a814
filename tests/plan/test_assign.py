"""Placement: coverage, balance, pins, memory, and the same answer everywhere."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.types import PeerId
from swarmtrain.plan.assign import Assignment, Candidate, assign, choose_stages

MAX_STAGES = 6


def free(
    peer: str, capacity: int = 99, seconds: float = 1.0, edge_capable: bool = True
) -> Candidate:
    return Candidate(PeerId(peer), None, capacity, seconds, edge_capable)


def pinned(peer: str, *stages: int) -> Candidate:
    return Candidate(PeerId(peer), stages, 99, 1.0)


def stages_of(placed: dict[PeerId, Assignment]) -> dict[str, tuple[int, ...]]:
    return {str(peer): assignment.stages for peer, assignment in placed.items()}


def replicas(placed: dict[PeerId, Assignment], stages: int) -> list[int]:
    return [sum(s in a.stages for a in placed.values()) for s in range(stages + 1)]


def pace(candidates: list[Candidate], placed: dict[PeerId, Assignment], stages: int) -> float:
    """Microbatches a second of the slowest stage."""
    rates = [0.0] * (stages + 1)
    for candidate in candidates:
        hosted = placed[candidate.peer].stages
        for stage in hosted:
            rates[stage] += 1 / candidate.seconds_per_stage / len(hosted)
    return min(rates)


@st.composite
def candidate_sets(
    draw: st.DrawFn, with_pins: bool = True, uniform: bool = False
) -> tuple[list[Candidate], int]:
    stages = draw(st.integers(1, MAX_STAGES))
    pins = st.lists(st.integers(0, stages), unique=True).map(tuple)
    capacity = st.just(draw(st.integers(1, stages + 2))) if uniform else st.integers(0, stages + 2)
    count = draw(st.integers(1, 14))
    candidates = [
        Candidate(
            PeerId(f"{index:02}"),
            draw(st.none() | pins) if with_pins else None,
            draw(capacity),
            draw(st.sampled_from((0.05, 0.5, 1.0)) | st.floats(0.01, 10.0)),
            True if uniform else draw(st.booleans()),
        )
        for index in range(count)
    ]
    return candidates, stages


def test_one_peer_takes_everything() -> None:
    assert stages_of(assign([free("a")], 4)) == {"a": (0, 1, 2, 3, 4)}


def test_equal_peers_share_evenly_in_contiguous_ranges() -> None:
    placed = assign([free(name) for name in "abc"], 5)
    assert stages_of(placed) == {"a": (0, 1), "b": (2, 3), "c": (4, 5)}


def test_a_leftover_peer_helps_every_stage_when_that_is_worth_it() -> None:
    candidates = [free(name) for name in "abc"]
    placed = assign(candidates, 1)
    assert pace(candidates, placed, 1) == pytest.approx(1.5)


def test_extra_replicas_go_to_the_bottleneck() -> None:
    candidates = [free("a", 1, 0.1), free("b", 1, 0.1), free("c", 1, 1.0), free("d", 1, 1.0)]
    placed = assign(candidates, 2)
    slow = next(
        s for s in range(3) if placed[PeerId("a")].stages != (s,) != placed[PeerId("b")].stages
    )
    assert placed[PeerId("c")].stages == placed[PeerId("d")].stages == (slow,)


def test_a_clearly_slower_peer_does_not_host_more() -> None:
    placed = assign([free("a", seconds=0.1), free("b", seconds=0.1), free("c", seconds=0.3)], 1)
    assert [len(assignment.stages) for assignment in placed.values()] == [1, 1, 1]


def test_the_edge_goes_only_to_peers_that_can() -> None:
    placed = assign([free("a", edge_capable=False), free("b"), free("c", edge_capable=False)], 2)
    assert 0 in placed[PeerId("b")].stages
    assert replicas(placed, 2)[0] == 1


def test_the_only_edge_keeps_room_for_the_edge() -> None:
    placed = assign([free("a", 1, 0.01), free("b", 3, 1.0, edge_capable=False)], 3)
    assert stages_of(placed) == {"a": (0,), "b": (1, 2, 3)}


def test_too_little_memory_is_reported_to_everybody() -> None:
    placed = assign([free("a", 2), free("b", 1)], 4)
    assert replicas(placed, 4) == [1, 1, 1, 0, 0]
    for assignment in placed.values():
        assert "Stages 3 to 4 stay uncovered" in assignment.reason
        assert "room for 3" in assignment.reason


def test_no_edge_is_reported() -> None:
    placed = assign([free("a", edge_capable=False)], 1)
    assert placed[PeerId("a")].stages == (1,)
    assert "the edge, stays uncovered" in placed[PeerId("a")].reason


def test_a_peer_without_memory_takes_nothing_and_says_so() -> None:
    placed = assign([free("a"), free("b", 0)], 1)
    assert placed[PeerId("b")] == Assignment((), "Takes no stage: its memory has room for 0.")


def test_pins_outside_the_run_are_ignored() -> None:
    assert assign([pinned("a", 1, 999), free("b")], 1)[PeerId("a")].stages == (1,)


def test_a_second_replica_comes_from_a_crowded_stage() -> None:
    crowd = [pinned("a", 1), pinned("b", 1), pinned("c", 2), pinned("d", 2), pinned("e", 0)]
    fast_edge = [replace(c, seconds_per_stage=0.01) if c.peer == "e" else c for c in crowd]
    placed = assign([*fast_edge, free("f"), free("g")], 2)
    assert min(replicas(placed, 2)) == 2


def test_choose_stages_is_assign_with_me_in_it() -> None:
    others = [pinned("a", 0, 1), free("b")]
    me = free("c", seconds=0.5)
    assert choose_stages(me, others, 3) == assign([*others, me], 3)[me.peer]


def test_my_own_old_record_among_the_others_does_not_count() -> None:
    me = free("a")
    assert choose_stages(me, [pinned("a", 1)], 2).stages == (0, 1, 2)


def test_reasons_are_sentences_with_numbers() -> None:
    reason = assign([free("a", seconds=0.25), free("b", seconds=0.25)], 1)[PeerId("a")].reason
    assert reason == (
        "Takes stage 0 so that every stage is covered. One microbatch takes this machine 0.25 s; "
        "with everybody on it, the slowest of its stages does 4 microbatches a second."
    )


@given(candidate_sets())
@settings(max_examples=120, deadline=None)
def test_every_stage_is_covered_when_memory_allows(case: tuple[list[Candidate], int]) -> None:
    candidates, stages = case
    placed = assign(candidates, stages)
    by_pin = {s for c in candidates for s in c.pinned or ()}
    needed = set(range(stages + 1)) - by_pin
    movable = [c for c in candidates if c.pinned is None and c.capacity_stages]
    if not any(c.edge_capable for c in movable):
        needed -= {0}
    # An edge that cannot be hosted leaves its room to the middle stages.
    room = sum(min(c.capacity_stages, stages + c.edge_capable) for c in movable)
    covered = {s for a in placed.values() for s in a.stages}
    if room >= len(needed):
        assert covered >= needed
    else:
        assert len(covered - by_pin) == room
        assert all("uncovered" in a.reason for a in placed.values())


@given(candidate_sets(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_order_does_not_matter(case: tuple[list[Candidate], int], rng: object) -> None:
    candidates, stages = case
    shuffled = list(candidates)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert assign(shuffled, stages) == assign(candidates, stages)


@given(candidate_sets())
@settings(max_examples=120, deadline=None)
def test_pins_memory_and_edges_are_respected(case: tuple[list[Candidate], int]) -> None:
    candidates, stages = case
    placed = assign(candidates, stages)
    for candidate in candidates:
        hosted = placed[candidate.peer].stages
        assert list(hosted) == sorted(set(hosted))
        if candidate.pinned is not None:
            assert set(hosted) == set(candidate.pinned)
        else:
            assert len(hosted) <= candidate.capacity_stages
            assert candidate.edge_capable or 0 not in hosted


@given(candidate_sets())
@settings(max_examples=200, deadline=None)
def test_no_single_replica_beside_three_that_anybody_could_take(
    case: tuple[list[Candidate], int],
) -> None:
    candidates, stages = case
    placed = assign(candidates, stages)
    counts = replicas(placed, stages)
    crowded = {s for s, count in enumerate(counts) if count >= 3}
    for lonely in (s for s, count in enumerate(counts) if count == 1 and crowded):
        for candidate in candidates:
            hosted = placed[candidate.peer].stages
            can = candidate.pinned is None and (candidate.edge_capable or lonely != 0)
            if can and candidate.capacity_stages and lonely not in hosted:
                assert not crowded & set(hosted)
                assert len(hosted) == candidate.capacity_stages


@given(candidate_sets(with_pins=False, uniform=True))
@settings(max_examples=200, deadline=None)
def test_a_much_faster_peer_does_not_get_fewer_stages(case: tuple[list[Candidate], int]) -> None:
    candidates, stages = case
    placed = assign(candidates, stages)
    for fast in candidates:
        for slow in candidates:
            if fast.seconds_per_stage * 10 <= slow.seconds_per_stage:
                assert len(placed[fast.peer].stages) >= len(placed[slow.peer].stages)


@given(candidate_sets(with_pins=False, uniform=True))
@settings(max_examples=200, deadline=None)
def test_ranges_are_contiguous_while_nobody_had_to_move(case: tuple[list[Candidate], int]) -> None:
    candidates, stages = case
    for assignment in assign(candidates, stages).values():
        hosted = assignment.stages
        if hosted and "had one replica" not in assignment.reason:
            assert hosted[-1] - hosted[0] == len(hosted) - 1


def test_many_equal_peers_come_close_to_the_bound() -> None:
    candidates = [free(f"{index:03}", 3, 0.5 + index % 7 / 7) for index in range(200)]
    bound = sum(1 / c.seconds_per_stage for c in candidates) / 9
    assert pace(candidates, assign(candidates, 8), 8) > 0.9 * bound
