"""The coordinator's view of a run: a fold over journal entries that never counts twice."""

import math
from dataclasses import replace
from typing import Any

import pytest

from swarmtrain.coordinator.picture import peer_row
from swarmtrain.coordinator.state import RunState, apply, reopened
from swarmtrain.core import events
from swarmtrain.core.events import Event


def fold(*entries: tuple[str, Event], state: RunState | None = None) -> RunState:
    state = state or RunState()
    for peer, event in entries:
        state = apply(state, {"event": event.to_json(), "peer": peer, "time_seconds": 0.0})
    return state


def committed(step: int, loss: float = 1.0) -> events.StepCommitted:
    return events.StepCommitted(step, loss, 100, 0.5, 1e-3, 1.0, (), f"sha-{step}")


JOINED = [
    ("a", events.PeerJoined("a", "anna", "127.0.0.1:1", ())),
    ("b", events.PeerJoined("b", "bert", "127.0.0.1:2", (2,))),
    ("a", events.Placed("a", (0, 1), "nobody else has them")),
]
STARTED = [*JOINED, ("a", events.TermStarted("a", 1, 0, "lowest edge"))]


def test_peers_join_take_stages_serve_and_leave():
    state = fold(*JOINED)
    assert {view.name: (view.stages, view.state) for view in state.live_peers} == {
        "anna": ((0, 1), "joining"),
        "bert": ((2,), "joining"),
    }
    state = fold(("a", events.TermStarted("a", 1, 0, "lowest edge")), state=state)
    assert state.conductor == "a" and {view.state for view in state.live_peers} == {"serving"}
    state = fold(("b", events.PeerLeft("b", "interrupted")), state=state)
    assert [view.name for view in state.live_peers] == ["anna"]


def test_a_peer_is_of_the_island_it_chose_and_of_none_once_it_gave_it_up():
    found = [
        ("c", events.PeerJoined("c", "cleo", "127.0.0.1:3", (), 1)),
        ("c", events.IslandChosen("c", 1, "3 peers near each other")),
    ]
    state = fold(*JOINED, *found)
    views = {view.name: (view.island, view.island_reason) for view in state.live_peers}
    assert views == {"anna": (0, ""), "bert": (0, ""), "cleo": (1, "3 peers near each other")}
    state = fold(("c", events.IslandDissolved("c", 1, "nobody hosts stage 2")), state=state)
    assert [view.name for view in state.live_peers] == ["anna", "bert"]


def test_steps_count_once_also_when_two_conductors_tell_of_them():
    once = fold(*STARTED, ("a", committed(0, 3.0)), ("a", committed(1, 2.0)))
    twice = fold(
        *STARTED,
        *[("a", committed(0, 3.0)), ("b", committed(0, 3.0))] * 2,
        ("b", committed(1, 2.0)),
    )
    for state in (once, twice):
        assert (state.step, state.tokens, state.seconds) == (2, 200, 1.0)
        assert (state.loss_first, state.loss_last) == (3.0, 2.0)
        assert state.parameters_sha256 == "sha-1"
        assert state.tokens_per_second == 200.0


def test_a_step_without_any_key_that_counts_has_no_loss():
    entry: dict[str, Any] = {"event": committed(0).to_json(), "peer": "a"}
    entry["event"]["loss"] = "nan"  # as the journal's JSON writes it
    state = apply(RunState(), entry)
    assert state.step == 1 and state.loss_last is not None and math.isnan(state.loss_last)


def test_only_the_conductors_end_is_the_runs_end():
    other = fold(*STARTED, ("b", events.RunStopped(3, True, "mine")))
    assert not other.stopped
    own = fold(("a", events.RunStopped(3, True, "the last step")), state=other)
    assert own.stopped and own.finished and own.stop_reason == "the last step"


def test_faults_replays_and_duplicates_are_counted():
    state = fold(
        *STARTED,
        ("a", events.Lost("b", "gone")),
        ("a", events.Replayed(1, 2, 1)),
        ("a", events.DuplicateDropped(1, 2, 1, "joined or stored call")),
        ("a", events.Traffic("a", 10, 20, 3)),
        ("b", events.Traffic("b", 5, 6, 7)),
    )
    assert (state.faults, state.replayed_keys, state.duplicate_keys_dropped) == (1, 1, 1)
    assert state.bytes_sent == 15


def test_what_was_sent_counts_for_good_whoever_leaves_and_comes_back():
    def told(peer: str, sent_bytes: int) -> tuple[str, Event]:
        return peer, events.Traffic(peer, sent_bytes, 0, 1)

    state = fold(*STARTED, told("a", 100), told("b", 20), ("a", committed(0)))
    state = fold(JOINED[1], told("b", 3), state=state)
    assert state.bytes_sent == 123, "a process that begins anew counts from nothing"
    state = fold(("b", events.PeerLeft("b", "interrupted")), state=state)
    entries = [*STARTED, told("a", 100), told("b", 20), ("a", committed(0)), JOINED[1]]
    entries += [told("b", 3), ("b", events.PeerLeft("b", "interrupted"))]
    journal = [{"event": e.to_json(), "peer": p, "time_seconds": 0.0} for p, e in entries]
    # Another coordinator goes on with a run that never stopped.
    again = fold(("a", committed(1)), told("a", 150), state=reopened(journal, 0.0))
    assert (again.tokens, again.bytes_sent) == (200, 173)
    assert [view.name for view in again.live_peers] == ["anna"]


def test_bytes_a_token_are_of_what_was_committed_while_a_peer_was_there():
    newcomer = events.PeerJoined("c", "cleo", "127.0.0.1:3", (1,))
    state = fold(*STARTED, ("a", committed(0)), ("c", newcomer))
    assert state.bytes_per_token == 0 and state.peers["c"].sent_bytes_per_token is None
    state = fold(
        ("a", replace(committed(1), tokens=300)),
        ("a", events.Traffic("a", 2000, 4000, 3)),
        ("c", events.Traffic("c", 600, 150, 3)),
        state=state,
    )
    rows = {peer: peer_row(view) for peer, view in state.peers.items()}
    assert (rows["a"]["sent_bytes_per_token"], rows["a"]["received_bytes_per_token"]) == (5, 10)
    assert (rows["c"]["sent_bytes_per_token"], rows["c"]["received_bytes_per_token"]) == (2, 0.5)
    assert state.bytes_per_token == 2600 / 400


def test_news_of_unknown_peers_and_unknown_kinds_change_nothing():
    before = fold(*STARTED)
    after = fold(
        ("x", events.PeerLeft("x", "never joined")),
        ("x", events.Noted("what", "ever")),
        state=before,
    )
    assert replace(after, history=before.history) == before
    assert len(after.history.log) == len(before.history.log) + 2, "but people can read of them"


@pytest.mark.parametrize(
    "kind", ["peer_joined", "placed", "term_started", "step_committed", "traffic"]
)
def test_an_event_that_lacks_what_its_kind_demands_is_an_error(kind: str):
    with pytest.raises(KeyError):
        apply(fold(*STARTED), {"event": {"kind": kind}, "peer": "a"})
