"""`swarmtrain reference` and `swarmtrain simulate`: runs inside this process, with the same run folder as `up`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from swarmtrain.core.errors import ConfigError

if TYPE_CHECKING:
    from swarmtrain.core.config import RunConfig


def run_reference(config: "RunConfig", folder: Path) -> None:
    """Run the plain loop, write its run folder, print the summary. Raises ModelError when it does not fit."""
    import psutil
    import torch

    from swarmtrain.cli.progress import Progress
    from swarmtrain.cli.summary import write
    from swarmtrain.core.sizes import MEMORY_SHARE, check_memory
    from swarmtrain.data.stream import load_corpus
    from swarmtrain.experiments.reference import Reference
    from swarmtrain.monitor.metrics import MetricsFile

    torch.set_num_threads(config.limits.threads)
    corpus = load_corpus(config.data, None)
    vocab_size = config.model.vocab_size or corpus.tokenizer.vocab_size
    memory_bytes = int(MEMORY_SHARE * psutil.virtual_memory().available)
    check_memory(config, vocab_size, range(config.model.stages + 1), memory_bytes)
    loop = Reference(config, corpus, vocab_size)
    metrics = MetricsFile(folder / "metrics.jsonl")
    losses: list[float] = []
    tokens = 0
    begin = before = time.monotonic()
    with Progress(config.run.steps) as progress:
        for done in loop.train():
            now = time.monotonic()
            metrics.write(done.step, done.loss, done.tokens, now - before)
            losses.append(done.loss)
            tokens += done.tokens
            before = now
            progress.step(done.step + 1, done.loss, tokens / (now - begin))
    metrics.close()
    loop.save(folder / "checkpoint")
    write(folder, config, _summary(losses, tokens, before - begin, loop.parameters_sha256()))


def run_scenario(path: Path, steps: int | None, out: Path | None, overrides: Sequence[str]) -> None:
    """Run a scenario in virtual time and write its run folder."""
    import torch

    from swarmtrain.cli.settings import new_run_folder, read_config
    from swarmtrain.cli.summary import write
    from swarmtrain.data.stream import load_corpus
    from swarmtrain.experiments.scenario import read_scenario
    from swarmtrain.experiments.virtual import simulate
    from swarmtrain.monitor.metrics import MetricsFile

    run_file, scenario = read_scenario(path)
    config = read_config([run_file], overrides, steps)
    folder = new_run_folder(out, config)
    torch.set_num_threads(config.limits.threads)
    begin = time.monotonic()
    run = simulate(config, scenario, load_corpus(config.data, None))
    (folder / "journal.jsonl").write_text("".join(run.journal.lines), encoding="utf-8")
    metrics = MetricsFile(folder / "metrics.jsonl")
    for commit in run.commits:
        metrics.write(commit.step, commit.loss, commit.tokens, commit.seconds)
    metrics.close()
    if not run.commits:
        raise ConfigError("the simulated run committed no step", "", f"see {folder}/journal.jsonl")
    losses = [commit.loss for commit in run.commits]
    tokens = sum(commit.tokens for commit in run.commits)
    summary = _summary(losses, tokens, run.seconds, run.commits[-1].parameters_sha256)
    summary |= {"peers": len(scenario.peers), "bytes_sent": run.bytes_sent}
    typer.echo(f"{run.seconds:.1f} virtual seconds in {time.monotonic() - begin:.1f} real ones")
    write(folder, config, summary)


def _summary(losses: list[float], tokens: int, seconds: float, digest: str) -> dict[str, Any]:
    return {
        "steps": len(losses),
        "tokens": tokens,
        "seconds": seconds,
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "eval_loss": None,
        "tokens_per_second": tokens / seconds,
        "bytes_sent": 0,
        "peers": 1,
        "faults": 0,
        "recoveries": 0,
        "replayed_keys": 0,
        "duplicate_keys_dropped": 0,
        "parameters_sha256": digest,
    }
