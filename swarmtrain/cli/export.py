"""`swarmtrain export`: weights out, in the layout that transformers and most other tools read."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarmtrain.cli.settings import Output

if TYPE_CHECKING:
    from swarmtrain.experiments.export import Exported

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A run folder, its checkpoint/ folder, one step-... in it, or host:port of a live run",
            metavar="CHECKPOINT_OR_ADDRESS",
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="The folder to write", metavar="FOLDER")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a model that was exported there before")
    ] = False,
    output: Output = "table",
) -> None:
    """Write a model for other tools: config.json, model.safetensors and tokenizer, as Llama models are published.

    Example: swarmtrain export runs/demo-1 my-model

    A live run gives its newest committed state, at most a minute old, and trains on. Of a run with outer rounds the
    merged parameters are written. transformers loads the folder with AutoModelForCausalLM.from_pretrained("my-model").
    """
    exported = _export(source, folder, force)
    if output == "json":
        facts = {
            "folder": str(folder),
            "step": exported.step,
            "which": exported.which,
            "parameters": exported.parameters,
            "files": exported.files,
        }
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"step {exported.step}, {exported.parameters:,} parameters ({exported.which})")
    typer.echo(f"wrote {folder}: {', '.join(exported.files)}")
    typer.echo(f'Next: swarmtrain generate {folder} --prompt "def "')


def _export(source: str, folder: Path, force: bool) -> "Exported":
    from swarmtrain.cli.model import checkpoint_folder
    from swarmtrain.cli.progress import Count
    from swarmtrain.core.units import format_bytes

    count = Count("", format_bytes)
    if not Path(source).exists() and _ADDRESS.fullmatch(source):
        import asyncio

        from swarmtrain.experiments.live_export import export_live

        return asyncio.run(export_live(source, folder, force, count))
    from swarmtrain.experiments.export import checkpoint_weights, export

    return export(checkpoint_weights(checkpoint_folder(Path(source))), folder, force, count)
