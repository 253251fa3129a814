"""Outer rounds between real processes on shaped lines, beside the same in virtual time: bytes, rounds and steps.

    python -m benchmarks.islands_real [--only sliced] [--rounds 4] [--out benchmarks/results]

Each island is one process that holds the whole small model, with lines of 20 Mbit/s and 50 ms one way to each other:
three islands whose contributions are gathered whole, and four that reduce theirs in slices, in fp16 and int4. A round
takes over a second on such lines and a step's compute some hundredths. Virtual time is told two things: what a step
without a round took in the real run, and what a pass over a value takes (updated, coded or merged) where as many
processes as islands code at the same time on this machine's cores, measured apart. Needs only loopback.
"""

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.coding import pass_seconds_at_once
from swarmtrain.core.config import RunConfig, load_config, to_toml
from swarmtrain.core.sizes import stage_parameters, vocabulary
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.emulated import Emulated
from swarmtrain.experiments.local import LocalSwarm
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, simulate
from swarmtrain.monitor.journal import journal_line
from swarmtrain.transport.shaping import Shape

BYTES_PER_SECOND, LATENCY_SECONDS = 20e6 / 8, 0.05
LINE = Shape(BYTES_PER_SECOND, LATENCY_SECONDS)
STAGES = 2
POLL_SECONDS = 0.1
CODED_ELEMENTS = 1 << 20
"""About as many as a stage of the cases has."""
FORWARD_SHARE = 1 / 3
"""Of a step's compute; how it is shared out changes nothing here, as an island is one machine."""

Entry = tuple[float, str, dict[str, Any]]
"""Seconds of its recorder's clock, who recorded it, and the event."""


@dataclass(frozen=True, slots=True)
class Case:
    """Who exchanges what. Slices are chosen where they save a fifth of the time: from some width on."""

    islands: int
    codec: str
    width: int
    inner_steps: int


CASES = {
    "gathered": Case(3, "fp16", 256, 60),
    "sliced": Case(4, "fp16", 256, 20),
    "int4": Case(4, "int4", 512, 10),
}
"""In int4 as many bytes are of four times the parameters."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one world came to: medians over rounds, and of the island that is the last to make its contribution."""

    round_bytes: float
    """Contributions and means that an island receives on average, all stages: in slices it goes by their shares."""
    round_seconds: float
    """From the last contribution made to the last stage's result chosen everywhere."""
    round_step_seconds: float
    """Of the last island's step in which the result is waited for and merged."""
    plain_step_seconds: float
    sliced: float
    """Share of the rounds of middle stages that were reduced in slices."""


def config_of(case: Case, steps: int) -> RunConfig:
    return load_config(
        (),
        [
            "run.name=islands-real", "run.seed=1", f"run.steps={steps}", "optimizer.warmup_steps=1",
            f"model.stages={STAGES}", f"model.width={case.width}", "model.heads=4", "model.kv_heads=4",
            f"model.ffn_width={3 * case.width}", "train.microbatches=1", "train.microbatch_size=1",
            "train.sequence_length=16", "train.accumulation=fast", "limits.threads=1",
            "recovery.snapshot_steps=0", "swarm.min_peers=1",
            f"outer.inner_steps={case.inner_steps}", f"outer.codec={case.codec}",
            "outer.grace_seconds=600",
        ],
    )  # fmt: skip


async def real(config: RunConfig, islands: int, folder: Path) -> list[Entry]:
    """Every peer's journal of a run of processes on this machine."""
    (folder / "config.toml").write_text(to_toml(config))

    def arguments(index: int) -> list[str]:
        return ["--out", str(folder / "peers" / str(index))]

    stages = (f"0:{STAGES}",)
    machine = Emulated((), None, "one on lines of 20 Mbit/s and 50 ms", (LINE,) * islands)
    swarm = LocalSwarm(
        config, 1, folder, lambda *_: None, stages=stages, more=arguments, islands=islands,
        machines=(machine,) * islands,
    )  # fmt: skip
    paths = [folder / "peers" / str(index) / "journal.jsonl" for index in range(islands)]
    running = asyncio.create_task(swarm.run())
    await asyncio.wait(
        [running, asyncio.create_task(start_together(swarm, paths[1:]))],
        return_when=asyncio.FIRST_COMPLETED,
    )
    await running
    return [entry for path in paths for entry in entries(path.read_text().splitlines())]


async def start_together(swarm: LocalSwarm, others: list[Path]) -> None:
    """Let the first island, without which no round is decided, begin when the others wait for it: processes take
    seconds to start, and alone it would be far ahead by then."""
    while not swarm.children:  # noqa: ASYNC110
        await asyncio.sleep(POLL_SECONDS)
    first = swarm.children[0].process
    first.send_signal(signal.SIGSTOP)
    try:
        while not all(path.exists() and "round_sent" in path.read_text() for path in others):  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)
    finally:
        first.send_signal(signal.SIGCONT)


def virtual(
    config: RunConfig, islands: int, compute_seconds: float, pass_seconds: float = 0.0
) -> list[Entry]:
    """The same in virtual time, with so many seconds for a microbatch through a position and back, and so many for a
    pass over a value."""
    peers = tuple(
        VirtualPeer(f"island-{island}", tuple(range(STAGES + 1)), island=island)
        for island in range(islands)
    )
    scenario = Scenario(
        peers,
        latency_seconds=LATENCY_SECONDS,
        bytes_per_second=BYTES_PER_SECOND,
        forward_seconds=FORWARD_SHARE * compute_seconds,
        backward_seconds=(1 - FORWARD_SHARE) * compute_seconds,
        pass_seconds=pass_seconds,
    )
    run = simulate(config, scenario, load_corpus(config.data, None))
    return list(entries(journal_line(event, at, peer) for at, peer, event in run.events))


