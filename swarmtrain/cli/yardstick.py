"""`swarmtrain reference`, `simulate` and `check`: runs inside this process, and what judges runs."""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from swarmtrain.core.errors import ConfigError

if TYPE_CHECKING:
    from swarmtrain.core.config import RunConfig
    from swarmtrain.experiments.sweep import Verdict
    from swarmtrain.experiments.virtual import Stage, VirtualRun


def run_reference(config: "RunConfig", folder: Path) -> None:
    """Run the plain loop, write its run folder, print the summary. Raises ModelError when it does not fit."""
    import psutil
    import torch

    from swarmtrain.cli.progress import Progress
    from swarmtrain.cli.summary import write
    from swarmtrain.core.sizes import MEMORY_SHARE, check_memory
    from swarmtrain.data.stream import load_corpus
    from swarmtrain.experiments.reference import Reference
    from swarmtrain.model.registry import trust_family
    from swarmtrain.monitor.metrics import MetricsFile

    torch.set_num_threads(config.limits.threads)
    corpus = load_corpus(config.data, None)
    vocab_size = config.model.vocab_size or corpus.tokenizer.vocab_size
    memory_bytes = int(MEMORY_SHARE * psutil.virtual_memory().available)
    check_memory(config, vocab_size, range(config.model.stages + 1), memory_bytes)
    trust_family(config.model)
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
    """Run a scenario in virtual time, write its run folder, and check its journal. Raises Stopped when the run
    broke a promise or did not get to its end."""
    import torch

    from swarmtrain.cli.settings import new_run_folder, read_config
    from swarmtrain.cli.summary import write
    from swarmtrain.core.units import per_token
    from swarmtrain.data.stream import load_corpus
    from swarmtrain.experiments.own_code import trust_code
    from swarmtrain.experiments.scenario import read_scenario
    from swarmtrain.experiments.sweep import run_seed
    from swarmtrain.monitor.metrics import MetricsFile

    file = read_scenario(path)
    config = read_config([file.run], [*file.overrides, *overrides], steps)
    trust_code(config)
    folder = new_run_folder(out, config)
    torch.set_num_threads(config.limits.threads)
    begin = time.monotonic()
    corpus, watched = load_corpus(config.data, None), _watched(config.run.steps)
    run, verdict = run_seed(config, file.scenario, corpus, watched)
    (folder / "journal.jsonl").write_text("".join(run.journal.lines), encoding="utf-8")
    metrics = MetricsFile(folder / "metrics.jsonl")
    for commit in run.commits:
        metrics.write(commit.step, commit.loss, commit.tokens, commit.seconds)
    metrics.close()
    losses = [commit.loss for commit in run.commits]
    tokens = sum(commit.tokens for commit in run.commits)
    summary = _summary(losses, tokens, run.seconds, verdict.parameters_sha256)
    summary |= {"peers": len(file.scenario.peers), "bytes_sent": run.bytes_sent}
    summary["bytes_per_token"] = per_token(run.bytes_sent, tokens)
    typer.echo(f"{run.seconds:.1f} virtual seconds in {time.monotonic() - begin:.1f} real ones")
    write(folder, config, summary | _faults_of(run, verdict))
    _report(verdict, folder)


def _watched(steps: int) -> "type[Stage]":
    """A world in virtual time that tells how many steps are committed."""
    from swarmtrain.cli.progress import Count
    from swarmtrain.core.events import Event, Record, StepCommitted
    from swarmtrain.core.types import PeerId
    from swarmtrain.experiments.virtual import Stage

    count = Count("steps")

    class Watched(Stage):
        def record_for(self, peer: PeerId, name: str = "") -> Record:
            record = super().record_for(peer, name)

            def seen(event: Event) -> None:
                record(event)
                if isinstance(event, StepCommitted):
                    count(event.step + 1, steps)

            return seen

    return Watched


def _faults_of(run: "VirtualRun", verdict: "Verdict") -> dict[str, Any]:
    """What the faults came to, for summary.json."""
    kinds = [event.kind for _, _, event in run.events]
    return {
        "faults": verdict.faults,
        "faults_planned": list(verdict.plan),
        "recoveries": verdict.recoveries,
        "replayed_keys": kinds.count("replayed"),
        "duplicate_keys_dropped": kinds.count("duplicate_dropped"),
        "outcome": verdict.outcome,
        "outcome_reason": verdict.reason,
        "violations": len(verdict.violations),
        "violations_found": list(verdict.violations),
        "reference_sha256": verdict.expected_sha256,
        "finished": verdict.outcome == "ok",
    }


