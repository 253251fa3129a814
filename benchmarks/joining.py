"""What a run pays for newcomers and movers with a large state, before and after they learn it outside of steps.

    python -m benchmarks.joining [--steps 12] [--stages 16] [--only NAME] [--set section.key=value ...]

Virtual time, the real peer code: deploy/scenarios/joining.toml, in the middle of whose run one machine and five at once
start. "In the roster" they join as members that hold nothing and fetch their state while a step is open; "before it"
they learn (peer.learning). "A mover" is one of three machines of a stage that the conductor asks to host another
instead: it fetches that while a step is open, or learns it beside its work (peer.moving). "A woken one" stood still
for 300 s. Prints the usual seconds of a step, those of the longest from the start of the newcomers to the first step
with all of them, seconds from their start until they are in a step with state, and bytes as charged.
"""

import argparse
import asyncio
import itertools
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.events import FaultEnded, Learned, MembershipChanged, Recovered, StepCommitted
from swarmtrain.data.stream import Corpus, load_corpus
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.machines import MachineLoop
from swarmtrain.experiments.scenario import read_scenario
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualPeer, VirtualRun, play
from swarmtrain.peer import learning
from swarmtrain.peer.session import Session

JOINING = Path(__file__).parents[1] / "deploy" / "scenarios" / "joining.toml"
JOIN_STEP = 3
"""The step in the middle of which newcomers start."""
INTO_SECONDS = 10.0
CASES = {"one": (1,), "five, each another stage": (1, 4, 7, 10, 13), "five, the same": (1,) * 5}
MOVER, WOKEN = "a mover", "a woken one"
ASLEEP = Fault("freeze", ("t4-0",), at_seconds=120.0, duration_seconds=300.0)
"""Until it is out of the roster and some steps were decided without it."""
ROOM_BYTES = 40 << 30
"""Of a machine that holds two stages for a while; what fits is counted as if the dearest, the edge, were among them."""


@dataclass(frozen=True, slots=True)
class Row:
    """What newcomers cost a run; figures of several newcomers are those of the last one."""

    usual_seconds: float
    longest_seconds: float
    joined_seconds: float
    joined: int
    state_bytes: float
    sums_bytes: float


def simulated(
    config: RunConfig, scenario: Scenario, corpus: Corpus, case: str
) -> tuple[VirtualRun, float, list[str]]:
    """The run, when the newcomers started or the mover was asked, and their ids."""
    begun: list[float] = []
    ids: list[str] = []

    def script(stage: Stage) -> "asyncio.Task[None]":
        async def act() -> None:
            while not has_begun(stage.run, case):  # noqa: ASYNC110 (virtual time)
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.0 if case == WOKEN else INTO_SECONDS)
            begun.append(asyncio.get_running_loop().time())
            if case == WOKEN:
                ids.append(stage.names["t4-0"])
            if case == MOVER:
                ids.append(stage.names["t4-0"])
                ask_to_move(stage, stage.sessions["t4-0"])
            for number, hosted in enumerate(CASES.get(case, ())):
                machine = scenario.peers[-1].machine
                stage.add(VirtualPeer(f"new-{number}", (hosted,), machine=machine))
                ids.append(stage.names[f"new-{number}"])

        return asyncio.create_task(act())

    async def main() -> VirtualRun:
        return await play(config, scenario, corpus, script)  # type: ignore[arg-type]

    with asyncio.Runner(loop_factory=MachineLoop) as runner:
        return runner.run(main()), begun[0], ids


def ask_to_move(stage: Stage, mover: Session) -> None:
    """Whoever conducts asks `mover` to host the first middle stage, or the second if that is its own."""
    assert mover.runtime is not None
    stages = (2,) if mover.runtime.member.stages == (1,) else (1,)
    for session in stage.sessions.values():
        if session.runtime is not None and session is not mover:
            session.runtime.island.move(mover.options.me, stages, "the benchmark says so")


def roomy(peer: VirtualPeer) -> VirtualPeer:
    assert peer.machine is not None
    return replace(peer, machine=peer.machine.model_copy(update={"memory_bytes": ROOM_BYTES}))


