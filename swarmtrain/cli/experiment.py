"""`swarmtrain experiment`: a matrix of runs from one file, its report, and what differs by more than noise."""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from swarmtrain.cli.settings import Output

if TYPE_CHECKING:
    from swarmtrain.experiments.execute import Ended

app = typer.Typer(
    no_args_is_help=True,
    help="Run a matrix of experiments and report on it. Example: swarmtrain experiment run "
    "deploy/experiments/diloco_islands.toml --quick",
)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="EXPERIMENT.toml", metavar="EXPERIMENT.toml")],
    world: Annotated[
        Literal["virtual", "processes", "both"],
        typer.Option(
            help="virtual: in virtual time; processes: real peers on this machine, one run at a time; "
            "both: one after the other, side by side in the report"
        ),
    ] = "virtual",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default runs/NAME of the file")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Only runs with this in their name, as policy=planned")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at a time, each in a process; default: one a core"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in --out: finished runs are not repeated")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="The small form, within a minute: shows that it works")
    ] = False,
) -> None:
    """Run every combination of an experiment's matrix, each in a folder of its own.

    Example: swarmtrain experiment run deploy/experiments/diloco_islands.toml --out runs/diloco

    A run that fails is told and the rest go on; the command then ends with a non-zero code.
    """
    from swarmtrain.core.errors import Stopped
    from swarmtrain.experiments.execute import execute, split, write_plan
    from swarmtrain.experiments.experiment import in_worlds, read_experiment

    experiment = in_worlds(
        read_experiment(file, quick), ("virtual", "processes") if world == "both" else (world,)
    )
    _check_jobs(world, jobs)
    chosen = experiment.only(only) if only else experiment.runs
    folder = out or Path("runs") / file.stem
    finished, left = split(chosen, folder)
    write_plan(experiment, folder, resume)
    typer.echo(
        f"{experiment.title}: {len(chosen)} runs, {len(finished)} of them finished, in {folder}"
    )
    begin, failed = time.monotonic(), 0
    # Runs beside each other would slow each other's processes down.
    count = 1 if world != "virtual" else min(jobs or os.cpu_count() or 1, max(len(left), 1))
    # Closed also where Ctrl+C comes between two runs: the processes of those under way end with it.
    with contextlib.closing(execute(left, folder, count, time.process_time)) as endings:
        for number, ended in enumerate(endings, 1):
            failed += ended.summary is None
            spent = time.monotonic() - begin
            eta = spent / number * (len(left) - number)
            typer.echo(f"[{number}/{len(left)}] {_told(ended)}  ({spent:.0f} s, ETA {eta:.0f} s)")
    if failed:
        raise Stopped(
            f"{failed} of {len(left)} runs failed",
            "each says why above, and in its folder's failure.json",
            "correct the cause and repeat with --resume",
        )
    typer.echo(f"report: swarmtrain experiment report {folder}")


def _check_jobs(world: str, jobs: int | None) -> None:
    from swarmtrain.core.errors import ConfigError

    if world != "virtual" and (jobs or 1) > 1:
        raise ConfigError(
            f"--jobs {jobs} does not go with --world {world}",
            "real processes of several runs would slow each other down",
            "leave --jobs out",
        )


def _told(ended: "Ended") -> str:
    """A run's end in one line."""
    if ended.summary is None:
        return f"{ended.name}: FAILED\n  " + ended.failure.replace("\n", "\n  ")
    summary = ended.summary
    if "steps" not in summary:
        return f"{ended.name}: {summary['overall_percent']:.2f} % of the best"
    loss = summary["loss_last"]
    return (
        f"{ended.name}: {summary['steps']} steps in {summary['seconds']:.1f} s of its world, "
        f"loss {'-' if loss is None else format(loss, '.4f')}, {summary['outcome']}"
    )


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of an experiment", metavar="DIR")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; default DIR/report")] = None,
) -> None:
    """Tables (Markdown, CSV), plots (SVG) and one self-contained HTML page, from the journals alone.

    Example: swarmtrain experiment report runs/diloco

    The same journals give the same bytes. Needs: pip install 'swarmtrain\\[report]'
    """
    from swarmtrain.experiments.report import write_report

    for path in write_report(folder, out or folder / "report"):
        typer.echo(path)


@app.command()
def compare(
    first: Annotated[
        str, typer.Argument(help="DIR, or DIR:CHOICE of one of its groups", metavar="A")
    ],
    second: Annotated[str, typer.Argument(help="Another", metavar="B")],
    output: Output = "table",
) -> None:
    """Whether two results differ by more than noise: Welch's test over seeds, for every figure.

    Example: swarmtrain experiment compare runs/routes:policy=wired runs/routes:policy=planned
    """
    from swarmtrain.experiments.compare import compared, told

    rows = compared(first, second)
    if output == "json":
        typer.echo(json.dumps([row.as_json() for row in rows], indent=2))
    else:
        typer.echo(told(rows, first, second))
