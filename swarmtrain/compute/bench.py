"""A machine's own figures: how long one middle stage takes here, and how many stages its memory holds."""

import asyncio
import math
from collections.abc import Callable

import torch

from swarmtrain.compute.lane import Kind, Lane, Task
from swarmtrain.compute.place import HERE, Place
from swarmtrain.compute.stage import MiddleCompute, Tape
from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import Measured
from swarmtrain.core.sizes import memory_estimate
from swarmtrain.core.units import format_bytes

LEAST_REPEATS = 3
MOST_REPEATS = 12
ENOUGH_SECONDS = 0.5
"""Small models are measured more often: other work on the machine then hides less of its speed."""


async def measure(
    config: RunConfig, lane: Lane, memory_bytes: int, place: Place = HERE
) -> Measured:
    """Seconds of one microbatch through one middle stage: the best of several, of one block times its count.

    Rounded up to half an octave, so that equal machines under some other work report equal figures.
    """
    forward, backward = _passes(config, lane.is_modelled, place)
    train = config.train
    loop = asyncio.get_running_loop()
    forward_seconds = backward_seconds = math.inf
    begin, repeats = loop.time(), 0
    while repeats < LEAST_REPEATS or (
        repeats < MOST_REPEATS and loop.time() - begin < ENOUGH_SECONDS
    ):
        repeats += 1
        start = loop.time()
        await lane.submit(Task(Kind.FORWARD, 1), forward)
        middle = loop.time()
        await lane.submit(Task(Kind.BACKWARD, 1), backward)
        forward_seconds = min(forward_seconds, middle - start)
        backward_seconds = min(backward_seconds, loop.time() - middle)
    blocks = config.model.blocks_per_stage
    return Measured(
        forward_seconds=_rounded_up(forward_seconds * blocks),
        backward_seconds=_rounded_up(backward_seconds * blocks),
        memory_bytes=memory_bytes,
        reason=f"best of {repeats} microbatches of {train.microbatch_size} x {train.sequence_length}"
        f" tokens through one block, times {blocks}, on {place.name}; {format_bytes(memory_bytes)} may be used",
    )


def _passes(
    config: RunConfig, is_modelled: bool, place: Place
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Forward and backward of one microbatch through one block; nothing where only modelled seconds count."""
    if is_modelled:
        return lambda: None, lambda: None
    single = config.model_copy(
        update={"model": config.model.model_copy(update={"blocks_per_stage": 1})}
    )
    compute, tapes = MiddleCompute(single, 1, place), list[Tape]()
    train, width = config.train, config.model.width
    x_BTD = torch.ones(train.microbatch_size, train.sequence_length, width)
    return (
        lambda: tapes.append(compute.forward(x_BTD)),
        lambda: _discard(compute.backward(tapes.pop(), x_BTD)),
    )


def _discard(result: object) -> None:
    """Only its seconds matter."""


def capacity_stages(config: RunConfig, vocab_size: int, memory_bytes: int) -> int:
    """How many stages fit into `memory_bytes`, the edge among them."""
    fitting = 0
    while fitting <= config.model.stages:
        stages = range(fitting + 1)
        if memory_estimate(config, vocab_size, stages).total_bytes > memory_bytes:
            break
        fitting += 1
    return fitting


def _rounded_up(seconds: float) -> float:
    return float(2.0 ** (math.ceil(2 * math.log2(max(seconds, 1e-9))) / 2))
