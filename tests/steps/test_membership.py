"""Entering, leaving and coming back to the roster; stopping at an acknowledged step."""

from dataclasses import replace

import pytest

from swarmtrain.core.events import MembershipChanged, Noted
from swarmtrain.core.messages import Decision, Freeze, Join, Leave, Open, Ownership, Release, Stop
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.steps.conductor import StepConductor
from swarmtrain.steps.effects import LEFT, Effect, End, Note
from swarmtrain.steps.membership import Membership
from swarmtrain.steps.plan import Paths
from tests.steps.examples import BASE, PLAN, ROSTER, TERM, A, B, C, D, E, ready, receivers, sent
from tests.steps.test_conductor import assigning, decided, report, started

NEW = Member(PeerId("new"), (1,), "new:1")


def noted(effects: list[Effect]) -> list[MembershipChanged]:
    notes = [effect.event for effect in effects if isinstance(effect, Note)]
    return [event for event in notes if isinstance(event, MembershipChanged)]


def test_a_newcomer_waits_for_the_next_step() -> None:
    conductor = assigning()
    assert conductor.handle(NEW.peer, Join(NEW, 0, b"other parameters")) == []
    assert NEW.peer not in conductor.roster
    effects = report(conductor)
    [opening] = {m for m in sent(effects) if isinstance(m, Open)}
    assert NEW.peer in opening.roster and opening.step == 1
    assert receivers(effects, Open) == [NEW.peer]
    assert NEW.peer not in receivers(effects, Decision)
    assert [event.peer for event in noted(effects)] == [NEW.peer]


def test_who_learns_is_in_at_once_while_the_step_runs() -> None:
    conductor = started()
    effects = conductor.handle(NEW.peer, Join(NEW, 0, BASE, learns=True))
    assert NEW.peer in conductor.roster and NEW.peer in receivers(effects, Open)
    assert not receivers(effects, Freeze), "nobody waits for it"
    [event] = noted(effects)
    assert "learnt" in event.reason


def test_the_routes_of_the_step_that_runs_are_asked_for_anew_for_who_learnt() -> None:
    def routes(first: PeerId) -> Paths:
        return Paths(PLAN.opening(TERM, 0, BASE, ROSTER).leads, ((1, 2),), (first, E), bytes(4 * 2))

    asked: list[Roster] = []

    def repaired(before: Open, roster: Roster, leads: tuple[Ownership, ...]) -> Paths:
        asked.append(roster)
        return routes(NEW.peer)

    plan = replace(PLAN, paths=lambda step, roster: routes(C), repaired=repaired)
    conductor = StepConductor(A, plan, TERM, 0, BASE, ROSTER)
    conductor.start()
    effects = conductor.handle(NEW.peer, Join(NEW, 0, BASE, learns=True))
    [opening] = {m for m in sent(effects) if isinstance(m, Open)}
    assert asked == [opening.roster] and NEW.peer in opening.roster
    assert opening.path_peers == (NEW.peer, E)


@pytest.mark.parametrize("base", [BASE, b"other parameters"], ids=["here", "behind"])
def test_who_learns_stops_no_seal_and_enters_no_roster_unasked(base: bytes) -> None:
    conductor = assigning()
    seal = conductor.seal
    assert conductor.handle(NEW.peer, Join(NEW, 0, base, learns=True)) == []
    assert conductor.seal == seal
    [opening] = {m.open for m in sent(report(conductor)) if isinstance(m, Decision)}
    assert opening is not None and NEW.peer not in opening.roster


def test_who_finds_that_it_has_to_learn_first_takes_its_wish_back() -> None:
    """A woken peer asks for the next roster before it knows that it is behind."""
    conductor = started()
    conductor.handle(NEW.peer, Join(NEW, 0, b"other parameters"))
    conductor.handle(NEW.peer, Join(NEW, 0, b"other parameters", learns=True))
    assert NEW.peer not in conductor._membership.joining


def test_who_learns_but_is_behind_is_not_let_in_while_the_step_runs() -> None:
    conductor = started()
    assert conductor.handle(NEW.peer, Join(NEW, 0, b"other parameters", learns=True)) == []
    assert NEW.peer not in conductor.roster


def test_who_asks_in_after_the_end_hears_of_it() -> None:
    conductor = started()
    conductor.stop("enough", finished=True)
    [stop] = sent(conductor.handle(NEW.peer, Join(NEW, 0, BASE, learns=True)))
    assert isinstance(stop, Stop) and stop.finished and stop.reason == "enough"


