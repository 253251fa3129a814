"""The execution model of `execution.Executor` for searches: the same figures to the last bit, without starts of tasks,
and no further than it is worth.

Peers decide for themselves, and what one of them does reaches others after a task and a send at the soonest. So all
peers decide, one after the other, what they do in a short time, and need no common queue of events.

Array suffixes: M microbatches, T tasks of each (2 visits + 1), P and Q peers, K kinds of tasks: 0 forwards, 1 what is
urgent; W ways, C costs of each. Queues hold microbatches.
"""

import math
from typing import Any, NamedTuple

from swarmtrain.plan.paths.compiling import IS_COMPILED, compiled, counts, figures
from swarmtrain.plan.paths.execution import BACKWARD, FORWARD, LOSS, run
from swarmtrain.plan.paths.instance import Instance

ROUNDS = 1.0 - 1e-9
"""Sums round: no peer decides later than this share of the time that is safe."""


class Tasks(NamedTuple):
    """Costs; the tasks of every microbatch, by their order; and room to work in."""

    visits: int
    gap_seconds: float
    safe_seconds: float
    slots_P: Any
    forward_P: Any
    loss_P: Any
    backward_P: Any
    opening_P: Any
    send_PQ: Any

    peer_MT: Any
    seconds_MT: Any
    send_MT: Any
    priority_MT: Any  # minus the remaining round trip
    begin_M: Any
    end_M: Any

    free_P: Any
    idle_P: Any
    next_P: Any  # when the peer decides next
    length_KP: Any
    queue_KPM: Any
    at_M: Any  # of the task that runs or waits
    arrival_M: Any
    priority_M: Any


def tasks_of(instance: Instance) -> Tasks:
    peers, count = instance.peers, instance.microbatches
    everyone, places = range(len(peers)), count * (2 * instance.visits + 1)
    nothing, none = [0.0] * places, [0] * places
    return Tasks(
        visits=instance.visits,
        gap_seconds=instance.task_gap_seconds,
        safe_seconds=safe_seconds(instance),
        slots_P=counts(peer.memory_slots for peer in peers),
        forward_P=figures(peer.forward_seconds for peer in peers),
        loss_P=figures(peer.loss_seconds for peer in peers),
        backward_P=figures(peer.backward_seconds for peer in peers),
        opening_P=figures(instance.begin_seconds(peer, 0.0) for peer in everyone),
        send_PQ=figures(seconds for row in instance.send_seconds for seconds in row),
        peer_MT=counts(none),
        seconds_MT=figures(nothing),
        send_MT=figures(nothing),
        priority_MT=figures(nothing),
        begin_M=figures([0.0] * count),
        end_M=figures([0.0] * count),
        free_P=counts([0] * len(peers)),
        idle_P=figures([0.0] * len(peers)),
        next_P=figures([0.0] * len(peers)),
        length_KP=counts([0] * (2 * len(peers))),
        queue_KPM=counts([0] * (2 * len(peers) * count)),
        at_M=counts([0] * count),
        arrival_M=figures([0.0] * count),
        priority_M=figures([0.0] * count),
    )


def costs_of(instance: Instance) -> list[float]:
    """What `take_costs` puts into tasks."""
    peers = instance.peers
    seconds = [peer.forward_seconds for peer in peers] + [peer.loss_seconds for peer in peers]
    seconds += [peer.backward_seconds for peer in peers]
    return seconds + [send for row in instance.send_seconds for send in row]


@compiled("always")
def take_costs(tasks, costs_WC, way):  # type: ignore[no-untyped-def]
    """Let tasks cost what they do in one of several ways; `write_row` has to follow."""
    peers = len(tasks.slots_P)
    at = way * (3 * peers + peers * peers)
    for peer in range(peers):
        tasks.forward_P[peer] = costs_WC[at + peer]
        tasks.loss_P[peer] = costs_WC[at + peers + peer]
        tasks.backward_P[peer] = costs_WC[at + 2 * peers + peer]
    for pair in range(peers * peers):
        tasks.send_PQ[pair] = costs_WC[at + 3 * peers + pair]


