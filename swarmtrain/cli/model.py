"""Commands that use a trained model, from a checkpoint or from the Hugging Face layout: eval, generate."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarmtrain.cli.settings import Device, Output

if TYPE_CHECKING:
    from swarmtrain.experiments.partial_depth import Depth
    from swarmtrain.experiments.trained import TrainedModel

CheckpointFolder = Annotated[
    Path,
    typer.Argument(
        help="A run folder, its checkpoint/ folder, one step-... in it, or a Llama model's folder"
    ),
]

Family = Annotated[
    str | None,
    typer.Option(help="Import this model family, package.module:Name, for a checkpoint of it"),
]


def evaluate(
    checkpoint: CheckpointFolder,
    batches: Annotated[int, typer.Option(min=1, help="Held-out batches to read")] = 32,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Also measure with this share of the middle stages, the others left out, "
            "as in 0.5 or 1,0.75,0.5"
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Choices of stages to leave out, for each share")
    ] = 5,
    data: Annotated[
        str | None,
        typer.Option(help="Corpus instead of the run's: stdlib, text:PATH, shards:FOLDER, ..."),
    ] = None,
    family: Family = None,
    device: Device = "auto",
    output: Output = "table",
) -> None:
    """Measure a checkpoint, or an exported model, on the held-out part of its corpus, in nats per token.

    Example: swarmtrain eval runs/demo-1 --keep 1,0.75,0.5
    """
    import math

    from swarmtrain.cli.progress import Count
    from swarmtrain.experiments.partial_depth import measure, parse_shares
    from swarmtrain.experiments.trained import TrainedModel

    _trust(family)
    shares = parse_shares(keep or ())
    model = TrainedModel.load(checkpoint_folder(checkpoint), data)
    _compute_on(device, model)
    whole = tuple(range(1, model.config.model.stages + 1))
    measured: dict[tuple[int, ...], float] = {}

    def loss_with(stages: tuple[int, ...]) -> float:
        if stages not in measured:
            model.progress = Count("batches")
            measured[stages] = model.held_out_loss(batches, stages)
            if shares and output != "json":
                _show_choice(stages, measured[stages], len(whole))
        return measured[stages]

    depths = list(measure(model.config, shares, seeds, loss_with))
    loss = loss_with(whole)
    facts: dict[str, object] = {
        "step": model.step,
        "eval_loss": loss,
        "perplexity": math.exp(loss),
        "batches": batches,
    }
    if shares:
        facts["depths"] = [depth.as_json() for depth in depths]
    if output == "json":
        typer.echo(json.dumps(facts))
        return
    name = f"step {model.step}" if model.step else str(checkpoint)
    typer.echo(f"{name}: {loss:.4f} nats/token, perplexity {math.exp(loss):.2f}")
    for depth in depths:
        typer.echo(_depth_line(depth, len(whole), loss))


def _show_choice(kept: tuple[int, ...], loss: float, stages: int) -> None:
    """Progress: one choice of stages is measured."""
    left_out = [stage for stage in range(1, stages + 1) if stage not in kept]
    what = f"without {', '.join(map(str, left_out))}" if left_out else "all stages"
    typer.echo(f"  {what}: {loss:.4f} nats/token", err=True)


def _depth_line(depth: "Depth", stages: int, whole_loss: float) -> str:
    import math

    spread = f" +- {depth.spread:.4f} over {len(depth.kept)} choices" if depth.kept[1:] else ""
    change = math.expm1(depth.loss - whole_loss)
    return (
        f"  keep {depth.share:<5g} {depth.stages} of {stages} stages: {depth.loss:.4f} nats/token{spread}, "
        f"perplexity {depth.perplexity:.2f} ({change:+.1%})"
    )


def generate(
    checkpoint: CheckpointFolder,
    prompt: Annotated[str, typer.Option(help="Text to continue")] = "def ",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to add")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Choose among so many; 0 is all")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the choices")] = 0,
    family: Family = None,
    device: Device = "auto",
) -> None:
    """Continue a text with the model of a checkpoint, or with an exported one.

    Example: swarmtrain generate runs/demo-1 --prompt "import "
    """
    from swarmtrain.cli.progress import Count
    from swarmtrain.experiments.trained import TrainedModel

    _trust(family)
    model = TrainedModel.load(checkpoint_folder(checkpoint))
    _compute_on(device, model)
    model.progress = Count("tokens")
    typer.echo(prompt + model.sample(prompt, tokens, temperature, top_k, seed))


def _compute_on(device: str, model: "TrainedModel") -> None:
    """Move the model to the device, and say so where it is not the CPU."""
    from swarmtrain.compute.place import choose_place, seen_devices

    # Nothing is summed here that others would have to equal.
    place, why = choose_place(device, "fast", seen_devices())
    if place.device is not None:
        model.move(place.device)
        typer.echo(f"device {place.device.type}: {why}", err=True)


def _trust(family: str | None) -> None:
    """Code is imported because a person names it, never because a checkpoint does (I5)."""
    if family is not None:
        from swarmtrain.model.registry import load_family

        load_family(family, allow_import=True)


def checkpoint_folder(path: Path) -> Path:
    """A run folder stands for the checkpoint folder in it, and that for the island in it that came furthest."""
    from swarmtrain.checkpoint.store import furthest

    return furthest(path / "checkpoint" if (path / "checkpoint").is_dir() else path)
