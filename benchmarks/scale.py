"""What a swarm of 20 to 1,000 peers says to itself, and what simulating it costs: deploy/scenarios/scale.toml, thinned.

    python benchmarks/scale.py [--peers 20 30 100 300 1000] [--steps 2] [--set section.key=value ...]

One process per size. Bytes and frames are counted on the modelled lines from the first step's opening to the last
commit, by what they are for; payloads (charged bodies) apart. Directory: what reading all records would carry. CPU
seconds are process time, so load lengthens them little; virtual seconds do not depend on the machine at all.
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
from swarmtrain.core.events import StepCommitted, StepOpened
from swarmtrain.data.stream import Corpus, load_corpus
from swarmtrain.experiments.machines import MachineLoop
from swarmtrain.experiments.scenario import read_scenario
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualRun
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


def counted(stage: Stage, counts: Counts) -> None:
    """Count what the stage's lines and directory carry between the first opening and the last commit."""
    way, entries = stage.network.way, stage.hub.entries
    assert way is not None
    stage.network.way = lambda a, b: CountingWay(way(a, b), counts)

    def read(run: str, now: float):  # type: ignore[no-untyped-def]
        found = entries(run, now)
        counts.count("directory", sum(len(entry.sealed) for entry in found) if counts.is_on else 0)
        return found

    stage.hub.entries = read  # type: ignore[method-assign]
    write = stage._write

    def watch(peer, event):  # type: ignore[no-untyped-def]
        write(peer, event)
        if isinstance(event, StepOpened):
            counts.is_on = True
        if isinstance(event, StepCommitted) and event.step + 1 == stage.config.run.steps:
            counts.is_on = False

    stage._write = watch  # type: ignore[method-assign]


def thinned(scenario: Scenario, count: int) -> Scenario:
    """Every so-manieth machine of the scenario, `count` in all, so that edges keep their share."""
    every = len(scenario.peers) / count
    return replace(scenario, peers=tuple(scenario.peers[int(i * every)] for i in range(count)))


def run_one(config: RunConfig, scenario: Scenario, corpus: Corpus) -> tuple[VirtualRun, Counts]:
    counts = Counts()

    async def main() -> VirtualRun:
        stage = Stage(config, scenario, corpus)
        counted(stage, counts)
        return await stage.play(None)

    with asyncio.Runner(loop_factory=MachineLoop) as runner:
        return runner.run(main()), counts


def measure(peers: int, steps: int, overrides: list[str]) -> dict[str, float]:
    """Figures of one size; run in a process of its own, so that memory is this size's alone."""
    torch.set_num_threads(1)
    file = read_scenario(SCALE)
    sizes = [f"run.steps={steps}", f"train.microbatches={min(max(8, peers // 2), MOST_KEYS)}"]
    config = load_config([file.run], [*file.overrides, *sizes, *overrides])
    corpus = load_corpus(config.data, None)
    before_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    begin = time.process_time()
    run, counts = run_one(config, thinned(file.scenario, peers), corpus)
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
        "journal_lines": len(run.journal.lines),
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
