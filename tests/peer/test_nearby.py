"""A newcomer takes the stage whose neighbours are near, by what others measured: in a whole virtual world."""

import asyncio
from dataclasses import replace

import pytest
import torch

from swarmtrain.core.clock import run_virtual
from swarmtrain.core.events import PeerJoined, Placed
from swarmtrain.core.types import PeerId, Roster
from swarmtrain.experiments.profiles import NetworkProfile
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualPeer, VirtualRun, play
from swarmtrain.peer import placing
from swarmtrain.peer.published import boundary_bytes, lines_of
from swarmtrain.swarm.records import PeerRecord
from tests.experiments.runs import corpus, known_reference, sha_of, small_config

REGIONS = ("east", "mid", "west")
NEAR_SECONDS, FAR_SECONDS = 0.005, 0.08
NETWORK = NetworkProfile(
    description="three regions, 16 times the latency between them",
    source="made up",
    regions=REGIONS,
    one_way_latency_seconds=tuple(
        tuple(NEAR_SECONDS if a == b else FAR_SECONDS for b in REGIONS) for a in REGIONS
    ),
    bytes_per_second=((100e6,) * 3,) * 3,
)
HOMES = {
    0: ("east", "mid"),
    1: ("east", "mid"),
    2: ("mid", "west"),
    3: ("east", "mid"),
    4: ("mid", "west"),
}
"""No stage stands in one region alone. In the west are the neighbours of stage 3."""

FLEET = tuple(
    VirtualPeer(f"{stage}-{region}", (stage,), region=region)
    for stage, regions in HOMES.items()
    for region in regions
)
CONFIG = small_config("model.stages=4", "planner.use=true", "swarm.announce_seconds=3", steps=8)
JOINS_SECONDS = 6.0


def run_with_newcomer(region: str, rosters: list[Roster]) -> VirtualRun:
    """`rosters` takes in the one in force some seconds after the newcomer has started."""

    def begin(stage: Stage) -> "asyncio.Task[None]":
        async def join() -> None:
            await asyncio.sleep(JOINS_SECONDS)
            stage.add(VirtualPeer("newcomer", region=region))
            await asyncio.sleep(JOINS_SECONDS)
            rosters.extend((stage.newest_rosters() or ())[:1])

        return asyncio.create_task(join())

    async def main() -> VirtualRun:
        async with asyncio.timeout(600):
            return await play(CONFIG, Scenario(FLEET, network=NETWORK), corpus(), begin)

    torch.set_num_threads(1)
    run = run_virtual(main())
    assert [commit.step for commit in run.commits] == list(range(CONFIG.run.steps)), run.errors
    assert sha_of(run) == known_reference(CONFIG).parameters_sha256
    return run


def chosen(run: VirtualRun) -> Placed:
    """What the newcomer took; later on the conductor may move it, because the edge has more to compute."""
    [me] = [e.peer for _, _, e in run.events if isinstance(e, PeerJoined) and e.name == "newcomer"]
    return next(e for _, _, e in run.events if isinstance(e, Placed) and e.peer == me)


def test_a_newcomer_takes_the_stage_between_its_neighbours():
    rosters: list[Roster] = []
    placed = chosen(run_with_newcomer("west", rosters))
    assert placed.stages == (3,)
    assert "its links to stages 2 and 4 are the shortest of those in need" in placed.reason
    regions = sorted(member.region for member in rosters[0].members)
    assert regions == sorted([*(peer.region for peer in FLEET), "west"])


def test_with_the_choice_switched_off_it_takes_the_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placing, "lines_of", lambda config, records: None)
    placed = chosen(run_with_newcomer("west", []))
    assert placed.stages == (0,)
    assert "because that was the slowest part of the run" in placed.reason


# ---- what peers published -------------------------------------------------------------------------------------------

RECORD = PeerRecord(
    run="ab", peer=PeerId("a" * 32), name="n", address="a:1", stages=(1,), state="serving",
    pinned=True, capacity_stages=3, seconds_per_stage=0.3, edge_capable=True,
    version="1", sequence=1, expires=1.0, links=(("b" * 12, 0.02, 1e6, 8), ("c" * 12, 0.1, 0.0, 0)),
)  # fmt: skip


def test_lines_are_those_between_the_peers_that_are_there():
    assert lines_of(CONFIG, [replace(RECORD, links=())]) is None
    assert lines_of(CONFIG, [RECORD]) is None, "it measured the way to nobody that is there"
    lines = lines_of(CONFIG, [RECORD, replace(RECORD, peer=PeerId("b" * 32), links=())])
    assert lines is not None and list(lines.costs.links) == [("a" * 32, "b" * 32)]
    assert lines.sent_bytes == boundary_bytes(CONFIG) == 2 * 32 * 64 * 4