@pytest.mark.parametrize("learns", [False, True])
def test_an_island_that_is_full_says_so_to_a_newcomer_and_to_nobody_else(
    monkeypatch: pytest.MonkeyPatch, learns: bool
) -> None:
    """Those who wait for the next roster count; who is in it, or waits, may ask again."""
    monkeypatch.setattr("swarmtrain.steps.membership.MOST_MEMBERS", len(ROSTER.members) + 1)
    conductor, other = started(), Member(PeerId("other"), (1,), "other:1")
    for _ in range(2):
        assert not receivers(conductor.handle(NEW.peer, Join(NEW, 0, b"another base")), Stop)
    effects = conductor.handle(other.peer, Join(other, 0, BASE, learns=learns))
    [stop] = sent(effects)
    assert isinstance(stop, Stop) and receivers(effects, Stop) == [other.peer]
    assert not stop.finished and "the most there can be" in stop.reason
    back = Member(A, (0,), "")
    assert not receivers(conductor.handle(A, Join(back, 0, BASE)), Stop)
    assert other.peer not in conductor.roster and other.peer not in conductor._membership.joining


def test_who_is_briefly_gone_from_a_full_island_keeps_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swarmtrain.steps.membership.MOST_MEMBERS", len(ROSTER.members))
    conductor, back = started(), ROSTER.member(D)
    assert back is not None
    conductor.lost(D)
    [stop] = sent(conductor.handle(NEW.peer, Join(NEW, 0, b"another base")))
    assert isinstance(stop, Stop), "the place is not free before a decision without its peer"
    assert not receivers(conductor.handle(D, Join(back, 0, BASE)), Stop)
    assert D in conductor.roster


@pytest.mark.parametrize("is_lost", [False, True], ids=["moves", "is lost meanwhile"])
def test_so_does_who_asks_out_to_move(monkeypatch: pytest.MonkeyPatch, is_lost: bool) -> None:
    """Also when the roster of the last decision names it no more."""
    monkeypatch.setattr("swarmtrain.steps.membership.MOST_MEMBERS", len(ROSTER.members))
    conductor = assigning()
    conductor.move(D, (0,), "to where it helps")
    conductor.handle(D, Leave("moves"))
    report(conductor)
    conductor.base_roster = conductor.roster
    assert D not in conductor.roster
    if is_lost:
        conductor.lost(D)
    taken = conductor.handle(NEW.peer, Join(NEW, 1, b"another base"))
    assert bool(receivers(taken, Stop)) is not is_lost
    moved = Member(D, (0,), "")
    asked = conductor.handle(D, Join(moved, conductor.step, conductor.base))
    assert bool(receivers(asked, Stop)) is is_lost
    assert (D in conductor.roster) is not is_lost
    if not is_lost:
        assert not conductor._membership.movers, "it is back: a later leave frees its place"


def test_nobody_joins_for_another() -> None:
    conductor = assigning()
    conductor.handle(A, Join(NEW, 0, b"other parameters"))
    assert NEW.peer not in {
        peer for m in sent(report(conductor)) if isinstance(m, Open) for peer in m.roster.peers
    }


def test_who_holds_the_parameters_of_this_step_is_back_at_once() -> None:
    conductor = started()
    conductor.lost(D)
    assert D not in conductor.roster
    member = ROSTER.member(D)
    assert member is not None
    version = conductor.roster.version
    effects = conductor.handle(D, Join(member, 0, BASE))
    assert D in conductor.roster and conductor.roster.version == version + 1
    assert D in receivers(effects, Open)


def test_who_is_back_while_sealing_is_asked_what_it_holds() -> None:
    conductor = assigning()
    conductor.lost(D)
    member = ROSTER.member(D)
    assert member is not None
    seal = conductor.seal
    effects = conductor.handle(D, Join(member, 0, BASE))
    assert conductor.seal == seal + 1 and D in receivers(effects, Freeze)


def test_a_member_that_asks_again_gets_the_opening_again() -> None:
    conductor = started()
    member = ROSTER.member(C)
    assert member is not None
    effects = conductor.handle(C, Join(member, 0, BASE))
    assert receivers(effects, Open) == [C] and not noted(effects)


