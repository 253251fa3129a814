"""Soak plans: the same from one seed, about as many faults as asked for, and none that may not be survived."""

import itertools
import random
import subprocess
import sys

import pytest

from swarmtrain.experiments.soak import (
    SETTLED_LOOKS,
    Footprint,
    hosted,
    is_safe,
    soak_plan,
    stages_of,
)

SECONDS, EVERY = 1800.0, 20.0


def test_one_seed_is_one_plan() -> None:
    plans = [soak_plan(SECONDS, EVERY, 12, random.Random(seed)) for seed in (7, 7, 8)]
    assert plans[0] == plans[1] != plans[2]


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_has_about_one_fault_every_so_often_of_every_kind_and_within_the_time(
    seed: int,
) -> None:
    plan = soak_plan(SECONDS, EVERY, 12, random.Random(seed))
    assert 75 <= len(plan) <= 110
    times = [disturbance.at_seconds for disturbance in plan]
    assert times == sorted(times) and times[0] > 0 and times[-1] < SECONDS
    assert {disturbance.fault for disturbance in plan} == {"kill", "freeze", "leave"}
    assert all(sorted(disturbance.victims) == [*range(12)] for disturbance in plan)
    assert len({disturbance.victims[0] for disturbance in plan}) == 12, "everybody has a turn"


@pytest.mark.parametrize("peers", [3, 4, 7, 12, 20])
def test_every_stage_has_replicas(peers: int) -> None:
    stages = stages_of(peers, 2)
    assert len(stages) == peers
    for stage in (0, 1, 2):
        assert sum(stage in hosted(text) for text in stages) >= 3


@pytest.mark.parametrize("peers", [5, 7, 12])
def test_what_is_safe_keeps_two_replicas_of_each_stage_and_a_majority(peers: int) -> None:
    """Every set of peers that may come to be down, one after the other, and no peer that must be spared is taken."""
    stages = stages_of(peers, 2)
    reachable, waiting = {frozenset[int]()}, [frozenset[int]()]
    while waiting:
        down = waiting.pop()
        for victim in set(range(peers)) - down:
            more = down | {victim}
            if is_safe(victim, down, stages) and more not in reachable:
                reachable.add(more)
                waiting.append(more)
    assert max(map(len, reachable)) >= 1
    for down in reachable:
        well = [hosted(stages[peer]) for peer in range(peers) if peer not in down]
        assert 2 * len(well) > peers
        replicas = [sum(stage in mine for mine in well) for stage in (0, 1, 2)]
        assert min(replicas) >= 2 or not down


def test_what_is_not_safe_is_not_taken() -> None:
    stages = ("0:2", "0:2", "0:2", "1", "2")
    assert is_safe(0, (), stages)
    assert not is_safe(1, (0,), stages), "one edge would be left"
    for pair in itertools.combinations(range(5), 2):
        assert not is_safe(pair[1], pair[:1], stages), "three of five are less than two thirds"


def test_a_footprint_sees_what_was_started_and_what_is_left() -> None:
    footprint = Footprint()
    code, pipe = "print(1, flush=True); input()", subprocess.PIPE
    child = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe)
    assert child.stdout is not None
    try:
        child.stdout.readline()  # before that it may not even have loaded its interpreter
        footprint.look()
        assert footprint.left() == [f"process {child.pid}"]
        assert footprint.largest_bytes > 1 << 20 and footprint.growth_bytes == 0
    finally:
        child.kill()
        child.wait()
    assert footprint.left() == []


def test_a_footprint_measures_growth_after_the_process_settled() -> None:
    footprint = Footprint()
    code = "import sys\nfor line in sys.stdin: kept = bytearray(60 << 20); print(1, flush=True)"
    pipe = subprocess.PIPE
    child = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
    assert child.stdin is not None and child.stdout is not None
    try:
        for _ in range(SETTLED_LOOKS):
            footprint.look()
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        footprint.look()
        assert 50 << 20 < footprint.growth_bytes < 80 << 20
    finally:
        child.kill()
        child.wait()
