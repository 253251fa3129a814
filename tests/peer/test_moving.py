"""A move whose peer is let out of the roster, and then things go another way."""

import asyncio
from collections.abc import Callable

import pytest

from swarmtrain.core.events import MembershipChanged, Noted, Restored
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.sweep import run_seed
from swarmtrain.experiments.virtual import Stage, VirtualRun
from swarmtrain.peer.moving import Move, Moving
from swarmtrain.peer.runtime import Runtime
from tests.experiments.moving_worlds import ask_to_move, moved, moving_config, moving_scenario
from tests.experiments.runs import corpus, events_of


class OneMove(Stage):
    """Soon after the first step has opened, a machine is asked to host stage 2."""

    mover = "one-c"

    def _begin(self) -> None:
        super()._begin()
        self.acting = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        await asyncio.sleep(0.5)
        ask_to_move(self, self.mover, (2,))

    def conductors(self) -> list[str]:
        running = {n: s.runtime for n, s in self.sessions.items() if s.runtime is not None}
        return [name for name, r in running.items() if r.island.conducting.conductor is not None]

    def kill_conductor(self) -> None:
        for name in self.conductors():
            self.nemesis.strike(Fault("kill", (name,)))


def after(
    monkeypatch: pytest.MonkeyPatch, method: str, then: Callable[[Moving, Move], None]
) -> None:
    """Whenever `Moving.<method>` has run with a move under way, `then` does."""
    original = getattr(Moving, method)

    def wrapped(self: Moving, *args: object) -> object:
        move = self._move
        result = original(self, *args)
        if move is not None:
            then(self, move)
        return result

    monkeypatch.setattr(Moving, method, wrapped)


