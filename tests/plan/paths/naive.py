"""The execution model once more, slowly and in another way: instant after instant, everybody is asked everything."""

import math
from dataclasses import dataclass, field

from swarmtrain.plan.paths.instance import Instance
from swarmtrain.plan.paths.routes import PlannedRoute


@dataclass
class Job:
    index: int
    tasks: list[tuple[str, int, float]]
    arrival: float
    at: int = 0
    end: float = math.inf
    starts: list[float] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.at == len(self.tasks)


def simulate(
    instance: Instance,
    routes: list[PlannedRoute],
    alike_seconds: float = 0.0,
    last_first: bool = False,
) -> list[Job]:
    """All jobs with the starts of their tasks and their ends.

    Times nearer than `alike_seconds` are the same; of equal jobs the first goes first, or the last.
    """
    jobs = [_job(instance, index, route) for index, route in enumerate(routes)]
    idle_at = [0.0] * len(instance.peers)
    free_slots = [own.memory_slots for own in instance.peers]
    frees: list[tuple[float, int]] = []
    now = 0.0
    while True:
        for when, who in [entry for entry in frees if entry[0] <= now + alike_seconds]:
            frees.remove((when, who))
            free_slots[who] += 1
        for who in range(len(instance.peers)):
            if idle_at[who] <= now + alike_seconds:
                rule = alike_seconds, -1 if last_first else 1
                _serve(instance, jobs, who, now, rule, idle_at, free_slots, frees)
        times = (
            [job.arrival for job in jobs if not job.over] + idle_at + [entry[0] for entry in frees]
        )
        later = [time for time in times if time > now + alike_seconds]
        if not later:
            return jobs
        now = min(later)


def _job(instance: Instance, index: int, route: PlannedRoute) -> Job:
    own = instance.peers
    tasks = [("F", p, own[p].forward_seconds) for p in route.peers]
    tasks.append(("L", route.peers[0], own[route.peers[0]].loss_seconds))
    tasks += [("B", p, own[p].backward_seconds) for p in route.peers[::-1]]
    opening = instance.opening_seconds[route.peers[0]] if instance.opening_seconds else 0.0
    return Job(index, tasks, route.release_seconds + opening)


def _serve(instance, jobs, who, now, rule, idle_at, free_slots, frees) -> None:
    alike_seconds, sign = rule
    waiting = [
        job
        for job in jobs
        if not job.over and job.arrival <= now + alike_seconds and job.tasks[job.at][1] == who
    ]

    def rounded(seconds: float) -> float:
        return round(seconds / alike_seconds) if alike_seconds else seconds

    ready = [job for job in waiting if job.tasks[job.at][0] != "F" or free_slots[who] > 0]
    if not ready:
        return
    job = min(
        ready,
        key=lambda j: (
            j.tasks[j.at][0] == "F",
            -rounded(_remaining(instance, j)),
            rounded(j.arrival),
            sign * j.index,
        ),
    )
    kind, _, seconds = job.tasks[job.at]
    job.starts.append(now)
    end = now + seconds
    idle_at[who] = end + instance.task_gap_seconds
    if kind == "F":
        free_slots[who] -= 1
    if kind == "B":
        frees.append((end, who))
    job.at += 1
    if job.over:
        job.end = end
    else:
        job.arrival = end + instance.send_seconds[who][job.tasks[job.at][1]]


def _remaining(instance: Instance, job: Job) -> float:
    left = job.tasks[job.at :]
    total = left[-1][2]
    for (_, a, seconds), (_, b, _) in zip(left[-2::-1], left[:0:-1], strict=True):
        total = seconds + instance.send_seconds[a][b] + total
    return total
