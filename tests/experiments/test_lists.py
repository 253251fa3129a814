"""What peers of an island make of its lists when siblings go and come back, with all that a peer runs."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from swarmtrain.core.events import Noted
from swarmtrain.experiments.virtual import Stage, VirtualRun
from swarmtrain.outer.votes import Votes
from swarmtrain.peer.merging import Job, Merging
from swarmtrain.steps.conductor import StepConductor
from tests.experiments.island_worlds import config_of, is_agreed, islands_of, run_islands
from tests.experiments.test_rounds import finishes

Patch = pytest.MonkeyPatch


def lists_heard(patch: Patch) -> list[tuple[str, int, bool, bool]]:
    """By peer and list: whether the peer was out before, and whether it may vote at once."""
    real, heard = Votes.set_peers, []

    def set_peers(self: Votes, version: int, peers: tuple[Any, ...], since: int) -> None:
        was_out = since > self.version
        real(self, version, peers, since)
        heard.append((self.peer, version, was_out, self.is_settled))

    patch.setattr(Votes, "set_peers", set_peers)
    return heard


def script_of(
    seconds: float, act: Callable[[Stage], Callable[[], None]], until_seconds: float
) -> Callable[[Stage], "asyncio.Future[None]"]:
    """Do something to the world, and undo it later."""

    def script(stage: Stage) -> "asyncio.Future[None]":
        async def work() -> None:
            await asyncio.sleep(seconds)
            undo = act(stage)
            await asyncio.sleep(until_seconds - seconds)
            undo()

        return asyncio.ensure_future(work())

    return script


def test_who_was_out_of_the_list_and_is_back_knows_that_it_was(monkeypatch: Patch) -> None:
    heard, peers = lists_heard(monkeypatch), islands_of(2, 2)
    names: dict[str, str] = {}

    def freeze(stage: Stage) -> Callable[[], None]:
        names.update({stage.names[peer.name]: peer.name for peer in peers})
        return stage.nemesis._freeze("0-1-1")

    config = config_of("outer.delay_steps=2", "links.silence_seconds=2", steps=45)
    run = run_islands(config, peers, script_of(4.0, freeze, 9.0))
    assert finishes(run, 12) and is_agreed(run)
    assert {names[peer] for peer, _, was_out, _ in heard if was_out} == {"0-1-1"}
    # Its siblings' list without it was not acted on until all had it, and was that of both before and after.
    sibling = [settled for peer, _, _, settled in heard if names[peer] == "0-1-0"]
    assert sibling[:1] == [False] and sibling[-1:] == [True]
    # Peers of other stages lack nobody in theirs.
    assert all(settled for peer, _, _, settled in heard if names[peer].startswith("0-2"))


def slow_results(patch: Patch) -> None:
    """What a round comes to takes 30 seconds longer to be had."""
    real = Merging.result

    async def result(self: Merging, job: Job) -> Any:
        await asyncio.sleep(30.0)
        return await real(self, job)

    patch.setattr(Merging, "result", result)


@pytest.mark.parametrize("is_said", [True, False])
def test_who_is_left_votes_while_the_end_of_the_run_waits_for_rounds(
    is_said: bool, monkeypatch: Patch
) -> None:
    """No step closes any more that could tell that everybody has the list: the conductor says so by itself."""
    if not is_said:
        monkeypatch.setattr(StepConductor, "_seat", lambda self: [])
    slow_results(monkeypatch)
    peers = islands_of(2, 2)
    config = config_of(
        "outer.delay_steps=1", "outer.inner_steps=8", "train.microbatches=1", steps=17
    )
    waits: list[bool] = []

    def script(stage: Stage) -> "asyncio.Future[None]":
        async def work() -> None:
            # Each conductor says it at both last steps.
            while told(stage).count("the end of the run waits for rounds") < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.5)
            # Who held anything is missed in the step itself.
            idle = [
                name
                for name, session in stage.sessions.items()
                if session.runtime is not None and not session.runtime.member.ledger.held
            ]
            waits.append(bool(idle))
            stage.nemesis.kill(idle[0])

        return asyncio.ensure_future(work())

    run = run_islands(config, peers, script)
    assert waits == [True] and is_agreed(run)
    assert finishes(run, 11) is is_said and not missed(run)


def told(stage: Stage) -> list[str]:
    return [event.what for _, _, event in stage.run.events if isinstance(event, Noted)]


def missed(run: VirtualRun) -> list[str]:
    return [e.detail for _, _, e in run.events if isinstance(e, Noted) and "without" in e.what]
