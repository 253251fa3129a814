"""`swarmtrain bench`: what this machine would be worth to a run; `bench codecs`: what codecs do to an outer round."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from swarmtrain.cli.settings import Output, Overrides, RunFile

if TYPE_CHECKING:
    from swarmtrain.core.config import RunConfig
    from swarmtrain.wire.codec import Codec
    from swarmtrain.wire.parts import Part

CODECS = "codecs"
"""As the first argument it asks for codecs; a file of that name is reached as ./codecs."""

WARM_STEPS, ROUND_STEPS = 30, 20
"""The pseudo-gradient is that of the second, after the first."""

CODEC_DEFAULTS = ("model.preset=tiny",)
REPEATS = 5

Result = TypeVar("Result")


def bench(
    files: RunFile = None,
    overrides: Overrides = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Memory to plan with, as 6GiB; default 80% of what is free")
    ] = None,
    output: Output = "table",
) -> None:
    """Measure this machine with a run's model: seconds a microbatch takes, and the stages that fit.

    Example: swarmtrain bench RUN.toml

    The same self-test as a joining peer's. Links are measured while a run goes: swarmtrain status HOST:PORT --links

    swarmtrain bench codecs [RUN.toml] trains 50 steps (about half a minute without a RUN.toml) and measures every
    codec on the change of the last 20: bytes a parameter, processor time, error.
    """
    if files and str(files[0]) == CODECS:
        measured = _codecs(files[1:], overrides or ())
        typer.echo(json.dumps(measured, indent=2) if output == "json" else _codec_table(measured))
        return
    import asyncio

    from swarmtrain.cli.settings import read_config
    from swarmtrain.core.units import parse_bytes

    config = read_config(files, overrides, None)
    memory_bytes = parse_bytes(max_memory) if max_memory is not None else None
    found = asyncio.run(_measured(config, memory_bytes))
    typer.echo(json.dumps(found, indent=2) if output == "json" else _table(found))


async def _measured(config: Any, memory_bytes: int | None) -> dict[str, Any]:
    import torch

    from swarmtrain.compute.bench import capacity_stages, measure
    from swarmtrain.compute.lane import ThreadLane
    from swarmtrain.core.sizes import vocabulary
    from swarmtrain.peer.joining import kernel_class, usable_memory_bytes

    torch.set_num_threads(config.limits.threads)
    usable_bytes = usable_memory_bytes() if memory_bytes is None else memory_bytes
    lane = ThreadLane(lambda *_: None)
    try:
        measured = await measure(config, lane, usable_bytes)
    finally:
        await lane.close()
    pass_seconds = measured.forward_seconds + measured.backward_seconds
    return {
        "forward_seconds": measured.forward_seconds,
        "backward_seconds": measured.backward_seconds,
        "tokens_per_second": config.train.tokens_per_microbatch / pass_seconds,
        "memory_bytes": usable_bytes,
        "capacity_stages": capacity_stages(config, vocabulary(config.model), usable_bytes),
        "stages": config.model.stages + 1,
        "kernel_class": kernel_class(config.limits.threads),
        "how": measured.reason,
    }


def _table(found: dict[str, Any]) -> str:
    from swarmtrain.core.units import format_bytes

    fitting, stages = found["capacity_stages"], found["stages"]
    return "\n".join(
        [
            f"one microbatch through one middle stage: {found['forward_seconds']:.4g} s forward, "
            f"{found['backward_seconds']:.4g} s backward",
            f"that is {found['tokens_per_second']:,.0f} tokens/s with one stage",
            f"{format_bytes(found['memory_bytes'])} may be used: {fitting} of the {stages} stages fit",
            f"kernels: {found['kernel_class']}",
            f"({found['how']})",
        ]
    )


def _codecs(files: Sequence[Path], overrides: Sequence[str]) -> dict[str, Any]:
    """Every codec on one pseudo-gradient, stage by stage, on one core."""
    import torch

    from swarmtrain.cli.settings import read_config
    from swarmtrain.core.rounds import Measured
    from swarmtrain.outer.budget import DEFAULT_BUDGET, choose
    from swarmtrain.wire.codecs import CODECS, ROUND_ZSTD_LEVEL, trust_codec

    defaults = () if files else CODEC_DEFAULTS
    # A quarter of a run: the learning rate has not fallen far.
    config = read_config(files, [*defaults, *overrides], 4 * (WARM_STEPS + ROUND_STEPS))
    trust_codec(config.outer.codec)
    torch.set_num_threads(1)
    deltas, layouts = _pseudo_gradient(config)
    rows = []
    for name, codec in CODECS.items():
        typer.echo(f"measuring {name}", err=True)
        rows.append(_codec_row(codec, deltas, layouts))
    figures = [
        Measured(row["codec"], 8 * row["bytes_per_parameter"], row["relative_error"])
        for row in rows
    ]
    choice = choose(figures, DEFAULT_BUDGET)
    return {
        "parameters": sum(len(delta) for delta in deltas),
        "warm_steps": WARM_STEPS,
        "inner_steps": ROUND_STEPS,
        "zstd_level": ROUND_ZSTD_LEVEL,
        "codecs": rows,
        "chosen": {"budget": DEFAULT_BUDGET, "codec": choice.codec, "reason": choice.reason},
    }


def _pseudo_gradient(config: "RunConfig") -> tuple[list[Any], list[list["Part"]]]:
    """Parameters before minus after the round, float32 [elements] a stage, and where its tensors lie.

    Raises ModelError when the model does not fit this machine.
    """
    import time

    import psutil

    from swarmtrain.cli.progress import Progress
    from swarmtrain.core.sizes import MEMORY_SHARE, check_memory
    from swarmtrain.data.stream import load_corpus
    from swarmtrain.experiments.reference import Reference
    from swarmtrain.model.registry import trust_family

    corpus = load_corpus(config.data, None)
    vocab_size = config.model.vocab_size or corpus.tokenizer.vocab_size
    memory_bytes = int(MEMORY_SHARE * psutil.virtual_memory().available)
    check_memory(config, vocab_size, range(config.model.stages + 1), memory_bytes)
    trust_family(config.model)
    loop = Reference(config, corpus, vocab_size)
    starts: list[Any] = []
    tokens, begin = 0, time.monotonic()
    with Progress(WARM_STEPS + ROUND_STEPS) as progress:
        for step in range(WARM_STEPS + ROUND_STEPS):
            if step == WARM_STEPS:
                starts = [replica.current.parameters.clone() for replica in loop.stages]
            done = loop.advance()
            tokens += done.tokens
            progress.step(step + 1, done.loss, tokens / (time.monotonic() - begin))
    replicas = list(zip(starts, loop.stages, strict=True))
    flats = [replica.compute.flat for replica in loop.stages]
    return (
        [start - replica.current.parameters for start, replica in replicas],
        [list(zip(flat.offsets, flat.shapes, strict=True)) for flat in flats],
    )


def _codec_row(
    codec: "Codec", deltas: Sequence[Any], layouts: Sequence[list["Part"]]
) -> dict[str, Any]:
    """The figures of one codec: sums over all stages, each encoded and decoded `REPEATS` times."""
    import torch

    from swarmtrain.outer.budget import relative_error
    from swarmtrain.wire.codecs import ROUND_ZSTD_LEVEL
    from swarmtrain.wire.parts import PartsCodec
    from swarmtrain.wire.tensors import encode_tensor
    from swarmtrain.wire.top_k import TopKCodec

    bytes_sent = raw_bytes = 0
    stated_bits = encode_seconds = decode_seconds = 0.0
    decoded = []
    for delta, layout in zip(deltas, layouts, strict=True):
        used = codec
        if codec.gathers and not isinstance(codec, TopKCodec):
            used = PartsCodec(codec, len(delta), layout)
        (header, payload), seconds = _timed(encode_tensor, delta, used, ROUND_ZSTD_LEVEL)
        encode_seconds += seconds
        result, seconds = _timed(_decoded, header, payload, used)
        decode_seconds += seconds
        decoded.append(result)
        bytes_sent += len(payload)
        raw_bytes += header.raw_bytes
        stated_bits += used.bits_per_parameter(len(delta)) * len(delta)
    exact = torch.cat(list(deltas))
    row = {
        "codec": codec.name,
        "bytes_per_parameter": bytes_sent / len(exact),
        "raw_bytes_per_parameter": raw_bytes / len(exact),
        "stated_bits_per_parameter": stated_bits / len(exact),
        "encode_mb_per_second": 4e-6 * len(exact) / encode_seconds,
        "decode_mb_per_second": 4e-6 * len(exact) / decode_seconds,
        "relative_error": relative_error(exact, torch.cat(decoded)),
    }
    return {**row, **_positions(codec, exact)} if isinstance(codec, TopKCodec) else row


def _decoded(header: Any, payload: Any, codec: "Codec") -> Any:
    from swarmtrain.wire.tensors import decode_tensor

    return decode_tensor(header, payload, expect_shape=header.shape, expect_codec=codec)


def _positions(codec: Any, exact: Any) -> dict[str, float]:
    """Bits a position of a sparse codec and how many millions a second are coded."""
    from swarmtrain.wire.golomb import decode_integers, encode_integers

    gaps = codec.gaps(codec.positions(exact))
    coded, encode_seconds = _timed(encode_integers, gaps, codec.modulus)
    _, decode_seconds = _timed(decode_integers, coded, len(gaps), codec.modulus, codec.name)
    return {
        "bits_per_position": 8 * len(coded) / len(gaps),
        "encode_million_positions_per_second": 1e-6 * len(gaps) / encode_seconds,
        "decode_million_positions_per_second": 1e-6 * len(gaps) / decode_seconds,
    }


def _timed(call: Callable[..., Result], *arguments: Any) -> tuple[Result, float]:
    """What `call` gives, and the median of its processor seconds: other work on the machine does not lengthen them."""
    import statistics
    import time

    seconds = []
    for _ in range(REPEATS):
        begin = time.thread_time()
        result = call(*arguments)
        seconds.append(time.thread_time() - begin)
    return result, statistics.median(seconds)


def _codec_table(found: dict[str, Any]) -> str:
    lines = [
        f"{found['parameters']:,} parameters, the change of {found['inner_steps']} steps after "
        f"{found['warm_steps']}; zstd {found['zstd_level']}; one core; error = squared error / squared norm",
        "codec    bytes/parameter  before zstd  encode MB/s  decode MB/s  error",
    ]
    for row in found["codecs"]:
        lines.append(
            f"{row['codec']:<8} {row['bytes_per_parameter']:>15.4f}  "
            f"{row['raw_bytes_per_parameter']:>11.4f}  {row['encode_mb_per_second']:>11,.0f}  "
            f"{row['decode_mb_per_second']:>11,.0f}  {row['relative_error']:.5f}"
        )
        if "bits_per_position" in row:
            lines[-1] += (
                f"  ({row['bits_per_position']:.2f} bits a position; "
                f"{row['encode_million_positions_per_second']:.0f} M/s in, "
                f"{row['decode_million_positions_per_second']:.0f} M/s out)"
            )
    chosen = found["chosen"]
    lines.append(f"within an error of {chosen['budget']:g}: {chosen['codec']} ({chosen['reason']})")
    return "\n".join(lines)
