"""A volunteer's caps with real processes: what the kernel says its sockets carried, and what its memory came to.

    python -m benchmarks.caps [--seconds 40] [--rows free upload download day memory] [-o json]

A coordinator and two other peers train beside one volunteer process with the caps of each row. Bytes are those of all
TCP sockets of that process and of the directory's child, as `ss` (iproute2) reads them from the kernel five times a
second; memory is the resident set of both. It fails (exit code 1) when a cap was broken.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.sizes import memory_estimate, vocabulary
from swarmtrain.core.units import (
    format_bytes,
    format_bytes_per_second,
    parse_bytes,
    parse_bytes_per_second,
)
from swarmtrain.experiments.children import Child, start_child, stop_all
from swarmtrain.experiments.local import new_coordinator, open_directory

LOOK_SECONDS = 0.2
WINDOW_SECONDS = 10.0
TOLERANCE = 1.05
START_SECONDS = 240.0
NAME = "volunteer"

MODEL = (
    "run.seed=7",
    "run.steps=1000000",
    "model.preset=nano",
    "model.width=256",
    "train.microbatches=8",
    "train.microbatch_size=4",
    "train.sequence_length=128",
    "train.accumulation=fast",
    "optimizer.warmup_steps=2",
    "swarm.min_peers=3",
)
OTHERS, STAGES = ("0:1", "0:2"), "1:2"

WIDE = ("model.width=1024", "train.microbatch_size=1", "train.sequence_length=64")
"""Stages that outweigh the program itself."""

PROGRAM_BYTES = 500 << 20
"""What the process takes beside its stages (peer.joining), with a few MiB to spare: a tight cap is this and them."""

ROWS: dict[str, tuple[str, ...]] = {
    "free": (),
    "upload": ("--upload-limit", "20Mbit"),
    "upload-slow": ("--upload-limit", "5Mbit"),
    "download": ("--download-limit", "20Mbit"),
    "day": ("--daily-transfer", "100MB", "--upload-limit", "40Mbit"),
    "memory": ("--memory", "tight"),
}


@dataclass
class Seen:
    """What a volunteer's processes did: (seconds, bytes sent, bytes received) in all, and the most they held."""

    totals: list[tuple[float, int, int]] = field(default_factory=list)
    largest_rss_bytes: int = 0
    _sockets: dict[str, tuple[int, int]] = field(default_factory=dict)

    def look(self, pid: int, now_seconds: float) -> None:
        """Read sockets and memory of a process and its children. A socket that closed keeps its last figures."""
        try:
            process = psutil.Process(pid)
            family = [process, *process.children(recursive=True)]
            rss_bytes = sum(member.memory_info().rss for member in family)
        except psutil.Error:
            return
        self.largest_rss_bytes = max(self.largest_rss_bytes, rss_bytes)
        for name, figures in socket_bytes({member.pid for member in family}).items():
            self._sockets[name] = figures
        sent, received = (
            map(sum, zip(*self._sockets.values(), strict=True)) if self._sockets else (0, 0)
        )
        self.totals.append((now_seconds, sent, received))

    def busiest(self, column: int, after_seconds: float) -> float:
        """Bytes a second in the busiest window that begins `after_seconds` after the first look, or later."""
        most, first = 0.0, 0
        begin_seconds = self.totals[0][0] + after_seconds
        for row in self.totals:
            while row[0] - self.totals[first][0] > WINDOW_SECONDS:
                first += 1
            if self.totals[first][0] >= begin_seconds:
                most = max(most, row[column] - self.totals[first][column])
        return most / WINDOW_SECONDS


