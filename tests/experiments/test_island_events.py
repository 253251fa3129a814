"""What happens to one island of four costs the others little: `benchmarks/island_events.py` in small."""

import pytest
import torch

from benchmarks import island_events as benchmark
from swarmtrain.core.events import FaultInjected, PeerJoined, RoundChosen, RoundMerged
from swarmtrain.experiments.virtual import VirtualRun

GRACE_SECONDS = benchmark.GRACE_SECONDS


def outer_of(run: VirtualRun, island: int) -> dict[int, str]:
    """The outer states that an island's edge came to, by round."""
    island_of = {peer: e.island for _, peer, e in run.events if isinstance(e, PeerJoined)}
    taken = [e for _, p, e in run.events if isinstance(e, RoundMerged) and island_of[p] == island]
    return {event.round: event.outer for event in taken if not event.stage}


def counted(run: VirtualRun) -> list[tuple[int, ...]]:
    """Whose contributions the rounds of the edge counted, in order."""
    found = {
        e.round: e.islands for _, _, e in run.events if isinstance(e, RoundChosen) and not e.stage
    }
    return [found[number] for number in sorted(found)]


def test_an_island_killed_in_a_round_costs_its_part_and_no_more() -> None:
    torch.set_num_threads(1)
    (row,) = benchmark.rows_of(1, 20, ("killed",))
    assert row.tokens < 4 * 20 * 512
    assert row.worse_percent <= 1.0
    assert row.wait_seconds <= GRACE_SECONDS


def test_an_island_that_slept_comes_back_with_the_groups_state_and_counts_again() -> None:
    torch.set_num_threads(1)
    _, run = benchmark.play("frozen", benchmark.config_of(1, 40))
    assert any(isinstance(e, FaultInjected) for _, _, e in run.events)
    rounds, group, slept = counted(run), outer_of(run, 0), outer_of(run, 3)
    # What it slept through it merges as long as that can be had, and else catches up with.
    assert slept.items() <= group.items() and max(slept) == max(group) == len(rounds)
    assert (0, 1, 2) in rounds and rounds[0] == rounds[-1] == (0, 1, 2, 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [3, 4])
def test_every_event_stays_within_a_percent_of_calm(seed: int) -> None:
    torch.set_num_threads(1)
    rows = benchmark.rows_of(seed, 120, benchmark.EVENTS)
    assert {row.event for row in rows} == {"killed", "frozen", "late", "slow"}
    for row in rows:
        assert row.worse_percent <= 1.0, row
        assert row.wait_seconds <= GRACE_SECONDS, row
