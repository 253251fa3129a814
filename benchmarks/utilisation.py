"""How much of their time four islands compute when they average over slow links, by the running peers in virtual time.

    python benchmarks/utilisation.py [--models 1b 8b] [--rates 10 50 110 1000] [--out benchmarks/results]

Each island is one machine that holds the whole model (an H100 at 40 % of its peak for the 1B model, eight of them for
the 8B one), with that many Mbit/s up and as many down, 50 ms one way. A step is 128 sequences of 2,048 tokens.
Utilisation is the time that two rounds of steps take without rounds over the time they take with them, both simulated;
what rounds take of a processor is not charged, nor are optimizer and digests of any step: it is measured beside, on one
core of this machine (`coding.Costs`). Synchronous training is arithmetic: after every step each island sends
2 (R - 1) / R of its gradient in bf16 (ring all-reduce), nothing of it hidden. A contribution is without zstd, int4
where no other codec is named (whose mean comes back as int4 where ternary is), and reduced in slices where the peers'
plan finds that faster than gathering all, which sparse codecs always do: the tensors that are really sent are tiny, so
what is cut shrinks with them (`GRAIN_ELEMENTS`), and plans are made for the bytes of the model they stand for.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.coding import Costs, costs
from swarmtrain.compute.stage import build_compute
from swarmtrain.core.config import ModelSection, RunConfig, load_config
from swarmtrain.core.events import RoundChosen, RoundMerged, StepCommitted
from swarmtrain.data.stream import load_corpus
from swarmtrain.experiments.costs import Charged
from swarmtrain.experiments.profiles import MachineProfile
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, VirtualRun, simulate
from swarmtrain.outer import payload
from swarmtrain.outer.slices import Sizes, sent_bytes
from swarmtrain.peer.rounds import OuterRounds
from swarmtrain.peer.stage_rounds import OuterStates
from swarmtrain.wire.codecs import codec_named

ISLANDS = 4
LATENCY_SECONDS = 0.05
MICROBATCHES, SEQUENCES, TOKENS = 1, 128, 2048
"""One machine an island has no pipeline to fill, so one microbatch is as good as many and quicker to simulate."""
PEAK_FLOPS, USE = 989e12, 0.4
MACHINES = {"1b": 1, "8b": 8}
ROUNDS = 3
"""All but the first are timed."""

GRAIN_ELEMENTS = 56
"""Instead of 65,536: a stage of 1,568 elements has 28 of them, for four islands. Their scales add 5 % to the bytes."""


@dataclass(frozen=True, slots=True)
class Mode:
    """What a round waits for, after how many steps it is made, and its codec if that is not int4."""

    delay_steps: int
    settings: tuple[str, ...] = ()
    inner_steps: int = 50

    @property
    def overrides(self) -> tuple[str, ...]:
        return (
            f"run.steps={self.inner_steps * ROUNDS + 2}",
            f"outer.inner_steps={self.inner_steps}",
            f"outer.delay_steps={self.delay_steps}",
            *self.settings,
        )


MODES = {
    "DiLoCo": Mode(1),
    "overlapped": Mode(50),
    "fragmented": Mode(20, ("outer.fragments=2", "outer.staggered=true")),
    "overlapped, H 150": Mode(150, inner_steps=150),
    "overlapped, ternary": Mode(50, ("outer.codec=ternary",)),
    "overlapped, top64": Mode(50, ("outer.codec=top64",)),
}
"""By name. DiLoCo has one step to hide its transfer; fragments go in turns."""


@dataclass(frozen=True, slots=True)
class Row:
    """Utilisation in percent, and bytes that an island sends for each step, rounds spread over their steps."""

    model: str
    mbit: int
    mode: str
    utilisation: float
    sent_bytes_a_step: float


def config_of(model: str, *overrides: str) -> RunConfig:
    config = load_config(
        (),
        [
            "optimizer.warmup_steps=1", "data.source=stdlib",
            "model.stages=4", "model.width=16", "model.heads=2", "model.kv_heads=1", "model.ffn_width=16",
            f"train.microbatches={MICROBATCHES}", "train.microbatch_size=1",
            "train.sequence_length=4", "train.accumulation=fast", "recovery.snapshot_steps=0",
            "links.heartbeat_seconds=20", "links.silence_seconds=300", "links.connect_seconds=60",
            "outer.grace_seconds=80000", "outer.zstd_level=0", f"outer.founders={ISLANDS}", *overrides,
        ],
    )  # fmt: skip
    # A whole contribution travels as one piece here, of which nothing is heard until all of it is there.
    links = config.links.model_copy(update={"silence_seconds": 25_000.0})
    return config.model_copy(update={"links": links})


def scenario_of(model: str, mbit: int) -> Scenario:
    rate = mbit * 1e6 / 8
    machine = MachineProfile(
        description=f"{MACHINES[model]} H100",
        source="data sheet, dense bf16",
        flops_per_second=PEAK_FLOPS * MACHINES[model],
        utilisation=USE,
        memory_bytes=1 << 60,
        up_bytes_per_second=rate,
        down_bytes_per_second=rate,
    )
    charged = Charged(ModelSection.model_validate({"preset": model}), SEQUENCES, TOKENS, "bf16")
    peers = tuple(
        VirtualPeer(f"island-{island}", (0, 1, 2, 3, 4), machine=machine, island=island)
        for island in range(ISLANDS)
    )
    return Scenario(
        peers,
        latency_seconds=LATENCY_SECONDS,
        bytes_per_second=1e12,
        stall_seconds=1e6,
        patience_seconds=1e6,
        charged=charged,
    )


def mean_step_seconds(run: VirtualRun, inner_steps: int) -> float:
    """Of the second and third round's steps, each of which was computed, of the island that took longest for one."""
    first, last = inner_steps - 1, ROUNDS * inner_steps - 1
    spans: dict[str, list[float]] = {}
    for at, peer, event in run.events:
        # An island that results reached late follows the others, and has computed fewer steps.
        if isinstance(event, StepCommitted) and first <= event.step <= last:
            spans.setdefault(peer, []).append(at)
    return max((times[-1] - times[0]) / (len(times) - 1) for times in spans.values())


