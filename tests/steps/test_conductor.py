"""The conductor, phase by phase, from the rules' text."""

import math
from dataclasses import replace

import pytest

from swarmtrain.core.closing import Closing
from swarmtrain.core.events import Diverged
from swarmtrain.core.messages import (
    Ask,
    Assign,
    Commit,
    Decision,
    Done,
    Freeze,
    Kept,
    KeyLoss,
    Leave,
    Nack,
    NewTerm,
    Open,
    Promise,
    Recall,
    Redrive,
    Redriven,
    Release,
    Reopen,
    StageAt,
    StepMessage,
    Stop,
    Tell,
    unpack_items,
)
from swarmtrain.core.types import Item, PeerId
from swarmtrain.steps.conductor import StepConductor
from swarmtrain.steps.effects import Acknowledged, Effect, Note, StepDown, Unsurvivable
from swarmtrain.steps.keys import next_base, pack_keys, unpack_keys
from tests.steps.examples import (
    BASE,
    HEAD,
    OPEN,
    PLAN,
    ROSTER,
    SCALARS,
    STAGE_OF,
    TERM,
    A,
    B,
    C,
    D,
    E,
    acts,
    commit_of,
    held,
    prepared,
    ready,
    receivers,
    reduced,
    sent,
)

EVERYBODY = [A, B, C, D, E]
HOLDINGS: dict[PeerId, list[Item]] = {
    A: [(0, 0), (HEAD, 0)],
    B: [(0, 1), (HEAD, 1)],
    C: [(1, 0)],
    D: [(1, 1)],
    E: [(2, 0), (2, 1)],
}


def started() -> StepConductor:
    conductor = StepConductor(A, PLAN, TERM, 0, BASE, ROSTER)
    conductor.start()
    return conductor


def freezing() -> StepConductor:
    conductor = started()
    conductor.handle(A, Done(0, BASE, pack_keys([0])))
    conductor.handle(B, Done(0, BASE, pack_keys([1])))
    return conductor


def answer(
    conductor: StepConductor, holdings: dict[PeerId, list[Item]], void: tuple[Item, ...] = ()
) -> list[Effect]:
    """HELD from everybody in the roster."""
    effects: list[Effect] = []
    for peer in conductor.roster.peers:
        losses = tuple(KeyLoss(key, 8.0 + key) for at, key in holdings[peer] if at == HEAD)
        message = held(conductor.seal, holdings[peer], void, conductor.step)
        effects += conductor.handle(peer, replace(message, losses=losses))
    return effects


def assigning() -> StepConductor:
    conductor = freezing()
    answer(conductor, HOLDINGS)
    return conductor


def report(conductor: StepConductor, *but: PeerId) -> list[Effect]:
    effects: list[Effect] = []
    for peer in conductor.roster.peers:
        if peer not in but:
            effects += conductor.handle(peer, reduced(peer, conductor.seal, step=conductor.step))
    return effects


def decided() -> tuple[StepConductor, Commit]:
    conductor = assigning()
    [decision, *_] = [m for m in sent(report(conductor)) if isinstance(m, Decision)]
    return conductor, decision.commit


def only(effects: list[Effect], kind: type[StepMessage]) -> list[StepMessage]:
    return [message for message in sent(effects) if isinstance(message, kind)]


# ---- opening and freezing ---------------------------------------------------------------------------------------


def test_a_step_opens_for_everybody_with_all_keys_led() -> None:
    conductor = StepConductor(A, PLAN, TERM, 0, BASE, ROSTER)
    effects = conductor.start()
    assert receivers(effects, Open) == EVERYBODY and sent(effects, C) == [OPEN]


def test_all_keys_done_freezes() -> None:
    conductor = started()
    assert conductor.handle(A, Done(0, BASE, pack_keys([0]))) == []
    effects = conductor.handle(B, Done(0, BASE, pack_keys([1])))
    assert receivers(effects, Freeze) == EVERYBODY and conductor.seal == 1


