"""What people look back on: curves, marks, log, credit, traces are a bounded fold, and a reader that is sent changes
ends with what it would have been sent at once."""

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.coordinator import history, story
from swarmtrain.coordinator.curve import MOST_POINTS, Curve, extended, pace, point_of
from swarmtrain.coordinator.picture import Look, changed_links, changes, whole
from swarmtrain.coordinator.routes import is_whole, routes_of
from swarmtrain.coordinator.state import BAD_ENTRY, RunState, apply, reopened
from swarmtrain.core import events
from swarmtrain.core.events import Event
from swarmtrain.core.live import LIVE_EVENTS, LIVE_KINDS, StepTraced, Vitals, kinds
from tests.dashboard.invented import Entry, Invented


def played(invented: Invented, steps: int) -> list[Entry]:
    entries = [*invented.begin(), *invented.links(0.0)]
    for step in range(steps):
        entries += invented.step(step, float(step))
        entries += invented.traces(step, step + 0.5, skip=2)
        entries += invented.churn(step, step + 0.6) if step % 3 == 2 else ()
    return entries


def fold(entries: list[Entry], state: RunState | None = None) -> RunState:
    state = state or RunState()
    for entry in entries:
        state = apply(state, entry)
    return state


def merged(shown: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """What the page does with a change (static/app.js)."""
    new = {
        **shown,
        **{
            k: v for k, v in change.items() if k not in ("peers", "curve", "marks", "log", "traces")
        },
    }
    new["peers"] = {**shown["peers"], **change.get("peers", {})}
    if (curve := change.get("curve")) is not None:
        is_new = curve["generation"] != shown["curve"]["generation"]
        first = curve["points"][0][0] if curve["points"] else math.inf
        kept = [] if is_new else [p for p in shown["curve"]["points"] if p[0] < first]
        new["curve"] = {**curve, "points": kept + curve["points"]}
    new["marks"] = (shown["marks"] + change.get("marks", []))[-history.MOST_MARKS :]
    lines = {line["number"]: line for line in [*shown["log"], *change.get("log", [])]}
    new["log"] = list(lines.values())[-history.MOST_LINES :]
    traces = {trace["step"]: dict(trace["peers"]) for trace in shown["traces"]}
    for trace in change.get("traces", []):
        traces.setdefault(trace["step"], {}).update(trace["peers"])
    steps = sorted(traces)[-history.STEPS_TRACED :]
    new["traces"] = [{"step": step, "peers": traces[step]} for step in steps]
    return new


@pytest.mark.parametrize("seed", range(4))
def test_a_reader_of_changes_ends_with_what_it_would_be_sent_at_once(seed: int):
    invented, chance = Invented(9, seed=seed), random.Random(seed)
    entries, state = played(invented, 25), RunState()
    seen = Look(invented.run, state, 0.0)
    shown = whole(seen)
    for entry in entries:
        state = apply(state, entry)
        if chance.random() < 0.2 or entry is entries[-1]:
            look = Look(invented.run, state, entry["time_seconds"])
            change = {**changes(seen, look), **changed_links(seen, look)}
            json.dumps(change, allow_nan=False)
            shown, seen = merged(shown, change), look
    assert shown == whole(seen)
    assert shown["header"]["step"] == 25 and len(shown["log"]) > 20 and shown["marks"]
    assert shown["routes"]["routes"] and shown["links"]["peers"]


def test_a_change_where_nothing_changed_is_the_time_alone():
    state = fold(played(Invented(5), 5))
    before, after = (Look(Invented(5).run, state, at) for at in (7.0, 8.0))
    assert changes(before, after) == {"now_seconds": 8.0}
    assert changed_links(before, after) == {}


def test_everything_is_bounded_however_long_the_run():
    invented = Invented(4)
    state = fold([*invented.begin(), *invented.links(0.0)])
    for step in range(2000):
        at = float(step)
        for entry in (
            *invented.step(step, at),
            *invented.traces(step, at),
            *invented.churn(step, at),
        ):
            state = apply(state, entry)
    held = state.history
    assert len(held.curve.points) <= MOST_POINTS and held.curve.points[0].step == 0
    assert sum(point.steps for point in held.curve.points) == 2000
    assert (len(held.marks), len(held.log)) == (history.MOST_MARKS, history.MOST_LINES)
    assert [trace.step for trace in held.traces] == [1996, 1997, 1998, 1999]
    assert len(json.dumps(whole(Look(invented.run, state, 2000.0)))) < 250_000


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=6))
def test_a_curve_keeps_every_step_and_readers_follow_it(runs: list[int]):
    """Each number trains so many steps on, then the run goes back a third, as a restart from a checkpoint does."""
    curve, step, shown, seen = Curve(), 0, [], Curve()
    for steps in runs:
        for _ in range(steps):
            curve = extended(curve, point_of(step, float(step), 2.0, 10, 1.0))
            step += 1
            if step % 37 == 0:
                shown, seen = followed(shown, seen, curve), curve
        starts = [point.step for point in curve.points]
        assert starts == sorted(set(starts)) and len(starts) <= MOST_POINTS
        for point, after in zip(curve.points, curve.points[1:], strict=False):
            assert point.step + point.steps <= after.step
        assert curve.points[-1].step + curve.points[-1].steps == step
        step -= step // 3
    assert followed(shown, seen, curve) == list(curve.points)


