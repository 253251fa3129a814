"""What a swarm of 20 to 10,000 peers says to itself, and what simulating it costs: deploy/scenarios/scale.toml.

    python benchmarks/scale.py [--peers 20 30 100 300 1000] [--steps 2] [--set section.key=value ...]

One process per size. Bytes and frames are counted on the modelled lines from the first step's opening to the last
commit, by what they are for; payloads (charged bodies) apart. Directory: what reading all records would carry. CPU
seconds are process time, so load lengthens them little; virtual seconds do not depend on the machine at all.

Stages have 128 elements, which make eight slices of a reduce: above 136 peers some replicas own none, and a reduce
carries less than it would of the model that is charged (--set model.width=1024 for 1,000 peers; the links are many).
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.events import Event, StepCommitted, StepOpened
from swarmtrain.core.types import PeerId
from swarmtrain.data.stream import Corpus, load_corpus
from swarmtrain.experiments.scenario import read_scenario
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualRun, simulate
from swarmtrain.swarm.memory_directory import View
from swarmtrain.transport.frames import Kind
from swarmtrain.transport.memory_pipe import Way

SCALE = Path(__file__).parents[1] / "deploy" / "scenarios" / "scale.toml"
MOST_KEYS = 150
"""A peer must have room for every key of a step (R13); with 500 of them none of the T4 could take a stage."""
LINK = (Kind.PING, Kind.PONG, Kind.ACK, Kind.NOTE, Kind.HELLO, Kind.WELCOME, Kind.BYE)


@dataclass
class Counts:
    """Frames and bytes by purpose, from when `is_on`."""

    is_on: bool = False
    frames: int = 0
    events: int = 0
    bytes_by: Counter[str] = field(default_factory=Counter)

    def count(self, purpose: str, count_bytes: float) -> None:
        if self.is_on:
            self.frames += purpose != "directory"
            self.bytes_by[purpose] += int(count_bytes)


@dataclass
class CountingWay:
    """A way that counts what passes it."""

    way: Way
    counts: Counts

    def carry(self, frame: bytes, now: float, rate: float) -> tuple[float, bool]:
        left_seconds, is_body = self.way.carry(frame, now, rate)
        kind = Kind(frame[0])
        purpose = "link" if kind in LINK else "step" if kind is Kind.TELL else "calls"
        self.counts.count(purpose, min(len(frame), 1024) if is_body else len(frame))
        return left_seconds, is_body


class CountedStage(Stage):
    """Counts what its lines and directory carry between the first opening and the last commit."""

    def __init__(self, config: RunConfig, scenario: Scenario, corpus: Corpus) -> None:
        super().__init__(config, scenario, corpus)
        self.counts = counts = Counts()
        way, look = self.network.way, self.hub.look
        assert way is not None
        self.network.way = lambda a, b: CountingWay(way(a, b), counts)

        def read(run: str, now: float) -> View:
            view = look(run, now)
            counts.count("directory", view.sealed_bytes)
            return view

        self.hub.look = read  # type: ignore[method-assign]

    def _write(self, peer: PeerId, event: Event) -> None:
        """Events are counted; a journal of ten thousand peers would be most of the memory."""
        self.counts.events += 1
        if isinstance(event, StepOpened | StepCommitted):
            self.run.events.append((asyncio.get_running_loop().time(), peer, event))
        if isinstance(event, StepOpened):
            self.counts.is_on = True
        if isinstance(event, StepCommitted) and event.step + 1 == self.config.run.steps:
            self.counts.is_on = False


def sized(scenario: Scenario, count: int) -> Scenario:
    """`count` of the scenario's machines: every so-manieth, so that edges keep their share, or each several times."""
    copies = -(-count // len(scenario.peers))
    machines = [
        replace(peer, name=f"{peer.name}-copy{copy}" if copy else peer.name)
        for peer in scenario.peers
        for copy in range(copies)
    ]
    every = len(machines) / count
    return replace(scenario, peers=tuple(machines[int(i * every)] for i in range(count)))


def run_one(config: RunConfig, scenario: Scenario, corpus: Corpus) -> tuple[VirtualRun, Counts]:
    scenes: list[CountedStage] = []

    class Kept(CountedStage):
        def __init__(self, config: RunConfig, scenario: Scenario, corpus: Corpus) -> None:
            super().__init__(config, scenario, corpus)
            scenes.append(self)

    return simulate(config, scenario, corpus, Kept), scenes[0].counts


def measure(peers: int, steps: int, overrides: list[str]) -> dict[str, float]:
    """Figures of one size; run in a process of its own, so that memory is this size's alone."""
    torch.set_num_threads(1)
    file = read_scenario(SCALE)
    sizes = [f"run.steps={steps}", f"train.microbatches={min(max(8, peers // 2), MOST_KEYS)}"]
    config = load_config([file.run], [*file.overrides, *sizes, *overrides])
    corpus = load_corpus(config.data, None)
    before_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    begin = time.process_time()
    run, counts = run_one(config, sized(file.scenario, peers), corpus)
    cpu_seconds = time.process_time() - begin
    opened = [at for at, _, event in run.events if isinstance(event, StepOpened)]
    committed = [at for at, _, event in run.events if isinstance(event, StepCommitted)]
    if len(committed) < steps:
        return {"peers": peers, "steps": len(committed), "cpu_seconds": cpu_seconds}
    seconds = committed[-1] - opened[0]
    per_peer_second = {name: total / peers / seconds for name, total in counts.bytes_by.items()}
    grown_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before_bytes
    return {
        "peers": peers,
        "steps": len(committed),
        "step_seconds": seconds / steps,
        **{f"{name}_bytes_per_peer_second": value for name, value in per_peer_second.items()},
        "step_kib_per_peer_step": counts.bytes_by["step"] / peers / steps / 1024,
        "frames_per_virtual_second": counts.frames / seconds,
        "frames_per_cpu_second": counts.frames / cpu_seconds,
        "events": counts.events,
        "events_per_cpu_second": counts.events / cpu_seconds,
        "cpu_seconds": cpu_seconds,
        "cpu_seconds_per_virtual_second": cpu_seconds / run.seconds,
        "kib_per_peer": grown_bytes / peers / 1024,
        "departures": len(run.injected),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, nargs="+", default=[20, 30, 100, 300, 1000])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.peers[0], options.steps, options.overrides)))
        return
    for count in options.peers:
        arguments = ["--one", "--peers", str(count), "--steps", str(options.steps)]
        arguments += [part for entry in options.overrides for part in ("--set", entry)]
        done = subprocess.run(
            [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
        )
        figures = json.loads(done.stdout.splitlines()[-1])
        print("  ".join(f"{name} {value:,.4g}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
