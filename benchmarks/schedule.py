"""A step in virtual time beside the ideal of 1F1B, for deep pipelines and few slots: `python benchmarks/schedule.py`.

Real peers and the real lane order on modelled compute (a stage takes 50 ms forward and 100 ms backward, the edge
next to nothing) and links (0.5 ms, 1 GB/s): the load of this machine has no part in the figures. The model charges
a backward as a whole, so what split backward gains does not show here.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import swarmtrain.experiments.virtual as virtual
from swarmtrain.compute.lane import Observer, Task, VirtualLane
from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.types import EDGE_STAGE
from swarmtrain.data.stream import load_corpus

FORWARD_SECONDS, BACKWARD_SECONDS = 0.05, 0.1
KEYS = 8
SLOTS_SHARED = (2, 4, 7)
LAYOUTS: tuple[tuple[str, tuple[tuple[int, ...], ...]], ...] = (
    ("2 peers, 1 stage each", ((0, 1), (2,))),
    ("2 peers, 2 stages each", ((0, 1, 2), (3, 4))),
    ("4 peers, 1 stage each", ((0, 1), (2,), (3,), (4,))),
    ("4 peers, 2 stages each", ((0, 1, 2), (3, 4), (5, 6), (7, 8))),
    ("8 peers, 1 stage each", ((0, 1), *((stage,) for stage in range(2, 9)))),
)


class CheapEdge(VirtualLane):
    """The scenario charges embedding and head like a stage; beside real stages they are next to nothing."""

    def __init__(
        self, cost_seconds: Callable[[Task], float], observe: Observer | None = None
    ) -> None:
        super().__init__(
            lambda task: cost_seconds(task) * (0.001 if task.stage == EDGE_STAGE else 1.0), observe
        )


def config_of(stages: int, slots_shared: int) -> RunConfig:
    settings = ["model.width=16", "model.heads=2", "model.kv_heads=1", "model.ffn_width=16"]
    settings += [f"model.stages={stages}", f"train.microbatches={KEYS}", "run.steps=3"]
    settings += ["train.microbatch_size=1", "train.sequence_length=8", "optimizer.warmup_steps=0"]
    return load_config([], [*settings, f"limits.slots_shared={slots_shared}"])


def step_seconds(layout: tuple[tuple[int, ...], ...], slots_shared: int) -> float:
    config = config_of(max(map(max, layout)), slots_shared)
    peers = tuple(virtual.VirtualPeer(f"p{index}", stages) for index, stages in enumerate(layout))
    scenario = virtual.Scenario(peers, 0.0005, 1e9, FORWARD_SECONDS, BACKWARD_SECONDS)
    run = virtual.simulate(config, scenario, load_corpus(config.data, None))
    return run.commits[-1].seconds


def main() -> None:
    torch.set_num_threads(1)
    virtual.VirtualLane = CheapEdge  # type: ignore[misc]
    print(
        "| layout | 1F1B, ideal s | " + " | ".join(f"{n} shared slots" for n in SLOTS_SHARED) + " |"
    )
    print("|---|---|" + "---|" * len(SLOTS_SHARED))
    for name, layout in LAYOUTS:
        stages_each = len(layout[-1])
        ideal = (KEYS + len(layout) - 1) * stages_each * (FORWARD_SECONDS + BACKWARD_SECONDS)
        cells = [f"{step_seconds(layout, slots):.2f}" for slots in SLOTS_SHARED]
        print(f"| {name} | {ideal:.2f} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
