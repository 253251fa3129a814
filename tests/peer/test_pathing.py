"""Planned routes in the running peer: followed, faster than choosing blindly, and the same bits whatever fails."""

import asyncio
import functools

import pytest
import torch

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.events import (
    Event,
    MembershipChanged,
    Noted,
    PathsPlanned,
    PathsRepaired,
    SealAssigned,
    StepCommitted,
    StepOpened,
    SumChanged,
)
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.virtual import (
    Scenario,
    Stage,
    VirtualPeer,
    VirtualRun,
    play,
    simulate,
)
from swarmtrain.peer import pathing as pathing_module
from swarmtrain.peer.pathing import Pathing
from swarmtrain.steps.plan import Paths
from swarmtrain.swarm.records import PeerRecord
from tests.experiments.runs import corpus, events_of, known_reference, sha_of, small_config

STEPS = 6
NAMES = {"edge-a": 0, "edge-b": 0, "one-a": 1, "one-b": 1, "one-c": 1, "two-a": 2, "two-b": 2}
SLOW = {"one-b": 3.0, "two-a": 2.0}
ROOM = ("limits.in_flight=12", "limits.slots_shared=12", "swarm.announce_seconds=3")


@functools.cache
def config_of(*more: str):
    return small_config(*ROOM, "train.microbatches=12", *more, steps=STEPS)


def run_of(*more: str, faults: tuple[Fault, ...] = ()) -> VirtualRun:
    torch.set_num_threads(1)
    fleet = tuple(VirtualPeer(n, (s,), slowness=SLOW.get(n, 1.0)) for n, s in NAMES.items())
    run = simulate(config_of(*more), Scenario(fleet, faults=faults), corpus())
    assert [commit.step for commit in run.commits] == list(range(STEPS)), run.errors
    return run


def planned_of(run: VirtualRun) -> dict[int, PathsPlanned]:
    return {e.step: e for e in events_of(run, PathsPlanned) if isinstance(e, PathsPlanned)}


def makespans(run: VirtualRun) -> dict[int, float]:
    """From the opening of each step to the last contribution that entered a sum."""
    opened = {e.step: at for at, _, e in reversed(run.events) if isinstance(e, StepOpened)}
    last = {e.step: at for at, _, e in run.events if isinstance(e, SumChanged)}
    return {step: last[step] - opened[step] for step in opened}


def test_planned_steps_take_what_was_predicted_and_change_no_bit():
    run = run_of("planner.use=true")
    planned, took = planned_of(run), makespans(run)
    assert set(planned) >= set(range(2, STEPS)), "the first steps have nothing measured yet"
    for step in range(3, STEPS):
        assert took[step] == pytest.approx(planned[step].makespan_seconds, rel=0.1)
        assert planned[step].lower_bound_seconds <= planned[step].makespan_seconds
    assert sha_of(run) == known_reference(config_of()).parameters_sha256


def test_without_the_planner_nothing_is_planned():
    assert not planned_of(run_of())


def test_a_planned_replica_that_dies_is_replaced_and_the_next_step_is_planned_without_it():
    fault = Fault("kill", ("one-a",), at_seconds=6.0)
    run = run_of("planner.use=true", faults=(fault,))
    assert run.injected
    assert sha_of(run) == known_reference(config_of()).parameters_sha256
    assert planned_of(run)[STEPS - 1].makespan_seconds > planned_of(run)[2].makespan_seconds


def lost_in_a_planned_step() -> VirtualRun:
    """A replica dies in the middle of a step with a plan."""
    calm = run_of("planner.use=true")
    opened = {e.step: at for at, _, e in reversed(calm.events) if isinstance(e, StepOpened)}
    middle = (opened[3] + opened[4]) / 2
    return run_of("planner.use=true", faults=(Fault("kill", ("one-a",), at_seconds=middle),))


def test_a_plan_is_repaired_in_the_middle_of_its_step(monkeypatch: pytest.MonkeyPatch):
    """The lost peer's visits get others by plan; switched off, callers choose, and nothing tells of a repair."""
    run = lost_in_a_planned_step()
    running, prepared = [e for e in events_of(run, PathsRepaired) if isinstance(e, PathsRepaired)]
    assert running.step in (3, 4) and running.visits >= 3
    assert prepared.step == running.step + 1, (
        "the next step had been planned with the lost peer too"
    )
    assert sha_of(run) == known_reference(config_of()).parameters_sha256
    monkeypatch.setattr(Pathing, "repaired", lambda self, before, roster, leads: None)
    unrepaired = lost_in_a_planned_step()
    assert running.step not in [e.step for e in events_of(unrepaired, PathsRepaired)]
    assert sha_of(unrepaired) == sha_of(run)


