"""Routes through the running peer code, in virtual time: fixed lines, keys dealt in turn, SWARM wiring, and planned.

    python -m benchmarks.routes [--steps 8] [--evaluations 3000] [--rows equal uneven ...]

A published arrangement of 20 machines in twelve cloud regions (benchmarks/data): latency between two machines is what
sending 32 MiB between them takes, and lines are wide, so that sends do not contend, as in the planner's model. Rows:

    equal    full pipelines, machines alike
    uneven   full pipelines, machines up to 10 times apart
    lost     full pipelines, a machine lost after a quarter, a half and three quarters of a step: means of the step
    churn    full pipelines, machines of three stages lost in three steps running, each at such a share of the step
    skip     two of the five middle stages left out by each microbatch

Policies: `lines` are DT-FM's full pipelines: the replicas of all stages stand in fixed lines that cost the least in
sends, and an edge peer uses one of them; lines whose machine is lost are mended by wiring. `planned, not repaired` goes
on with a plan whose peer was lost, and `planned anew` makes a whole new plan then. A makespan counts from the opening
of a step to the last contribution that enters a sum. Predicted is what the planner said before the step opened. Work:
forward and backward seconds that machines spent a step; what it is more than without a loss was done twice.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import torch

import swarmtrain.peer.pathing as pathing
from benchmarks.bars import Group, bars
from swarmtrain.compute.lane import Task
from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.events import PathsPlanned, PathsRepaired, StepOpened, SumChanged
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.figures import Figures
from swarmtrain.experiments.profiles import NetworkProfile
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, VirtualRun, simulate
from swarmtrain.peer.pathing import Pathing
from swarmtrain.plan.paths.instance import Chance, Instance
from swarmtrain.plan.paths.routes import Plan, PlannedRoute
from swarmtrain.plan.paths.search import Spent, by_evaluations
from swarmtrain.plan.paths.stepwise import plan_step
from swarmtrain.steps.plan import not_repaired

FOLDER = Path(__file__).parent
RUN = FOLDER.parent / "deploy" / "runs" / "equality.toml"
WARM_STEPS = 3
"""Steps before the figures count: peers measure each other first."""
ABOUT = __doc__.split("\n\n", 2)[2].rstrip().split("\n")
LOST_AFTER = (0.25, 0.5, 0.75)


def config_of(network: dict, steps: int, policy: str, is_skipping: bool) -> RunConfig:
    middle = network["stages"] - 1
    uses_paths = policy.startswith(("planned", "lines"))
    skip = 1 - (network["visits"] - 1) / middle if is_skipping else 0.0
    visits = "planned" if is_skipping and uses_paths else "seeded"
    return load_config(
        [RUN],
        [
            f"run.steps={steps}", "optimizer.warmup_steps=1", f"model.stages={middle}",
            "model.family=vector", "model.width=16", "model.heads=2", "model.kv_heads=1",
            f"train.microbatches={network['microbatches']}", "train.microbatch_size=1", "train.sequence_length=4",
            "limits.in_flight=64", "limits.slots_shared=64", "limits.queue=256", "limits.hedge=false",
            "links.heartbeat_seconds=20", "links.silence_seconds=300", "links.connect_seconds=60",
            "swarm.announce_seconds=30", "recovery.snapshot_steps=0",
            f"paths.skip={skip}", f"paths.visits={visits}", f"planner.use={str(uses_paths).lower()}",
            f"planner.wiring={'in_turn' if policy == 'dealt in turn' else 'swarm'}",
        ],
    )  # fmt: skip


def scenario_of(network: dict, slowness: list[float], faults: tuple[Fault, ...]) -> Scenario:
    """The arrangement: each machine a region of its own, its sends their latencies."""
    names = tuple(peer["name"] for peer in network["peers"])
    size = len(names)
    lines = NetworkProfile(
        description="sends as latencies", source="benchmarks/data", regions=names,
        one_way_latency_seconds=tuple(map(tuple, network["send_seconds"])),
        bytes_per_second=((1e13,) * size,) * size,
    )  # fmt: skip
    peers = tuple(
        VirtualPeer(peer["name"], tuple(peer["stages"]), slowness=slow, region=peer["name"])
        for peer, slow in zip(network["peers"], slowness, strict=True)
    )
    first = network["peers"][0]
    return Scenario(
        peers, forward_seconds=first["forward_seconds"],
        backward_seconds=first["backward_seconds"], network=lines, faults=faults,
        stall_seconds=36000.0,
    )  # fmt: skip


def makespans(run: VirtualRun) -> dict[int, float]:
    """Seconds of each step from its first opening to the last contribution."""
    opened: dict[int, float] = {}
    last: dict[int, float] = {}
    for at, _, event in run.events:
        if isinstance(event, StepOpened):
            opened.setdefault(event.step, at)
        elif isinstance(event, SumChanged):
            last[event.step] = at
    return {step: last[step] - opened[step] for step in opened if step in last}


def lines_of(instance: Instance) -> list[tuple[int, ...]]:
    """As many full pipelines as the smallest stage has replicas, each with an edge peer, cheap in sends all together.

    DT-FM searches such an arrangement genetically; here two replicas of a stage change places until nothing helps.
    """
    send, hosts = instance.send_seconds, instance.hosts
    count = min(map(len, hosts))
    lines = [list(peers) for peers in zip(*(stage[:count] for stage in hosts), strict=True)]

    def cost(line: list[int]) -> float:
        around = zip(line, (*line[1:], line[0]), strict=True)
        return sum(send[a][b] + send[b][a] for a, b in around)

    improved = True
    while improved:
        improved = False
        for stage in range(instance.stages):
            for peer in hosts[stage]:
                for line in lines:
                    other = next((one for one in lines if one[stage] == peer), None)
                    before = cost(line) + (cost(other) if other and other is not line else 0.0)
                    held = line[stage]
                    line[stage] = peer
                    if other and other is not line:
                        other[stage] = held
                    after = cost(line) + (cost(other) if other and other is not line else 0.0)
                    if after < before - 1e-9:
                        improved = True
                        continue
                    line[stage] = held
                    if other and other is not line:
                        other[stage] = peer
    return [tuple(line) for line in lines]


def along_lines(instance: Instance, sequences: object, spent: Spent, chance: Chance) -> Plan:
    """A plan of fixed full pipelines, microbatches dealt to them in turn."""
    lines = lines_of(instance)
    stages = tuple(range(instance.stages))
    routes = tuple(
        PlannedRoute(stages, lines[index % len(lines)]) for index in range(instance.microbatches)
    )
    plan = Plan(instance, routes, 0.0, 0.0)
    return replace(plan, makespan_seconds=plan.execution().makespan_seconds)


def anew(
    instance: Instance,
    previous: Plan,
    edges: object,
    elapsed_seconds: float,
    spent: Spent,
    chance: Chance,
) -> Plan:
    """A whole new plan in the middle of a step."""
    sequences = [route.stages[1:] for route in previous.routes]
    return plan_step(instance, sequences, by_evaluations(pathing.MODELLED_EVALUATIONS), chance)


def predictions(run: VirtualRun) -> dict[int, float]:
    """What the planner said of each step last before it opened."""
    said: dict[int, float] = {}
    opened: set[int] = set()
    for _, _, event in run.events:
        if isinstance(event, StepOpened):
            opened.add(event.step)
        elif isinstance(event, PathsPlanned | PathsRepaired) and event.step not in opened:
            said[event.step] = event.makespan_seconds
    return said


@contextmanager
def policy_of(name: str) -> Iterator[None]:
    """The peer code with one decision replaced, and as it is again afterwards."""
    with ExitStack() as stack:
        if name == "lines":
            stack.enter_context(mock.patch.object(pathing, "plan_step", along_lines))
        if name in ("lines", "planned, not repaired"):
            stack.enter_context(mock.patch.object(Pathing, "repaired", not_repaired))
        if name == "planned anew":
            stack.enter_context(mock.patch.object(pathing, "repair", anew))
        yield


@dataclass
class Work:
    """Seconds of forwards and backwards that machines did, of machines as fast as the model says."""

    seconds: float = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        cost_seconds = Figures.cost_seconds

        def counting(figures: Figures, peer: VirtualPeer, task: Task) -> float:
            seconds = cost_seconds(figures, peer, task)
            self.seconds += seconds / peer.slowness
            return seconds

        with mock.patch.object(Figures, "cost_seconds", counting):
            yield


@dataclass(frozen=True)
class Outcome:
    """Seconds of a run by step: when it opened, its makespan, what was predicted, from one commit to the next."""

    opened: dict[int, float]
    makespans: dict[int, float]
    predictions: dict[int, float]
    steps: dict[int, float]
    work_seconds: float


@dataclass(frozen=True)
class Row:
    """A situation: how slow each machine is, and in which steps a machine of which stage is lost."""

    name: str
    network: dict
    slowness: list[float]
    losses: tuple[tuple[int, int], ...] = ()
    policies: tuple[str, ...] = ("lines", "dealt in turn", "wired", "planned")

    def outcomes(self, policy: str, steps: int) -> Iterator[Outcome]:
        """One run, or one for each share of its step after which a loss comes: every policy loses at the same share,
        so when is learnt from a run without the loss."""
        if not self.losses:
            yield outcome(self, policy, steps, ())
            return
        for share in LOST_AFTER:
            faults: tuple[Fault, ...] = ()
            for step, stage in self.losses:
                calm = outcome(self, policy, step + 1, faults)
                at = calm.opened[step] - calm.opened[0] + share * calm.makespans[step]
                victim = next(p["name"] for p in self.network["peers"] if p["stages"] == [stage])
                faults = (*faults, Fault("kill", (victim,), at_seconds=at))
            yield outcome(self, policy, steps, faults)

    def told(self, policy: str, steps: int) -> tuple[float, str]:
        """Seconds of a makespan, and a line of the table.

        Means over runs and steps, of those with a loss where there are any; predictions of the others.
        """
        outcomes = list(self.outcomes(policy, steps))
        warm = range(WARM_STEPS, steps)
        lossy = [step for step, _ in self.losses]
        makespan = statistics.mean(o.makespans[s] for o in outcomes for s in lossy or warm)
        step_seconds = statistics.mean(o.steps[s] for o in outcomes for s in warm)
        ratios = [
            o.makespans[step] / o.predictions[step]
            for o in outcomes
            for step in warm
            if step in o.predictions and step not in lossy
        ]
        ratio = f"{statistics.mean(ratios):.3f}" if ratios else ""
        work = statistics.mean(o.work_seconds for o in outcomes) / steps
        cells = (self.name, policy, f"{makespan:.1f}", f"{step_seconds:.1f}", ratio, f"{work:.1f}")
        return makespan, "| " + " | ".join(cells) + " |"


def outcome(row: Row, policy: str, steps: int, faults: tuple[Fault, ...]) -> Outcome:
    """One run; `faults` count their time from the first step's opening."""
    config = config_of(row.network, steps, policy, row.name == "skip")
    corpus = load_corpus(config.data, None)
    work = Work()
    with policy_of(policy), work.counted():
        run = simulate(config, scenario_of(row.network, row.slowness, faults), corpus)
    if len(run.commits) < steps or len(run.injected) < len(faults):
        raise SystemExit(f"the run went wrong: {run.stalled} {run.errors} {run.injected}")
    opened = {e.step: at for at, _, e in reversed(run.events) if isinstance(e, StepOpened)}
    seconds = {commit.step: commit.seconds for commit in run.commits}
    return Outcome(opened, makespans(run), predictions(run), seconds, work.seconds)


