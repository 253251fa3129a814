"""Joining a run that trains, leaving it between two steps, coming back: the parameters are those of the plain loop."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from swarmtrain.core.errors import Refused
from swarmtrain.core.events import (
    MembershipChanged,
    Recovered,
    Replayed,
    RunStopped,
    SumChanged,
    TermStarted,
)
from swarmtrain.experiments.machines import MachineLoop
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualPeer, VirtualRun, play
from tests.experiments.runs import corpus, reference, small_config

CONFIG = small_config(steps=8)
FLEET = (
    VirtualPeer("edge-a", (0,)),
    VirtualPeer("edge-b", (0,)),
    VirtualPeer("one-a", (1,)),
    VirtualPeer("one-b", (1,)),
    VirtualPeer("two-a", (2,)),
    VirtualPeer("two-b", (2,)),
)
MIDDLE_SECONDS = 4.3
"""In the middle of a step, some steps after the start."""

PATIENCE_SECONDS = 300.0

Script = Callable[[Stage], Awaitable[None]]


def run_with(script: Script) -> VirtualRun:
    """A run during which `script` acts from the middle of a step on."""

    def begin(stage: Stage) -> "asyncio.Task[None]":
        async def act() -> None:
            await asyncio.sleep(MIDDLE_SECONDS)
            await script(stage)

        return asyncio.create_task(act())

    async def main() -> VirtualRun:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await play(CONFIG, Scenario(FLEET), corpus(), begin)

    with asyncio.Runner(loop_factory=MachineLoop) as runner:
        return runner.run(main())


def conductor_of(stage: Stage) -> str:
    return next(
        name
        for name, session in stage.sessions.items()
        if session.runtime is not None and session.runtime.island.conducting.conductor is not None
    )


async def until_in_roster(stage: Stage, name: str) -> None:
    while not stage.sessions[name].is_in_roster:  # noqa: ASYNC110 (virtual time)
        await asyncio.sleep(0.1)


def expect_same_curve(run: VirtualRun) -> None:
    yardstick = reference(CONFIG)
    assert [commit.loss for commit in run.commits] == list(yardstick.losses)
    assert run.commits[-1].parameters_sha256 == yardstick.parameters_sha256


def changes(run: VirtualRun, name: str) -> list[str]:
    return [
        e.reason for _, _, e in run.events if isinstance(e, MembershipChanged) and name in e.reason
    ]


@pytest.mark.parametrize("newcomers", [1, 3])
def test_newcomers_join_in_the_middle_with_state_from_siblings(newcomers: int) -> None:
    async def join(stage: Stage) -> None:
        for number in range(newcomers):
            stage.add(VirtualPeer(f"new-{number}"))

    run = run_with(join)
    expect_same_curve(run)
    assert len(changes(run, "joins")) == newcomers
    recovered = [event for _, _, event in run.events if isinstance(event, Recovered)]
    assert len(recovered) >= newcomers and {event.tier for event in recovered} == {"sibling"}
    assert all(run.outcomes[f"new-{number}"].finished for number in range(newcomers))


@pytest.mark.parametrize("who", ["two-a", "the conductor"])
def test_a_peer_that_drains_leaves_nothing_to_replay(who: str) -> None:
    async def drain(stage: Stage) -> None:
        name = conductor_of(stage) if who == "the conductor" else who
        stage.sessions[name].drain("asked to")

    run = run_with(drain)
    expect_same_curve(run)
    assert len(changes(run, "leaves")) == 1
    assert not any(isinstance(event, Replayed) for _, _, event in run.events)
    terms = [event for _, _, event in run.events if isinstance(event, TermStarted)]
    assert len(terms) == (2 if who == "the conductor" else 1)


def test_the_last_replica_may_not_leave() -> None:
    async def drain(stage: Stage) -> None:
        stage.sessions["two-a"].drain("asked to")
        stage.sessions["two-b"].drain("asked to")

    run = run_with(drain)
    expect_same_curve(run)
    assert len(changes(run, "leaves")) == 1


def test_a_rolling_restart_replays_nothing() -> None:
    async def restart(stage: Stage) -> None:
        for peer in FLEET[:2]:
            old = stage.sessions[peer.name]
            old.drain("rolling restart")
            await old.outcome
            await old.close()
            stage.add(peer)
            await until_in_roster(stage, peer.name)

    run = run_with(restart)
    expect_same_curve(run)
    assert len(changes(run, "leaves")) == len(changes(run, "joins")) == 2
    assert not any(isinstance(event, Replayed) for _, _, event in run.events)


@pytest.mark.parametrize("who", ["one-a", "the conductor"])
def test_a_killed_peer_comes_back_under_its_identity(who: str) -> None:
    killed = []

    async def kill(stage: Stage) -> None:
        name = conductor_of(stage) if who == "the conductor" else who
        killed.append(name)
        begun, peer = len(stage.run.events), stage.names[name]
        while not any(  # noqa: ASYNC110 (virtual time): what it holds of a step is to be lost
            isinstance(event, SumChanged) and holder == peer
            for _, holder, event in stage.run.events[begun:]
        ):
            await asyncio.sleep(0.001)
        stage.network.kill(name)
        session = stage.sessions[name]
        session.leave("killed")
        await session.close()
        await asyncio.sleep(2.0)
        stage.add(next(peer for peer in FLEET if peer.name == name))

    run = run_with(kill)
    expect_same_curve(run)
    assert run.outcomes[killed[0]].finished
    assert any(isinstance(event, Replayed) for _, _, event in run.events)
    assert len(changes(run, "joins")) == 1


def test_a_newcomer_whose_conductor_dies_before_its_first_decision_is_let_in_by_the_next() -> None:
    """The next conductor goes by the last decision, which does not know the newcomer (found by the soak)."""

    async def join(stage: Stage) -> None:
        stage.add(VirtualPeer("new"))
        while not any(isinstance(e, Recovered) for _, _, e in stage.run.events):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        stage.nemesis.kill(conductor_of(stage))

    run = run_with(join)
    expect_same_curve(run)
    assert sum(isinstance(event, TermStarted) for _, _, event in run.events) >= 2
    assert run.outcomes["new"].finished and run.outcomes["new"].step == 8


def test_a_newcomer_to_a_full_island_is_refused_and_tells_no_end_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swarmtrain.steps.membership.MOST_MEMBERS", len(FLEET))

    async def join(stage: Stage) -> None:
        stage.add(VirtualPeer("new-0"))

    run = run_with(join)
    expect_same_curve(run)
    error = run.errors["new-0"]
    assert isinstance(error, Refused) and "the most there can be" in error.why and error.exit_code
    ends = {peer: event for _, peer, event in run.events if isinstance(event, RunStopped)}
    assert len(ends) == len(FLEET) and all(event.finished for event in ends.values())
