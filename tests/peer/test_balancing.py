"""The conductor's view of the load, and a whole move: a stage loses replicas, another gives one, the bits stay."""

import asyncio
from dataclasses import replace

import pytest
import torch

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.events import MembershipChanged, Moved, Recovered
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualRun, peers, play
from swarmtrain.peer.balancing import Balancing, slowdown, stage_costs
from swarmtrain.swarm.records import PeerRecord
from tests.experiments.runs import corpus, known_reference, small_config

CONFIG = small_config("swarm.announce_seconds=3", "train.microbatches=8", steps=16)
ME = PeerId("0-0")
LINKS = [0.0, 1e6, 2e6]
LOOK_SECONDS = 1.0


def record(peer: str, *stages: int, pass_seconds: float = 0.0, pinned: bool = False) -> PeerRecord:
    return PeerRecord(
        run="00",
        peer=PeerId(peer),
        name=peer,
        address="",
        stages=stages,
        state="serving",
        pinned=pinned,
        capacity_stages=1,
        seconds_per_stage=1.0,
        edge_capable=True,
        version="1",
        sequence=1,
        expires=1e9,
        busy_share=0.9,
        waiting_tasks=1.0,
        pass_seconds=pass_seconds,
    )


def fleet(*counts: int) -> tuple[PeerRecord, ...]:
    return tuple(record(f"{s}-{n}", s) for s, count in enumerate(counts) for n in range(count))


def roster_of(records: tuple[PeerRecord, ...], version: int = 1) -> Roster:
    return Roster.of(version, [Member(r.peer, r.stages, "") for r in records])


def looks(records: tuple[PeerRecord, ...], count: int) -> list[PeerId | None]:
    """Who is to move at each of `count` looks, a step between two."""

    async def main() -> list[PeerId | None]:
        balancing, roster, found = Balancing(CONFIG, ME, 257), roster_of(records), []
        for step in range(count):
            found.append(balancing.decide(roster, step, records, LINKS).peer)
            await asyncio.sleep(LOOK_SECONDS)
        return found

    return run_virtual(main())


# ---- the view -------------------------------------------------------------------------------------------------------


def test_a_new_conductor_rests_then_moves_one_and_waits_for_it():
    found = looks(fleet(2, 5, 2), 40)
    moves = [number for number, peer in enumerate(found) if peer is not None]
    assert moves == [10], "after the rest of 10 s, and no other while that one is on its way"


def test_a_mover_that_never_arrives_is_given_up():
    found = looks(fleet(2, 5, 2), 90)
    moves = [number for number, peer in enumerate(found) if peer is not None]
    assert len(moves) == 2 and moves[1] - moves[0] > CONFIG.swarm.join_seconds


def test_nobody_else_moves_while_a_mover_is_in_no_roster():
    """It leaves one roster before it is in the next; what it goes to is not short of it meanwhile."""

    async def main() -> list[PeerId]:
        balancing, records, found = Balancing(CONFIG, ME, 257), fleet(2, 6, 2), list[PeerId]()
        for step in range(40):
            here = tuple(r for r in records if r.peer not in found)
            decision = balancing.decide(roster_of(here), step, records, LINKS)
            found += [decision.peer] if decision.peer is not None else []
            await asyncio.sleep(LOOK_SECONDS)
        return found

    assert len(run_virtual(main())) == 1


def test_nothing_is_decided_before_a_link_and_a_step_were_measured():
    async def main() -> None:
        balancing, records = Balancing(CONFIG, ME, 257), fleet(2, 5, 2)
        for _ in range(20):
            decision = balancing.decide(roster_of(records), 0, records, LINKS)
            assert "measured" in decision.reason
            await asyncio.sleep(LOOK_SECONDS)

    run_virtual(main())


def test_the_pinned_the_unknown_and_the_conductor_stay():
    records = fleet(5, 2, 2)
    pinned = tuple(replace(r, pinned=r.peer != ME) for r in records)
    assert not any(looks(pinned, 20))
    roster = roster_of(records)

    async def unknown() -> None:
        balancing = Balancing(CONFIG, ME, 257)
        known = tuple(r for r in records if r.stages != (0,) or r.peer == ME)
        for step in range(20):
            assert balancing.decide(roster, step, known, LINKS).peer is None
            await asyncio.sleep(LOOK_SECONDS)

    run_virtual(unknown())


def test_what_all_replicas_measure_is_the_stage_the_rest_is_the_machine():
    records = (
        record("a", 0, pass_seconds=2.0),
        record("b", 0, pass_seconds=2.1),
        record("c", 1, pass_seconds=1.1),
        record("d", 1, pass_seconds=3.3),
        record("e", 1, pass_seconds=0.95),
    )
    known = {entry.peer: entry for entry in records}
    costs = stage_costs(roster_of(records), known, 3)
    assert costs == (pytest.approx(2.05), 1.0, 1.0)
    assert slowdown(known[PeerId("a")], (0,), costs) == 1.0
    assert slowdown(known[PeerId("d")], (1,), costs) == pytest.approx(3.3)
    assert slowdown(record("f", 1), (1,), costs) == 1.0


def test_a_stage_that_falls_behind_gets_help():
    """Equal counts and equal self-tests; one stage's machines have become three times slower."""
    calm = fleet(3, 3, 3)
    assert not any(looks(calm, 20))
    behind = tuple(replace(r, pass_seconds=3.0 if r.stages == (2,) else 1.0) for r in calm)
    moved = next(peer for peer in looks(behind, 20) if peer is not None)
    assert not moved.startswith("2-")


# ---- a whole move ---------------------------------------------------------------------------------------------------


def run_with_losses() -> VirtualRun:
    """Nine peers choose three replicas a stage; then stage 2 loses two of its own."""

    def begin(stage: Stage) -> "asyncio.Task[None]":
        async def kill() -> None:
            await asyncio.sleep(6.0)
            victims = [
                name
                for name, session in stage.sessions.items()
                if session.runtime is not None and session.runtime.member.stages == (2,)
            ]
            for name in victims[1:]:
                stage.network.kill(name)
                stage.sessions[name].leave("killed")

        return asyncio.create_task(kill())

    async def main() -> VirtualRun:
        async with asyncio.timeout(600):
            return await play(CONFIG, Scenario(peers(9)), corpus(), begin)

    torch.set_num_threads(1)
    return run_virtual(main())


def test_a_stage_that_lost_replicas_gets_one_and_no_bit_changes():
    run = run_with_losses()
    moves = [event for _, _, event in run.events if isinstance(event, Moved)]
    assert [move.to_stages for move in moves] == [(2,)]
    assert moves[0].reason.startswith("stage 2 has one replica where stage")
    mover = moves[0].peer
    arrived = [
        event.reason
        for _, _, event in run.events
        if isinstance(event, MembershipChanged) and event.peer == mover
    ]
    assert any("moves" in reason for reason in arrived)
    recovered = [e for _, _, e in run.events if isinstance(e, Recovered) and e.peer == mover]
    assert [(event.stage, event.tier) for event in recovered] == [(2, "sibling")]
    assert run.commits[-1].parameters_sha256 == known_reference(CONFIG).parameters_sha256
