"""In which step's closing a round has its place, and how long an island waits for one."""

from dataclasses import replace

import pytest

from swarmtrain.core.closing import PlaceNews, RoundWorkKind
from swarmtrain.core.messages import RoundNews
from swarmtrain.core.types import PeerId
from swarmtrain.outer.director import Director, Rounds
from swarmtrain.outer.rounds import Rhythm

A = PeerId("a")
RHYTHM = Rhythm(steps=100, stages=0, inner_steps=10, delay_steps=3)
SEND, MERGE, CATCH_UP = RoundWorkKind.SEND, RoundWorkKind.MERGE, RoundWorkKind.CATCH_UP


def told(
    step: int, round: int = 0, sent: bool = False, choice: bytes = b"", **more: object
) -> Director:
    director = Director(RHYTHM, grace_seconds=4.0, patience_seconds=8.0)
    director.heard(A, news(step, round, sent, choice, **more), 0.0)
    return director


def news(step: int, round: int, sent: bool, choice: bytes, **more: object) -> RoundNews:
    known = {"offered": 0, "ahead_round": 0, "ahead_state": b"", **more}
    return RoundNews(step, b"", (PlaceNews(0, 0, round, sent, choice, **known),))  # type: ignore[arg-type]


def kinds(rounds: Rounds | None) -> list[RoundWorkKind]:
    assert rounds is not None
    return [work.kind for work in rounds.works]


def test_a_contribution_is_made_behind_the_last_step_of_a_round() -> None:
    assert kinds(told(8).closing(8, [A], 0.0, 1.0)) == []
    closed = told(9).closing(9, [A], 0.0, 1.0)
    assert kinds(closed) == [SEND] and closed is not None and closed.next_step == 10


def test_a_result_is_merged_when_it_is_due_and_not_before() -> None:
    assert kinds(told(11, sent=True, choice=b"x").closing(11, [A], 0.0, 1.0)) == []
    assert kinds(told(12, sent=True, choice=b"x").closing(12, [A], 0.0, 1.0)) == [MERGE]


def test_a_result_is_waited_for_once_and_for_so_long_only() -> None:
    director = told(12, sent=True)
    assert director.closing(12, [A], 0.0, 1.0) is None
    assert director.closing(12, [A], 7.9, 1.0) is None
    assert kinds(director.closing(12, [A], 8.0, 1.0)) == []
    director.heard(A, news(13, 0, True, b""), 9.0)
    assert kinds(director.closing(13, [A], 9.0, 1.0)) == []
    director.heard(A, news(14, 0, True, b"x"), 10.0)
    assert kinds(director.closing(14, [A], 10.0, 1.0)) == [MERGE]


END, LAST = 99, 98
"""The last step, and the one behind which all last contributions are made."""


@pytest.mark.parametrize("step", [LAST, END])
def test_what_is_coming_at_the_end_of_the_run_is_waited_for(step: int) -> None:
    """The clock begins anew behind it: a quorum that is gone for a moment ends nothing."""
    director = told(step, 8, sent=True, is_coming=True)
    for now_seconds, is_held_up in ((0.0, False), (7.9, False), (8.0, True), (1000.0, True)):
        assert director.closing(step, [A], now_seconds, 0.1) is None
        assert director.held_up_by == (((0, 0),) if is_held_up else ())
    director.heard(A, news(step, 8, True, b""), 1001.0)
    assert director.closing(step, [A], 1008.4, 0.1) is None
    closed = director.closing(step, [A], 1008.5, 0.1)
    assert closed is not None and closed.works == ()
    assert closed.missed == (((0, 0),) if step == END else ())


def test_nor_does_the_end_of_the_run_wait_for_ever() -> None:
    director = told(END, 9, sent=True, is_coming=True)
    for now_seconds in (0.0, 1000.0, 1799.9, 1807.8):
        assert director.closing(END, [A], now_seconds, 0.0) is None
    assert director.closing(END, [A], 1807.9, 0.0) is not None


def test_what_is_coming_before_is_waited_for_as_anything_else() -> None:
    director = told(12, sent=True, is_coming=True)
    assert director.closing(12, [A], 0.0, 1.0) is None
    closed = director.closing(12, [A], 8.0, 1.0)
    assert closed is not None and closed.missed == ()