def rows_of(network: dict) -> list[Row]:
    equal = [1.0] * len(network["peers"])
    chance = random.Random(1)
    uneven = [float(chance.choice((0.5, 1.0, 2.0, 5.0))) for _ in equal]
    usual = ("lines", "dealt in turn", "wired", "planned")
    lossy = (*usual, "planned, not repaired", "planned anew")
    return [
        Row("equal", network, equal),
        Row("uneven", network, uneven),
        Row("lost", network, equal, ((3, 2),), lossy),
        Row("churn", network, equal, ((3, 2), (4, 4), (5, 1)), lossy),
        Row("skip", network, equal, (), usual[1:]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=3000, help="of the planner, a step")
    parser.add_argument("--network", default="skippipe_n20.json")
    parser.add_argument("--rows", nargs="*", help="only these")
    parser.add_argument("--out", type=Path, help="folder for routes.md and routes.svg")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pathing.MODELLED_EVALUATIONS = options.evaluations
    network = json.loads((FOLDER / "data" / options.network).read_text())
    lines = [
        "| row | policy | makespan s | step s | simulated / predicted | work s a step |",
        "|---|---|---|---|---|---|",
    ]
    groups: list[Group] = []
    print("\n".join(lines))
    for row in rows_of(network):
        if options.rows and row.name not in options.rows:
            continue
        seconds: dict[str, float] = {}
        for policy in row.policies:
            seconds[policy], line = row.told(policy, options.steps)
            lines.append(line)
            print(line, flush=True)
        groups.append((row.name, seconds))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        command = "`" + " ".join(["python -m benchmarks.routes", *sys.argv[1:]]) + "`"
        page = [
            "# Routes through the running peer code",
            "",
            command,
            "",
            *ABOUT,
            "",
            "![makespans](routes.svg)",
            "",
        ]
        (options.out / "routes.md").write_text("\n".join([*page, *lines]) + "\n")
        (options.out / "routes.svg").write_text(bars("seconds of a makespan", groups))


if __name__ == "__main__":
    main()