def test_done_on_another_base_or_step_does_not_count() -> None:
    conductor = started()
    assert conductor.handle(A, Done(0, b"another".ljust(32), pack_keys([0, 1]))) == []
    assert conductor.handle(A, Done(1, BASE, pack_keys([0, 1]))) == []
    assert conductor.phase == "run"


def test_every_phase_repeats_its_question() -> None:
    assert receivers(started().tick(), Open) == EVERYBODY
    conductor = freezing()
    conductor.handle(C, held(1))
    effects = conductor.tick()
    assert receivers(effects, Freeze) == receivers(effects, Open) == [A, B, D, E]
    conductor = assigning()
    conductor.handle(C, reduced(C, 1))
    assert receivers(conductor.tick(), Assign) == [A, B, D, E]


# ---- owners and replay (R2, R4, R6) -----------------------------------------------------------------------------


def test_every_item_gets_the_one_who_holds_it() -> None:
    [assign, *_] = only(answer(freezing(), HOLDINGS), Assign)
    assert isinstance(assign, Assign)
    assert {o.peer: sorted(unpack_items(o.items)) for o in assign.owners} == HOLDINGS
    assert assign.loss == (8.0 + 9.0) / 16


def test_surplus_goes_to_one_owner() -> None:
    twice = {**HOLDINGS, D: [(1, 0), (1, 1)]}
    [assign, *_] = only(answer(freezing(), twice), Assign)
    assert isinstance(assign, Assign)
    owned = [item for o in assign.owners for item in unpack_items(o.items)]
    assert sorted(owned) == sorted(OPEN.items())


def test_answers_of_another_seal_step_or_stranger_do_not_count() -> None:
    conductor = freezing()
    for peer in EVERYBODY[:-1]:
        conductor.handle(peer, held(1, HOLDINGS[peer]))
    assert conductor.handle(E, held(2, HOLDINGS[E])) == []
    assert conductor.handle(E, held(1, HOLDINGS[E], step=1)) == []
    assert conductor.handle(PeerId("x"), held(1, HOLDINGS[E])) == []
    assert conductor.phase == "freeze"


@pytest.mark.parametrize("missing", sorted(OPEN.items()))
def test_any_missing_item_is_reopened_and_driven_from_the_holder_above(missing: Item) -> None:
    """R4: embedding and head are positions like any other."""
    less = {peer: [item for item in items if item != missing] for peer, items in HOLDINGS.items()}
    conductor = freezing()
    effects = answer(conductor, less)
    assert receivers(effects, Reopen) == EVERYBODY
    [drive] = only(effects, Redrive)
    assert isinstance(drive, Redrive) and (drive.position, drive.key) == missing
    above = (missing[0] - 1, missing[1])
    driver = next((peer for peer, items in HOLDINGS.items() if above in items), A)
    assert receivers(effects, Redrive) == [driver]
    named = {hint.position for hint in drive.hints}
    assert named == set(range(HEAD + 1)) - {missing[0]}
    [frozen, *_] = only(conductor.handle(driver, Redriven(0, 1, missing[1], missing[0])), Freeze)
    assert isinstance(frozen, Freeze) and frozen.seal == 2


def test_a_run_over_two_dead_owners_is_driven_once() -> None:
    less = {**HOLDINGS, C: [], E: [(2, 1)]}
    effects = answer(freezing(), less)
    [drive] = only(effects, Redrive)
    assert isinstance(drive, Redrive) and (drive.position, drive.key) == (1, 0)
    [reopen, *_] = only(effects, Reopen)
    assert isinstance(reopen, Reopen) and unpack_items(reopen.items) == ((1, 0), (2, 0))


def test_the_next_seal_waits_for_all_runs_of_this_one() -> None:
    conductor = freezing()
    answer(conductor, {**HOLDINGS, C: [], D: []})
    assert conductor.handle(A, Redriven(0, 1, 0, 1)) == []
    assert conductor.handle(B, Redriven(0, 9, 1, 1)) == []
    assert receivers(conductor.handle(B, Redriven(0, 1, 1, 1)), Freeze) == EVERYBODY