def test_at_the_end_contributions_of_slower_islands_get_steps_of_theirs() -> None:
    director = told(END, 9, sent=True)
    assert director.closing(END, [A], 0.0, 60.0) is None
    assert director.closing(END, [A], 307.9, 60.0) is None
    assert director.closing(END, [A], 308.0, 60.0) is not None


def test_what_was_given_up_is_waited_for_at_the_end_if_it_is_coming_by_then() -> None:
    director = told(95, 8, sent=True)
    assert director.closing(95, [A], 0.0, 0.0) is None
    assert director.closing(95, [A], 8.0, 0.0) is not None
    for is_coming in (False, True):
        director.heard(A, news(LAST, 8, True, b"", is_coming=is_coming), 9.0)
        assert (director.closing(LAST, [A], 9.0, 0.0) is None) is is_coming


def test_nothing_is_contributed_to_rounds_that_are_over() -> None:
    """The island is on its way to round 3, result by result; all steps of the first four rounds are made."""
    for number, choice, expected in ((1, b"", []), (1, b"x", [MERGE]), (2, b"x", [MERGE, SEND])):
        closed = told(45, number, choice=choice, follows_to=3).closing(45, [A], 0.0, 1.0)
        assert kinds(closed) == expected
    assert kinds(told(45, 1).closing(45, [A], 0.0, 1.0)) == [SEND]


def test_who_is_on_its_way_at_the_end_of_the_run_misses_what_is_left() -> None:
    closed = told(END, 7, choice=b"x", follows_to=9).closing(END, [A], 0.0, 1.0)
    assert kinds(closed) == [MERGE] and closed is not None and closed.missed == ((0, 0),)


def test_news_of_another_step_or_of_strangers_do_not_count() -> None:
    assert told(8).closing(9, [A], 0.0, 1.0) is None
    assert told(9).closing(9, [PeerId("b")], 0.0, 1.0) is None


def test_an_island_sends_early_only_if_it_would_be_too_late_otherwise() -> None:
    """Five steps are left: at half a second each it waits, at a second each it sends, and stands at the round's end."""
    assert kinds(told(4, offered=1).closing(4, [A], 0.0, 0.5)) == []
    closed = told(4, offered=1).closing(4, [A], 0.0, 1.0)
    assert kinds(closed) == [SEND] and closed is not None and closed.next_step == 10
    assert kinds(told(4).closing(4, [A], 0.0, 1.0)) == []


def test_steps_that_take_no_time_are_made_all_the_same() -> None:
    assert kinds(told(4).closing(4, [A], 0.0, 0.0)) == []
    assert kinds(told(4, offered=1).closing(4, [A], 0.0, 0.0)) == []


def test_without_a_grace_it_goes_by_what_those_who_are_ready_can_spare() -> None:
    """Five steps of a second are left."""
    for window_seconds, expected in ((4.9, [SEND]), (5.0, []), (60.0, [])):
        director = Director(RHYTHM, None, patience_seconds=8.0)
        known = news(4, 0, False, b"", offered=1, window_seconds=window_seconds)
        director.heard(A, known, 0.0)
        assert kinds(director.closing(4, [A], 0.0, 1.0)) == expected


def test_who_missed_rounds_goes_over_to_the_groups_state_and_step() -> None:
    closed = told(4, ahead_round=5, ahead_state=b"s").closing(4, [A], 0.0, 1.0)
    assert kinds(closed) == [CATCH_UP] and closed is not None and closed.next_step == 50


def test_who_has_not_sent_takes_the_result_at_once_and_follows() -> None:
    closed = told(4, choice=b"x").closing(4, [A], 0.0, 1.0)
    assert kinds(closed) == [MERGE] and closed is not None and closed.next_step == 10


