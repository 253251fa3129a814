"""Peers that die, freeze, or repeat themselves at points of the program (F1, F2, F3, F14, F15, F20, F21, F28).

Every run ends with the parameters of the plain loop, bit for bit, and its faults are proven to have happened. One
run bears several faults: starting processes is what takes the time.
"""

import signal
from itertools import pairwise

import pytest

from swarmtrain.experiments.injections import Trial
from tests.integration.processes import Workplace
from tests.integration.trials import (
    ENDLESS,
    PATIENT_LINKS,
    QUICK_LINKS,
    config_of,
    journal_of,
    tried,
)

WHOLE = "0:2"
"""Edge and both middle stages of the nano model."""

pytestmark = pytest.mark.timeout(400)


def killed_at(*faults: str) -> dict[int, tuple[str, ...]]:
    """One fault each for the peers after the first two."""
    return {index + 2: (fault,) for index, fault in enumerate(faults)}


# ---- F1, F2: peers of middle stages -------------------------------------------------------------------------------


def run_of_killed_stage_peers(place: Workplace, *faults: str) -> None:
    """Two whole peers live; peers with stage 1 and 2 in turn die at these points."""
    stages = [WHOLE, WHOLE, *(str(index % 2 + 1) for index in range(len(faults)))]
    trial, state = tried(place, config_of(), stages, killed_at(*faults))
    exits = [trial.child(peer).exit_code for peer in range(len(stages))]
    assert exits == [0, 0, *[-signal.SIGKILL] * len(faults)]
    assert state.faults == state.recoveries == len(faults)
    assert {entry.peer for entry in trial.seen("term_started")} == {trial.ids[0]}


def test_stage_peers_killed_in_forward_backward_reduce_and_apply(loopback: Workplace) -> None:
    run_of_killed_stage_peers(
        loopback,
        "forward.received:kill:9",
        "backward.before_accumulate:kill:15",
        "reduce.middle:kill:8",
        "apply.done:kill:12",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "faults",
    [
        ("forward.done:kill:7", "backward.after_accumulate_before_reply:kill:14", "held:kill:9",
         "reduced:kill:12"),
        ("opened:kill:3", "process.answered:kill:14", "sealed:kill:9", "apply.begun:kill:12"),
        ("frozen:kill:4", "apply.middle:kill:6", "committed:kill:9", "applied:kill:12"),
        ("process.received:kill:5", "assigned:kill:5", "ready:kill:8", "forward.done:kill:20"),
    ],
    ids=lambda faults: faults[0].split(":")[0],
)  # fmt: skip
def test_stage_peers_killed_at_every_point(loopback: Workplace, faults: tuple[str, ...]) -> None:
    run_of_killed_stage_peers(loopback, *faults)


# ---- F20, F21: edges and conductors -------------------------------------------------------------------------------


def run_of_killed_edges(place: Workplace, *faults: str) -> Trial:
    """Whole peers; the first ones die at these points, the last two live. The lowest edge that lives conducts."""
    stages = [WHOLE] * (len(faults) + 2)
    trial, _ = tried(place, config_of(), stages, {i: (f,) for i, f in enumerate(faults)})
    exits = [trial.child(peer).exit_code for peer in range(len(stages))]
    assert exits == [*[-signal.SIGKILL] * len(faults), 0, 0]
    return trial


def test_conductors_killed_between_the_sends_of_their_broadcasts(loopback: Workplace) -> None:
    """The first dies while it freezes a step, the second with its decision half told, the third as a mere edge."""
    trial = run_of_killed_edges(
        loopback,
        "freezing:kill:10",
        "deciding:kill:8",
        "backward.after_accumulate_before_reply:kill:100",
    )
    terms = trial.seen("term_started")
    assert [trial.ids.index(entry.peer) for entry in terms][:2] == [0, 1]
    steps = [entry.event["step"] for entry in terms]
    assert all(before <= after for before, after in pairwise(steps)), steps