def entries(lines: Iterable[str]) -> list[Entry]:
    found = [json.loads(line) for line in lines]
    return [(entry["time_seconds"], entry["peer"], entry["event"]) for entry in found]


def figures(found: list[Entry]) -> Figures:
    """Raises StatisticsError where no round was merged. Clocks of processes on one machine compare."""
    merged = of_kind(found, "round_merged")
    # Of the first round others may not have heard; the last one is made when others may be gone already.
    numbers = sorted({number(event) - 1 for _, _, event in merged})[1:-1]
    received, spans, waited, sliced = [], [], [], []
    islands = len({peer for _, peer, _ in merged})
    for each in numbers:
        sent = [entry for entry in of_kind(found, "round_sent") if number(entry[2]) == each]
        chosen = [entry for entry in of_kind(found, "round_chosen") if number(entry[2]) == each]
        # The islands before it wait for its compute; it waits for the round alone.
        last_seconds, last_peer, _ = max(sent, key=lambda entry: entry[0])
        spans.append(max(at for at, _, _ in chosen) - last_seconds)
        everybodys = [event for _, _, event in merged]
        grown = received_bytes(everybodys, each + 1) - received_bytes(everybodys, each)
        received.append(grown / islands)
        sliced += [bool(event["owners"]) for _, _, event in chosen if event["stage"]]
        ends = {e["step"] for _, peer, e in merged if peer == last_peer and number(e) == each + 1}
        waited += [
            float(event["seconds"])
            for _, peer, event in of_kind(found, "step_committed")
            if peer == last_peer and event["next_step"] in ends
        ]
    return Figures(
        statistics.median(received),
        statistics.median(spans),
        statistics.median(waited),
        plain_seconds(found),
        statistics.mean(sliced),
    )


def of_kind(found: list[Entry], kind: str) -> list[Entry]:
    return [entry for entry in found if entry[2]["kind"] == kind]


def number(event: dict[str, Any]) -> int:
    return int(event["round"])


def plain_seconds(found: list[Entry]) -> float:
    """What steps usually take: few have a result."""
    return statistics.median(
        float(event["seconds"]) for _, _, event in of_kind(found, "step_committed")
    )


def received_bytes(merged: list[dict[str, Any]], each: int) -> int:
    """By the time that all stages are at round `each`."""
    return sum(int(event["received_bytes"]) for event in merged if number(event) == each)


def compare(case: Case, rounds: int, folder: Path) -> tuple[Figures, Figures]:
    """Real, then virtual."""
    config = config_of(case, rounds * case.inner_steps + 2)
    measured = figures(asyncio.run(real(config, case.islands, folder)))
    words = vocabulary(config.model, load_corpus(config.data, None).tokenizer.vocab_size)
    elements = sum(stage_parameters(config.model, words, stage) for stage in range(STAGES + 1))
    # A step's update is a pass over all, so none takes longer than a step.
    pass_seconds = min(
        pass_seconds_at_once(case.codec, CODED_ELEMENTS, case.islands),
        measured.plain_step_seconds / elements,
    )
    # Beside compute a step without a round takes its update, which does not grow with it.
    one, two = (
        plain_seconds(virtual(config_of(case, 9), 1, seconds, pass_seconds))
        for seconds in (1.0, 2.0)
    )
    compute_seconds = max(1e-4, 1.0 + (measured.plain_step_seconds - one) / (two - one))
    return measured, figures(virtual(config, case.islands, compute_seconds, pass_seconds))


def table(measured: Figures, modelled: Figures) -> str:
    rows = [
        ("received a round", "kB", 1e-3, measured.round_bytes, modelled.round_bytes),
        ("a round, made to chosen", "s", 1, measured.round_seconds, modelled.round_seconds),
        ("a step with a result", "s", 1, measured.round_step_seconds, modelled.round_step_seconds),
        ("a step without (given)", "s", 1, measured.plain_step_seconds, modelled.plain_step_seconds),
        ("rounds in slices", "", 1, measured.sliced, modelled.sliced),
    ]  # fmt: skip
    lines = ["| | real processes | virtual time | difference |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {scale * one:.3f} {unit} | {scale * other:.3f} {unit} "
        f"| {100 * (one / other - 1) if other else 0:+.1f} % |"
        for name, unit, scale, one, other in rows
    ]
    return "\n".join(lines) + "\n"


def section(name: str, rounds: int) -> str:
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        measured, modelled = compare(case, rounds, Path(folder))
    return f"""## {name}: {case.islands} islands, {case.codec}, width {case.width}, rounds of {case.inner_steps} steps

{table(measured, modelled)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Rounds of real processes beside virtual time")
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    only = f" --only {args.only}" if args.only else ""
    head = f"""# Rounds between islands on lines of 20 Mbit/s and 50 ms

`python -m benchmarks.islands_real{only} --rounds {args.rounds}`: one process an island, results one step late.
"""
    names = [args.only] if args.only else list(CASES)
    text = "\n".join((head, *(section(name, args.rounds) for name in names)))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "islands_real.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
