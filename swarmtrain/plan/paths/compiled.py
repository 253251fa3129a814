"""The execution model of `execution.Executor`, compiled by numba: the same figures to the last bit, much faster.

Importing this module compiles (seconds, once a machine: the result is cached beside the file). Only `Draft.hasten`
does, where numba is installed (`pip install swarmtrain[fast]`). Meanwhile the interpreter is free for other threads.

Array suffixes: M microbatches, C chains, T tasks of a chain, P peers, K kinds of task, Q a heap's places. A microbatch
waits in at most one queue, so queues hold indices, and what orders them stands in `priority_M` and `arrival_M`.
"""

# Compiled functions take plain numbers and arrays of one kind; their types are given, so that nothing compiles later.

from typing import Any

import numpy as np
from numba import njit

COUNTS, FLOATS, TABLE = "int64[::1]", "float64[::1]", "float64[:, ::1]"


def compiled(signature: str) -> Any:
    return njit(signature, cache=True, nogil=True)


@compiled(f"boolean(int64, int64, {FLOATS}, {FLOATS})")
def _is_before(a, b, priority_M, arrival_M):  # type: ignore[no-untyped-def]
    if priority_M[a] != priority_M[b]:
        return priority_M[a] < priority_M[b]
    if arrival_M[a] != arrival_M[b]:
        return arrival_M[a] < arrival_M[b]
    return a < b


@compiled(f"void({COUNTS}, int64, int64, {FLOATS}, {FLOATS})")
def _push(queue_Q, length, index, priority_M, arrival_M):  # type: ignore[no-untyped-def]
    """Add to a heap of `length` microbatches."""
    at = length
    while at > 0:
        above = (at - 1) >> 1
        if not _is_before(index, queue_Q[above], priority_M, arrival_M):
            break
        queue_Q[at] = queue_Q[above]
        at = above
    queue_Q[at] = index


@compiled(f"int64({COUNTS}, int64, {FLOATS}, {FLOATS})")
def _pop(queue_Q, length, priority_M, arrival_M):  # type: ignore[no-untyped-def]
    """Take the first out of a heap of `length` microbatches."""
    first, moved, length, at = queue_Q[0], queue_Q[length - 1], length - 1, 0
    while True:
        below = 2 * at + 1
        if below >= length:
            break
        if below + 1 < length and _is_before(
            queue_Q[below + 1], queue_Q[below], priority_M, arrival_M
        ):
            below += 1
        if not _is_before(queue_Q[below], moved, priority_M, arrival_M):
            break
        queue_Q[at] = queue_Q[below]
        at = below
    queue_Q[at] = moved
    return first


@compiled(f"void({FLOATS}, {COUNTS}, int64, float64, int64)")
def _push_event(at_Q, code_Q, length, seconds, code):  # type: ignore[no-untyped-def]
    at = length
    while at > 0:
        above = (at - 1) >> 1
        if at_Q[above] < seconds or (at_Q[above] == seconds and code_Q[above] < code):
            break
        at_Q[at], code_Q[at] = at_Q[above], code_Q[above]
        at = above
    at_Q[at], code_Q[at] = seconds, code


@compiled(f"void({FLOATS}, {COUNTS}, int64)")
def _pop_event(at_Q, code_Q, length):  # type: ignore[no-untyped-def]
    """Take the first, which the caller has read, out of a heap of `length` events."""
    length -= 1
    seconds, code, at = at_Q[length], code_Q[length], 0
    while True:
        below = 2 * at + 1
        if below >= length:
            break
        right = below + 1
        if right < length and (
            at_Q[right] < at_Q[below]
            or (at_Q[right] == at_Q[below] and code_Q[right] < code_Q[below])
        ):
            below = right
        if seconds < at_Q[below] or (seconds == at_Q[below] and code < code_Q[below]):
            break
        at_Q[at], code_Q[at] = at_Q[below], code_Q[below]
        at = below
    at_Q[at], code_Q[at] = seconds, code


@compiled(f"Tuple((float64, float64, int64))({FLOATS})")
def _ended(end_M):  # type: ignore[no-untyped-def]
    """The latest end, the sum of all, in order, and whose is the latest."""
    last, total = 0, 0.0
    for index in range(len(end_M)):
        total += end_M[index]
        if end_M[index] > end_M[last]:
            last = index
    return end_M[last], total, last