def test_what_one_fragment_skips_to_is_due_for_the_others() -> None:
    rhythm = Rhythm(steps=100, stages=0, inner_steps=10, fragments=2, delay_steps=3)
    director = Director(rhythm, 4.0, 8.0)
    places = (
        PlaceNews(0, 0, 0, False, b"", 0, 5, b"s"),
        PlaceNews(0, 1, 0, False, b"", 0, 0, b""),
    )
    director.heard(A, RoundNews(2, b"", places), 0.0)
    assert kinds(director.closing(2, [A], 0.0, 1.0)) == [CATCH_UP, SEND]


def test_a_result_that_is_here_is_merged_also_where_the_group_went_on_behind_it() -> None:
    """What the island had sent is then accounted for; of two rounds ahead only the outcome is of use."""
    ahead = {"ahead_round": 1, "ahead_state": b"s"}
    assert kinds(told(12, sent=True, choice=b"x", **ahead).closing(12, [A], 0.0, 1.0)) == [MERGE]
    assert kinds(told(12, sent=True, **ahead).closing(12, [A], 0.0, 1.0)) == [CATCH_UP]
    further = {"ahead_round": 2, "ahead_state": b"s"}
    closed = told(12, sent=True, choice=b"x", **further).closing(12, [A], 0.0, 1.0)
    assert kinds(closed)[:1] == [CATCH_UP]


# ---- rounds by time -------------------------------------------------------------------------------------------------

B = PeerId("b")


def timed() -> Director:
    return Director(RHYTHM, 4.0, 8.0, every_seconds=30.0)


def test_the_step_behind_the_deadline_is_the_last_of_its_round_however_many_there_were() -> None:
    director = timed()
    director.heard(A, news(3, 2, False, b"", begun_seconds=20.0), 100.0)
    assert kinds(director.closing(3, [A], 109.9, 5.0)) == []
    closed = director.closing(3, [A], 110.0, 5.0)
    assert kinds(closed) == [SEND] and closed is not None and closed.next_step == 30


def test_who_is_fast_sends_after_the_most_steps_a_round_has() -> None:
    director = timed()
    director.heard(A, news(9, 0, False, b"", begun_seconds=1.0), 100.0)
    assert kinds(director.closing(9, [A], 100.0, 0.1)) == [SEND]


def test_a_deadline_goes_by_whoever_saw_the_last_contribution_made() -> None:
    """One replica has just come; the conductor as well, which knows by what the others say."""
    director = timed()
    director.heard(A, news(3, 2, False, b"", begun_seconds=0.5), 100.0)
    director.heard(B, news(3, 2, False, b"", begun_seconds=29.0), 100.0)
    director.heard(A, news(3, 2, False, b"", begun_seconds=0.5), 100.0)
    assert kinds(director.closing(3, [A, B], 101.0, 5.0)) == [SEND]
    # The next round has a time of its own.
    director.heard(B, news(30, 3, False, b"", begun_seconds=2.0), 103.0)
    assert kinds(director.closing(30, [A, B], 130.9, 5.0)) == []
    assert kinds(director.closing(30, [A, B], 131.0, 5.0)) == [SEND]


def test_others_that_are_ready_are_not_kept_waiting_for_a_deadline_beyond_the_grace() -> None:
    director = timed()
    director.heard(A, news(3, 2, False, b"", offered=1, begun_seconds=20.0), 100.0)
    assert kinds(director.closing(3, [A], 100.0, 5.0)) == [SEND]
    assert kinds(director.closing(3, [A], 106.5, 5.0)) == []


def test_who_went_back_to_an_earlier_round_has_the_time_of_that_round() -> None:
    director = timed()
    director.heard(A, news(60, 6, False, b"", begun_seconds=29.0), 100.0)
    assert kinds(director.closing(60, [A], 101.0, 5.0)) == [SEND]
    director.heard(A, news(43, 4, False, b"", begun_seconds=3.0), 140.0)
    assert kinds(director.closing(43, [A], 140.0, 5.0)) == []
    assert kinds(director.closing(43, [A], 167.0, 5.0)) == [SEND]
    # Nor does the time of the round that was given up come back.
    director.heard(A, news(60, 6, False, b"", begun_seconds=1.0), 200.0)
    assert kinds(director.closing(60, [A], 228.9, 5.0)) == []