def followed(shown: list[Any], seen: Curve, curve: Curve) -> list[Any]:
    new = curve.since(seen)
    is_new = curve.generation != seen.generation
    kept = [] if is_new else [p for p in shown if not new or p.step < new[0].step]
    return [*kept, *new]


def test_the_pace_is_that_of_the_last_minute():
    curve = Curve()
    for step in range(200):  # a step a second, then ten a second
        at = float(step) if step < 100 else 100 + (step - 100) / 10
        curve = extended(curve, point_of(step, at, 2.0, 50, 1.0))
    assert pace(curve).tokens_per_second == pytest.approx(50 * 150 / 60, rel=0.05)
    assert pace(curve).bytes_per_token is None, "nobody told of any"
    assert pace(extended(Curve(), point_of(0, 0.0, math.nan, 1, 1.0))).seconds_per_step is None


def test_a_loss_that_is_no_number_leaves_a_gap():
    (point,) = extended(Curve(), point_of(0, 0.0, math.nan, 1, 1.0)).points
    assert point.loss is None


# ---- routes


def test_routes_are_put_together_from_what_each_peer_did():
    invented = Invented(10, stages=4)
    state = fold([*invented.begin(), *invented.traces(0, 1.0, skip=3)])
    (trace,) = state.history.traces
    routes = routes_of({peer: spans for peer, (_, spans, _) in trace.peers.items()}, range(8))
    assert len(routes) == 8
    for route in routes.values():
        assert [stage for stage, _ in route] == [0, 1, 2, 4, 0] and is_whole(route)
        assert all(invented.hosts[peer] == stage for stage, peer in route)


def test_a_route_through_a_peer_that_hosts_several_stages_and_one_that_did_not_report():
    spans = {
        "aa": [
            ("forward", 0, 3, 0, 5, ""), ("forward", 1, 3, 6, 5, ""),
            ("hop", 2, 3, 12, 90, "bb"), ("loss", 0, 3, 60, 9, ""),
        ],
        "bb": [("forward", 2, 3, 7, 5, ""), ("hop", 3, 3, 13, 40, "cc")],
    }  # fmt: skip
    whole_spans = {**spans, "cc": [("forward", 3, 3, 1, 5, ""), ("hop", 0, 3, 8, 20, "aa")]}
    assert routes_of(whole_spans, [3])[3] == [(0, "aa"), (1, "aa"), (2, "bb"), (3, "cc"), (0, "aa")]
    part = routes_of(spans, [3])[3]
    assert part == [(0, "aa"), (1, "aa"), (2, "bb"), (3, "cc")] and not is_whole(part)
    assert routes_of(spans, [4]) == {}