def test_a_replay_that_stays_silent_is_asked_for_anew() -> None:
    conductor = freezing()
    answer(conductor, {**HOLDINGS, C: []})
    assert receivers(conductor.tick(), Freeze) == EVERYBODY and conductor.seal == 2


def test_a_void_key_is_owned_by_nobody_and_missing_nowhere() -> None:
    less = {**HOLDINGS, C: [], A: [(HEAD, 0)]}
    [assign, *_] = only(answer(freezing(), less, void=((1, 0),)), Assign)
    assert isinstance(assign, Assign) and unpack_keys(assign.void) == (0,)
    assert all(key == 1 for o in assign.owners for _, key in unpack_items(o.items))
    assert assign.loss == 9.0 / 8


def test_a_step_whose_keys_are_all_void_has_no_loss() -> None:
    nothing: dict[PeerId, list[Item]] = {peer: [] for peer in EVERYBODY}
    [assign, *_] = only(answer(freezing(), nothing, void=((1, 0), (2, 1))), Assign)
    assert isinstance(assign, Assign) and math.isnan(assign.loss)


# ---- deciding (R8, I3) ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", EVERYBODY)
def test_the_decision_needs_the_whole_sealed_roster(last: PeerId) -> None:
    conductor = assigning()
    assert report(conductor, last) == []
    effects = conductor.handle(last, reduced(last, 1))
    assert receivers(effects, Decision) == EVERYBODY
    [decision, *_] = only(effects, Decision)
    assert isinstance(decision, Decision)
    assert decision.commit == replace(commit_of(), loss=17.0 / 16)
    assert decision.open is not None and decision.open.base == next_base(commit_of())


@pytest.mark.parametrize("peer", [C, D])
def test_unequal_digests_are_an_event_and_a_new_seal(peer: PeerId) -> None:
    conductor = assigning()
    report(conductor, peer)
    effects = conductor.handle(peer, reduced(peer, 1, "other"))
    assert receivers(effects, Freeze) == EVERYBODY and not only(effects, Decision)
    assert [
        e.event.stage for e in effects if isinstance(e, Note) and isinstance(e.event, Diverged)
    ] == [1]


def test_a_member_that_cannot_serve_means_a_new_seal() -> None:
    conductor = assigning()
    assert receivers(conductor.handle(C, replace(reduced(C, 1), stages=())), Freeze) == EVERYBODY


def test_reports_of_another_term_seal_step_or_stranger_do_not_count() -> None:
    conductor = assigning()
    report(conductor, E)
    assert conductor.handle(E, reduced(E, 2)) == []
    assert conductor.handle(E, reduced(E, 1, step=1)) == []
    assert conductor.handle(E, reduced(E, 1, term=TERM + 1)) == []
    assert conductor.handle(PeerId("x"), reduced(E, 1)) == []
    assert conductor.phase == "assign"


def test_the_last_decision_opens_nothing() -> None:
    conductor = StepConductor(A, replace(PLAN, steps=1), TERM, 0, BASE, ROSTER)
    conductor.start()
    conductor.handle(A, Done(0, BASE, pack_keys([0, 1])))
    answer(conductor, HOLDINGS)
    [decision, *_] = only(report(conductor), Decision)
    assert isinstance(decision, Decision) and decision.open is None
    assert conductor.phase == "finished"


# ---- acknowledging (R10, R11) -----------------------------------------------------------------------------------


def test_a_majority_with_every_stage_acknowledges_once() -> None:
    conductor, commit = decided()
    effects: list[Effect] = []
    for peer in (A, B, C, D):
        effects += conductor.handle(peer, ready(peer, 1, conductor.base))
    assert effects == [], "four of five, but nobody of stage 2"
    effects = conductor.handle(E, ready(E, 1, conductor.base))
    assert [e.commit for e in effects if isinstance(e, Acknowledged)] == [commit]
    assert receivers(effects, Release) == EVERYBODY


def test_a_late_replica_is_released_and_compared() -> None:
    conductor, _ = decided()
    for peer in (A, C, E):
        conductor.handle(peer, ready(peer, 1, conductor.base))
    effects = conductor.handle(D, ready(D, 1, conductor.base, "other"))
    assert receivers(effects, Release) == [D]
    assert any(isinstance(e, Note) and isinstance(e.event, Diverged) for e in effects)


