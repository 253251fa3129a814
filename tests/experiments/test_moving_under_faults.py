"""Moves while machines die, hang and are cut off: every microbatch once, the same parameters, nobody forgets."""

import asyncio
from dataclasses import replace

import pytest

from swarmtrain.core.events import FaultInjected, MembershipChanged
from swarmtrain.experiments.faults import MOVE_POINTS, Fault
from swarmtrain.experiments.sweep import GOOD, run_seed
from swarmtrain.peer.moving import Move, Moving
from tests.experiments.moving_worlds import (
    MovingStage,
    ask_to_move,
    moved,
    moved_inside,
    moving_config,
    moving_scenario,
    verdict,
)
from tests.experiments.runs import corpus, events_of


def expect_good(seeds: range, faults: int) -> int:
    """How many peers came to other stages by learning them."""
    count = 0
    for seed in seeds:
        run, found = verdict(seed, faults)
        assert found.outcome in GOOD, (seed, found.outcome, found.reason, found.violations)
        count += len(moved(run))
    return count


def test_moves_under_random_faults_end_with_the_parameters_of_the_plain_loop() -> None:
    assert expect_good(range(4), 4) >= 2


def test_who_comes_back_with_other_stages_is_driven_for_none_of_them_before_it_has_them() -> None:
    """Its step is open with its old stages, and the seal that takes it in names the new ones."""
    expect_good(range(26, 27), 4)


@pytest.mark.slow
def test_so_do_many_more() -> None:
    assert expect_good(range(4, 400), 4) >= 200


# ---- at every named point -------------------------------------------------------------------------------------------


class OneMove(MovingStage):
    """Machine one-c is asked to host stage 2."""

    async def _ask(self) -> None:
        await asyncio.sleep(0.5)
        ask_to_move(self, "one-c", (2,))


VICTIMS = {"move.teaching": ("two-a", "two-b", "two-c")}
"""Donors of the new stage; at every other point the mover itself."""


@pytest.mark.parametrize("kind", ["kill", pytest.param("freeze", marks=pytest.mark.slow)])
@pytest.mark.parametrize("point", sorted(MOVE_POINTS))
def test_whoever_stops_at_a_point_of_a_move_costs_no_bit(point: str, kind: str) -> None:
    victims = VICTIMS.get(point, ("one-c",))[:2]
    faults = tuple(
        Fault(kind, (name,), at_point=point, duration_seconds=3.0)  # type: ignore[arg-type]
        for name in victims
    )
    scenario = replace(moving_scenario(0), faults=faults)
    run, found = run_seed(moving_config(3), scenario, corpus(), OneMove)
    assert found.outcome == "ok", (found.reason, found.violations)
    assert len(events_of(run, FaultInjected)) == len(victims), "the point was passed"


# ---- what a move keeps to -------------------------------------------------------------------------------------------


def calm_moves(seed: int) -> list[str]:
    """Why anybody fetched state inside a step although nothing went wrong."""
    run, found = verdict(seed, 0)
    assert found.outcome == "ok" and moved(run)
    reasons = [e.reason for e in events_of(run, MembershipChanged)]  # type: ignore[attr-defined]
    return [reason for reason in reasons if reason.startswith("moves from")] + moved_inside(run)


def test_without_faults_nobody_moves_inside_a_step() -> None:
    assert not calm_moves(2) + calm_moves(3)


def test_stages_that_are_only_learnt_say_nothing_for_their_peer() -> None:
    """Their wish to be in the roster would move the peer inside a step, and their vote would count beside its own."""
    heard: list[tuple[int, int]] = []

    class Asked(OneMove):
        async def _ask(self) -> None:
            await asyncio.sleep(0.5)
            conducting = self.sessions["one-c"].runtime.island.conducting  # type: ignore[union-attr]
            for conducting.is_quiet in (False, True):
                heard.append((len(conducting.repeat()), len(conducting.ask_in())))
            conducting.is_quiet = False

    run_seed(moving_config(3), moving_scenario(0), corpus(), Asked)
    [(repeats, asks), quiet] = heard
    assert repeats and asks and quiet == (0, 0)


def test_a_move_forgets_no_promise_and_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answers for the peer afterwards knows the term it promised and every step it knew of (R8)."""
    known: list[tuple[object, object]] = []
    switch = Moving._switch

    def switching(self: Moving, move: Move) -> None:
        switch(self, move)
        assert move.new is not None
        old, new = move.old.member, move.new.member
        known.append(
            (
                (old.term, old.conductor, old.epoch, old.base),
                (new.term, new.conductor, new.epoch, new.base),
            )
        )

    monkeypatch.setattr(Moving, "_switch", switching)
    run, found = run_seed(moving_config(3), moving_scenario(0), corpus(), OneMove)
    assert found.outcome == "ok" and moved(run)
    [(before, after)] = known
    assert before == after and before[0] != 0


def test_who_has_no_room_for_both_moves_inside_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine may use is its owner's word: then the state is fetched while a step is open, and that is said."""

    class Small(OneMove):
        async def _ask(self) -> None:
            runtime = self.sessions["one-c"].runtime
            assert runtime is not None
            parts = runtime.island.parts
            parts.reserved_bytes = parts.spare_bytes() - 1000
            await super()._ask()

    run, found = run_seed(moving_config(3), moving_scenario(0), corpus(), Small)
    assert found.outcome == "ok" and not moved(run)
    [why] = moved_inside(run)
    assert why.startswith("both do not fit: stages 2 take") and why.endswith("leave 1000B")
