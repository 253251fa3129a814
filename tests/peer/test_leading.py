"""Keys led by the speed of the edges: a slow edge does not set the pace, no bit changes, and it may recover."""

import asyncio
import functools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.clock import VirtualLoop
from swarmtrain.core.events import Event, Noted
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, VirtualRun, simulate
from swarmtrain.peer.leading import Leading
from swarmtrain.plan.wiring import FADES_AFTER
from swarmtrain.swarm.records import PeerRecord
from tests.experiments.runs import corpus, events_of, known_reference, sha_of, small_config

STEPS, KEYS = 4, 12
FLEET = (
    VirtualPeer("edge-a", (0,)),
    VirtualPeer("edge-b", (0,)),
    VirtualPeer("slow", (0,), slowness=10.0),
    VirtualPeer("one", (1,), slowness=0.2),
    VirtualPeer("two", (2,), slowness=0.2),
)


@functools.cache
def config_of():
    return small_config(f"train.microbatches={KEYS}", "limits.hedge=false", steps=STEPS)


def run_of() -> VirtualRun:
    torch.set_num_threads(1)
    run = simulate(config_of(), Scenario(FLEET, latency_seconds=0.001), corpus())
    assert [commit.step for commit in run.commits] == list(range(STEPS)), run.errors
    return run


def test_a_slow_edge_leads_few_keys_and_no_bit_changes(monkeypatch: pytest.MonkeyPatch):
    """Switched off, the slow edge has a third of the keys, and every step waits for it."""
    by_speed = run_of()
    told = [event for event in events_of(by_speed, Noted) if event.what == "keys dealt to edges"]  # type: ignore[attr-defined]
    assert told
    in_turn = lambda self, roster: tuple(roster.edges[key % 3] for key in range(KEYS))  # noqa: E731
    monkeypatch.setattr(Leading, "leaders", in_turn)
    evenly = run_of()
    assert by_speed.seconds < 0.6 * evenly.seconds
    assert sha_of(by_speed) == sha_of(evenly) == known_reference(config_of()).parameters_sha256


EDGES = tuple(map(PeerId, "abcd"))
ROSTER = Roster.of(1, [Member(edge, (0,), "") for edge in EDGES])
Seconds = tuple[float, float, float, float]


def record_of(edge: PeerId, seconds_per_stage: float) -> PeerRecord:
    """What an edge publishes that has not computed anything yet."""
    measured = {"capacity_stages": 1, "seconds_per_stage": seconds_per_stage}
    return PeerRecord(
        run="ab", peer=edge, name=edge, address="", stages=(0,), state="serving", pinned=True,
        edge_capable=True, version="0", sequence=1, expires=1e9, **measured,  # type: ignore[arg-type]
    )  # fmt: skip


def leading_of(seconds: Seconds, told: list[Event]) -> Leading:
    leading = Leading(config_of(), told.append)
    leading.look([record_of(e, s) for e, s in zip(EDGES, seconds, strict=True)])
    return leading


def shares_over(seconds: Seconds, pauses_seconds: list[float]) -> list[Counter[PeerId]]:
    """How many keys each edge leads in steps so long after each other."""

    async def steps() -> list[Counter[PeerId]]:
        leading, found = leading_of(seconds, []), []
        for pause_seconds in pauses_seconds:
            await asyncio.sleep(pause_seconds)
            found.append(Counter(leading.leaders(ROSTER)))
        return found

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(steps())


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.floats(0.01, 1.0)] * 4))
def test_every_key_has_one_lead_and_no_edge_more_than_its_speed_allows(seconds: Seconds):
    (shares,) = shares_over(seconds, [0.0])
    assert sum(shares.values()) == KEYS and set(shares) <= set(EDGES)
    ends = {edge: shares[edge] * s for edge, s in zip(EDGES, seconds, strict=True)}
    # Speeds are rounded to powers of 1.25, on both sides of the comparison.
    assert all(
        ends[edge] <= 1.6 * min((shares[o] + 1) * s for o, s in zip(EDGES, seconds, strict=True))
        for edge in EDGES
    )


def test_alike_edges_lead_in_turn_and_nothing_is_told():
    told: list[Event] = []

    async def leaders() -> tuple[PeerId, ...]:
        return leading_of((1.0, 1.05, 0.95, 1.0), told).leaders(ROSTER)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(leaders()) == EDGES * 3
    assert not told


def test_an_edge_too_slow_for_any_key_is_tried_again_after_a_while():
    slow, lead_seconds = 50.0, 100.0  # embedding and loss, by its self-test
    pauses = [0.0, FADES_AFTER * lead_seconds + 1, 1.0]
    before, after, then = shares_over((1.0, 1.0, 1.0, slow), pauses)
    assert before[EDGES[3]] == 0 and after[EDGES[3]] == 1 and then[EDGES[3]] == 0
