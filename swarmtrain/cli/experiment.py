"""`swarmtrain experiment`: a matrix of runs from one file, its report, and what differs by more than noise."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from swarmtrain.cli.settings import Output

if TYPE_CHECKING:
    from swarmtrain.experiments.execute import Ended, Started

TERMINATED = 143

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
        str | None,
        typer.Option(
            help="Only runs with these parts in their name, as policy=planned,seed=1; "
            "where none has them whole, runs with this anywhere in their name"
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at a time, each in a process; default: one a core"),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on in --out: finished runs are not repeated, unless their settings, corpus, rule, model "
            "family or any source file of this program changed",
        ),
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
    from swarmtrain.experiments.execute import execute, split, works_of, write_plan
    from swarmtrain.experiments.experiment import in_worlds, read_experiment
    from swarmtrain.experiments.folder_lock import locked

    experiment = in_worlds(
        read_experiment(file, quick), ("virtual", "processes") if world == "both" else (world,)
    )
    most = _runs_at_a_time(world, jobs)
    chosen = experiment.only(only) if only else experiment.runs
    folder = out or Path("runs") / file.stem
    works = works_of(experiment.runs)
    with _ended_by_sigterm(), locked(folder):
        write_plan(experiment, works, {run.name for run in chosen}, folder, resume)
        finished, left = split(chosen, works, folder)
        typer.echo(
            f"{experiment.title}: {len(chosen)} runs, {len(finished)} of them finished, in {folder}"
        )
        count = min(most, max(len(left), 1))
        # Closed also where Ctrl+C comes between two runs: the processes of those under way end with it.
        with contextlib.closing(execute(left, folder, count, time.process_time)) as happenings:
            failed = _Progress(len(left), count).follow(happenings)
    if failed:
        raise Stopped(
            f"{failed} of {len(left)} runs failed",
            "each says why above, and in its folder's failure.json",
            "correct the cause and repeat with --resume",
        )
    typer.echo(f"report: swarmtrain experiment report {folder}")


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl+C does, with an exit code of its own."""
    is_terminated = False

    def terminated(number: int, frame: FrameType | None) -> None:
        nonlocal is_terminated
        is_terminated = True
        # A job in the background has SIGINT ignored.
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    except KeyboardInterrupt:
        if is_terminated:
            raise typer.Exit(TERMINATED) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(slots=True)
class _Progress:
    """Tells how `runs` start and end, `jobs` at a time, and when the rest will be done."""

    runs: int
    jobs: int
    _begun: dict[str, float] = field(default_factory=dict)
    _run_seconds: list[float] = field(default_factory=list)

    def follow(self, happenings: "Iterable[Started | Ended]") -> int:
        """How many runs failed."""
        from swarmtrain.experiments.execute import Started

        failed = 0
        for happening in happenings:
            if isinstance(happening, Started):
                self._begun[happening.name] = time.monotonic()
                again = f" again: {happening.why}" if happening.why else ""
                typer.echo(f"{happening.name} begins{again}")
            else:
                failed += happening.summary is None
                self._tell(happening)
        return failed

    def _tell(self, ended: "Ended") -> None:
        self._run_seconds.append(time.monotonic() - self._begun[ended.name])
        number = len(self._run_seconds)
        eta_seconds = sum(self._run_seconds) / number * (self.runs - number) / self.jobs
        spent = f"{self._run_seconds[-1]:.0f} s, ETA {eta_seconds:.0f} s"
        typer.echo(f"[{number}/{self.runs}] {_told(ended)}  ({spent})")


def _runs_at_a_time(world: str, jobs: int | None) -> int:
    from swarmtrain.core.errors import ConfigError

    if world == "virtual":
        return jobs or os.cpu_count() or 1
    if (jobs or 1) > 1:
        raise ConfigError(
            f"--jobs {jobs} does not go with --world {world}",
            "real processes of several runs would slow each other down",
            "leave --jobs out",
        )
    return 1


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
    """Whether two results differ by more than noise: each figure by a paired test where seeds are equal, else Welch's.

    Example: swarmtrain experiment compare runs/routes:policy=wired runs/routes:policy=planned
    """
    from swarmtrain.experiments.compare import compared, told

    rows = compared(first, second)
    if output == "json":
        typer.echo(json.dumps([row.as_json() for row in rows], indent=2))
    else:
        typer.echo(told(rows, first, second))
