"""Why a plan takes as long as it does: the microbatch that ends last, task by task, and what it waits for."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from swarmtrain.plan.paths.execution import FORWARD, Executor
from swarmtrain.plan.paths.routes import Plan

KIND_NAMES = ("forward", "loss", "backward")

NO_WAIT_SECONDS = 1e-6
"""Waits below this are rounding."""


@dataclass(frozen=True, slots=True)
class Stop:
    """One task of a microbatch. It waits `slot_seconds` while all of the peer's slots are held, `busy_seconds` for the
    peer's other tasks and gaps; `behind` were served meanwhile. The send comes after it."""

    task: str
    stage: int
    peer: str
    arrival_seconds: float
    start_seconds: float
    end_seconds: float
    send_seconds: float
    slot_seconds: float
    busy_seconds: float
    behind: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WorstPath:
    """The microbatch that ends last. Working, sending and waiting add up to the makespan less the release."""

    microbatch: int
    release_seconds: float
    work_seconds: float
    send_seconds: float
    wait_seconds: float
    stops: tuple[Stop, ...]


def worst_path(plan: Plan) -> WorstPath:
    """The path that sets the makespan; among equals the microbatch with the lowest index."""
    timetable = _Timetable(plan)
    worst = max(range(len(plan.routes)), key=lambda index: (timetable.ends[index], -index))
    stops = tuple(timetable.stops(worst))
    return WorstPath(
        microbatch=worst,
        release_seconds=timetable.begin_seconds(worst),
        work_seconds=sum(stop.end_seconds - stop.start_seconds for stop in stops),
        send_seconds=sum(stop.send_seconds for stop in stops),
        wait_seconds=sum(stop.start_seconds - stop.arrival_seconds for stop in stops),
        stops=stops,
    )


class _Timetable:
    def __init__(self, plan: Plan) -> None:
        executor = Executor(plan.instance)
        self._plan = plan
        self._chains = [executor.chain(route.peers) for route in plan.routes]
        execution = plan.execution()
        self.ends, self._starts = execution.ends, execution.starts
        self._held: dict[int, list[tuple[float, float]]] = {}
        self._served: dict[int, list[tuple[float, float, int]]] = {}
        for index, (chain, starts) in enumerate(zip(self._chains, self._starts, strict=True)):
            for at, ((_, peer, seconds, kind, _), start) in enumerate(
                zip(chain, starts, strict=True)
            ):
                self._served.setdefault(peer, []).append((start, start + seconds, index))
                if kind == FORWARD:
                    back = len(chain) - 1 - at
                    self._held.setdefault(peer, []).append((start, starts[back] + chain[back][2]))

    def begin_seconds(self, index: int) -> float:
        route = self._plan.routes[index]
        return self._plan.instance.begin_seconds(route.peers[0], route.release_seconds)

    def stops(self, index: int) -> Iterator[Stop]:
        route, chain, starts = self._plan.routes[index], self._chains[index], self._starts[index]
        stages = (*route.stages, 0, *reversed(route.stages))
        arrival = self.begin_seconds(index)
        for stage, (_, peer, seconds, kind, send), start in zip(stages, chain, starts, strict=True):
            end = start + seconds
            slot = self._slot_seconds(peer, arrival, start) if kind == FORWARD else 0.0
            yield Stop(
                task=KIND_NAMES[kind],
                stage=stage,
                peer=self._plan.instance.peers[peer].name,
                arrival_seconds=arrival,
                start_seconds=start,
                end_seconds=end,
                send_seconds=send,
                slot_seconds=slot,
                busy_seconds=max(0.0, start - arrival - slot),
                behind=self._behind(peer, arrival, start),
            )
            arrival = end + send

    def _slot_seconds(self, peer: int, begin: float, end: float) -> float:
        """For how long between `begin` and `end` all slots of the peer were held."""
        slots, held = self._plan.instance.peers[peer].memory_slots, self._held[peer]
        times = {begin, end}
        times |= {time for span in held for time in span if begin < time < end}
        ordered = sorted(times)
        return sum(
            later - time
            for time, later in pairwise(ordered)
            if sum(first <= time < last for first, last in held) >= slots
        )

    def _behind(self, peer: int, begin: float, end: float) -> tuple[int, ...]:
        if end - begin < NO_WAIT_SECONDS:
            return ()
        return tuple(
            other
            for first, last, other in sorted(self._served[peer])
            if last > begin and first < end
        )
