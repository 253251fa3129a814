"""The trace file: what Perfetto needs of it, and its bound."""

import json
from pathlib import Path
from typing import Any

import pytest

from swarmtrain.compute.lane import Kind, Span, Task
from swarmtrain.core.errors import StateError
from swarmtrain.monitor import trace as trace_module
from swarmtrain.monitor.trace import Trace
from swarmtrain.peer.tracing import trace_observer


def spans_of(trace: Trace) -> list[dict[str, Any]]:
    return [event for event in trace.events() if event["ph"] != "M"]


def test_a_lane_span_has_start_and_length_in_microseconds() -> None:
    trace = Trace("peer-1", 7)
    trace.span("lane", "forward 1", 2.0, 2.5, key=3)
    (event,) = spans_of(trace)
    assert (event["ph"], event["ts"], event["dur"]) == ("X", 2e6, 5e5)
    assert (event["pid"], event["args"]) == (7, {"key": 3})


def test_overlapping_hops_are_told_apart() -> None:
    trace = Trace("peer-1", 7)
    trace.span("hops", "hop 2", 0.0, 2.0)
    trace.span("hops", "hop 2", 1.0, 3.0)
    events = spans_of(trace)
    assert [event["ph"] for event in events] == ["b", "e", "b", "e"]
    assert events[0]["id"] == events[1]["id"] != events[2]["id"] == events[3]["id"]


def test_process_and_tracks_have_names() -> None:
    trace = Trace("peer-1", 7)
    trace.span("lane", "forward 1", 0.0, 1.0)
    trace.span("hops", "hop 2", 0.0, 1.0)
    names = {
        (event["name"], event["tid"]): event["args"]["name"]
        for event in trace.events()
        if event["ph"] == "M"
    }
    tracks = {event["cat"]: event["tid"] for event in spans_of(trace)}
    assert names[("process_name", 0)] == "peer-1"
    assert names[("thread_name", tracks["hops"])] == "hops"
    assert names[("thread_name", tracks["lane"])] == "lane"


def test_only_the_last_steps_are_kept() -> None:
    trace = Trace("peer-1", 7, kept_steps=2)
    for step in range(5):
        trace.span("lane", f"step {step}", step, step + 1)
        trace.next_step()
    assert [event["name"] for event in spans_of(trace)] == ["step 4"]


def test_a_step_is_bounded_and_says_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "SPANS_PER_STEP", 3)
    trace = Trace("peer-1", 7)
    for second in range(5):
        trace.span("lane", "forward 1", second, second + 1)
    assert (len(spans_of(trace)), trace.dropped_spans) == (3, 2)


def test_the_file_is_json_that_perfetto_reads(tmp_path: Path) -> None:
    trace = Trace("peer-1", 7)
    trace.span("lane", "forward 1", 0.0, 1.0)
    trace.write(tmp_path / "trace.json")
    content = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))
    assert content["traceEvents"] == trace.events()


def test_a_file_that_cannot_be_written_is_a_state_error(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"trace\.json"):
        Trace("peer-1", 7).write(tmp_path / "nowhere" / "trace.json")


def test_an_observer_sorts_spans_into_tracks_and_steps() -> None:
    trace = Trace("peer-1", 7, kept_steps=2)
    handed_on: list[Span] = []
    observe = trace_observer(trace, handed_on.append)
    spans = [
        Span(Task(Kind.FORWARD, 1, key=3), 0.0, 1.0),
        Span(Task(Kind.HOP, 2, key=3), 1.0, 2.0),
        Span(Task(Kind.STATE, 1, name="seal"), 2.0, 3.0),
        Span(Task(Kind.REDUCE, 1), 2.0, 4.0),
        Span(Task(Kind.STATE, 1, name="apply"), 4.0, 5.0),
    ]
    for span in spans:
        observe(span)
    found = [(event["cat"], event["name"]) for event in spans_of(trace) if event["ph"] != "e"]
    assert found == [
        ("lane", "forward 1"),
        ("hops", "hop 2"),
        ("lane", "seal 1"),
        ("reduce", "reduce 1"),
        ("lane", "apply 1"),
    ]
    assert handed_on == spans
    observe(Span(Task(Kind.REDUCE, 1), 5.0, 6.0))
    assert [event["name"] for event in spans_of(trace)] == ["apply 1", "reduce 1", "reduce 1"]
