"""What a round of four islands with unequal uplinks costs, gathered whole and in slices, by the running peers.

    python benchmarks/reduce.py [--up 10 50 50 100] [--down 100] [--codec int4]

Virtual time: the 1B model in one machine an island, that many Mbit/s up and down, 50 ms one way; contributions without
zstd. The tensors are tiny ones of as many sections as slices need, charged as the 1B model's. Means over the rounds
after the first, in which nothing is measured yet. Seconds are from the last contribution's making to the last peer's
taking of the result, all stages at once, encoding and summing not charged; sent bytes are an island's, in units of its
own contribution.
"""

import argparse
from collections import defaultdict

import torch

from swarmtrain.core.config import ModelSection, RunConfig, load_config
from swarmtrain.core.events import PeerJoined, RoundChosen, RoundMerged, RoundSent
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.costs import Charged
from swarmtrain.experiments.profiles import MachineProfile
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, VirtualRun, simulate
from swarmtrain.outer import slices

STAGES, INNER_STEPS, ROUNDS = 2, 3, 5


def config_of(codec: str) -> RunConfig:
    steps = INNER_STEPS * ROUNDS + 2
    config = load_config(
        (),
        [
            f"run.steps={steps}", "optimizer.warmup_steps=1", "data.source=stdlib",
            f"model.stages={STAGES}", "model.width=1024", "model.heads=4", "model.kv_heads=1",
            "model.ffn_width=256", "train.microbatches=4", "train.microbatch_size=1",
            "train.sequence_length=4", "train.accumulation=fast", "recovery.snapshot_steps=0",
            "links.heartbeat_seconds=5", "links.silence_seconds=300", "links.connect_seconds=60",
            f"outer.inner_steps={INNER_STEPS}", "outer.delay_steps=1", "outer.zstd_level=0",
            "outer.grace_seconds=80000", f"outer.codec={codec}",
        ],
    )  # fmt: skip
    # A piece of a tiny contribution stands for a hundred, and nothing is heard of it until it is there.
    links = config.links.model_copy(update={"silence_seconds": 2_500.0})
    return config.model_copy(update={"links": links})


def scenario_of(up: list[float], down: float) -> Scenario:
    def machine(mbit: float) -> MachineProfile:
        return MachineProfile(
            description="an H100",
            source="data sheet, dense bf16",
            flops_per_second=989e12,
            utilisation=0.4,
            memory_bytes=1 << 45,
            up_bytes_per_second=mbit * 1e6 / 8,
            down_bytes_per_second=down * 1e6 / 8,
        )

    charged = Charged(ModelSection.model_validate({"preset": "1b"}), 32, 2048, "bf16")
    peers = tuple(
        VirtualPeer(f"island-{at}", tuple(range(STAGES + 1)), machine=machine(mbit), island=at)
        for at, mbit in enumerate(up)
    )
    return Scenario(
        peers,
        latency_seconds=0.05,
        bytes_per_second=1e12,
        stall_seconds=1e6,
        patience_seconds=1e6,
        charged=charged,
    )


def rows_of(run: VirtualRun, islands: int) -> tuple[float, list[float], str]:
    """Seconds a round, each island's sent bytes over its contribution's, and the sections of the last round."""
    island_of = {peer: e.island for _, peer, e in run.events if isinstance(e, PeerJoined)}
    begins: dict[int, float] = defaultdict(float)
    ends: dict[int, float] = defaultdict(float)
    served: dict[tuple[int, int, int], int] = {}
    made_bytes: dict[int, int] = {}
    for at, peer, event in run.events:
        if isinstance(event, RoundSent):
            begins[event.round] = max(begins[event.round], at)
            made_bytes[event.stage] = event.bytes
        if isinstance(event, RoundMerged):
            ends[event.round - 1] = max(ends[event.round - 1], at)
            served[island_of[peer], event.stage, event.round] = event.served_bytes
    rounds = range(1, ROUNDS)
    seconds = sum(ends[number] - begins[number] for number in rounds) / len(rounds)
    stages = range(STAGES + 1)
    sent = [
        sum(served[island, stage, ROUNDS] - served[island, stage, 1] for stage in stages)
        / sum(made_bytes[stage] for stage in stages)
        / len(rounds)
        for island in range(islands)
    ]
    last = [e for _, _, e in run.events if isinstance(e, RoundChosen) and e.round == ROUNDS - 1]
    cut = "; ".join(
        f"stage {stage}: {' '.join(map(str, next(e.sections for e in last if e.stage == stage)))}"
        for stage in stages
    )
    return seconds, sent, cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--up", nargs="+", type=float, default=[10, 50, 50, 100])
    parser.add_argument("--down", type=float, default=100)
    parser.add_argument("--codec", default="int4")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config, scenario = config_of(options.codec), scenario_of(options.up, options.down)
    corpus = load_corpus(config.data, None)
    least_saving = slices.LEAST_SAVING
    for way, saving in (("gathered", 1.0), ("in slices", least_saving)):
        slices.LEAST_SAVING = saving
        run = simulate(config, scenario, corpus)
        seconds, sent, cut = rows_of(run, len(options.up))
        said = " ".join(f"{ratio:.2f}" for ratio in sent)
        print(f"{way}: {seconds:.1f} s a round; contributions sent by each island: {said}; {cut}")


if __name__ == "__main__":
    main()
