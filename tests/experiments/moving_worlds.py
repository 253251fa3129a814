"""Worlds in which peers are asked to move while faults happen: what moves have to survive (I1 to I4)."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path

from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.events import Learned, Noted
from swarmtrain.core.types import PeerId
from swarmtrain.experiments.scenario import read_scenario
from swarmtrain.experiments.sweep import Verdict, run_seed
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualPeer, VirtualRun
from tests.experiments.runs import corpus

SWEEP = read_scenario(Path(__file__).parents[2] / "deploy" / "scenarios" / "sweep.toml")
STEPS = 9
MOVES_SECONDS = (0.1, 0.5, 1.0)
"""When the conductor asks somebody to move, after the first step has opened."""


def moving_config(seed: int, *settings: str) -> RunConfig:
    own = [f"run.seed={seed}", f"run.steps={STEPS}", *settings]
    return load_config([SWEEP.run], [*SWEEP.overrides, *own])


def moving_scenario(faults: int = 4) -> Scenario:
    """The island of sweep.toml with a third replica of every middle stage, so that some can be spared."""
    more = (VirtualPeer("one-c", (1,)), VirtualPeer("two-c", (2,)))
    chances = replace(SWEEP.scenario.chances, count=faults, to_seconds=1.6)
    return replace(SWEEP.scenario, peers=(*SWEEP.scenario.peers, *more), chances=chances)


class MovingStage(Stage):
    """Every conductor is asked, at times of the seed's, to have somebody host another stage."""

    def _begin(self) -> None:
        super()._begin()
        self.chance = random.Random(f"moves {self.config.run.seed}")
        self.acting = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        for seconds in MOVES_SECONDS:
            await asyncio.sleep(seconds * self.chance.random())
            name = self.chance.choice(sorted(self.names))
            stages = tuple(sorted(self.chance.sample(range(3), self.chance.choice([1, 1, 1, 2]))))
            ask_to_move(self, name, stages)


def ask_to_move(stage: Stage, name: str, stages: tuple[int, ...]) -> None:
    """Whoever conducts asks machine `name` to host other stages; conductors themselves stay."""
    runtime = stage.sessions[name].runtime
    if runtime is None or runtime.member.stages == stages:
        return
    for other, session in stage.sessions.items():
        island = session.runtime.island if session.runtime is not None else None
        if island is not None and stage.is_running(other) and other != name:
            island.move(PeerId(stage.names[name]), stages, "a test says so")


def moved(run: VirtualRun) -> set[str]:
    """Who came in with stages that it learnt beside others."""
    return {str(event.peer) for _, _, event in run.events if isinstance(event, Learned)}


def moved_inside(run: VirtualRun) -> list[str]:
    return [
        event.detail
        for _, _, event in run.events
        if isinstance(event, Noted) and event.what == "moves inside a step"
    ]


def verdict(seed: int, faults: int = 4) -> tuple[VirtualRun, Verdict]:
    return run_seed(moving_config(seed), moving_scenario(faults), corpus(), MovingStage)
