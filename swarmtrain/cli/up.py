"""`swarmtrain up`: the whole swarm on this machine, from start to sample."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from swarmtrain.cli.host import INTERRUPTED, interrupts
from swarmtrain.core.errors import ConfigError

if TYPE_CHECKING:
    from swarmtrain.coordinator.state import RunState
    from swarmtrain.core.config import RunConfig
    from swarmtrain.experiments.emulated import Emulated
    from swarmtrain.experiments.local import Kill
    from swarmtrain.monitor.sinks import ToOpen


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What was asked for on the command line."""

    peers: int
    islands: int
    stages: tuple[str, ...]
    kill: "Kill | None"
    prompt: str
    verify: bool
    resume: bool
    dashboard: str
    device: str
    sinks: "ToOpen"
    machines: "tuple[Emulated, ...]"


def parse_kill(text: str | None, peers: int) -> "Kill | None":
    """`2@100`: peer 2 after 100 steps. Raises ConfigError."""
    from swarmtrain.experiments.local import Kill

    if text is None:
        return None
    peer, _, step = text.partition("@")
    if peer.isdecimal() and step.isdecimal() and 1 <= int(peer) <= peers and int(step) >= 1:
        return Kill(int(peer), int(step))
    raise ConfigError(
        f"--kill {text!r} names no peer and step",
        f"it is PEER@STEP with a peer from 1 to {peers} and a step from 1 on",
        "write for example --kill 2@100",
    )


def run_up(config: "RunConfig", folder: Path, options: UpOptions) -> None:
    """Train, then evaluate, write the summary, print a sample, and compare with the plain loop if asked."""
    from swarmtrain.cli.summary import summary_of, write

    if options.verify and config.paths.visits == "planned":
        raise ConfigError(
            "--verify does not go with paths.visits = planned",
            "the planner chooses the stages from what it measures, which the plain loop cannot repeat",
            "set paths.visits = seeded, or leave --verify out",
        )
    if options.islands > 1 and not config.outer.inner_steps:
        raise ConfigError(
            f"--islands {options.islands} would train {options.islands} models that never meet",
            "outer.inner_steps = 0 means that there are no outer rounds",
            "say how many steps a round has, as in --set outer.inner_steps=50",
        )
    if options.verify and options.islands > 1:
        raise ConfigError(
            "--verify does not go with --islands",
            "it compares one swarm with the plain loop",
            "leave one of them out",
        )
    each = f" in each of {options.islands} islands" if options.islands > 1 else ""
    typer.echo(
        f"run {config.run.name}: {options.peers} peers{each}, {config.run.steps} steps, folder {folder}"
    )
    state, checkpoint, interrupted = asyncio.run(_train(config, folder, options))
    eval_loss, sample = None, ""
    if state.step:
        from swarmtrain.cli.model import checkpoint_folder
        from swarmtrain.experiments.trained import TrainedModel
        from swarmtrain.model.registry import trust_family

        trust_family(config.model)
        model = TrainedModel.load(checkpoint or checkpoint_folder(folder))
        eval_loss = model.held_out_loss()
        sample = model.sample(options.prompt, max_new_tokens=200)
    write(folder, config, summary_of(config, state, eval_loss))
    if sample:
        typer.echo(f"sample:\n{options.prompt}{sample}")
    if interrupted:
        sys.exit(INTERRUPTED)
    if options.verify and not _verify(config, state):
        sys.exit(1)


def _verify(config: "RunConfig", state: "RunState") -> bool:
    """Whether the plain loop ends with the same parameters; said in words."""
    from swarmtrain.cli.progress import Count
    from swarmtrain.data.stream import load_corpus
    from swarmtrain.experiments.reference import Reference

    typer.echo(f"verifying: the same {state.step} steps as one plain loop ...")
    corpus = load_corpus(config.data, None)
    loop = Reference(config, corpus, config.model.vocab_size or corpus.tokenizer.vocab_size)
    count = Count("steps")
    for done in loop.train():
        count(done.step + 1, state.step)
        if done.step + 1 == state.step:
            break
    equal = loop.parameters_sha256() == state.parameters_sha256
    typer.echo(
        "verified: the parameters are equal, bit for bit"
        if equal
        else f"NOT EQUAL: the plain loop has {loop.parameters_sha256()}"
    )
    return equal


async def _train(
    config: "RunConfig", folder: Path, options: UpOptions
) -> tuple["RunState", Path | None, bool]:
    """How the run ended, the checkpoint of that, and whether it was interrupted."""
    from swarmtrain.cli.progress import Progress
    from swarmtrain.cli.story import Story
    from swarmtrain.experiments.local import LocalSwarm

    interrupted = False
    with Progress(config.run.steps) as progress:
        swarm = LocalSwarm(
            config, options.peers, folder, Story(progress), options.stages, options.kill
        )
        swarm.resume, swarm.islands = options.resume, options.islands
        swarm.dashboard = options.dashboard
        swarm.shown_at = lambda url: progress.note(f"dashboard  {url}")
        swarm.device, swarm.sinks = options.device, options.sinks
        swarm.machines = options.machines

        def drain() -> None:
            nonlocal interrupted
            interrupted = True
            progress.note("stopping; Ctrl+C again leaves at once")
            swarm.drain()

        with interrupts(drain):
            state = await swarm.run()
    return state, swarm.checkpoint, interrupted
