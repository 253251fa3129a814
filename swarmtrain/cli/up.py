"""`swarmtrain up`: the whole swarm on this machine, from start to sample."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from swarmtrain.cli.host import INTERRUPTED, interrupts, show

if TYPE_CHECKING:
    from swarmtrain.coordinator.state import RunState
    from swarmtrain.core.config import RunConfig


def run_up(config: "RunConfig", peers: int, folder: Path, prompt: str) -> None:
    """Train, then evaluate, write the summary and print a sample."""
    typer.echo(f"run {config.run.name}: {peers} peers, {config.run.steps} steps, folder {folder}")
    state, interrupted = asyncio.run(_train(config, peers, folder))
    eval_loss, sample = None, ""
    if state.step:
        from swarmtrain.experiments.trained import TrainedModel

        model = TrainedModel.load(folder / "checkpoint")
        eval_loss = model.held_out_loss()
        sample = model.sample(prompt, max_new_tokens=200)
    from swarmtrain.cli.summary import summary_of, write

    write(folder, config, summary_of(config, state, eval_loss))
    if sample:
        typer.echo(f"sample:\n{prompt}{sample}")
    if interrupted:
        sys.exit(INTERRUPTED)


async def _train(config: "RunConfig", peers: int, folder: Path) -> tuple["RunState", bool]:
    from swarmtrain.cli.progress import Progress
    from swarmtrain.experiments.local import LocalSwarm

    interrupted = False
    with Progress(config.run.steps) as progress:

        def changed(state: "RunState", entry: dict[str, Any]) -> None:
            show(progress, state, entry)

        swarm = LocalSwarm(config, peers, folder, changed)

        def drain() -> None:
            nonlocal interrupted
            interrupted = True
            progress.note("stopping; Ctrl+C again leaves at once")
            swarm.drain()

        with interrupts(drain):
            state = await swarm.run()
    return state, interrupted