def _report(verdict: "Verdict", folder: Path) -> None:
    """Say how the seed ended. Raises Stopped unless it ended well."""
    from swarmtrain.core.errors import Stopped
    from swarmtrain.experiments.sweep import GOOD

    equal = verdict.expected_sha256 and verdict.expected_sha256 == verdict.parameters_sha256
    typer.echo(
        f"{verdict.faults} faults, {len(verdict.violations)} violations"
        + (", parameters equal to those of the reference" if equal else "")
    )
    if verdict.outcome == "halted":
        typer.echo(f"the run stopped, as it may with this plan: {verdict.reason}")
    if verdict.outcome not in GOOD:
        raise Stopped(
            f"seed {verdict.seed} ended as {verdict.outcome}",
            verdict.reason,
            f"see {folder}/journal.jsonl; the same seed repeats it to the byte",
        )


def run_seeds(
    path: Path, seeds: str, steps: int | None, out: Path | None, overrides: Sequence[str]
) -> None:
    """Run seeds A..B-1 of a scenario in parallel, print a table, write seeds.jsonl. Raises Stopped if any fails."""
    import json
    from collections import Counter
    from dataclasses import asdict

    from swarmtrain.cli.progress import Count
    from swarmtrain.cli.settings import new_run_folder, read_config
    from swarmtrain.core.errors import Stopped
    from swarmtrain.experiments.scenario import read_scenario
    from swarmtrain.experiments.sweep import GOOD, Range

    first, last = _seed_range(seeds)
    file = read_scenario(path)
    config = read_config([file.run], [*file.overrides, *overrides], steps)
    folder = new_run_folder(out, config)
    counts: Counter[str] = Counter()
    failed: list[str] = []
    begin, told = time.monotonic(), Count("seeds")
    verdicts = Range(first, last, config.to_json(), file.scenario).run()
    with open(folder / "seeds.jsonl", "w", encoding="utf-8") as lines, closing(verdicts):
        for verdict in verdicts:
            counts[verdict.outcome] += 1
            told(counts.total(), last - first)
            lines.write(json.dumps(asdict(verdict)) + "\n")
            lines.flush()
            if verdict.outcome not in GOOD:
                failed.append(f"seed {verdict.seed}: {verdict.outcome}: {verdict.reason}")
                typer.echo(failed[-1])
    minutes = (time.monotonic() - begin) / 60
    typer.echo(f"\n{'outcome':<12} seeds")
    for outcome, count in sorted(counts.items()):
        typer.echo(f"{outcome:<12} {count:>5}")
    typer.echo(f"{(last - first) / minutes:.0f} seeds per minute; {folder / 'seeds.jsonl'}")
    if failed:
        raise Stopped(
            f"{len(failed)} of {last - first} seeds failed",
            failed[0],
            f"repeat one with: swarmtrain simulate {path} --seed {failed[0].split(':')[0][5:]}",
        )


def check_folders(folders: Sequence[Path], output: str) -> None:
    """Hold the journals of each folder's run to its promises. Raises Stopped if one is broken."""
    import json
    from dataclasses import asdict

    from swarmtrain.core.errors import Stopped
    from swarmtrain.experiments.checker import examine_folder

    found: dict[str, dict[str, Any]] = {}
    for folder in folders:
        try:
            examined = examine_folder(folder)
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be checked",
                str(error),
                "pass a folder with the journal.jsonl of every peer: `swarmtrain peer --out` writes them",
            ) from error
        found[str(folder)] = asdict(examined)
        if output != "json":
            for violation in examined.violations:
                typer.echo(f"{folder}: {violation}")
            typer.echo(
                f"{folder}: {len(examined.violations)} violations in {examined.steps} steps; "
                f"the sums of {examined.peers} peers were followed"
            )
    if output == "json":
        typer.echo(json.dumps(found, indent=2))
    broken = [folder for folder, examined in found.items() if examined["violations"]]
    if broken:
        raise Stopped(
            f"{len(broken)} of {len(found)} runs broke a promise",
            f"{found[broken[0]]['violations'][0]['what']}, in {broken[0]}",
            "the lines named above are those of the journals",
        )


def _seed_range(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise ConfigError(
            f"--seeds {text!r} is no range", "it must be A:B with A below B", "write it like 0:100"
        )
    return int(first), int(last)


def _summary(losses: list[float], tokens: int, seconds: float, digest: str) -> dict[str, Any]:
    return {
        "steps": len(losses),
        "tokens": tokens,
        "seconds": seconds,
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
        "eval_loss": None,
        "tokens_per_second": tokens / seconds if seconds else 0.0,
        "bytes_sent": 0,
        "bytes_per_token": None,
        "peers": 1,
        "faults": 0,
        "recoveries": 0,
        "replayed_keys": 0,
        "duplicate_keys_dropped": 0,
        "parameters_sha256": digest,
    }
