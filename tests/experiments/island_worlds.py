"""Several islands of real peers in virtual time, and what their journals say of rounds."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import RoundChosen, RoundMerged, StepCommitted
from swarmtrain.experiments.island import IslandPlan
from swarmtrain.experiments.islands import Islands, IslandsSetting
from swarmtrain.experiments.machines import MachineLoop
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualPeer, VirtualRun, play
from swarmtrain.peer.stage_rounds import settings_of
from tests.experiments.runs import corpus, small_config

TINY = (
    "model.stages=2",
    "model.width=16",
    "model.heads=2",
    "model.kv_heads=1",
    "model.ffn_width=16",
    "train.microbatches=2",
    "train.microbatch_size=1",
    "train.sequence_length=8",
)


def config_of(*overrides: str, steps: int = 24) -> RunConfig:
    return small_config(
        *TINY, "outer.inner_steps=5", "outer.grace_seconds=6", *overrides, steps=steps
    )


def islands_of(count: int, replicas: int = 1, slowness: float = 1.0) -> tuple[VirtualPeer, ...]:
    """Islands of three stages; the machines of the last one take `slowness` times as long."""
    return tuple(
        VirtualPeer(
            f"{island}-{stage}-{replica}",
            (stage,),
            island=island,
            slowness=slowness if island == count - 1 else 1.0,
        )
        for island in range(count)
        for stage in range(3)
        for replica in range(replicas)
    )


def run_islands(
    config: RunConfig,
    peers: Sequence[VirtualPeer],
    act: "Callable[[Stage], asyncio.Future[None]] | None" = None,
    later: Sequence[VirtualPeer] = (),
) -> VirtualRun:
    """A virtual run; `act` may do something to the world, `later` are peers that it may add."""
    torch.set_num_threads(1)
    scenario = Scenario(tuple(peers), stall_seconds=600, patience_seconds=200)
    loop = MachineLoop()

    def script(stage: Stage) -> "asyncio.Future[None] | None":
        stage.scenario = Scenario((*peers, *later), stall_seconds=600, patience_seconds=200)
        return act(stage) if act is not None else None

    async def main() -> VirtualRun:
        return await play(config, scenario, corpus(), script)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main())


def plain_islands(config: RunConfig, count: int) -> Islands:
    """The same in one process without peers."""
    outer = config.outer
    setting = IslandsSetting(
        tuple(IslandPlan() for _ in range(count)),
        settings_of(config),
        outer.inner_steps,
        outer.fragments,
        outer.staggered,
        outer.delay_steps,
    )
    loop = Islands(config, corpus(), corpus().tokenizer.vocab_size, setting)
    list(loop.train())
    return loop


def last_digests(run: VirtualRun) -> set[str]:
    """Of all parameters after the last step, by whoever conducted an island to its end."""
    last = max(event.step for _, _, event in run.events if isinstance(event, StepCommitted))
    return {
        event.parameters_sha256
        for _, _, event in run.events
        if isinstance(event, StepCommitted) and event.step == last
    }


def outer_digests(run: VirtualRun) -> dict[tuple[int, int, int], set[str]]:
    """The outer states that peers came to, by (stage, fragment, round)."""
    found: dict[tuple[int, int, int], set[str]] = defaultdict(set)
    for _, _, event in run.events:
        if isinstance(event, RoundMerged):
            found[event.stage, event.fragment, event.round].add(event.outer)
    return found


def choices(run: VirtualRun) -> dict[tuple[int, int, int], set[tuple[tuple[int, ...], str]]]:
    """What peers learned of each (stage, fragment, round): whose contributions count, and the result."""
    found: dict[tuple[int, int, int], set[tuple[tuple[int, ...], str]]] = defaultdict(set)
    for _, _, event in run.events:
        if isinstance(event, RoundChosen):
            place = (event.stage, event.fragment, event.round)
            found[place].add((event.islands, event.result))
    return found


def is_agreed(run: VirtualRun) -> bool:
    """No peer ever learned another choice, or came to another outer state, than the others of its group."""
    return all(len(entry) == 1 for entry in outer_digests(run).values()) and all(
        len(entry) == 1 for entry in choices(run).values()
    )


def step_seconds(run: VirtualRun, island: int) -> list[float]:
    """What each acknowledged step of an island took."""
    names = {peer for _, peer, event in run.events if isinstance(event, StepCommitted)}
    ordered = sorted(names, key=lambda name: next(at for at, p, _ in run.events if p == name))
    return [
        event.seconds
        for _, peer, event in run.events
        if isinstance(event, StepCommitted) and peer == ordered[island]
    ]