def stand_for(model: str, mbit: int) -> None:
    """From here on rounds are planned for the bytes of `model`, and its tiny tensors are cut as its own would be.

    Uplinks are told as they are: peers would measure them in bytes of the tiny tensors.
    """
    config = config_of(model)
    shape = scenario_of(model, 1).charged.shape(config)  # type: ignore[union-attr]
    fragments = {
        stage: shape.parameters(stage) / build_compute(config, 257, stage).flat.total
        for stage in range(config.model.stages + 1)
    }

    def sizes(self: OuterStates, place: tuple[int, int]) -> Sizes:
        tiny, factor = real_sizes(self, place), fragments[place[0]]
        return replace(
            tiny,
            payload_bytes=round(tiny.payload_bytes * factor),
            mean_bytes=round(tiny.mean_bytes * factor),
        )

    payload.GRAIN_ELEMENTS = GRAIN_ELEMENTS
    OuterStates.sizes = sizes  # type: ignore[method-assign]
    OuterRounds._uplink = lambda self: mbit * 1e6 / 8  # type: ignore[method-assign]


real_sizes = OuterStates.sizes


def measure(model: str, mbit: int, name: str, plain_seconds: float) -> Row:
    """`plain_seconds`: of a step without rounds."""
    mode = MODES[name]
    config = config_of(model, *mode.overrides)
    stand_for(model, mbit)
    run = simulate(config, scenario_of(model, mbit), load_corpus(config.data, None))
    merged = {
        (e.stage, e.fragment, e.round) for _, _, e in run.events if isinstance(e, RoundMerged)
    }
    wanted = 5 * config.outer.fragments * ROUNDS
    assert len(merged) >= wanted, f"{run.stalled} {run.errors} {len(merged)} of {wanted}"
    chosen = [e for _, _, e in run.events if isinstance(e, RoundChosen)]
    sizes = sizes_of(model, config.outer.codec)
    sent = statistics.fmean(sent_of(event, sizes) for event in chosen) / mode.inner_steps
    percent = 100 * plain_seconds / mean_step_seconds(run, mode.inner_steps)
    return Row(model, mbit, name, percent, sent)


def sent_of(event: RoundChosen, sizes: Sizes) -> float:
    """Bytes that an island sends in a round, on average: see `outer.slices`."""
    if not event.owners:
        return (ISLANDS - 1.0) * sizes.payload_bytes
    shares = [count / sum(event.sections) for count in event.sections]
    return statistics.fmean(sent_bytes(sizes, share, ISLANDS) for share in shares)


def parameters_of(model: str) -> int:
    shape = scenario_of(model, 1).charged.shape(config_of(model))  # type: ignore[union-attr]
    return sum(shape.parameters(stage) for stage in range(5))


def sizes_of(model: str, codec: str) -> Sizes:
    """Of a contribution of an island, all fragments together, and of its mean."""
    elements, sent = parameters_of(model), codec_named(codec)
    mean = codec_named(payload.answer_codec(codec))
    return Sizes(not sent.gathers, sent.encoded_bytes(elements), mean.encoded_bytes(elements))