def test_a_newcomer_serves_in_the_step_that_runs_and_in_the_next_one():
    """It joins with what it learnt in the middle of a planned step, when the next one is planned already. Calls come
    from the edges, which began to lead all keys when the step was opened without it."""
    config = config_of("planner.use=true", "limits.slots_shared=1")
    names = ("edge-a", "edge-b", "one-b", "two-a", "two-b", "one-a")
    fleet = tuple(VirtualPeer(n, (NAMES[n],), slowness=SLOW.get(n, 1.0)) for n in names)
    stages: list[Stage] = []

    def ended(entry: tuple[float, str, Event]) -> bool:
        return isinstance(entry[2], StepCommitted) and entry[2].step == 1

    def begin(stage: Stage) -> "asyncio.Task[None]":
        stages.append(stage)

        async def join() -> None:
            while not any(map(ended, stage.run.events)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            stage.add(fleet[-1])

        return asyncio.create_task(join())

    run = run_virtual(play(config, Scenario(fleet[:-1]), corpus(), begin))
    newcomer = stages[0].names[fleet[-1].name]
    [joined] = [
        e.step
        for _, _, e in run.events
        if isinstance(e, MembershipChanged) and e.peer == newcomer and "learnt" in e.reason
    ]
    running, prepared = [e for e in events_of(run, PathsRepaired) if isinstance(e, PathsRepaired)]
    assert (running.step, prepared.step) == (joined, joined + 1)
    assert running.visits >= 2 and prepared.visits >= 5
    assert prepared.makespan_seconds < 0.7 * planned_of(run)[joined + 1].makespan_seconds
    served = [e.step for _, who, e in run.events if isinstance(e, SumChanged) and who == newcomer]
    assert served.count(joined) >= 2 and served.count(joined + 1) >= 5
    assert sha_of(run) == known_reference(config_of()).parameters_sha256


def test_seeded_skipping_is_planned_within_its_sequences():
    more = ("paths.skip=0.5", "planner.use=true")
    run = run_of(*more)
    assert set(planned_of(run)) >= set(range(2, STEPS))
    assert sha_of(run) == known_reference(config_of("paths.skip=0.5")).parameters_sha256


def test_planned_visits_are_recorded_and_equal_in_number():
    run = run_of("paths.skip=0.5", "paths.visits=planned", "planner.use=true")
    last = [e for e in events_of(run, SealAssigned) if isinstance(e, SealAssigned)][-1]
    visited = [stage for sequence in last.sequences for stage in sequence]
    assert len(last.sequences) == 12 and visited.count(1) == visited.count(2) == 6


# ---- on real machines: beside the step, in a thread ---------------------------------------------------------------

MEMBERS = tuple(Member(PeerId(f"{n:032x}"), (stage,), "") for n, stage in enumerate((0, 1, 1, 2)))
ROSTER = Roster.of(1, MEMBERS)


def record_of(member: Member, pass_seconds: float = 0.3) -> PeerRecord:
    return PeerRecord(
        run="ab", peer=member.peer, name="n", address="a:1", stages=member.stages, state="serving",
        pinned=True, capacity_stages=3, seconds_per_stage=pass_seconds, edge_capable=True,
        version="1", sequence=1, expires=1.0,
    )  # fmt: skip


def planned_beside(*more: str, records: tuple[PeerRecord, ...], roster: Roster = ROSTER):
    """(paths of step 1, events) when step 0 opened with `records` known and its plan had the time it takes."""
    events: list[Event] = []

    async def main() -> Paths | None:
        failures: list[BaseException] = []
        config = config_of("planner.use=true", "planner.seconds=0.05", *more)
        pathing = Pathing(MEMBERS[0].peer, config, False, events.append, failures.append)
        pathing.look(records)
        assert pathing.paths(0, ROSTER) is None
        if pathing._working is not None:
            await pathing._working
        found = pathing.paths(1, roster)
        await pathing.close()
        assert not failures
        return found

    return asyncio.run(main()), events


def test_the_next_step_is_planned_beside_this_one():
    paths, events = planned_beside(records=tuple(map(record_of, MEMBERS)))
    assert paths is not None and set(paths.path_peers) == {m.peer for m in MEMBERS[1:]}
    [planned] = [event for event in events if isinstance(event, PathsPlanned)]
    assert planned.step == 1 and planned.evaluations > 1 and planned.seconds < 5


def test_a_plan_for_another_roster_is_changed_where_it_has_to_be(monkeypatch: pytest.MonkeyPatch):
    """Lost members are replaced; who joined serves where the step gets shorter by it."""
    fewer = ROSTER.without(MEMBERS[1].peer)
    paths, events = planned_beside(records=tuple(map(record_of, MEMBERS)), roster=fewer)
    assert paths is not None and set(paths.path_peers) == {m.peer for m in MEMBERS[2:]}
    [repaired] = [event for event in events if isinstance(event, PathsRepaired)]
    assert repaired.step == 1 and repaired.visits > 0
    monkeypatch.setattr(pathing_module, "REPAIR_SECONDS", 0.5)
    records = tuple(record_of(member, 1.0 if 2 in member.stages else 0.3) for member in MEMBERS)
    for stage in (1, 2):  # stage 1 has two hosts, which wait for the slow one of stage 2
        newcomer = Member(PeerId(f"{9:032x}"), (stage,), "")
        paths, _ = planned_beside(records=records, roster=Roster.of(2, (*MEMBERS, newcomer)))
        assert paths is not None and (newcomer.peer in paths.path_peers) == (stage == 2)


@pytest.mark.parametrize("strangers", [False, True])
def test_without_figures_of_its_members_a_step_is_wired(strangers: bool):
    other = (record_of(Member(PeerId("f" * 32), (1,), "")),) if strangers else ()
    assert planned_beside(records=other) == (None, [])


def test_a_step_that_cannot_be_planned_is_wired_and_says_why(monkeypatch: pytest.MonkeyPatch):
    def none(*_: object, **__: object) -> None:
        raise ConfigError("no legal routes", "slots hold no whole route", "raise slots")

    monkeypatch.setattr(pathing_module, "plan_step", none)
    paths, events = planned_beside(records=tuple(map(record_of, MEMBERS)))
    assert paths is None
    assert any(isinstance(e, Noted) and "no legal routes" in e.detail for e in events)


def steps_with_plans(
    monkeypatch: pytest.MonkeyPatch, step_seconds: list[float]
) -> tuple[list[int], list[Event]]:
    """(steps that opened with a plan, events) in virtual time, where a coroutine stands for the planner's thread."""
    events: list[Event] = []

    async def beside(work, spent):
        for _ in range(1000):
            if spent(0) < 1.0:
                await asyncio.sleep(0.01)
        return work(lambda _: 1.0)

    async def main() -> list[int]:
        failures: list[BaseException] = []
        config = small_config(
            *ROOM, "train.microbatches=12", "planner.use=true", steps=len(step_seconds) + 1
        )
        pathing = Pathing(MEMBERS[0].peer, config, False, events.append, failures.append)
        pathing.look(tuple(map(record_of, MEMBERS)))
        found = []
        for step, seconds in enumerate(step_seconds):
            if pathing.paths(step, ROSTER) is not None:
                found.append(step)
            await asyncio.sleep(seconds)
        await pathing.close()
        assert not failures
        return found

    monkeypatch.setattr(asyncio, "to_thread", beside)
    return run_virtual(main()), events


def test_steps_faster_than_the_planners_budget_have_plans(monkeypatch: pytest.MonkeyPatch):
    """The first plan takes longer than its step; from then on what a step took is known."""
    planned, events = steps_with_plans(monkeypatch, [0.2] * 12)
    assert planned == list(range(3, 12))
    [late] = [event for event in events if isinstance(event, Noted)]
    assert late.detail.startswith("step 1 opened before its plan was ready")
    plans = [event for event in events if isinstance(event, PathsPlanned)]
    assert [event.step for event in plans] == list(range(3, 13))
    assert all(event.seconds <= 0.11 for event in plans)


def test_a_plan_that_comes_too_late_is_given_up_with_an_event(monkeypatch: pytest.MonkeyPatch):
    planned, events = steps_with_plans(monkeypatch, [3.0] * 3 + [0.5] * 4)
    assert planned == [1, 2, 3, 6], "step 5 opens while the plan of step 4 is given up"
    [late] = [event for event in events if isinstance(event, Noted)]
    assert late.detail.startswith("step 4 opened before its plan was ready")