# ---- the conductor that let it out dies -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["one-c", "edge"])
def test_who_is_dealt_work_again_with_its_old_stages_keeps_them(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next conductor starts from a roster with them: what they promise, hold and prepare counts (R8).

    The only edge that is left conducts itself then.
    """
    scenes: list[OneMove] = []
    let_out: list[Move] = []
    switched: list[bool] = []

    class Scene(OneMove):
        async def _ask(self) -> None:
            scenes.append(self)
            [conductor] = self.conductors()
            self.mover = (
                {"edge-a": "edge-b", "edge-b": "edge-a"}[conductor] if kind == "edge" else kind
            )
            await super()._ask()

    def dismissed(self: Moving, move: Move) -> None:
        if not let_out:
            let_out.append(move)
            asyncio.get_running_loop().call_soon(scenes[0].kill_conductor)

    is_there = Move.is_there.fget  # type: ignore[attr-defined]

    def lags(self: Move) -> bool:
        """One sum behind until the old stages have a step open again."""
        if let_out and not self.is_done and self.old.member.ledger.open is None:
            return False
        return bool(is_there(self))

    after(monkeypatch, "dismissed", dismissed)
    monkeypatch.setattr(Move, "is_there", property(lags))
    switch = Moving._switch

    def switching(self: Moving, move: Move) -> None:
        conducts = move.old.island.conducting.conductor is not None
        switched.append(conducts or move.old.member.ledger.open is not None)
        switch(self, move)

    monkeypatch.setattr(Moving, "_switch", switching)
    _, found = run_seed(moving_config(3), moving_scenario(0), corpus(), Scene)
    assert let_out, "it was let out, and the conductor died"
    assert True not in switched
    assert found.outcome == "ok", (found.reason, found.violations)


# ---- let out without a move -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_first_lost", [False, True])
def test_who_is_let_out_and_has_no_move_left_comes_back(
    is_first_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its wish may be heard after it gave its move up; and what it asks then may be lost."""

    class LetOut(OneMove):
        async def _ask(self) -> None:
            await asyncio.sleep(0.5)
            runtime = self.sessions[self.mover].runtime
            assert runtime is not None
            runtime.island.ask_out("a test says so")

    if is_first_lost:
        monkeypatch.setattr(Moving, "dismissed", lambda self, old: None)
    config = moving_config(3, "run.steps=40", "links.heartbeat_seconds=0.3")
    run, found = run_seed(config, moving_scenario(0), corpus(), LetOut)
    assert found.outcome == "ok", (found.reason, found.violations)
    changes = [e for e in events_of(run, MembershipChanged) if isinstance(e, MembershipChanged)]
    left, back, *_ = changes
    assert left.reason.startswith("leaves before step") and back.peer == left.peer
    assert back.step <= left.step + (20 if is_first_lost else 1)
    assert not run.left_behind, "it works to the end"


# ---- the new stages cannot be taken up ------------------------------------------------------------------------------


class Killing(OneMove):
    """Machines that host the mover's stage are killed when a test says so."""

    async def _ask(self) -> None:
        SCENES.append(self)
        await super()._ask()

    def kill_others(self) -> None:
        for name in ("one-a", "one-b"):
            self.nemesis.strike(Fault("kill", (name,)))


SCENES: list[Killing] = []
LONG = ("run.steps=60", "links.heartbeat_seconds=0.3")


def test_the_last_replica_of_a_stage_follows_the_new_one_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its wish to be let out is not even sent: it would be fulfilled when the move is long forgotten."""
    SCENES.clear()
    original, struck = Moving._arrived, list[Move]()

    def arrived(self: Moving, move: Move) -> bool:
        if not struck:
            struck.append(move)
            asyncio.get_running_loop().call_soon(SCENES[0].kill_others)
        is_alone = len(move.old.member.roster.replicas(1)) == 1  # type: ignore[union-attr]
        return original(self, move) if is_alone else False

    monkeypatch.setattr(Moving, "_arrived", arrived)
    run, found = run_seed(moving_config(3, *LONG), moving_scenario(0), corpus(), Killing)
    assert found.outcome == "ok", (found.reason, found.violations)
    [why] = notes_of(run, "a move is given up")
    assert "in 20 steps: nobody else hosts stage 1" in why
    assert not notes_of(run, "a peer cannot leave yet")


def test_stages_learnt_in_a_restored_island_are_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old ones are in no roster, so nobody tells them of the restore."""
    SCENES.clear()
    is_there = Move.is_there.fget  # type: ignore[attr-defined]

    def lags(self: Move) -> bool:
        """Not there before the island was restored."""
        old, new = self.old.member, self.new.member if self.new is not None else None
        is_same = new is not None and new.epoch == old.epoch
        return not (self.is_out and is_same) and bool(is_there(self))

    def dismissed(self: Moving, move: Move) -> None:
        asyncio.get_running_loop().call_later(1.0, SCENES[0].kill_others)

    monkeypatch.setattr(Move, "is_there", property(lags))
    after(monkeypatch, "dismissed", dismissed)
    run, found = run_seed(moving_config(3, *LONG), moving_scenario(0), corpus(), Killing)
    assert found.outcome == "ok", (found.reason, found.violations)
    assert events_of(run, Restored), "the island lost a stage meanwhile"
    assert moved(run)


def test_who_leaves_in_the_middle_of_a_move_closes_what_it_prepared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing of the peer may be left to run when its session says that it is closed."""
    scenes, prepared = list[OneMove](), list[Runtime]()
    closed, at_the_end = list[Runtime](), list[bool]()

    class Scene(OneMove):
        async def _ask(self) -> None:
            scenes.append(self)
            await super()._ask()

    def arrived(self: Moving, move: Move) -> bool:
        assert move.new is not None
        prepared.append(move.new)
        scenes[0].sessions["one-c"].leave("a test says so")
        return False

    close, close_moves = Runtime.close, Moving.close

    async def closing(self: Runtime) -> None:
        await close(self)
        closed.append(self)

    async def closing_moves(self: Moving) -> None:
        await close_moves(self)
        if prepared and self is scenes[0].sessions["one-c"]._moving:
            at_the_end.append(prepared[0] in closed)

    monkeypatch.setattr(Moving, "_arrived", arrived)
    monkeypatch.setattr(Runtime, "close", closing)
    monkeypatch.setattr(Moving, "close", closing_moves)
    run_seed(moving_config(3), moving_scenario(0), corpus(), Scene)
    assert at_the_end == [True]


# ---- what is known of the last decision -----------------------------------------------------------------------------


def test_new_stages_whose_state_was_fetched_know_the_decision_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A candidate that is a step behind hears of it by what this peer promises (R8)."""
    switch, known = Moving._switch, list[tuple[object, object]]()

    def switching(self: Moving, move: Move) -> None:
        assert move.new is not None
        new, old = move.new.member, move.old.member
        if (new.step, new.base) == (old.step, old.base):
            new.last = None  # as it is behind a state that was fetched
        switch(self, move)
        known.append((new.last, old.last))

    monkeypatch.setattr(Moving, "_switch", switching)
    _, found = run_seed(moving_config(3), moving_scenario(0), corpus(), OneMove)
    assert found.outcome == "ok", (found.reason, found.violations)
    [(of_new, of_old)] = known
    assert of_new == of_old is not None


def notes_of(run: VirtualRun, what: str) -> list[str]:
    return [e.detail for e in events_of(run, Noted) if isinstance(e, Noted) and e.what == what]