def has_begun(run: VirtualRun, case: str) -> bool:
    """Whether the machine has woken, or else the step has begun in which newcomers start."""
    if case == WOKEN:
        return any(isinstance(event, FaultEnded) for _, _, event in run.events)
    ended = [event.step for _, _, event in run.events if isinstance(event, StepCommitted)]
    return JOIN_STEP - 1 in ended


def with_stages(scenario: Scenario, stages: int) -> Scenario:
    """The same world with fewer middle stages, and machines for these."""
    assert scenario.charged is not None
    model = scenario.charged.model.model_copy(update={"stages": stages, "blocks_per_stage": 1})
    edges = [peer for peer in scenario.peers if peer.stages == (0,)][: max(2, stages // 4)]
    others = [peer for peer in scenario.peers if peer.stages is None][: 3 * stages]
    charged = replace(scenario.charged, model=model)
    return replace(scenario, peers=(*edges, *others), charged=charged)


def row_of(config: RunConfig, scenario: Scenario, corpus: Corpus, case: str) -> Row:
    if case == WOKEN:
        scenario = replace(scenario, faults=(ASLEEP,))
    if case == MOVER:
        scenario = replace(scenario, peers=tuple(map(roomy, scenario.peers)))
    run, begun_seconds, ids = simulated(config, scenario, corpus, case)
    in_roster: dict[str, float] = {}
    with_state: dict[str, float] = {}
    for at, _, event in run.events:
        if isinstance(event, MembershipChanged) and event.peer in ids:
            in_roster[event.peer] = at
        if isinstance(event, Recovered) and event.peer in ids and at > begun_seconds:
            with_state[event.peer] = at
    joined = {
        p: max(in_roster[p], with_state[p]) for p in ids if p in in_roster and p in with_state
    }
    last_seconds = max(joined.values(), default=begun_seconds)
    ended = [at for at, _, event in run.events if isinstance(event, StepCommitted)]
    spans = list(itertools.pairwise(ended))
    touched = [b - a for a, b in spans if b > begun_seconds and a <= last_seconds]
    usual = [b - a for a, b in spans if b <= begun_seconds]
    # As charged: the tiny stage stands for a large one.
    assert scenario.charged is not None
    parameters = scenario.charged.shape(config).parameters(1)
    sum_bytes = 4 if config.train.accumulation == "fast" else 8
    learnt = [event for _, _, event in run.events if isinstance(event, Learned)]
    sums = max((event.joined_step - event.step for event in learnt), default=0)
    return Row(
        usual_seconds=statistics.median(usual),
        longest_seconds=max(touched),
        joined_seconds=last_seconds - begun_seconds,
        joined=len(joined),
        state_bytes=12.0 * parameters,
        sums_bytes=float(sums * sum_bytes * parameters),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--stages", type=int, default=16, help="middle stages, three machines each")
    parser.add_argument("--only", choices=[*CASES, MOVER, WOKEN], help="this case alone")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = read_scenario(JOINING)
    steps = [f"run.steps={options.steps}", f"model.stages={options.stages}"]
    scenario = with_stages(file.scenario, options.stages)
    config = load_config([file.run], [*file.overrides, *steps, *options.overrides])
    corpus = load_corpus(config.data, None)
    print(
        "| newcomers | state comes | usual step, s | longest, s | ratio | all in after, s | state, MB | sums, MB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    rests = learning.RESTS
    for case in [options.only] if options.only else [*CASES, MOVER, WOKEN]:
        for where, tries in (("in the roster", ()), ("before it", rests)):
            learning.RESTS = tries
            row = row_of(config, scenario, corpus, case)
            count = len(CASES.get(case, case[:1]))
            after = f"{row.joined_seconds:.0f}" if row.joined == count else "not all"
            ratio = row.longest_seconds / row.usual_seconds
            print(
                f"| {case} | {where} | {row.usual_seconds:.1f} | {row.longest_seconds:.1f} | {ratio:.2f} | {after} "
                f"| {row.state_bytes / 1e6:.0f} | {row.sums_bytes / 1e6:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