def safe_seconds(instance: Instance) -> float:
    """What a peer does reaches another one so much later, at the least."""
    peers, send = instance.peers, instance.send_seconds
    edges = [peer for peer in peers if 0 in (peer.stages or (0,))]
    tasks = [min(peer.forward_seconds, peer.backward_seconds) for peer in peers]
    tasks += [peer.loss_seconds for peer in edges]
    sends = [send[a][b] for a in range(len(peers)) for b in range(len(peers)) if a != b]
    return ROUNDS * (min(tasks) + min(sends, default=0.0))


@compiled("always")
def write_row(tasks, draft, index):  # type: ignore[no-untyped-def]
    """The tasks of a microbatch of the draft, as `execution.Executor.chain` has them."""
    visits, peers = tasks.visits, len(tasks.slots_P)
    forward_P, backward_P, send_PQ = tasks.forward_P, tasks.backward_P, tasks.send_PQ
    peer_MT, seconds_MT, send_MT = tasks.peer_MT, tasks.seconds_MT, tasks.send_MT
    priority_MT, peer_MV = tasks.priority_MT, draft.peer_MV
    route, row, last = index * visits, index * (2 * visits + 1), 2 * visits
    edge = peer_MV[route]
    remaining, after = 0.0, edge
    for at in range(last, -1, -1):
        if at < visits:
            peer = peer_MV[route + at]
            seconds = forward_P[peer]
        elif at == visits:
            peer, seconds = edge, tasks.loss_P[edge]
        else:
            peer = peer_MV[route + last - at]
            seconds = backward_P[peer]
        send = 0.0 if at == last else send_PQ[peer * peers + after]
        remaining = seconds + send + remaining
        after = peer
        peer_MT[row + at], seconds_MT[row + at], send_MT[row + at] = peer, seconds, send
        priority_MT[row + at] = -remaining
    tasks.begin_M[index] = draft.release_M[index] + tasks.opening_P[edge]


@compiled("always")
def trip_seconds(tasks, index):  # type: ignore[no-untyped-def]
    """How long a microbatch takes if it never waits."""
    return -tasks.priority_MT[index * (2 * tasks.visits + 1)]


@compiled("always")
def _begin(tasks):  # type: ignore[no-untyped-def]
    """Everybody idle, all microbatches at their edges; the latest end if nobody waits, and the sum of all ends."""
    free_P, next_P, idle_P, slots_P = tasks.free_P, tasks.next_P, tasks.idle_P, tasks.slots_P
    for peer in range(len(slots_P)):
        free_P[peer], idle_P[peer], next_P[peer] = slots_P[peer], 0.0, math.inf
    length_KP, queue_KPM = tasks.length_KP, tasks.queue_KPM
    for row in range(len(length_KP)):
        length_KP[row] = 0
    peer_MT, priority_MT = tasks.peer_MT, tasks.priority_MT
    at_M, arrival_M, priority_M = tasks.at_M, tasks.arrival_M, tasks.priority_M
    begin_M, end_M = tasks.begin_M, tasks.end_M
    count, width, latest, total = len(at_M), 2 * tasks.visits + 1, 0.0, 0.0
    for index in range(count):
        begin, peer, priority = begin_M[index], peer_MT[index * width], priority_MT[index * width]
        latest, total = max(latest, begin - priority), total + begin - priority
        at_M[index], arrival_M[index], end_M[index] = 0, begin, math.inf
        priority_M[index] = priority
        queue_KPM[peer * count + length_KP[peer]] = index
        length_KP[peer] += 1
        if free_P[peer] and begin < next_P[peer]:
            next_P[peer] = begin
    return latest, total


@compiled("always")
def _send(tasks, index, task, arrival):  # type: ignore[no-untyped-def]
    """Let a task of a microbatch, its next one, arrive at the peer."""
    peers, count, peer = len(tasks.next_P), len(tasks.at_M), tasks.peer_MT[task]
    tasks.at_M[index] += 1
    tasks.arrival_M[index], tasks.priority_M[index] = arrival, tasks.priority_MT[task]
    row = peer + peers if tasks.at_M[index] >= tasks.visits else peer
    tasks.queue_KPM[row * count + tasks.length_KP[row]] = index
    tasks.length_KP[row] += 1
    if row >= peers or tasks.free_P[peer]:
        tasks.next_P[peer] = min(tasks.next_P[peer], max(arrival, tasks.idle_P[peer]))