# ---- the log


def examples() -> list[Event]:
    """One event of every kind, made of its fields' types."""
    values: dict[str, Any] = {"str": "x", "int": 3, "float": 1.5, "bool": True}
    return [
        kind(
            *(
                values.get(getattr(field.type, "__name__", ""), ())
                for field in kind.__dataclass_fields__.values()
            )
        )
        for kind in {cls.__name__: cls for cls in Event.__subclasses__()}.values()
    ]


@pytest.mark.parametrize("event", examples(), ids=lambda event: event.kind)
def test_every_event_is_told_in_words_or_shown_elsewhere(event: Event):
    text = story.words(event.to_json(), lambda peer: "anna")
    assert bool(text) != (event.kind in story.HIDDEN), text
    assert "anna" in text or "peer" not in event.to_json() or event.kind in story.HIDDEN


def test_kinds_in_tables_exist_and_live_events_are_what_is_not_kept():
    assert story.HIDDEN | story.MERGED | set(story.TONES) | history.PEER_KINDS <= kinds()
    assert {event.kind_of() for event in LIVE_EVENTS} == LIVE_KINDS


def test_swarms_of_events_are_one_line_with_their_number():
    invented = Invented(3)
    dropped = [
        invented.entry(events.DuplicateDropped(1, 2, 1, "again"), "p", 1.0) for _ in range(50)
    ]
    state = fold([*invented.begin(), *dropped])
    assert (state.history.log[-1].kind, state.history.log[-1].count) == ("duplicate_dropped", 50)


def test_a_loss_that_three_peers_report_is_one_line_and_one_mark():
    invented = Invented(5)
    lost = invented.ids[4]
    told = [invented.entry(events.Lost(lost, "gone"), peer, 9.0) for peer in invented.ids[:3]]
    state = fold([*invented.begin(), *told])
    assert [line.kind for line in state.history.log].count("lost") == 1
    assert [mark.sign for mark in state.history.marks] == ["X"]


def test_what_a_terminal_would_obey_is_taken_out():
    invented = Invented(2)
    noted = invented.entry(events.Noted("\x1b[2Jgone", "\u202eevil\n"), "p", 1.0)
    state = fold([*invented.begin(), noted])
    assert state.history.log[-1].text == " [2Jgone:  evil "


# ---- credit, clocks, restarts, bad entries


def test_credit_is_for_what_a_committed_step_counted():
    invented = Invented(2)
    a, b = invented.ids
    seals = [
        events.Sealed(0, seal, owners, ())
        for seal, owners in ((1, ((a, 9), (b, 9))), (2, ((a, 18), (b, 0))))
    ]
    entries = [invented.entry(seal, a, 1.0) for seal in seals]
    state = fold([*invented.begin(), *entries])
    assert state.history.credit == {}, "nothing is committed yet"
    done = events.StepCommitted(0, 2.0, 10, 1.0, 1e-3, 1.0, (), "sha")
    state = fold([invented.entry(done, a, 2.0), invented.entry(done, a, 2.0)], state)
    credit = {name: (entry.positions, entry.steps) for name, entry in state.history.credit.items()}
    assert credit == {"volunteer-1": (18, 1), "volunteer-2": (0, 1)}, "the last seal counts, once"


def test_a_clock_that_counts_from_another_moment_is_set_right():
    invented = Invented(2)
    peer = invented.ids[1]
    seen = invented.entry(events.ClockSeen(peer, 5000.0), "coordinator", 10.0)
    lost = invented.entry(events.Lost(invented.ids[0], "gone"), peer, 5012.0)
    state = fold([*invented.begin(), seen, lost])
    assert state.history.log[-1].at_seconds == 12.0