def synchronous(model: str, mbit: int, plain_seconds: float) -> Row:
    """Arithmetic: the gradient in bf16 over a ring after every step."""
    sent = 2 * (ISLANDS - 1) / ISLANDS * 2.0 * parameters_of(model)
    wall = plain_seconds + sent / (mbit * 1e6 / 8) + 2 * (ISLANDS - 1) * LATENCY_SECONDS
    return Row(model, mbit, "synchronous", 100 * plain_seconds / wall, sent)


def rows_of(model: str, rates: list[int]) -> tuple[list[Row], float]:
    steps = 50
    config = config_of(model, f"run.steps={steps * ROUNDS + 2}")
    alone = simulate(config, scenario_of(model, 1000), load_corpus(config.data, None))
    plain = mean_step_seconds(alone, steps)
    rows = []
    for mbit in rates:
        rows.append(synchronous(model, mbit, plain))
        for mode in MODES:
            begin = time.process_time()
            rows.append(measure(model, mbit, mode, plain))
            print(f"{rows[-1]}  ({time.process_time() - begin:.0f} CPU s)", flush=True)
    return rows, plain


def _uncharged(model: str, step_seconds: float, charges: Costs) -> str:
    lane, beside = (each * parameters_of(model) / 1e9 for each in (charges.lane, charges.beside))
    return (
        f"Not charged: of one core here a round takes {charges.lane:.0f} ns a parameter on the compute lane, where "
        f"steps wait, and {charges.beside:.0f} beside it. On one such core alone: {lane:.0f} s and {beside:.0f} s, "
        f"where 50 steps compute for {50 * step_seconds:.0f} s."
    )


def report(rows: list[Row], step_seconds: dict[str, float], charges: Costs) -> str:
    command = "python benchmarks/utilisation.py"
    lines = [
        "# Four islands over slow links: the share of time that they compute", "",
        f"`{command}`: virtual time, the running peers; rounds every 50 steps in int4, but as columns say.",
        "",
    ]  # fmt: skip
    for model in step_seconds:
        ours = [row for row in rows if row.model == model]
        lines += [
            f"## {model}: {parameters_of(model) / 1e9:.2f}B parameters, {step_seconds[model]:.2f} s a step", "",
            "| up, Mbit/s | synchronous | " + " | ".join(MODES) + " |",
            "|---|---|" + "---|" * len(MODES),
        ]  # fmt: skip
        for mbit in sorted({row.mbit for row in ours}):
            by_mode = {row.mode: row.utilisation for row in ours if row.mbit == mbit}
            shown = ("synchronous", *MODES)
            cells = [f"{by_mode[mode]:.1f} %" if mode in by_mode else "-" for mode in shown]
            lines.append(f"| {mbit} | " + " | ".join(cells) + " |")
        every = next(row for row in ours if row.mode == "synchronous").sent_bytes_a_step
        sent = {
            mode: statistics.fmean(row.sent_bytes_a_step for row in ours if row.mode == mode)
            for mode in MODES
        }
        less = [
            f"{mode} {count / 1e6:,.1f} ({every / count:,.0f} times less)"
            for mode, count in sent.items()
        ]
        lines += [
            "",
            f"MB a step that an island sends, over all rates: synchronous {every / 1e6:,.0f}, "
            f"{', '.join(less)}. DiLoCoX states 357.",
            "",
            _uncharged(model, step_seconds[model], charges),
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["1b", "8b"], choices=sorted(MACHINES))
    parser.add_argument("--rates", nargs="+", type=int, default=[10, 50, 110, 1000])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = options.out / "utilisation.json" if options.out is not None else None
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
    # Of models and rates that are not measured now, what was measured before stays.
    known = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}
    known["costs"] = asdict(costs())
    for model in options.models:
        rows, step_seconds = rows_of(model, options.rates)
        before = known.get(model, {}).get("rows", [])
        stays = [row for row in before if row["mbit"] not in options.rates]
        every = [*stays, *(asdict(row) for row in rows)]
        known[model] = {"step_seconds": step_seconds, "rows": every}
    models = [model for model in sorted(MACHINES) if model in known]
    rows = [Row(**row) for model in models for row in known[model]["rows"]]
    steps = {model: known[model]["step_seconds"] for model in models}
    text = report(rows, steps, Costs(**known["costs"]))
    print(text)
    if kept is not None:
        kept.with_suffix(".md").write_text(text)
        kept.write_text(json.dumps(known, indent=1))


if __name__ == "__main__":
    main()
