"""The comparison of rebalancing policies: traces repeat, everybody pays alike, and ours is ahead."""

import random
import statistics
from dataclasses import replace

import pytest

from swarmtrain.experiments.market import Change, Market, market_trace
from swarmtrain.experiments.preemption import (
    LOOK_SECONDS,
    Result,
    Rule,
    Setup,
    Swarm,
    no_rebalancing,
    our_rebalancing,
    play,
    swarm_rebalancing,
)
from swarmtrain.plan.rebalance import Policy

SHORT = Market(hours=4.0, first=40)
SEEDS = range(3)


def trace(seed: int, market: Market = SHORT) -> list[Change]:
    return market_trace(market, random.Random(f"trace {seed}"))


def results(rule: Rule, period_seconds: float, setup: Setup) -> list[Result]:
    return [play(trace(seed), setup, rule, period_seconds, SHORT.hours) for seed in SEEDS]


def mean(found: list[Result]) -> float:
    return statistics.fmean(result.shares[0] for result in found)


def test_a_trace_repeats_and_its_machines_come_before_they_go():
    assert trace(1) == trace(1) != trace(2)
    alive: set[int] = set()
    for change in trace(1):
        if change.speed:
            assert change.machine not in alive
            alive.add(change.machine)
        else:
            alive.remove(change.machine)
    assert [c.seconds for c in trace(1)] == sorted(c.seconds for c in trace(1))


def test_a_calm_market_is_at_its_best_without_moves():
    calm = [Change(0.0, number, 1.0) for number in range(12)]
    for rule in (no_rebalancing, swarm_rebalancing, our_rebalancing(Policy())):
        result = play(calm, Setup(), rule, 60.0, 1.0)
        assert result.shares[0] == pytest.approx(100.0) and result.moves == 0


@pytest.mark.parametrize(
    ("rule", "period_seconds"),
    [(swarm_rebalancing, 600.0), (our_rebalancing(Policy()), 10.0)],
    ids=["theirs", "ours"],
)
def test_a_move_costs_its_download_under_every_rule(rule: Rule, period_seconds: float):
    """Three machines at stage 0, two elsewhere, and stage 1 loses one: somebody moves, and serves nobody meanwhile."""
    changes = [*(Change(0.0, n, 1.0) for n in range(9)), Change(60.0, 1, 0.0)]
    lost = []
    for transfer_seconds in (0.0, 100.0):
        result = play(changes, Setup(transfer_seconds=transfer_seconds), rule, period_seconds, 1.0)
        assert result.moves == 1
        lost.append(sum(result.possible) - sum(result.done))
    assert lost[1] - lost[0] == pytest.approx(100.0)


def test_a_lost_stage_is_recovered_alike_under_every_rule():
    changes = [*(Change(0.0, n, 1.0) for n in range(8)), Change(60.0, 1, 0.0), Change(60.0, 5, 0.0)]
    lost = play(changes, Setup(transfer_seconds=100.0), no_rebalancing, 60.0, 1.0)
    assert sum(lost.done) == pytest.approx(2 * 60.0 + 3600.0 - 160.0)
    assert lost.moves == 0


def test_queues_hold_what_is_in_flight_and_most_of_it_at_the_slowest():
    changes = [Change(0.0, n, 1.0) for n in range(9)]
    seen: list[list[float]] = []

    def look(swarm: Swarm) -> None:
        seen.append(swarm.queues())

    play(changes, Setup(), look, 600.0, 1.0)
    assert sum(seen[0]) == pytest.approx(36.0)
    assert seen[0][0] == min(seen[0]) and len(set(seen[0][1:])) == 1


@pytest.mark.parametrize("blind", [True, False])
def test_ours_beats_swarm_with_fewer_moves(blind: bool):
    setup = Setup(blind=blind)
    none = results(no_rebalancing, 60.0, setup)
    slow, fast = (results(swarm_rebalancing, seconds, setup) for seconds in (300.0, 60.0))
    ours = results(our_rebalancing(Policy()), LOOK_SECONDS, setup)
    assert mean(none) < mean(slow) < mean(fast) < mean(ours)
    assert sum(r.moves for r in ours) < 0.5 * sum(r.moves for r in fast)
    assert all(result.share(slice(None)) <= 100 for result in ours)


def test_figures_that_tremble_cost_us_little():
    setup = Setup(noise=0.1)
    exact, shaky = (
        results(our_rebalancing(Policy()), LOOK_SECONDS, s)
        for s in (replace(setup, noise=0.0), setup)
    )
    assert mean(shaky) > mean(exact) - 1.0