def test_the_silent_hear_the_decision_again() -> None:
    conductor, _ = decided()
    conductor.handle(C, ready(C, 1, conductor.base))
    effects = conductor.tick()
    assert receivers(effects, Decision) == [A, B, D, E]
    [decision, *_] = only(effects, Decision)
    assert isinstance(decision, Decision) and decision.open == conductor.open


@pytest.mark.parametrize("wrong", [ready(E, 2, b""), ready(E, 1, b"another")])
def test_ready_of_another_step_or_base_does_not_count(wrong: StepMessage) -> None:
    conductor, _ = decided()
    for peer in (A, C):
        conductor.handle(peer, ready(peer, 1, conductor.base))
    assert conductor.handle(E, wrong) == []


def test_no_step_is_decided_before_the_one_before_is_acknowledged() -> None:
    """Applying overwrites the undo state, which R10 keeps until then."""
    conductor, _ = decided()
    conductor.handle(A, Done(1, conductor.base, pack_keys([0, 1])))
    answer(conductor, HOLDINGS)
    assert not only(report(conductor), Decision)
    effects: list[Effect] = []
    for peer in (A, C, E):
        effects += conductor.handle(peer, ready(peer, 1, conductor.base))
    assert receivers(effects, Decision) == EVERYBODY


# ---- losses -----------------------------------------------------------------------------------------------------


def test_a_lost_edge_leads_no_more() -> None:
    conductor = started()
    effects = conductor.lost(B)
    assert receivers(effects, Open) == [A, C, D, E]
    [opening, *_] = only(effects, Open)
    assert isinstance(opening, Open) and opening.roster == ROSTER.without(B)
    assert [share.peer for share in opening.leads] == [A]


@pytest.mark.parametrize("at", [freezing, assigning])
def test_a_loss_while_sealing_means_a_new_seal(at: object) -> None:
    conductor = at()  # type: ignore[operator]
    seal = conductor.seal
    effects = conductor.lost(D)
    assert receivers(effects, Freeze) == [A, B, C, E] and conductor.seal == seal + 1
    assert receivers(answer(conductor, HOLDINGS), Reopen) == [A, B, C, E]


def kept_nothing(conductor: StepConductor) -> list[Effect]:
    """Everybody left answers RECALL with live states of step 0 alone."""
    effects: list[Effect] = []
    for peer in (A, B, C, D):
        states = (StageAt(STAGE_OF[peer], 0, BASE),)
        effects = conductor.handle(peer, Kept(1, 0, BASE, 0, states, None))
    return effects


def test_the_last_replica_of_a_stage_cannot_be_lost_when_nobody_kept_it() -> None:
    conductor = started()
    assert receivers(conductor.lost(E), Recall) == [A, B, C, D]
    [effect] = kept_nothing(conductor)
    assert isinstance(effect, Unsurvivable) and "stage 2" in effect.reason


def test_the_majority_of_the_last_roster_cannot_be_lost() -> None:
    """A plan without middle stages, so that coverage is no reason to stop. Who is left may be in reach of others:
    they hear that it resigns, and the run is not ended for them (sweep, seed 5612)."""
    conductor = StepConductor(A, replace(PLAN, stages=0), TERM, 0, BASE, ROSTER)
    conductor.start()
    assert not acts(conductor.lost(E)) and not acts(conductor.lost(D))
    *resigned, effect = conductor.lost(C)
    assert isinstance(effect, Unsurvivable) and not conductor.is_elected
    assert receivers(resigned, Leave) == [A, B]


def test_losing_a_stranger_or_somebody_twice_is_nothing() -> None:
    conductor = started()
    conductor.lost(B)
    assert conductor.lost(B) == [] and conductor.lost(PeerId("x")) == []


def test_a_last_step_that_nobody_can_acknowledge_stops_the_run() -> None:
    conductor, _ = decided()
    conductor.phase = "finished"
    conductor.lost(E)
    [effect] = kept_nothing(conductor)
    assert isinstance(effect, Unsurvivable)


