"""`swarmtrain config`: show what a run is configured to do and why, and write a first RUN.toml."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from swarmtrain.core.config import RunConfig

app = typer.Typer(
    help="Show or write the configuration of a run. Example: swarmtrain config show RUN.toml",
    no_args_is_help=True,
)

# Settings most people want to change first; all others start as comments.
_STARTER = ("run.name", "run.steps", "model.preset", "data.source")
_STARTER_PRESET = "tiny"


class Output(StrEnum):
    """How `config show` prints."""

    TABLE = "table"
    JSON = "json"
    TOML = "toml"


@app.command()
def show(
    files: Annotated[
        list[Path] | None, typer.Argument(help="RUN.toml files; later ones win", metavar="RUN.toml")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override, as section.key=value; repeatable")
    ] = None,
    output: Annotated[
        Output, typer.Option("-o", "--output", help="Form of the output")
    ] = Output.TABLE,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what every setting and preset means")
    ] = False,
) -> None:
    """Print every setting, its value, and where the value comes from.

    Example: swarmtrain config show RUN.toml --set train.microbatches=16 --explain
    """
    from swarmtrain.core.config import load_config, origins, to_toml

    config = load_config(files or (), overrides or ())
    if output is Output.TOML:
        typer.echo(to_toml(config), nl=False)
        return
    found = origins(files or (), overrides or ())
    if output is Output.JSON:
        typer.echo(_as_json(config, found))
        return
    typer.echo("\n".join(_as_table(config, found, explain)))


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write", metavar="RUN.toml")] = Path(
        "RUN.toml"
    ),
    from_hf: Annotated[
        Path | None,
        typer.Option(
            "--from-hf", help="Folder of a Llama model in the Hugging Face layout to continue"
        ),
    ] = None,
) -> None:
    """Write a commented RUN.toml to start from; never overwrites.

    Example: swarmtrain config init my-run.toml

    With --from-hf FOLDER the run starts from that model's weights, shape and tokenizer.
    """
    from swarmtrain.core.errors import ConfigError

    settings: list[str] = []
    if from_hf is not None:
        from swarmtrain.experiments.imported import settings_of

        settings = settings_of(from_hf)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(starter_toml(settings))
    except FileExistsError:
        raise ConfigError(
            f"{path} exists already",
            "config init never overwrites a file",
            "give another name, or remove the file first",
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written",
            (error.strerror or str(error)).lower(),
            "choose another place",
        ) from None
    if from_hf is not None and 'data.tokenizer="bytes"' in settings:
        typer.echo(f"The run learns bytes: {from_hf} brings no tokenizer.json of another kind.")
    typer.echo(f"Wrote {path}. Next:")
    typer.echo(f"  swarmtrain config show {path} --explain   what every setting means")
    typer.echo(f"  swarmtrain up {path} --peers 3            train it on this machine")


def starter_toml(settings: Sequence[str] = ()) -> str:
    """A RUN.toml that names every setting; uncommenting a line as it stands changes nothing.

    `settings` are overrides `section.key=value` to start from, instead of a small preset.
    """
    from swarmtrain.core.config import fields, load_config, toml_value
    from swarmtrain.core.presets import PRESETS

    config = load_config((), settings or (f"model.preset={_STARTER_PRESET}",))
    chosen = {*_STARTER, *(setting.partition("=")[0] for setting in settings)}
    lines = [
        "# A swarmtrain run. A line that starts with '#' shows what holds anyway: remove the '#' to change it.",
        "",
        "# Presets for [model]:",
        *(f"#   {name:<6} {preset.description}" for name, preset in PRESETS.items()),
    ]
    for section, key, entry in fields():
        if f"[{section}]" not in lines:
            lines += ["", f"[{section}]"]
        value = getattr(getattr(config, section), key)
        if value is None:
            continue
        lines.append(f"# {entry.description}")
        mark = "" if f"{section}.{key}" in chosen else "#"
        lines.append(f"{mark}{key} = {toml_value(key, value)}")
    return "\n".join(lines) + "\n"


def _as_json(config: "RunConfig", found: dict[str, str]) -> str:
    import json

    shown = {"hash": config.hash, "config": json.loads(config.to_json()), "origins": found}
    return json.dumps(shown, indent=2)


def _as_table(config: "RunConfig", found: dict[str, str], explain: bool) -> list[str]:
    """One line a setting: name, value, origin; with `explain` its meaning below."""
    from swarmtrain.core.config import fields, toml_value

    rows = []
    for section, key, entry in fields():
        value = getattr(getattr(config, section), key)
        text = "-" if value is None else toml_value(key, value)
        rows.append((f"{section}.{key}", text, found[f"{section}.{key}"], entry.description or ""))
    lines = []
    name_width, text_width = _widths(rows)
    for name, text, origin, meaning in rows:
        lines.append(f"{name:<{name_width}}  {text:<{text_width}}  {origin}")
        if explain:
            lines.append(f"    {meaning}")
    return [*lines, "", *_summary(config), *(_presets() if explain else ())]


def _widths(rows: Sequence[tuple[str, str, str, str]]) -> tuple[int, int]:
    return max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)


def _summary(config: "RunConfig") -> list[str]:
    """What the settings come to: size, memory of a middle stage and of the edge, hash."""
    from swarmtrain.core.sizes import memory_estimate, parameter_count, vocabulary
    from swarmtrain.core.units import format_bytes

    vocab_size = vocabulary(config.model)
    guess = config.model.vocab_size == 0 and config.data.tokenizer != "bytes"
    edge, middle = (memory_estimate(config, vocab_size, [stage]).total_bytes for stage in (0, 1))
    return [
        f"parameters    {parameter_count(config.model, vocab_size):,}"
        + (" (counted with the byte tokenizer's vocabulary)" if guess else ""),
        f"edge stage    {format_bytes(edge)} of memory on its peer",
        f"middle stage  {format_bytes(middle)} of memory on its peer, each of {config.model.stages}",
        f"run hash      {config.hash}",
    ]


def _presets() -> list[str]:
    from swarmtrain.core.presets import PRESETS

    return [
        "",
        "presets",
        *(f"    {name:<6} {entry.description}" for name, entry in PRESETS.items()),
    ]