@compiled(
    "Tuple((float64, float64, int64))"
    f"(float64[:, :, ::1], int64[:, ::1], {COUNTS}, Tuple(({COUNTS}, {FLOATS})), {COUNTS}, float64)"
)
def run(times_XCT, peer_CT, tasks_C, plan_M, slots_P, gap):  # type: ignore[no-untyped-def]
    """(makespan, sum of the ends, who ends last) of one execution; infinite where a microbatch never ends.

    `times_XCT` are each task's priority, seconds and seconds of the send after it; `plan_M` each microbatch's chain and
    release.
    """
    priority_CT, seconds_CT, send_CT = times_XCT[0], times_XCT[1], times_XCT[2]
    chain_M, release_M = plan_M
    count, peers = len(chain_M), len(slots_P)
    slots_P = slots_P.copy()
    idle_P, waking_P = np.zeros(peers), np.zeros(peers, np.bool_)
    queue_PKQ = np.empty((peers, 2, count), np.int64)  # K: 0 forwards, 1 loss and backward
    length_PK = np.zeros((peers, 2), np.int64)
    at_M, priority_M, arrival_M = np.zeros(count, np.int64), np.empty(count), np.empty(count)
    when_Q, code_Q, events = np.empty(count + peers), np.empty(count + peers, np.int64), 0
    end_M = np.full(count, np.inf)
    for index in range(count):
        _push_event(when_Q, code_Q, events, release_M[index], index)
        events += 1
    while events:
        now, code = when_Q[0], code_Q[0]
        _pop_event(when_Q, code_Q, events)
        events -= 1
        if code < count:
            chain, at = chain_M[code], at_M[code]
            peer = peer_CT[chain, at]
            urgent = 0 if at < tasks_C[chain] >> 1 else 1
            priority_M[code], arrival_M[code] = priority_CT[chain, at], now
            _push(queue_PKQ[peer, urgent], length_PK[peer, urgent], code, priority_M, arrival_M)
            length_PK[peer, urgent] += 1
            if waking_P[peer]:
                continue
            idle = idle_P[peer]
            if idle > now or (events and when_Q[0] <= now):
                waking_P[peer] = True
                _push_event(when_Q, code_Q, events, max(idle, now), count + peer)
                events += 1
                continue
        else:
            peer = code - count
        urgent = 1
        if not length_PK[peer, 1]:
            urgent = 0
            if not length_PK[peer, 0] or not slots_P[peer]:
                waking_P[peer] = False
                continue
        index = _pop(queue_PKQ[peer, urgent], length_PK[peer, urgent], priority_M, arrival_M)
        length_PK[peer, urgent] -= 1
        chain, at = chain_M[index], at_M[index]
        end = now + seconds_CT[chain, at]
        if not urgent:
            slots_P[peer] -= 1
        elif at > tasks_C[chain] >> 1:
            slots_P[peer] += 1
        at_M[index] = at + 1
        if at + 1 == tasks_C[chain]:
            end_M[index] = end
        else:
            _push_event(when_Q, code_Q, events, end + send_CT[chain, at], index)
            events += 1
        idle_P[peer] = end = end + gap
        waking_P[peer] = length_PK[peer, 0] > 0 or length_PK[peer, 1] > 0
        if waking_P[peer]:
            _push_event(when_Q, code_Q, events, end, count + peer)
            events += 1
    return _ended(end_M)


@compiled(
    f"void(float64[:, :, ::1], int64[:, ::1], int64, {COUNTS}, "
    "Tuple((float64[:, ::1], float64[:, ::1])), float64)"
)
def put_chain(times_XCT, peer_CT, row, peer_V, costs, parts):  # type: ignore[no-untyped-def]
    """Write the tasks of a microbatch that visits `peer_V`, as `execution.Executor.chain` has them, into a row.

    `costs` are seconds of forward, loss and backward by peer, and of sends; priorities are rounded to so many `parts`
    of a second, 0 for not.
    """
    seconds_KP, send_PP = costs
    visits = len(peer_V)
    last = 2 * visits
    remaining, after = 0.0, peer_V[0]
    for at in range(last, -1, -1):
        kind = 0 if at < visits else 1 if at == visits else 2
        peer = peer_V[at] if kind == 0 else peer_V[0] if kind == 1 else peer_V[last - at]
        seconds = seconds_KP[kind, peer]
        send = 0.0 if at == last else send_PP[peer, after]
        remaining = seconds + send + remaining
        after = peer
        times_XCT[0, row, at] = -remaining
        if parts:
            times_XCT[0, row, at] = np.floor(-remaining * parts + 0.5) / parts
        times_XCT[1, row, at], times_XCT[2, row, at] = seconds, send
        peer_CT[row, at] = peer
