"""`swarmtrain bench`: what this machine would be worth to a run, without joining one."""

import json
from typing import Annotated, Any

import typer

from swarmtrain.cli.settings import Overrides, RunFile


def bench(
    files: RunFile = None,
    overrides: Overrides = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Memory to plan with, as 6GiB; default 80% of what is free")
    ] = None,
    output: Annotated[str, typer.Option("-o", "--output", help="table or json")] = "table",
) -> None:
    """Measure this machine with a run's model: seconds a microbatch takes, and the stages that fit.

    Example: swarmtrain bench RUN.toml

    The same self-test as a joining peer's. Links are measured while a run goes: swarmtrain status HOST:PORT --links
    """
    import asyncio

    from swarmtrain.cli.settings import read_config
    from swarmtrain.core.units import parse_bytes

    config = read_config(files, overrides, None)
    memory_bytes = parse_bytes(max_memory) if max_memory is not None else None
    found = asyncio.run(_measured(config, memory_bytes))
    typer.echo(json.dumps(found, indent=2) if output == "json" else _table(found))


async def _measured(config: Any, memory_bytes: int | None) -> dict[str, Any]:
    import torch

    from swarmtrain.compute.bench import capacity_stages, measure
    from swarmtrain.compute.lane import ThreadLane
    from swarmtrain.core.sizes import vocabulary
    from swarmtrain.peer.joining import kernel_class, usable_memory_bytes

    torch.set_num_threads(config.limits.threads)
    usable_bytes = usable_memory_bytes() if memory_bytes is None else memory_bytes
    lane = ThreadLane(lambda *_: None)
    try:
        measured = await measure(config, lane, usable_bytes)
    finally:
        await lane.close()
    pass_seconds = measured.forward_seconds + measured.backward_seconds
    return {
        "forward_seconds": measured.forward_seconds,
        "backward_seconds": measured.backward_seconds,
        "tokens_per_second": config.train.tokens_per_microbatch / pass_seconds,
        "memory_bytes": usable_bytes,
        "capacity_stages": capacity_stages(config, vocabulary(config.model), usable_bytes),
        "stages": config.model.stages + 1,
        "kernel_class": kernel_class(config.limits.threads),
        "how": measured.reason,
    }


def _table(found: dict[str, Any]) -> str:
    from swarmtrain.core.units import format_bytes

    fitting, stages = found["capacity_stages"], found["stages"]
    return "\n".join(
        [
            f"one microbatch through one middle stage: {found['forward_seconds']:.4g} s forward, "
            f"{found['backward_seconds']:.4g} s backward",
            f"that is {found['tokens_per_second']:,.0f} tokens/s with one stage",
            f"{format_bytes(found['memory_bytes'])} may be used: {fitting} of the {stages} stages fit",
            f"kernels: {found['kernel_class']}",
            f"({found['how']})",
        ]
    )