def test_who_leaves_is_told_the_decision_and_opens_nothing() -> None:
    conductor = assigning()
    conductor.handle(D, Leave("tired"))
    effects = report(conductor)
    [opening] = {m.open for m in sent(effects) if isinstance(m, Decision)}
    assert opening is not None and D not in opening.roster
    assert D in receivers(effects, Decision)
    for peer in (A, B, C, D, E):
        effects = conductor.handle(peer, ready(peer, 1, conductor.base))
        if receivers(effects, Release):
            assert D in receivers(effects, Release)


def test_a_conductor_that_leaves_opens_no_step_and_says_so() -> None:
    conductor = assigning()
    conductor.handle(A, Leave("tired"))
    effects = report(conductor)
    assert {m.open for m in sent(effects) if isinstance(m, Decision)} == {None}
    gone: list[Effect] = []
    for peer in (A, B, C, D, E):
        gone += conductor.handle(peer, ready(peer, 1, conductor.base))
    assert [e for e in gone if isinstance(e, End)] == [End(False, LEFT)]
    assert A not in receivers(gone, Leave) and B in receivers(gone, Leave)


def test_a_stage_never_loses_its_last_replica_by_leaving() -> None:
    roster = Roster.of(1, [Member(PeerId(n), (s,), "") for n, s in (("a", 0), ("b", 1), ("c", 1))])
    wishes = Membership(leaving={PeerId("a"): "tired", PeerId("b"): "tired", PeerId("c"): "tired"})
    after, _ = wishes.next_roster(roster, 1, 5, 0)
    assert not after.missing_stages(1)
    assert set(wishes.leaving) == set(after.peers)


@pytest.mark.parametrize("wish", ["leave", "move"])
def test_who_joins_or_comes_back_relieves_nobody_yet(wish: str) -> None:
    """It would have nobody to fetch its state from: a run of real processes ended so."""
    roster = roster_of(("a", 0), ("b", 1), ("c", 2), ("d", 2))
    for newcomer in ("n", "b2"):
        joining = {PeerId(newcomer): Member(PeerId(newcomer), (1,), "")}
        wishes = Membership(joining=joining)
        if wish == "leave":
            wishes.leaving = {PeerId("b"): "tired"}
        else:
            wishes.moving = {PeerId("b"): Member(PeerId("b"), (2,), "")}
        after, events = wishes.next_roster(roster, 2, 5, 0)
        assert set(after.replicas(1)) == {PeerId("b"), PeerId(newcomer)}
        assert any(isinstance(event, Noted) for event in events)
    # A step later it has its state, and may.
    wishes.leaving = {PeerId("b"): "tired"}
    later, _ = wishes.next_roster(after, 2, 6, 0)
    assert PeerId("b") not in later


def test_a_replica_that_comes_back_relieves_nobody_yet() -> None:
    """It is in the roster, and asks in again because it missed something."""
    roster = roster_of(("a", 0), ("b", 1), ("c", 1))
    wishes = Membership(
        joining={PeerId("c"): Member(PeerId("c"), (1,), "")}, leaving={PeerId("b"): "tired"}
    )
    after, _ = wishes.next_roster(roster, 1, 5, 0)
    assert PeerId("b") in after


def test_two_movers_do_not_relieve_each_other() -> None:
    roster = roster_of(("a", 0), ("b", 1), ("c", 2), ("d", 0))
    moving = {
        PeerId("b"): Member(PeerId("b"), (2,), ""),
        PeerId("c"): Member(PeerId("c"), (1,), ""),
    }
    after, _ = Membership(moving=moving).next_roster(roster, 2, 5, 0)
    assert after.replicas(1) == (PeerId("b"),) and after.replicas(2) == (PeerId("c"),)


def roster_of(*places: tuple[str, int]) -> Roster:
    return Roster.of(1, [Member(PeerId(name), (stage,), "") for name, stage in places])


def test_a_drain_waits_for_the_decision_under_way() -> None:
    conductor, _ = decided()
    assert conductor.drain("enough") == []
    ended: list[Effect] = []
    for peer in (A, B, C, D, E):
        ended += conductor.handle(peer, ready(peer, 1, conductor.base))
    stops = [m for m in sent(ended) if isinstance(m, Stop)]
    assert {(m.finished, m.reason, m.step) for m in stops} == {(False, "enough", 1)}


def test_a_drain_between_decisions_stops_at_once() -> None:
    assert any(isinstance(m, Stop) for m in sent(started().drain("enough")))