def socket_bytes(pids: set[int]) -> dict[str, tuple[int, int]]:
    """(sent, received) of each TCP socket of these processes, by its two addresses; resent bytes count as sent."""
    shown = subprocess.run(["ss", "-tinpHO"], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in shown.splitlines():
        owner = re.search(r"pid=(\d+)", line)
        if owner is None or int(owner[1]) not in pids:
            continue
        words = line.split()
        sent = re.search(r"bytes_sent:(\d+)", line)
        received = re.search(r"bytes_received:(\d+)", line)
        found[f"{words[3]} {words[4]}"] = (
            int(sent[1]) if sent else 0,
            int(received[1]) if received else 0,
        )
    return found


@dataclass(frozen=True, slots=True)
class Result:
    """One row: rates are those of the busiest 10 s after the first 10 s that the volunteer served."""

    row: str
    caps: str
    steps: int
    sent_bytes_per_second: float
    received_bytes_per_second: float
    moved_bytes: int
    counted_bytes: int
    largest_rss_bytes: int
    said: str
    broken: tuple[str, ...]


async def measure(row: str, caps: Sequence[str], seconds: float, folder: Path) -> Result:
    """Train with one volunteer under `caps` until it served for so long, or paused by itself."""
    config = load_config((), [*MODEL, *(WIDE if "--memory" in caps else ())])
    caps = [tight_memory(config) if word == "tight" else word for word in caps]
    coordinator = new_coordinator(config, folder, lambda state, entry: None)
    children: list[Child] = []
    seen, loop = Seen(), asyncio.get_running_loop()
    try:
        await coordinator.start("127.0.0.1:0", "")
        await open_directory(coordinator, "127.0.0.1")
        for number, stages in enumerate(OTHERS):
            children.append(
                await start_peer(f"other-{number}", coordinator.address, stages, (), folder)
            )
        volunteer = await start_peer(NAME, coordinator.address, STAGES, caps, folder)
        children.append(volunteer)
        await asyncio.wait_for(coordinator.started.wait(), START_SECONDS)
        first_step, begin_seconds = coordinator.state.step, loop.time()
        while loop.time() < begin_seconds + seconds + WINDOW_SECONDS:
            seen.look(volunteer.pid, loop.time())
            await asyncio.sleep(LOOK_SECONDS)
        steps = coordinator.state.step - first_step
        transfer = json.loads((folder / NAME / "state" / "transfer.json").read_text())
    finally:
        await stop_all(children)
        await coordinator.close()
    log = (folder / f"{NAME}.log").read_text()
    return judged(row, caps, steps, seen, int(transfer["bytes"]), log)


def tight_memory(config: RunConfig) -> str:
    """The least memory with which the volunteer may host its stages, or a little more."""
    stages = memory_estimate(config, vocabulary(config.model), (1, 2))
    return f"{stages.total_bytes + PROGRAM_BYTES}B"


async def start_peer(
    name: str, address: str, stages: str, caps: Sequence[str], folder: Path
) -> Child:
    arguments = ["peer", "--join", address, "--name", name, "--stage", stages, "--lifeline"]
    arguments += ["--nice", "0", "--state", str(folder / name / "state"), *caps]
    return await start_child(name, arguments, folder / f"{name}.log")


def judged(
    row: str, caps: Sequence[str], steps: int, seen: Seen, counted_bytes: int, log: str
) -> Result:
    """The row, with every cap that did not hold named."""
    options = dict(zip(caps[::2], caps[1::2], strict=True))
    sent, received = seen.busiest(1, WINDOW_SECONDS), seen.busiest(2, WINDOW_SECONDS)
    moved_bytes = seen.totals[-1][1] + seen.totals[-1][2]
    broken = []
    if (limit := options.get("--upload-limit")) and sent > TOLERANCE * parse_bytes_per_second(
        limit
    ):
        broken.append(f"sent {format_bytes_per_second(sent)}")
    if (most := options.get("--daily-transfer")) and moved_bytes > TOLERANCE * parse_bytes(most):
        broken.append(f"moved {format_bytes(moved_bytes)}")
    if (memory := options.get("--memory")) and seen.largest_rss_bytes > parse_bytes(memory):
        broken.append(f"held {format_bytes(seen.largest_rss_bytes)}")
    said = " ".join(line for line in log.splitlines() if line.startswith("paused"))
    figures = (steps, sent, received, moved_bytes, counted_bytes, seen.largest_rss_bytes)
    return Result(row, " ".join(caps), *figures, said, tuple(broken))


def table(results: Sequence[Result]) -> str:
    lines = [
        "| caps | steps | busiest 10 s sent | received | moved in all | counted | largest resident | said |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        cells = (
            result.caps or "none",
            str(result.steps),
            format_bytes_per_second(result.sent_bytes_per_second),
            format_bytes_per_second(result.received_bytes_per_second),
            format_bytes(result.moved_bytes),
            format_bytes(result.counted_bytes),
            format_bytes(result.largest_rss_bytes),
            "; ".join((*result.broken, result.said)).strip("; ") or "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=40.0, help="how long each row serves")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    results = []
    for row in arguments.rows:
        with tempfile.TemporaryDirectory(prefix="caps-") as folder:
            results.append(asyncio.run(measure(row, ROWS[row], arguments.seconds, Path(folder))))
        print(f"{row}: {results[-1]}", file=sys.stderr)
    if arguments.output == "json":
        print(json.dumps([asdict(result) for result in results], indent=2))
    else:
        print(table(results))
    sys.exit(any(result.broken for result in results))


if __name__ == "__main__":
    main()