def test_after_a_restart_the_past_is_there_and_peers_come_back_as_they_speak():
    invented = Invented(6)
    entries = [e for e in played(invented, 20) if e["event"]["kind"] not in LIVE_KINDS]
    before = fold(entries)
    state = reopened(entries, 30.0)
    assert state.history.curve == before.history.curve and state.history.log == before.history.log
    assert state.history.credit == before.history.credit and state.peers == {}
    leader = invented.ids[0]
    assert before.step == 20
    on = fold(list(invented.step(20, 31.0)), state)
    assert on.conductor == leader and leader in on.peers
    assert (on.step, on.tokens, on.loss_first) == (21, 21 * 4096, before.loss_first)
    assert on.history.curve.points[-1].step == 20
    assert on.history.credit.keys() == before.history.credit.keys(), "names are known still"
    checkpoint = replace(state, step=10, tokens=10 * 4096)
    again = fold(list(invented.step(10, 31.0)), checkpoint)
    assert (again.step, again.tokens) == (11, 11 * 4096), "everybody went back to a checkpoint"
    assert [p.step for p in again.history.curve.points] == [*range(11)]
    later = reopened(entries, 3.0)
    assert max(line.at_seconds for line in later.history.log) <= 3.0, "a clock that began anew"


BAD = [
    StepTraced("p", 0, 1.0, (("forward", 0, 0),), 0),  # type: ignore[arg-type]
    Vitals("p", 1, 1, "much", 1),  # type: ignore[arg-type]
    events.Sealed(0, 1, (("p",),), ()),  # type: ignore[arg-type]
    events.ClockSeen("p", "now"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("event", BAD, ids=lambda event: event.kind)
def test_entries_that_make_no_sense_are_refused(event: Event):
    invented = Invented(2)
    state = fold(list(invented.begin()))
    entry = invented.entry(event, invented.ids[0], 1.0)
    entry["event"]["peer"] = invented.ids[0]
    with pytest.raises((KeyError, TypeError, ValueError)):
        apply(state, entry)
    for at in ("nan", "soon", None):
        with pytest.raises((TypeError, ValueError)):
            apply(state, {**entry, "time_seconds": at})


JUNK = [None, True, 7, -1, 10**6, 1e308, "inf", "", "p", [], [1], [[1, 2]], {}, {"a": 1}]


@pytest.mark.parametrize("event", examples(), ids=lambda event: event.kind)
def test_whatever_a_peer_sends_is_refused_or_can_be_shown(event: Event):
    invented = Invented(3)
    state = fold([*invented.begin(), *invented.links(0.0), *invented.step(0, 1.0)])
    before = Look(invented.run, state, 2.0)
    names = event.to_json().keys() - {"kind"}
    for name in names:
        for junk in JUNK:
            entry = invented.entry(event, invented.ids[0], 2.0)
            for other in names & {"peer", "from_peer"}:
                entry["event"][other] = invented.ids[1]
            entry["event"][name] = junk
            try:
                after = Look(invented.run, apply(state, entry), 3.0)
            except BAD_ENTRY:
                continue
            shown = [whole(after), changes(before, after), changed_links(before, after)]
            json.dumps(shown, allow_nan=False)


def test_a_trace_from_the_future_or_too_large_does_not_push_out_others():
    invented = Invented(3)
    state = fold([*invented.begin(), *invented.step(0, 1.0), *invented.traces(1, 1.5)])
    peer = invented.ids[0]
    rows = tuple(("forward", 0, 0, n, 1, "") for n in range(5000))
    far, large = StepTraced(peer, 10**9, 1.0, rows, 0), StepTraced(peer, 1, 1.0, rows, 3)
    state = fold([invented.entry(event, peer, 2.0) for event in (large, far)], state)
    (trace,) = state.history.traces
    _, spans, left_out = trace.peers[peer]
    assert (trace.step, len(spans), left_out) == (1, history.SPANS_PER_PEER, 4603)