def test_strangers_and_impossible_rounds_have_no_say_in_when_a_round_ends() -> None:
    director = timed()
    director.heard(A, news(3, 2, False, b"", begun_seconds=20.0), 100.0)
    director.heard(B, news(3, 2, False, b"", begun_seconds=1e300), 100.0)
    assert kinds(director.closing(3, [A], 109.9, 5.0)) == []
    director.heard(B, news(3, 1 << 60, False, b"", begun_seconds=0.0), 100.0)
    for peers in ([A], [A, B]):
        assert kinds(director.closing(3, peers, 110.0, 5.0)) == [SEND]


def test_an_impossible_time_counts_until_the_next_message_and_no_more_than_a_rounds() -> None:
    director = timed()
    for seconds, is_due in ((1e300, True), (1.0, False)):
        director.heard(A, news(3, 2, False, b"", begun_seconds=seconds), 100.0)
        assert (kinds(director.closing(3, [A], 100.0, 5.0)) == [SEND]) is is_due
    director.heard(A, news(3, 2, False, b"", begun_seconds=-1e300), 100.0)
    assert kinds(director.closing(3, [A], 129.9, 5.0)) == []
    assert kinds(director.closing(3, [A], 130.0, 5.0)) == [SEND]


def test_nobody_skips_so_far_that_the_last_round_of_a_fragment_would_have_no_time() -> None:
    """Time is up for both fragments: the first one's round is its last, the second one has another behind it."""
    rhythm = Rhythm(steps=17, stages=0, inner_steps=8, fragments=2, delay_steps=1)
    assert rhythm.send_step(0, 0, 1) == rhythm.send_step(0, 1, 2) == 16
    director = Director(rhythm, 4.0, 8.0, every_seconds=30.0)
    places = [PlaceNews(0, n, 1, False, b"", 0, 0, b"", begun_seconds=30.0) for n in (0, 1)]
    director.heard(A, RoundNews(9, b"", tuple(places)), 100.0)
    closed = director.closing(9, [A], 100.0, 1.0)
    assert closed is not None and closed.next_step == rhythm.send_step(0, 1, 1) == 12
    assert [(work.kind, work.fragment) for work in closed.works] == [(SEND, 1)]
    places[1] = PlaceNews(0, 1, 1, True, b"x", 0, 0, b"")
    director.heard(A, RoundNews(12, b"", tuple(places)), 101.0)
    closed = director.closing(12, [A], 101.0, 1.0)
    assert kinds(closed) == [SEND, MERGE, SEND] and closed is not None and closed.next_step == 16


def test_a_result_is_merged_before_its_time_in_steps_once_the_time_of_its_round_is_up() -> None:
    """Else a slow island makes the delay's steps in every round, however long these take: here a whole round's."""
    director = Director(replace(RHYTHM, delay_steps=10), 4.0, 8.0, every_seconds=30.0)
    director.heard(A, news(21, 1, True, b"x", begun_seconds=20.0), 100.0)
    assert kinds(director.closing(21, [A], 109.9, 15.0)) == []
    closed = director.closing(21, [A], 110.0, 15.0)
    assert kinds(closed) == [MERGE, SEND] and closed is not None and closed.next_step == 30


def test_a_result_that_is_not_there_when_the_time_of_its_round_is_up_has_its_steps() -> None:
    director = Director(replace(RHYTHM, delay_steps=10), 4.0, 8.0, every_seconds=30.0)
    director.heard(A, news(21, 1, True, b"", begun_seconds=40.0), 100.0)
    assert kinds(director.closing(21, [A], 100.0, 15.0)) == []


def test_a_result_is_merged_before_its_time_where_others_are_ready_for_the_next_round() -> None:
    """Seven steps are left of a delay of a whole round: they wait for four seconds."""
    director = Director(replace(RHYTHM, delay_steps=10), 4.0, 8.0)
    for offered, step_seconds, expected in ((0, 5.0, []), (1, 0.5, []), (1, 5.0, [MERGE, SEND])):
        director.heard(A, news(12, 0, True, b"x", offered=offered), 0.0)
        closed = director.closing(12, [A], 0.0, step_seconds)
        assert kinds(closed) == expected
    assert closed is not None and closed.next_step == 20
