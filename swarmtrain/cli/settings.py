"""What the commands that read a RUN.toml share: options, the merged configuration, the run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from swarmtrain.core.errors import ConfigError

if TYPE_CHECKING:
    from swarmtrain.core.config import RunConfig
    from swarmtrain.monitor.sinks import ToOpen

RunFile = Annotated[
    list[Path] | None,
    typer.Argument(help="RUN.toml files; later ones win", metavar="RUN.toml"),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting, as section.key=value; repeatable"),
]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Steps to train, instead of run.steps")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Run folder to write; default runs/NAME-1, runs/NAME-2, ..."),
]


Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option("--device", help="Where to compute; auto: CUDA or MPS if the run's sums allow it"),
]

Output = Annotated[Literal["table", "json"], typer.Option("-o", "--output", help="table or json")]

ResumeChoice = Literal["auto", "never"]
Resume = Annotated[
    ResumeChoice,
    typer.Option("--resume", help="auto: go on from the newest whole checkpoint in --out, if any"),
]

Sinks = Annotated[
    list[str] | None,
    typer.Option(
        "--sink",
        help="Show the curves there too: tensorboard:FOLDER, wandb:PROJECT or trackio:PROJECT; repeatable",
    ),
]


def read_config(
    files: Sequence[Path] | None,
    overrides: Sequence[str] | None,
    steps: int | None,
    more: Sequence[str] = (),
) -> "RunConfig":
    """The merged configuration. Fewer steps than warm-up steps shorten the warm-up too. Raises ConfigError."""
    from swarmtrain.core.config import load_config

    chosen = [*(overrides or ()), *more]
    if steps is None:
        return load_config(files or (), chosen)
    # Long enough for any warm-up; the real number comes second.
    planned = load_config(files or (), [*chosen, "run.steps=1000000000"])
    warmup_steps = min(planned.optimizer.warmup_steps, steps)
    more_steps = [f"run.steps={steps}", f"optimizer.warmup_steps={warmup_steps}"]
    return load_config(files or (), [*chosen, *more_steps])


def run_folder(out: Path | None, config: "RunConfig", resume: ResumeChoice) -> tuple[Path, bool]:
    """The folder to write, and whether the run goes on from what is in it. Raises ConfigError."""
    known = _known_run(out, resume)
    if out is None or known is None:
        return new_run_folder(out, config), False
    if known.hash != config.hash:
        raise ConfigError(
            f"{out} holds a run with other settings",
            f"its configuration hashes to {known.hash[:12]}, this one to {config.hash[:12]}",
            f"resume with {out / 'config.toml'}, or choose another --out",
        )
    return _write_config(out, config), True


def founders_of(out: Path | None, resume: ResumeChoice, islands: int) -> int:
    """How many islands found the group of a run, unless told: all that begin together. A run that goes on has those it
    began with, however many islands there are now."""
    known = _known_run(out, resume)
    return islands if known is None else known.outer.founders


def _known_run(out: Path | None, resume: ResumeChoice) -> "RunConfig | None":
    """The configuration of the run that is to go on; None for a new one. Raises ConfigError."""
    from swarmtrain.core.config import load_config

    if resume == "never" or out is None or not (out / "config.toml").exists():
        return None
    return load_config([out / "config.toml"])


def new_run_folder(out: Path | None, config: "RunConfig") -> Path:
    """A folder for one run, holding `config.toml`; an old run is never written over. Raises ConfigError."""
    folder = out or _next_free(Path("runs"), config.run.name)
    if (folder / "config.toml").exists():
        raise ConfigError(
            f"{folder} already holds a run",
            "its journal and checkpoints would be mixed with the new ones",
            "choose another --out, go on with it by --resume auto, or remove that folder",
        )
    return _write_config(folder, config)


def sinks_to_open(texts: Sequence[str] | None, config: "RunConfig", folder: Path) -> "ToOpen":
    """The sinks that `--sink` names, with their names, for the run in `folder`. Raises ConfigError.

    None is open yet: a run that cannot begin would leave it so. Nothing leaves this machine unless the environment
    says WANDB_MODE=online.
    """
    import json
    import os
    import time
    from functools import partial

    from swarmtrain.monitor.sinks import SinkRun, open_sink, parse_sink

    if not texts:
        return ()
    for text in texts:
        parse_sink(text)
    is_offline = os.environ.get("WANDB_MODE", "offline") != "online"
    values = json.loads(config.to_json())
    run = SinkRun(config.run.name, _run_id(folder), values, folder, is_offline, time.time)
    return tuple((text, partial(open_sink, text, run)) for text in texts)


def _run_id(folder: Path) -> str:
    """By what sinks know the run in `folder`: drawn once, so that one which goes on there is the same to them."""
    import secrets

    path = folder / "run_id"
    if not path.exists():
        path.write_text(secrets.token_hex(4) + "\n", encoding="ascii")
    return path.read_text(encoding="ascii").strip()


def _write_config(folder: Path, config: "RunConfig") -> Path:
    from swarmtrain.core.config import to_toml

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text(to_toml(config), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the run folder {folder} cannot be written", str(error), "choose another --out"
        ) from error
    return folder


def _next_free(parent: Path, name: str) -> Path:
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"
