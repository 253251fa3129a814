"""Routes and places searched without executing them, some twenty times as fast: where a search on the execution model
(`search.Annealer`) begins. Simulated annealing of how long every peer is taken, as if all waiting came to one factor w:

    sum over peers of r (t / r) ** 4, with t = max(seconds of tasks and gaps, w * seconds its slots are held / slots)
    + peers * mean round trip

r is the mean t of the beginning. The power makes the busiest count most; long round trips make others wait. Every
change touches a few peers' terms only.

Array suffixes as in `sketch_table`.
"""

import numpy as np

from swarmtrain.plan.paths.sketch_table import (
    below,
    compiled,
    count,
    drawn,
    move_peer,
    recount,
    repriced,
    stage_of,
    trade_places,
)

SWAPPED, MOVED = 0.02, 0.03
"""Chances of a proposal below which it exchanges two peers' places, or else moves one."""


@compiled()
def _is_legal(order, max_swaps, max_jump):  # type: ignore[no-untyped-def]
    """`sequences.is_legal` of a whole route, the edge first."""
    frontier, swaps, is_open = 0, 0, False
    for at in range(1, len(order)):
        stage = order[at]
        if stage > frontier:
            if stage - frontier > max_jump:
                return False
            is_open = stage - 1 > frontier
            frontier = stage
        else:
            swaps += 1
            if stage != frontier - 1 or not is_open or swaps > max_swaps:
                return False
            is_open = False
    return True


@compiled()
def _exchange(table, stages, peers, at, come, peer):  # type: ignore[no-untyped-def]
    """Stage `come` at `peer` instead of the visit at `at`, in its place or in order; whether that is legal."""
    if table.is_protected_S[stages[at]]:
        return False
    for stage in stages:
        if stage == come:
            return False
    stages[at], peers[at] = come, peer
    if _is_legal(stages, table.max_swaps, table.max_jump):
        return True
    for row in range(2, len(stages)):
        spot = row
        while stages[spot - 1] > stages[spot]:
            stages[spot - 1], stages[spot] = stages[spot], stages[spot - 1]
            peers[spot - 1], peers[spot] = peers[spot], peers[spot - 1]
            spot -= 1
    return _is_legal(stages, table.max_swaps, table.max_jump)


@compiled()
def _propose_one(table, stages, peers):  # type: ignore[no-untyped-def]
    """Another peer for a visit, another order, or another stage; whether that is legal."""
    at = 1 + below(table, stages.shape[1] - 1)
    kind = drawn(table)
    if kind < 0.5:
        if kind < 0.15:
            at = 0
        stage = stages[0, at]
        peer = table.host_SH[stage, below(table, table.hosts_S[stage])]
        if at == 0 and (
            table.quota_P[peer] >= table.most_quota
            or table.quota_P[peers[0, 0]] <= table.least_quota
        ):
            return False
        is_new, peers[0, at] = peer != peers[0, at], peer
        return is_new
    if kind < 0.9:
        if at + 1 == stages.shape[1]:
            return False
        for row in (stages, peers):
            row[0, at], row[0, at + 1] = row[0, at + 1], row[0, at]
        return _is_legal(stages[0], table.max_swaps, table.max_jump)
    gone, come = stages[0, at], 1 + below(table, len(table.least_S) - 1)
    if table.visits_S[gone] <= table.least_S[gone] or table.visits_S[come] >= table.most_S[come]:
        return False
    peer = table.host_SH[come, below(table, table.hosts_S[come])]
    return _exchange(table, stages[0], peers[0], at, come, peer)


@compiled()
def _propose_two(table, stages, peers):  # type: ignore[no-untyped-def]
    """Two microbatches trade edges, the replicas of a stage, or stages; whether that is legal."""
    visits = stages.shape[1]
    at, other = below(table, visits), below(table, visits)
    if at == 0 or other == 0:
        peers[0, 0], peers[1, 0] = peers[1, 0], peers[0, 0]
        return peers[0, 0] != peers[1, 0]
    gone, come = stages[0, at], stages[1, other]
    first, second = peers[0, at], peers[1, other]
    if gone == come:
        peers[0, at], peers[1, other] = second, first
        return first != second
    if drawn(table) < 0.5:
        second = table.host_SH[come, below(table, table.hosts_S[come])]
        first = table.host_SH[gone, below(table, table.hosts_S[gone])]
    return _exchange(table, stages[0], peers[0], at, come, second) and _exchange(
        table, stages[1], peers[1], other, gone, first
    )


@compiled("always")
def _rise(table, who, stages, peers, temperature):  # type: ignore[no-untyped-def]
    """By how much the energy rises with these routes of `who`; they go back unless that is little enough."""
    risen = 0.0
    for turn in range(2):
        gain = 0.0
        for k in range(len(who)):
            m = who[k]
            gain -= table.trip_M[m] * table.trip_weight
            count(table, m, -1)
            for at in range(stages.shape[1]):
                stage, peer = stages[k, at], peers[k, at]
                stages[k, at], peers[k, at] = table.stage_MV[m, at], table.peer_MV[m, at]
                table.stage_MV[m, at], table.peer_MV[m, at] = stage, peer
            count(table, m, 1)
            gain += table.trip_M[m] * table.trip_weight
        for k in range(len(who)):
            for at in range(stages.shape[1]):
                gain += repriced(table, peers[k, at])
                gain += repriced(table, table.peer_MV[who[k], at])
        if turn == 0 and gain <= temperature * drawn(table):
            risen = gain
            break
    return risen


@compiled()
def _relocate(table, energy, temperature, is_swap):  # type: ignore[no-untyped-def]
    """Exchange two peers' places, or move one and share out its visits; the energy then."""
    one = table.free[below(table, len(table.free))]
    other = table.free[below(table, len(table.free))]
    first, second = stage_of(table, one), stage_of(table, other)
    if not is_swap:
        second = below(table, len(table.hosts_S))
        if table.hosts_S[first] < 2 or (table.are_quotas_equal and 0 in (first, second)):
            return energy
    if first == second:
        return energy
    peer_MV, host_SH, hosts_S = table.peer_MV.copy(), table.host_SH.copy(), table.hosts_S.copy()
    if is_swap:
        trade_places(table, one, other, first, second)
    else:
        move_peer(table, one, first, second)
    found = recount(table)
    if found - energy <= temperature * drawn(table):
        return found
    table.peer_MV[:] = peer_MV
    table.host_SH[:] = host_SH
    table.hosts_S[:] = hosts_S
    return recount(table)


@compiled()
def anneal(table, energy, temperature, moves):  # type: ignore[no-untyped-def]
    """Try that many moves at one temperature, in energy; returns the energy then."""
    count, visits = table.peer_MV.shape
    who = np.empty(2, np.int64)
    stages, peers = np.empty((2, visits), np.int64), np.empty((2, visits), np.int64)
    for _ in range(moves):
        kind = drawn(table)
        if kind < MOVED and len(table.free):
            if kind < SWAPPED or table.are_sizes_free:
                energy = _relocate(table, energy, temperature, kind < SWAPPED)
            continue
        used = 1 if drawn(table) < 0.5 else 2
        for k in range(used):
            who[k] = below(table, count)
            stages[k] = table.stage_MV[who[k]]
            peers[k] = table.peer_MV[who[k]]
        if used == 2 and who[0] == who[1]:
            continue
        if used == 1:
            is_legal = _propose_one(table, stages, peers)
        else:
            is_legal = _propose_two(table, stages, peers)
        if is_legal:
            energy += _rise(table, who[:used], stages[:used], peers[:used], temperature)
    return recount(table)
