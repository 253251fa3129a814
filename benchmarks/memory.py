"""What a microbatch costs a peer in memory and on its links: measured beside the arithmetic, for every codec.

    python benchmarks/memory.py [--out FILE.json]

Three peers in virtual time (real peers, real tensors, real frames on in-memory links): the edge with stage 1, and
two replicas of stage 2. Bytes on links are those of LinkStats between two commits, one direction of a pair; kept
bytes are the peak of Store.retained_bytes. Graph bytes are the storages that autograd saves, and the growth of the
resident set while graphs are kept.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.shapes import Shape
from swarmtrain.compute.stage import MiddleCompute, Tape
from swarmtrain.core.clock import run_virtual
from swarmtrain.core.config import RunConfig
from swarmtrain.core.sizes import FIXED_POINT_BYTES, memory_estimate, stage_parameters
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualPeer, play
from swarmtrain.wire.codecs import codec_named

SHAPE = Shape(256, 8, 4, 688, 2, 8, 4, 128)
STEPS = 5
PEERS = (VirtualPeer("edge", (0, 1)), VirtualPeer("first", (2,)), VirtualPeer("second", (2,)))
LOOK_SECONDS = 0.01
GRAPHS = 8
CODECS = ("none", "bf16", "int8")

Pair = tuple[str, str]


@dataclass(slots=True)
class Seen:
    """Peaks of kept bytes by peer, and the bytes sent over every pair of peers at each commit."""

    retained_bytes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    sent_bytes: list[dict[Pair, int]] = field(default_factory=list)

    def per_step(self, pair: Pair) -> float:
        """Bytes a step from the first peer of `pair` to the second; the median over steps."""
        totals = [sent.get(pair, 0) for sent in self.sent_bytes]
        return statistics.median(b - a for a, b in itertools.pairwise(totals))


async def watch(stage: Stage, seen: Seen) -> None:
    """Look at stores and links all the time; a commit takes no virtual time at all, so none is missed."""
    names = {session.options.me: name for name, session in stage.sessions.items()}
    while True:
        for name, session in stage.sessions.items():
            if session.runtime is not None:
                retained = session.runtime.worker.store.retained_bytes
                seen.retained_bytes[name] = max(seen.retained_bytes[name], retained)
        if len(stage.run.commits) > len(seen.sent_bytes):
            sent: dict[Pair, int] = defaultdict(int)
            for name, session in stage.sessions.items():
                for link in session.links.open_links:
                    sent[name, names[link.remote.peer]] += link.stats.bytes_sent
            seen.sent_bytes.append(sent)
        await asyncio.sleep(LOOK_SECONDS)


def run_watched(config: RunConfig) -> Seen:
    seen = Seen()
    scenario = Scenario(PEERS, latency_seconds=0.001, bytes_per_second=1e9)
    corpus = load_corpus(config.data, None)

    def script(stage: Stage) -> "asyncio.Future[None]":
        return asyncio.ensure_future(watch(stage, seen))

    run_virtual(play(config, scenario, corpus, script))
    return seen


def graph_bytes(compute: MiddleCompute, x_BTD: Tensor) -> int:
    """Bytes autograd saves in one forward, each storage once, parameters left out."""
    flat = compute.flat.values.untyped_storage().data_ptr()
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() != flat:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        tape = compute.forward(x_BTD)
        total = sum(saved.values())
    del tape
    return total


def resident_bytes(compute: MiddleCompute, x_BTD: Tensor) -> float:
    """Growth of the resident set for each graph that is kept."""
    process = psutil.Process()
    kept: list[Tape] = [compute.forward(x_BTD.clone())]
    before = process.memory_info().rss
    kept += [compute.forward(x_BTD.clone()) for _ in range(GRAPHS)]
    return (process.memory_info().rss - before) / GRAPHS


def link_rows(config: RunConfig, seen: Seen) -> list[dict[str, Any]]:
    """Every direction of a pair: bulk by the arithmetic, and what was sent."""
    train, model = config.train, config.model
    boundary = codec_named(config.wire.codec).encoded_bytes(
        train.tokens_per_microbatch * model.width
    )
    # Keys alternate between the replicas; each hop carries one boundary tensor there and one back.
    hop_bytes = 2 * boundary * train.microbatches // 2
    elements = stage_parameters(model, 0, 2)
    # With two replicas each sends the other half of its own sum, and then its half of the whole one.
    reduce_bytes = elements * (FIXED_POINT_BYTES if train.accumulation == "exact" else 4)
    pairs = {
        ("edge", "first"): hop_bytes,
        ("first", "edge"): hop_bytes,
        ("first", "second"): reduce_bytes,
        ("second", "first"): reduce_bytes,
    }
    return [
        {"from": a, "to": b, "arithmetic_bytes": bulk, "measured_bytes": seen.per_step((a, b))}
        for (a, b), bulk in pairs.items()
    ]


def measure(codec: str) -> dict[str, Any]:
    config = SHAPE.config(STEPS, accumulation="exact", codec=codec)
    seen = run_watched(config)
    vocab_size = load_corpus(config.data, None).tokenizer.vocab_size
    kept = {}
    for peer in PEERS:
        assert peer.stages is not None
        estimate = memory_estimate(config, vocab_size, peer.stages).retained_bytes
        kept[peer.name] = {"estimate": estimate, "measured": seen.retained_bytes[peer.name]}
    return {"codec": codec, "links": link_rows(config, seen), "retained": kept}


def measure_graph() -> dict[str, float]:
    config = SHAPE.config(STEPS)
    compute = MiddleCompute(config, 1)
    train = config.train
    x_BTD = torch.randn(train.microbatch_size, train.sequence_length, config.model.width)
    estimate = memory_estimate(config, 0, (1,))
    return {
        "estimate": estimate.graph_bytes / (1 + config.limits.slots_shared),
        "saved": graph_bytes(compute, x_BTD),
        "resident": resident_bytes(compute, x_BTD),
    }


def print_tables(graph: dict[str, float], rows: list[dict[str, Any]]) -> None:
    print("| one microbatch's graph, one stage | bytes |\n|---|---|")
    for name, value in graph.items():
        print(f"| {name} | {value:,.0f} |")
    print(
        "\n| codec | from | to | arithmetic, bytes a step | measured | more |\n|---|---|---|---|---|---|"
    )
    for row in rows:
        for link in row["links"]:
            bulk, sent = link["arithmetic_bytes"], link["measured_bytes"]
            more = 100 * (sent / bulk - 1)
            print(
                f"| {row['codec']} | {link['from']} | {link['to']} | {bulk:,} | {sent:,.0f} | {more:.2f} % |"
            )
    print("\n| codec | peer | retained: estimate | measured peak |\n|---|---|---|---|")
    for row in rows:
        for name, kept in row["retained"].items():
            print(f"| {row['codec']} | {name} | {kept['estimate']:,} | {kept['measured']:,} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and bytes a microbatch costs a peer")
    parser.add_argument("--out", type=Path, help="write all figures to this JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    graph = measure_graph()
    rows = [measure(codec) for codec in CODECS]
    print_tables(graph, rows)
    if options.out:
        content = {"graph": graph, "codecs": rows}
        options.out.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
