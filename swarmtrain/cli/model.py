"""Commands that use a trained model: eval, generate."""

import json
from pathlib import Path
from typing import Annotated

import typer

CheckpointFolder = Annotated[
    Path, typer.Argument(help="A run folder, its checkpoint/ folder, or one step-... in it")
]


def evaluate(
    checkpoint: CheckpointFolder,
    batches: Annotated[int, typer.Option(min=1, help="Held-out batches to read")] = 32,
    output: Annotated[str, typer.Option("-o", "--output", help="table or json")] = "table",
) -> None:
    """Measure a checkpoint on the held-out part of its corpus, in nats per token.

    Example: swarmtrain eval runs/demo-1
    """
    import math

    from swarmtrain.experiments.trained import TrainedModel

    model = TrainedModel.load(checkpoint_folder(checkpoint))
    loss = model.held_out_loss(batches)
    facts = {
        "step": model.step,
        "eval_loss": loss,
        "perplexity": math.exp(loss),
        "batches": batches,
    }
    if output == "json":
        typer.echo(json.dumps(facts))
    else:
        typer.echo(f"step {model.step}: {loss:.4f} nats/token, perplexity {math.exp(loss):.2f}")


def generate(
    checkpoint: CheckpointFolder,
    prompt: Annotated[str, typer.Option(help="Text to continue")] = "def ",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to add")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Choose among so many; 0 is all")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the choices")] = 0,
) -> None:
    """Continue a text with a checkpoint's model.

    Example: swarmtrain generate runs/demo-1 --prompt "import "
    """
    from swarmtrain.experiments.trained import TrainedModel

    model = TrainedModel.load(checkpoint_folder(checkpoint))
    typer.echo(prompt + model.sample(prompt, tokens, temperature, top_k, seed))


def checkpoint_folder(path: Path) -> Path:
    """A run folder stands for the checkpoint folder in it."""
    return path / "checkpoint" if (path / "checkpoint").is_dir() else path