# ---- taking over (R8) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [Nack(TERM + 1), Tell(commit_of())])
def test_who_is_behind_steps_down(message: StepMessage) -> None:
    [effect] = started().handle(C, message)
    assert isinstance(effect, StepDown)


def test_an_older_or_equal_nack_is_nothing() -> None:
    assert started().handle(C, Nack(TERM)) == []


def test_an_open_step_is_opened_in_the_new_term_and_frozen() -> None:
    conductor = StepConductor(B, PLAN, TERM << 1, 0, BASE, ROSTER)
    effects = conductor.resume(OPEN, 4)
    [opening, frozen] = sent(effects, C)
    assert opening == replace(OPEN, term=TERM << 1)
    assert isinstance(frozen, Freeze) and (frozen.term, frozen.seal) == (TERM << 1, 5)


def test_the_last_decision_is_recalled_and_acknowledged_again() -> None:
    """The conductor before may have died between COMMIT and the acknowledgement."""
    commit = commit_of()
    conductor = StepConductor(B, PLAN, TERM << 1, 1, next_base(commit), ROSTER)
    assert sent(conductor.start(), B)[-1] == Ask(0)
    effects = conductor.handle(B, Tell(commit))
    assert receivers(effects, Decision) == EVERYBODY
    for peer in (A, C, E):
        effects = conductor.handle(peer, ready(peer, 1, conductor.base))
    assert any(isinstance(effect, Acknowledged) for effect in effects)


def promise(step: int, base: bytes, **more: object) -> Promise:
    plain = Promise(TERM << 1, 0, step, base, 0, None, None, None)
    return replace(plain, **more)  # type: ignore[arg-type]


def spreading() -> StepConductor:
    conductor = StepConductor(B, PLAN, TERM << 1, 0, BASE, ROSTER)
    effects = conductor.spread(commit_of())
    assert receivers(effects, Decision) == receivers(effects, NewTerm) == EVERYBODY
    return conductor


def test_after_a_spread_decision_the_next_step_takes_a_ballot_of_its_own() -> None:
    conductor = spreading()
    for peer in (A, B, C, D):
        assert conductor.handle(peer, promise(1, conductor.base)) == []
    assert conductor.handle(E, promise(0, BASE)) == [], "has not applied the decision yet"
    assert receivers(conductor.tick(), NewTerm) == [E]
    assert receivers(conductor.handle(E, promise(1, conductor.base)), Open) == EVERYBODY


def test_that_ballot_goes_on_without_the_lost() -> None:
    conductor = spreading()
    for peer in (A, B, C, E):
        conductor.handle(peer, promise(1, conductor.base))
    assert receivers(conductor.lost(D), Open) == [A, B, C, E]


def test_that_ballot_takes_over_an_open_step() -> None:
    conductor = spreading()
    opening = replace(OPEN, step=1, base=conductor.base)
    effects: list[Effect] = []
    for peer in EVERYBODY:
        effects = conductor.handle(peer, promise(1, conductor.base, open=opening, seal=3))
    assert receivers(effects, Freeze) == EVERYBODY and conductor.seal == 4


def test_that_ballot_completes_a_prepared_step() -> None:
    conductor = spreading()
    opening = replace(OPEN, step=1, base=conductor.base)
    effects: list[Effect] = []
    for peer, stage in STAGE_OF.items():
        sums = replace(prepared(stage), closing=Closing(SCALARS, 2))
        vote = promise(1, conductor.base, open=opening, seal=1, prepared=sums)
        effects = conductor.handle(peer, vote)
    [decision, *_] = only(effects, Decision)
    assert isinstance(decision, Decision) and decision.commit.step == 1
    assert conductor.step == 2 and conductor.phase == "ballot"


def test_stopping_tells_everybody() -> None:
    conductor = started()
    effects = conductor.stop("enough", finished=False)
    assert receivers(effects, Stop) == EVERYBODY and conductor.lost(B) == []
