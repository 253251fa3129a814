"""Rebalancing policies on synthetic spot-market traces: SWARM's comparison (arXiv 2301.11913, section 4.4).

A trace says when machines come and when they are taken away; everything else follows. All policies see the same traces,
the same measured queues, and pay the same price: a machine that changes stages serves nobody until it has downloaded
the state of the new one. Throughput at an instant is that of the slowest stage, the best possible that of the best
assignment of the machines alive then, without any price. A stage whose last machine was taken is recovered alike under
every rule: a machine of the fullest stage loads its snapshot, at the price of a move.

The queues are those of a closed network in balance: every stage works off microbatches as fast as its machines
allow, the stages that could do more than the slowest one hold what a queue of their utilisation holds, and the slowest
ones hold the rest of what is in flight.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from swarmtrain.core.types import PeerId
from swarmtrain.experiments.market import HOUR_SECONDS, Change
from swarmtrain.plan.layout import Host, Load
from swarmtrain.plan.rebalance import Policy, View, rebalance

IN_FLIGHT_PER_MACHINE = 4.0
LOOK_SECONDS = 10.0
"""How often our conductor looks at the directory: a third of the life of a record by default."""

RESTED_SECONDS = 120.0
"""So long after a move every rule decides as if there had been none."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The swarm: `stages` stages, and what a change of stages costs. Newcomers go to the slowest stage, or to any
    when `blind`. Measured figures are off by a factor whose logarithm has the standard deviation `noise`."""

    stages: int = 4
    transfer_seconds: float = 30.0
    step_seconds: float = 10.0
    blind: bool = True
    noise: float = 0.0


@dataclass(slots=True)
class Machine:
    """A machine alive: `ready_seconds` is when it serves its stage."""

    number: int
    speed: float
    stage: int
    ready_seconds: float = 0.0


QUIET_LOOKS = 3
"""A rule that wants nothing at so many looks wants nothing until something changes."""

Rule = Callable[["Swarm"], tuple[int, int] | None]
"""Who moves where now, as (machine, stage)."""


@dataclass(slots=True)
class Swarm:
    """The machines alive, and what they measured."""

    setup: Setup
    now_seconds: float = 0.0
    machines: dict[int, Machine] = field(default_factory=dict)
    last_move_seconds: float | None = None
    moves: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def measured(self, value: float) -> float:
        """`value` as a machine would report it."""
        noise = self.setup.noise
        return value * math.exp(noise * self.chance.gauss(0.0, 1.0)) if noise else value

    def measured_load(self, load: Load | None) -> Load | None:
        if load is None:
            return None
        busy_share = min(self.measured(load.busy_share), 1.0)
        return Load(busy_share, self.measured(load.waiting_tasks))

    @property
    def serving(self) -> list[Machine]:
        return [m for m in self.machines.values() if m.ready_seconds <= self.now_seconds]

    @property
    def is_at_rest(self) -> bool:
        """Whether time alone will change nothing that a rule looks at."""
        moved = -math.inf if self.last_move_seconds is None else self.last_move_seconds
        return self.now_seconds - moved > self.setup.transfer_seconds + RESTED_SECONDS

    def rates(self) -> list[float]:
        """Microbatches per second of every stage."""
        rates = [0.0] * self.setup.stages
        for machine in self.serving:
            rates[machine.stage] += machine.speed
        return rates

    def queues(self) -> list[float]:
        """Microbatches that wait at every stage."""
        rates = self.rates()
        pace, in_flight = min(rates), IN_FLIGHT_PER_MACHINE * len(self.serving)
        if pace == 0:
            return [in_flight if rate == 0 else 0.0 for rate in rates]
        shares = [pace / rate for rate in rates]
        queues = [share / (1 - share) if share < 1 else 0.0 for share in shares]
        scale = min(1.0, in_flight / max(sum(queues), in_flight))
        rest = in_flight - scale * sum(queues)
        slowest = shares.count(1.0)
        return [
            rest / slowest if share == 1 else scale * queue
            for share, queue in zip(shares, queues, strict=True)
        ]

    def recover(self) -> None:
        """Give stages without any machine one of the fullest stage, while there is one to give."""
        held = [
            [m for m in self.machines.values() if m.stage == s] for s in range(self.setup.stages)
        ]
        for stage, machines in enumerate(held):
            fullest = max(held, key=len)
            if not machines and len(fullest) > 1:
                machine = fullest.pop(0)
                machines.append(machine)
                machine.stage = stage
                machine.ready_seconds = self.now_seconds + self.setup.transfer_seconds

    def move(self, number: int, stage: int) -> None:
        machine = self.machines[number]
        machine.stage = stage
        machine.ready_seconds = self.now_seconds + self.setup.transfer_seconds
        self.last_move_seconds = self.now_seconds
        self.moves += 1


def no_rebalancing(swarm: Swarm) -> tuple[int, int] | None:
    return None


def swarm_rebalancing(swarm: Swarm) -> tuple[int, int] | None:
    """SWARM's algorithm 2: of the stage with the least total queue, the machine with the shortest queue goes to the
    stage with the largest total queue. The last machine of a stage stays, which the published form does not say."""
    queues = [swarm.measured(queue) for queue in swarm.queues()]
    least, most = queues.index(min(queues)), queues.index(max(queues))
    donors = [machine for machine in swarm.serving if machine.stage == least]
    if least == most or len(donors) < 2:
        return None
    # Fewest waiting tasks at the machine with the smallest share of its stage's work.
    donor = min(donors, key=lambda machine: (machine.speed, machine.number))
    return donor.number, most


def our_rebalancing(policy: Policy) -> Rule:
    """`plan.rebalance` on what the conductor sees, as peers do it."""
    wanted: tuple[int, ...] = ()

    def rule(swarm: Swarm) -> tuple[int, int] | None:
        nonlocal wanted
        moved_seconds = swarm.last_move_seconds
        moving = [m for m in swarm.machines.values() if m.ready_seconds > swarm.now_seconds]
        stages = swarm.setup.stages
        view = View(
            _hosts(swarm),
            (1.0,) * stages,
            (swarm.setup.transfer_seconds,) * stages,
            swarm.setup.step_seconds,
            None if moved_seconds is None else swarm.now_seconds - moved_seconds,
            PeerId(f"{moving[0].number:06}") if moving else None,
            wanted,
        )
        decision = rebalance(view, policy)
        wanted = decision.wanted
        return None if decision.peer is None else (int(decision.peer), decision.stages[0])

    return rule


def _hosts(swarm: Swarm) -> tuple[Host, ...]:
    """The machines as they describe themselves; those that download count where they go, and measure nothing."""
    rates, queues = swarm.rates(), swarm.queues()
    counts = [sum(m.stage == stage for m in swarm.serving) for stage in range(swarm.setup.stages)]
    loads = [
        Load(min(rates) / rate, queue / count) if count else None
        for rate, queue, count in zip(rates, queues, counts, strict=True)
    ]
    return tuple(
        Host(
            PeerId(f"{m.number:06}"),
            (m.stage,),
            1,
            1 / swarm.measured(m.speed),
            load=swarm.measured_load(loads[m.stage]),
        )
        for m in swarm.machines.values()
    )


# ---- one run --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Result:
    """Microbatches done and possible in every hour of a trace, and how many machines changed stages."""

    done: list[float]
    possible: list[float]
    moves: int = 0

    def share(self, hours: slice) -> float:
        """Percent of what was possible in these hours."""
        return 100 * sum(self.done[hours]) / sum(self.possible[hours])

    @property
    def shares(self) -> tuple[float, float, float]:
        """Overall, in the first hour, in the last."""
        return self.share(slice(None)), self.share(slice(0, 1)), self.share(slice(-1, None))


def play(
    changes: list[Change], setup: Setup, rule: Rule, period_seconds: float, hours: float
) -> Result:
    """Let `rule` decide every `period_seconds` while the machines of the trace come and go."""
    swarm = Swarm(setup)
    buckets = math.ceil(hours)
    result = Result([0.0] * buckets, [0.0] * buckets)
    for index, change in enumerate(change for change in changes if change.seconds == 0.0):
        stage = index % setup.stages
        swarm.machines[change.machine] = Machine(change.machine, change.speed, stage)
    later = iter([change for change in changes if change.seconds > 0.0])
    due_change, tick_seconds = next(later, None), period_seconds
    quiet_looks = 0
    while swarm.now_seconds < hours * HOUR_SECONDS:
        due = min(
            tick_seconds, due_change.seconds if due_change else math.inf, hours * HOUR_SECONDS
        )
        _advance(swarm, result, due)
        if due_change is not None and due_change.seconds == due:
            _happen(swarm, due_change)
            swarm.recover()
            due_change, quiet_looks = next(later, None), 0
        elif due == tick_seconds:
            tick_seconds += period_seconds
            if quiet_looks >= QUIET_LOOKS and not setup.noise:
                continue
            choice = rule(swarm)
            quiet_looks = quiet_looks + 1 if choice is None and swarm.is_at_rest else 0
            if choice is not None:
                swarm.move(*choice)
    result.moves = swarm.moves
    return result


def _advance(swarm: Swarm, result: Result, until_seconds: float) -> None:
    """Work until then; machines become ready on the way."""
    while swarm.now_seconds < until_seconds:
        now = swarm.now_seconds
        ready = [m.ready_seconds for m in swarm.machines.values() if m.ready_seconds > now]
        hour = int(now / HOUR_SECONDS)
        end = min([until_seconds, (hour + 1) * HOUR_SECONDS, *ready])
        result.done[hour] += min(swarm.rates()) * (end - now)
        result.possible[hour] += _best_pace(swarm) * (end - now)
        swarm.now_seconds = end


def _best_pace(swarm: Swarm) -> float:
    """Pace of the best assignment of the machines alive; of unequal ones a bound that no assignment exceeds."""
    speeds = [machine.speed for machine in swarm.machines.values()]
    is_equal = len(set(speeds)) <= 1
    share = len(speeds) // swarm.setup.stages if is_equal else len(speeds) / swarm.setup.stages
    return share * (sum(speeds) / len(speeds)) if speeds else 0.0


def _happen(swarm: Swarm, change: Change) -> None:
    if not change.speed:
        swarm.machines.pop(change.machine, None)
        return
    rates = swarm.rates()
    # Drawn from the machine's number, so that every rule sees it come to the same stage.
    chance = random.Random(change.machine)
    blind_stage = chance.randrange(swarm.setup.stages)
    stage = blind_stage if swarm.setup.blind else rates.index(min(rates))
    swarm.machines[change.machine] = Machine(change.machine, change.speed, stage)
