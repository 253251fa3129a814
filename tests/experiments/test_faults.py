"""Fault plans, and the virtual world under each kind of fault: what happens, and that it changes no bit (I2)."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import (
    FaultEnded,
    FaultInjected,
    FaultMissed,
    FaultPlanned,
    Restored,
    StageLost,
)
from swarmtrain.core.types import Member, PeerId, Roster, is_majority
from swarmtrain.experiments.checker import check
from swarmtrain.experiments.faults import (
    KINDS,
    MESSAGES,
    PAIRS,
    POINTS,
    Chances,
    Fault,
    random_plan,
    survivable,
)
from swarmtrain.experiments.machines import MachineLoop, on_machine
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, VirtualRun, simulate
from tests.experiments.runs import corpus, events_of, known_reference, sha_of, small_config

FLEET = (
    VirtualPeer("edge-a", (0,)),
    VirtualPeer("edge-b", (0,)),
    VirtualPeer("one-a", (1,)),
    VirtualPeer("one-b", (1,)),
    VirtualPeer("one-c", (1,)),
    VirtualPeer("two-a", (2,)),
    VirtualPeer("two-b", (2,)),
    VirtualPeer("two-c", (2,)),
)
NAMES = tuple(peer.name for peer in FLEET)
OVERRIDES = (
    "model.width=16",
    "model.heads=2",
    "model.kv_heads=1",
    "model.ffn_width=16",
    "train.microbatches=4",
    "train.microbatch_size=1",
    "train.sequence_length=8",
)
CONFIG = small_config(*OVERRIDES)
AFTER_FIRST_STEP = 0.6


def faulty(*faults: Fault, config: RunConfig = CONFIG) -> VirtualRun:
    scenario = Scenario(
        FLEET,
        latency_seconds=0.005,
        forward_seconds=0.01,
        backward_seconds=0.02,
        faults=faults,
        stall_seconds=60.0,
        patience_seconds=20.0,
    )
    return simulate(config, scenario, corpus())


def is_clean(run: VirtualRun) -> None:
    """The run ended as if nothing had happened."""
    assert not run.stalled and not run.errors
    assert [commit.step for commit in run.commits] == list(range(CONFIG.run.steps))
    assert sha_of(run) == known_reference(CONFIG).parameters_sha256
    assert check(run.journal.lines) == []


# ---- plans ---------------------------------------------------------------------------------------------------------

IDS = {name: PeerId(f"{index:02d}") for index, name in enumerate(NAMES)}
ROSTER = Roster.of(1, [Member(IDS[peer.name], peer.stages or (), peer.name) for peer in FLEET])


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ((), ""),
        (("one-a", "two-a", "edge-b"), ""),
        (("edge-a", "edge-b"), "stage 0 may lose every replica"),
        (("one-a", "one-b", "one-c"), "stage 1 may lose every replica"),
        (("one-a", "one-b", "two-a", "two-b", "edge-b"), "no majority"),
    ],
)
def test_what_can_be_survived(lost: tuple[str, ...], words: str):
    found = survivable([Fault("kill", (name,)) for name in lost], ROSTER, IDS, 2)
    assert (words in found) and bool(words) == bool(found)


@pytest.mark.parametrize("kind", KINDS)
def test_only_faults_that_may_cost_a_member_count_against_survival(kind: str):
    plan = [Fault(kind, (name,)) for name in NAMES]  # type: ignore[arg-type]
    harmless = {"slow_link", "straggler"} | MESSAGES
    assert bool(survivable(plan, ROSTER, IDS, 2)) == (kind not in harmless)


@settings(deadline=None)
@given(seed=st.integers(0, 1 << 30), count=st.integers(0, 12))
def test_random_plans_are_repeatable_and_leave_a_majority_and_every_stage(seed: int, count: int):
    plans = [random_plan(random.Random(seed), Chances(count), ROSTER, IDS) for _ in range(2)]
    assert plans[0] == plans[1]
    gone = {IDS[name] for fault in plans[0] for name in fault.may_lose}
    left = [member for member in ROSTER.members if member.peer not in gone]
    assert not Roster.of(1, left).missing_stages(2)
    assert is_majority([member.peer for member in left], ROSTER)


def test_random_plans_reach_every_kind_and_point():
    drawn = [
        fault
        for seed in range(400)
        for fault in random_plan(random.Random(seed), Chances(3), ROSTER, IDS)
    ]
    assert {fault.kind for fault in drawn} == set(KINDS)
    chances = Chances(1, ("kill", "freeze"), point_share=0.9)
    at_points = [random_plan(random.Random(seed), chances, ROSTER, IDS) for seed in range(400)]
    assert {fault.at_point for plan in at_points for fault in plan} == {"", *POINTS}


def test_a_machine_alone_has_no_connection_that_could_fail():
    alone = {"only": PeerId("only")}
    roster = Roster.of(1, [Member(alone["only"], (0, 1, 2), "")])
    chances = Chances(4, survivable=False)
    plans = [random_plan(random.Random(seed), chances, roster, alone) for seed in range(100)]
    assert {fault.kind for plan in plans for fault in plan} == set(KINDS) - PAIRS
    only_pairs = Chances(4, ("flap", "one_way"))
    assert random_plan(random.Random(0), only_pairs, roster, alone) == ()


def test_plans_that_need_not_be_survived_are_drawn_when_asked_for():
    chances = Chances(6, ("kill",), survivable=False)
    risks = [
        survivable(random_plan(random.Random(seed), chances, ROSTER, IDS), ROSTER, IDS, 2)
        for seed in range(20)
    ]
    assert any(risks)


# ---- machines that stand still -------------------------------------------------------------------------------------


def test_a_stopped_machine_runs_nothing_and_then_everything_in_order():
    loop, seen = MachineLoop(), list[tuple[str, float]]()

    async def tick(name: str) -> None:
        for _ in range(4):
            await asyncio.sleep(1.0)
            seen.append((name, loop.time()))

    async def main() -> None:
        tasks = [on_machine(name, lambda n=name: asyncio.create_task(tick(n))) for name in "ab"]  # type: ignore[misc]
        await asyncio.sleep(1.5)
        loop.stop_machine("a")
        await asyncio.sleep(5.0)
        assert [name for name, _ in seen] == ["a", "b", "b", "b", "b"]
        loop.go_on("a")
        await asyncio.gather(*tasks)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
    assert [at for name, at in seen if name == "a"] == [1.0, 6.5, 7.5, 8.5]


def test_a_world_without_faults_is_checked_all_the_same():
    run = simulate(CONFIG, Scenario(FLEET), corpus())
    is_clean(run)
    kinds = {event.kind for _, _, event in run.events}
    assert {"seal_assigned", "state_applied"} <= kinds and "fault_planned" not in kinds


# ---- each kind on the real peers -----------------------------------------------------------------------------------

EACH_KIND = [
    Fault("kill", ("one-a",), 0.1),
    Fault("freeze", ("one-a",), 0.1, duration_seconds=1.0),
    Fault("freeze", ("two-b",), 0.1, duration_seconds=8.0),
    Fault("blackhole", ("one-a", "two-a"), 0.1, duration_seconds=6.0),
    Fault("one_way", ("one-a", "two-a"), 0.1, duration_seconds=6.0),
    Fault("flap", ("one-a", "edge-b"), 0.1, amount=3),
    Fault("partition", ("one-a", "two-a"), AFTER_FIRST_STEP, duration_seconds=6.0),
    Fault("slow_link", ("one-a", "edge-a"), 0.1, duration_seconds=3.0, amount=100),
    Fault("straggler", ("one-a",), 0.1, duration_seconds=1.0, amount=30),
    Fault("drop", ("one-a",), 0.1, amount=3),
    Fault("duplicate", ("one-a",), 0.1, duration_seconds=0.02, amount=5),
    Fault("reorder", ("one-a",), 0.1, duration_seconds=0.03, amount=4),
    Fault("late", ("one-a",), 0.1, duration_seconds=1.0, amount=3),
    Fault("corrupt", ("one-a",), 0.1, amount=2),
]


def test_the_list_below_has_every_kind():
    assert {fault.kind for fault in EACH_KIND} == set(KINDS)


@pytest.mark.parametrize("fault", EACH_KIND, ids=lambda fault: f"{fault.kind}-{fault.peers[0]}")
def test_each_kind_happens_once_and_changes_no_bit(fault: Fault):
    run = faulty(fault)
    is_clean(run)
    assert [event.number for event in events_of(run, FaultInjected)] == [0]  # type: ignore[attr-defined]
    assert not events_of(run, FaultMissed)
    ends = len(events_of(run, FaultEnded))
    assert ends <= 1 and len(events_of(run, FaultPlanned)) == 1


@pytest.mark.parametrize(
    ("point", "peer"),
    [
        ("forward.received", "one-a"),
        ("backward.before_accumulate", "one-a"),
        ("backward.after_accumulate_before_reply", "two-a"),
        ("held", "one-b"),
        ("sealed", "edge-a"),
        ("reduce.middle", "one-a"),
        ("reduced", "two-c"),
        ("committed", "one-a"),
        ("applied", "two-a"),
        ("ready", "one-b"),
    ],
)
def test_a_peer_may_die_at_any_point_of_a_step(point: str, peer: str):
    run = faulty(Fault("kill", (peer,), at_point=point))
    assert next(event.detail for event in events_of(run, FaultInjected)) in POINTS[point]  # type: ignore[attr-defined]
    assert peer not in run.outcomes
    is_clean(run)


CONDUCTOR = "edge-b"
"""The lowest edge of this seed; seven others hear each of its broadcasts."""


@pytest.mark.parametrize("heard_by", [0, 3])
@pytest.mark.parametrize("point", ["freezing", "assigning", "deciding", "releasing"])
def test_the_conductor_may_die_while_it_speaks(point: str, heard_by: int):
    """In the second step: `heard_by` peers have heard the message when it dies (F20)."""
    run = faulty(Fault("kill", (CONDUCTOR,), at_point=point, nth=7 + heard_by + 1))
    assert [event.detail for event in events_of(run, FaultInjected)] == [*POINTS[point]]  # type: ignore[attr-defined]
    is_clean(run)


@pytest.mark.parametrize("point", ["opening", "freezing", "assigning", "deciding"])
def test_the_conductor_may_die_in_the_first_step(point: str):
    is_clean(faulty(Fault("kill", (CONDUCTOR,), at_point=point, nth=4)))


def test_a_dead_peer_says_nothing_any_more():
    run = faulty(Fault("kill", ("one-a",), 0.2))
    died = next(at for at, _, event in run.events if isinstance(event, FaultInjected))
    victim = next(peer for _, peer, e in run.events if getattr(e, "name", "") == "one-a")
    assert max(at for at, peer, _ in run.events if peer == victim) <= died


def test_a_frozen_peer_says_nothing_until_it_wakes():
    run = faulty(Fault("freeze", ("two-b",), 0.1, duration_seconds=8.0))
    begin = next(at for at, _, event in run.events if isinstance(event, FaultInjected))
    victim = next(peer for _, peer, e in run.events if getattr(e, "name", "") == "two-b")
    assert not [at for at, peer, _ in run.events if peer == victim and begin < at < begin + 8.0]


STAGE_ONE_DIES = tuple(
    Fault("kill", (name,), AFTER_FIRST_STEP) for name in ("one-a", "one-b", "one-c")
)


def test_a_stage_that_is_lost_with_nothing_kept_stops_the_run_and_says_so():
    config = small_config(*OVERRIDES, "recovery.snapshot_steps=0")
    run = faulty(*STAGE_ONE_DIES, config=config)
    assert "stage 1" in run.risk
    reasons = [outcome.reason for outcome in run.outcomes.values() if not outcome.finished]
    assert any("stage 1" in reason for reason in reasons), reasons
    assert len(run.commits) < CONFIG.run.steps
    assert check(run.journal.lines) == []


def test_a_stage_that_is_lost_comes_back_and_the_steps_since_are_done_again():
    run = faulty(*STAGE_ONE_DIES, config=small_config(*OVERRIDES, "recovery.snapshot_steps=1"))
    assert "stage 1" in run.risk and len(run.injected) == 3
    assert [event.stage for event in events_of(run, StageLost)] == [1]  # type: ignore[attr-defined]
    assert [event.flagged for event in events_of(run, Restored)] == [False]  # type: ignore[attr-defined]
    is_clean(run)


def test_a_fault_that_falls_into_the_farewells_is_missed_and_nothing_else():
    quiet = faulty()
    end_seconds = max(at for at, _, event in quiet.events if event.kind == "run_stopped")
    opened = next(at for at, _, event in quiet.events if event.kind == "step_opened")
    for extra_seconds in (0.005, 0.02, 0.05):
        at_seconds = end_seconds - opened + extra_seconds
        run = faulty(Fault("one_way", ("one-a", "two-a"), at_seconds, duration_seconds=1.0))
        assert len(events_of(run, FaultMissed)) == 1 and not events_of(run, FaultInjected)
        is_clean(run)


def test_journals_of_one_seed_are_equal_byte_for_byte_under_faults():
    first, second = (
        faulty(*EACH_KIND[:3], EACH_KIND[-1], Fault("late", ("two-a",), 0.2, amount=2))
        for _ in range(2)
    )
    assert "".join(first.journal.lines) == "".join(second.journal.lines)
    assert first.injected == second.injected and len(first.injected) >= 3
