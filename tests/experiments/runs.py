"""Small runs for tests: the reference and the virtual world side by side, and what both must share."""

import functools
from dataclasses import dataclass

import torch

from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.events import Event
from swarmtrain.data.stream import Corpus, load_corpus
from swarmtrain.experiments.reference import Reference
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, VirtualRun, simulate

SMALL = (
    "run.seed=7",
    "model.preset=nano",
    "train.microbatches=6",
    "train.microbatch_size=2",
    "train.sequence_length=32",
    "optimizer.warmup_steps=2",
)

MIXED = (
    VirtualPeer("edge-a", (0,)),
    VirtualPeer("edge-b", (0,), slowness=3.0),
    VirtualPeer("middle-a", (1,)),
    VirtualPeer("middle-b", (1,), slowness=10.0),
    VirtualPeer("middle-c", (1, 2)),
    VirtualPeer("last", (2,), slowness=3.0),
    VirtualPeer("edge-c", (0, 2)),
)
"""Three edges, three replicas of each middle stage, hosts of several stages, and 10x uneven machines."""


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What the reference loop ended with."""

    parameters_sha256: str
    losses: tuple[float, ...]
    void: tuple[tuple[int, ...], ...]


def small_config(*overrides: str, steps: int = 4) -> RunConfig:
    """A run of the nano model that takes about 50 ms a step."""
    return load_config((), [*SMALL, f"run.steps={steps}", *overrides])


@functools.cache
def corpus() -> Corpus:
    return load_corpus(small_config().data, None)


def reference(config: RunConfig) -> Yardstick:
    """The plain loop. Some tests patch what it computes with, so nothing is cached."""
    torch.set_num_threads(1)
    loop = Reference(config, corpus(), corpus().tokenizer.vocab_size)
    steps = list(loop.train())
    losses = tuple(step.loss for step in steps)
    return Yardstick(loop.parameters_sha256(), losses, tuple(step.void for step in steps))


@functools.cache
def known_reference(config: RunConfig) -> Yardstick:
    """`reference` of an unpatched world, once per configuration."""
    return reference(config)


def virtual(config: RunConfig, peers: tuple[VirtualPeer, ...], **world: float) -> VirtualRun:
    """The same run in the virtual world; it must reach its last step at every peer."""
    torch.set_num_threads(1)
    run = simulate(config, Scenario(peers, **world), corpus())
    assert [commit.step for commit in run.commits] == list(range(config.run.steps))
    assert all(outcome.finished for outcome in run.outcomes.values())
    return run


def sha_of(run: VirtualRun) -> str:
    return run.commits[-1].parameters_sha256


def losses_of(run: VirtualRun) -> tuple[float, ...]:
    return tuple(commit.loss for commit in run.commits)


def events_of(run: VirtualRun, kind: type[Event]) -> list[Event]:
    return [event for _, _, event in run.events if isinstance(event, kind)]