@pytest.mark.slow
@pytest.mark.parametrize(
    "faults",
    [
        # OPEN half told, and half told again by who took over.
        ("opening:kill:3", "opening:kill:2", "assigning:kill:8", "releasing:kill:6"),
        # FREEZE and a decision that nobody heard.
        ("freezing:kill:1", "deciding:kill:9", "freezing:kill:9", "assigning:kill:6"),
        # A decision that all but one heard, and a candidate that dies as it stands.
        ("deciding:kill:15", "standing:kill:2", "deciding:kill:8", "releasing:kill:5"),
        # Conductors that die on their own work between their broadcasts.
        ("releasing:kill:13", "apply.done:kill:7", "apply.begun:kill:11", "sealed:kill:15"),
        ("apply.middle:kill:7", "committed:kill:8", "frozen:kill:14", "promised:kill:3"),
    ],
    ids=lambda faults: faults[0].split(":")[0],
)  # fmt: skip
def test_conductors_killed_at_every_point(loopback: Workplace, faults: tuple[str, ...]) -> None:
    run_of_killed_edges(loopback, *faults)


# ---- F3, F14, F15: frozen peers, repeated calls, lost answers -----------------------------------------------------


def test_frozen_peers_repeated_calls_and_lost_answers_count_once(loopback: Workplace) -> None:
    """One peer stops in the middle of its work for twice the silence and wakes; another gets calls twice, also
    when their step is over; a third loses an answer after its work was done."""
    stages = (WHOLE, WHOLE, "1", "2", "1:2")
    faults = {
        2: ("forward.done:stop:12",),
        3: ("process.answered:drop:9",),
        4: ("process.received:duplicate:5", "process.answered:duplicate:9", "process.answered:replay:12"),
    }  # fmt: skip

    async def script(trial: Trial) -> None:
        await trial.until(lambda: trial.is_stopped(2), 60, "the peer stands still")
        begun = len(trial.entries)
        lost = await trial.until(lambda: trial.seen("lost", begun), 60, "it was found")
        assert lost[0].event["peer"] == trial.ids[2]
        woken_seconds = trial.now_seconds + 2 * trial.config.links.silence_seconds
        await trial.until(lambda: trial.now_seconds > woken_seconds, 60, "twice the silence passed")
        await trial.until_back(2, trial.wake(2))
        await trial.until_steps(5)

    trial, _ = tried(loopback, config_of(*ENDLESS, *QUICK_LINKS), stages, faults, script)
    repeats = [e["detail"] for e in journal_of(trial, 4) if e.get("what") == "call repeated on purpose"]  # fmt: skip
    assert len(repeats) == 3
    outcomes = sorted(str(repeat).rpartition(": ")[2] for repeat in repeats)
    assert outcomes == ["FENCED", "OK", "OK"], outcomes
    dropped = [e for e in journal_of(trial, 4) if e["kind"] == "duplicate_dropped"]
    assert len(dropped) >= 2, "both repeats were answered from store"
    # Whichever side notices first says why its end of the link closed.
    closed = [e for p in range(5) for e in journal_of(trial, p) if "lost on purpose" in str(e)]
    assert closed, "the answer went down with its link"


# ---- F28: rolling restart -----------------------------------------------------------------------------------------


# In virtual time: tests/peer/test_membership.py.
@pytest.mark.slow
def test_a_rolling_restart_replays_nothing(loopback: Workplace) -> None:
    """Every peer in turn gets SIGTERM, ends between two steps, and comes back under its identity."""
    stages = (WHOLE, WHOLE, WHOLE)

    async def script(trial: Trial) -> None:
        for peer in range(len(stages)):
            trial.inject("leave", peer)
            await trial.until_back(peer, await trial.restart(peer))
            await trial.until_steps(3)

    trial, state = tried(loopback, config_of(*ENDLESS, *PATIENT_LINKS), stages, {}, script)
    assert len(trial.seen("fault_injected")) == len(stages)
    kinds = (
        "replayed",
        "lost",
        "term_started",
        "membership_changed",
        "peer_left",
        "hedged",
        "noted",
    )
    told = [f"{e.event}" for e in trial.entries if e.event["kind"] in kinds]
    assert state.replayed_keys == 0 and not trial.seen("replayed"), "\n".join(told)
    left = {entry.event["peer"] for entry in trial.seen("peer_left")}
    assert left == set(trial.ids), "every peer said goodbye"
