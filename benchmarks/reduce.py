"""What a round of four islands with unequal uplinks costs, gathered whole and in slices, by the running peers.

    python benchmarks/reduce.py [--up 10 50 50 100] [--down 100] [--codec int4]

Virtual time: a model of 6.5M parameters in one machine an island, that many Mbit/s up and down, 50 ms one way;
contributions without zstd. Means over the last rounds: in the first two nobody has measured much. Seconds are from the
last contribution's making to the last peer's taking of the result, all stages at once, encoding and summing not
charged. Received bytes are an island's, in units of its own contribution, as its journal has them; what it sends is
arithmetic from the slices that were chosen, (1 - s) + s (R - 1), and (R - 1) where all is gathered.
"""

import argparse
from collections import defaultdict

import torch

from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.events import PeerJoined, RoundChosen, RoundMerged, RoundSent
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.profiles import MachineProfile
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, VirtualRun, simulate
from swarmtrain.outer import slices

STAGES, INNER_STEPS, ROUNDS = 2, 3, 8
FIRST = 3
"""The first round that is counted."""


def config_of(codec: str) -> RunConfig:
    steps = INNER_STEPS * (ROUNDS + 1)
    return load_config(
        (),
        [
            f"run.steps={steps}", "optimizer.warmup_steps=1", "data.source=stdlib",
            f"model.stages={STAGES}", "model.width=1024", "model.heads=4", "model.kv_heads=1",
            "model.ffn_width=256", "train.microbatches=4", "train.microbatch_size=1",
            "train.sequence_length=4", "train.accumulation=fast", "recovery.snapshot_steps=0",
            f"outer.inner_steps={INNER_STEPS}", "outer.delay_steps=1", "outer.zstd_level=0",
            "outer.grace_seconds=600", f"outer.codec={codec}",
        ],
    )  # fmt: skip


def scenario_of(up: list[float], down: float) -> Scenario:
    def machine(mbit: float) -> MachineProfile:
        return MachineProfile(
            description="a step takes about a second",
            source="made up",
            flops_per_second=1.5e9,
            utilisation=0.4,
            memory_bytes=1 << 45,
            up_bytes_per_second=mbit * 1e6 / 8,
            down_bytes_per_second=down * 1e6 / 8,
        )

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
    )


def summed_up(run: VirtualRun, islands: int) -> str:
    """Seconds a round, what each island received and sent, and who owned how many sections in the last round."""
    island_of = {peer: e.island for _, peer, e in run.events if isinstance(e, PeerJoined)}
    begins: dict[int, float] = defaultdict(float)
    ends: dict[int, float] = defaultdict(float)
    received: dict[tuple[int, int, int], int] = {}
    made_bytes: dict[int, int] = {}
    shares: dict[tuple[int, int], dict[str, float]] = {}
    for at, peer, event in run.events:
        if isinstance(event, RoundSent):
            begins[event.round] = max(begins[event.round], at)
            made_bytes[event.stage] = event.bytes
        if isinstance(event, RoundChosen):
            owned = dict(zip(event.owners, event.sections, strict=True))
            shares[event.stage, event.round] = {
                p: count / sum(owned.values()) for p, count in owned.items()
            }
        if isinstance(event, RoundMerged):
            ends[event.round - 1] = max(ends[event.round - 1], at)
            received[island_of[peer], event.stage, event.round] = event.received_bytes
    stages = range(STAGES + 1)
    # The first island to reach the run's end does not wait for the others.
    last = min(max(r for i, s, r in received if (i, s) == at) for at in {k[:2] for k in received})
    rounds = range(FIRST, last)
    seconds = sum(ends[number] - begins[number] for number in rounds) / len(rounds)
    whole_bytes = sum(made_bytes.values()) * len(rounds)
    said = [f"{seconds:.2f} s a round"]
    for peer, island in sorted(island_of.items(), key=lambda entry: entry[1]):
        got = sum(received[island, s, last] - received[island, s, FIRST] for s in stages)
        sent = sum(
            made_bytes[s] * _sent(shares[s, number], peer, islands)
            for s in stages
            for number in rounds
        )
        owned = {f"{shares[s, last - 1].get(peer, 0):.2f}" for s in stages}
        share = " to ".join(sorted(owned))
        said.append(
            f"island {island}: received {got / whole_bytes:.2f}, sent {sent / whole_bytes:.2f}, owned {share}"
        )
    return "\n    ".join(said)


def _sent(shares: dict[str, float], peer: str, islands: int) -> float:
    """In contributions."""
    if not shares:
        return islands - 1.0
    unit = slices.Sizes(1, 1, 1)
    return slices.sent_bytes(unit, shares.get(peer, 0.0), islands)


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
        print(f"{way}: {summed_up(run, len(options.up))}", flush=True)


if __name__ == "__main__":
    main()
