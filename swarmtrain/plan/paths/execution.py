"""The execution model behind every makespan of the planner, exactly (design.md sections 4 and 7).

A microbatch that visits peers r[0] (its edge), r[1] .. r[n] is a chain of 2n + 3 tasks, each of which starts after the
one before has ended and what it made has been sent:

    forward at r[0], r[1] .. r[n]; loss at r[0]; backward at r[n] .. r[1], r[0]

1. Forward takes the peer's `forward_seconds` (the embedding at the edge too), loss `loss_seconds`, backward
   `backward_seconds`. Between two tasks of a chain lie `send_seconds[a][b]`; sends do not contend. A peer that is
   visited twice (two stages) sends to itself at `send_seconds[a][a]`.
2. The chain arrives at its first task at the microbatch's release (after its edge peer's `opening_seconds`), at the
   next one at the end of the task before plus the send. The gap of rule 3 does not delay a send.
3. A peer serves one task at a time, without preemption. After a task's end it is idle again `task_gap_seconds` later.
4. A forward needs a free memory slot of the peer, and holds it from its start to the end of the same visit's backward.
   At the edge the embedding's slot is held until the edge's backward ends; the loss takes none.
5. At every instant all arrivals come first; then every idle peer that has a task it may start picks one: backward and
   loss before forwards (of those only where a slot is free), then the longest remaining round trip, then the earliest
   arrival, then the lowest microbatch index. It never waits for something better.
6. The remaining round trip of a task is its own seconds and all sends and tasks after it, to the end of the microbatch,
   without waiting and without gaps.
7. The makespan is the end of the last task. Microbatches that hold each other's slots for ever never end: infinity.

Forward, loss and backward take longer than nothing, so no task ends at the instant it starts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from swarmtrain.plan.paths.instance import Instance

FORWARD, LOSS, BACKWARD = 0, 1, 2

Task = tuple[float, int, float, int, float]
"""(minus the remaining round trip, peer, seconds, kind, seconds of the send after it): the first orders tasks."""

Chain = tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Execution:
    """When everything happened: end of each microbatch (infinity: it never ended) and start of each of its tasks."""

    ends: list[float]
    starts: list[list[float]]

    @property
    def makespan_seconds(self) -> float:
        return max(self.ends, default=0.0)


class Executor:
    """Runs plans of one instance. Only costs matter here, so it serves every placement of the same peers."""

    def __init__(self, instance: Instance) -> None:
        self._forward = [peer.forward_seconds for peer in instance.peers]
        self._backward = [peer.backward_seconds for peer in instance.peers]
        self._loss = [peer.loss_seconds for peer in instance.peers]
        self._slots = [peer.memory_slots for peer in instance.peers]
        self._send = instance.send_seconds
        self._gap_seconds = instance.task_gap_seconds

    def chain(self, peers: Sequence[int]) -> Chain:
        """The tasks of a microbatch that visits `peers`, its edge first."""
        edge = peers[0]
        stops = [(peer, self._forward[peer], FORWARD) for peer in peers]
        stops.append((edge, self._loss[edge], LOSS))
        stops += [(peer, self._backward[peer], BACKWARD) for peer in reversed(peers)]
        tasks: list[Task] = []
        after, remaining = stops[-1][0], 0.0
        for peer, seconds, kind in reversed(stops):
            send = self._send[peer][after] if tasks else 0.0
            remaining = seconds + send + remaining
            tasks.append((-remaining, peer, seconds, kind, send))
            after = peer
        return tuple(reversed(tasks))

    def round_trip_seconds(self, peers: Sequence[int]) -> float:
        """From the embedding's start to the end of the edge's backward, without waiting."""
        return -self.chain(peers)[0][0]

    def run(self, chains: Sequence[Chain], releases: Sequence[float]) -> Execution:
        """Execute the microbatches; `releases` are the seconds at which each may begin."""
        return run(chains, releases, self._slots, self._gap_seconds)


def run(
    chains: Sequence[Chain], releases: Sequence[float], slots: Sequence[int], gap_seconds: float
) -> Execution:
    """Execute microbatches at peers with so many slots."""
    # One event per arrival (code < count) and per time a peer with waiting tasks becomes idle (count + peer): at
    # equal times arrivals come first. This loop is what planning spends its time on: plain locals, no calls.
    count, peers, gap = len(chains), len(slots), gap_seconds
    free, idle_at, waking = list(slots), [0.0] * peers, [False] * peers
    forwards: list[list[tuple[float, float, int]]] = [[] for _ in range(peers)]
    urgent: list[list[tuple[float, float, int]]] = [[] for _ in range(peers)]
    rest = [iter(chain) for chain in chains]
    task = [next(tasks) for tasks in rest]
    starts: list[list[float]] = [[] for _ in range(count)]
    ends = [math.inf] * count
    events = [(release, index) for index, release in enumerate(releases)]
    heapify(events)
    while events:
        now, code = heappop(events)
        if code < count:
            priority, peer, _, kind, _ = task[code]
            heappush(urgent[peer] if kind else forwards[peer], (priority, now, code))
            if waking[peer]:
                continue
            idle = idle_at[peer]
            if idle > now or (events and events[0][0] <= now):
                waking[peer] = True
                heappush(events, (idle if idle > now else now, count + peer))
                continue
        else:
            peer = code - count
        queue = urgent[peer]
        if not queue:
            queue = forwards[peer]
            if not queue or not free[peer]:
                waking[peer] = False
                continue
        index = heappop(queue)[2]
        _, _, seconds, kind, send = task[index]
        starts[index].append(now)
        end = now + seconds
        # The peer decides nothing before the end, so the slot may as well change hands now.
        free[peer] += kind - 1
        following = next(rest[index], None)
        if following is None:
            ends[index] = end
        else:
            task[index] = following
            heappush(events, (end + send, index))
        idle_at[peer] = end = end + gap
        waking[peer] = waits = bool(urgent[peer] or forwards[peer])
        if waits:
            heappush(events, (end, count + peer))
    return Execution(ends, starts)