@compiled()
def _execute_compiled(tasks, spread, limit):  # type: ignore[no-untyped-def]
    # This loop is what planning spends its time on.
    visits, gap, safe_seconds = tasks.visits, tasks.gap_seconds, tasks.safe_seconds
    seconds_MT, send_MT, end_M, at_M = tasks.seconds_MT, tasks.send_MT, tasks.end_M, tasks.at_M
    arrival_M, priority_M = tasks.arrival_M, tasks.priority_M
    free_P, idle_P, next_P = tasks.free_P, tasks.idle_P, tasks.next_P
    length_KP, queue_KPM = tasks.length_KP, tasks.queue_KPM
    peers, count, last = len(next_P), len(at_M), 2 * visits
    latest, total = _begin(tasks)
    limit *= 2.0 - ROUNDS
    while latest + spread * total <= limit:
        first = math.inf
        for peer in range(peers):
            if next_P[peer] < first:
                first = next_P[peer]
        if first == math.inf:
            return _ended(end_M)
        until = first + safe_seconds
        for peer in range(peers):
            while next_P[peer] < until or next_P[peer] == first:
                now, place, best, priority, arrived = next_P[peer], -1, -1, 0.0, 0.0
                next_P[peer] = math.inf
                # What is urgent, and only then, if there is a slot, the forwards.
                for row in range(peer + peers, -1 if free_P[peer] else peer, -peers):
                    for at in range(row * count, row * count + length_KP[row]):
                        index = queue_KPM[at]
                        arrival = arrival_M[index]
                        if arrival > now:
                            next_P[peer] = min(next_P[peer], arrival)
                        elif (
                            place < 0
                            or priority_M[index] < priority
                            or (
                                priority_M[index] == priority
                                and (arrival < arrived or (arrival == arrived and index < best))
                            )
                        ):
                            place, best = at, index
                            priority, arrived = priority_M[index], arrival
                    if place >= 0:
                        break
                if place < 0:
                    continue
                length_KP[row] -= 1
                queue_KPM[place] = queue_KPM[row * count + length_KP[row]]
                latest, total = max(latest, now - priority), total + now - arrived
                at = at_M[best]
                task = best * (last + 1) + at
                end = now + seconds_MT[task]
                # The peer decides nothing before the end, so the slot may as well change hands now.
                if at < visits:
                    free_P[peer] -= 1
                elif at > visits:
                    free_P[peer] += 1
                idle_P[peer] = end + gap
                if at == last:
                    end_M[best] = end
                else:
                    _send(tasks, best, task + 1, end + send_MT[task])
                # Whether something has arrived then shows then.
                waits = length_KP[peer + peers] or (free_P[peer] and length_KP[peer])
                next_P[peer] = idle_P[peer] if waits else math.inf
    return math.inf, math.inf, -1


@compiled()
def _ended(end_M):  # type: ignore[no-untyped-def]
    """The latest end, the sum of all, in order, and whose is the latest."""
    last, total = 0, 0.0
    for index in range(len(end_M)):
        total += end_M[index]
        if end_M[index] > end_M[last]:
            last = index
    return end_M[last], total, last


def _execute_plainly(tasks: Tasks, spread: float, limit: float) -> tuple[float, float, int]:
    width, chains = 2 * tasks.visits + 1, []
    kinds = [FORWARD] * tasks.visits + [LOSS] + [BACKWARD] * tasks.visits
    for begin in range(0, len(tasks.peer_MT), width):
        row = slice(begin, begin + width)
        rows = tasks.priority_MT[row], tasks.peer_MT[row], tasks.seconds_MT[row]
        chains.append(tuple(zip(*rows, kinds, tasks.send_MT[row], strict=True)))
    ends = run(chains, tasks.begin_M, tasks.slots_P, tasks.gap_seconds).ends
    ended: tuple[float, float, int] = _ended(figures(ends))
    return ended


execute: Any = _execute_compiled if IS_COMPILED else _execute_plainly
"""(makespan, sum of the ends, who ends last); infinite where a microbatch never ends, and where it is certain before
the end that makespan + spread * sum is over the limit."""
