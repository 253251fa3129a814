"""summary.json and what is printed at the end of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from swarmtrain.coordinator.state import RunState
    from swarmtrain.core.config import RunConfig


def summary_of(config: "RunConfig", state: "RunState", eval_loss: float | None) -> dict[str, Any]:
    """The contract's keys (design.md section 11) from what a coordinator saw."""
    return {
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "loss_first": state.loss_first,
        "loss_last": state.loss_last,
        "eval_loss": eval_loss,
        "tokens_per_second": state.tokens_per_second,
        "bytes_sent": state.bytes_sent,
        "bytes_per_token": state.bytes_per_token,
        "peers": len(state.peers),
        "faults": state.faults,
        "recoveries": state.recoveries,
        "flagged_recoveries": state.flagged_recoveries,
        "replayed_keys": state.replayed_keys,
        "duplicate_keys_dropped": state.duplicate_keys_dropped,
        "parameters_sha256": state.parameters_sha256,
        "finished": state.finished,
        "stop_reason": state.stop_reason,
    }


def write(folder: Path, config: "RunConfig", summary: dict[str, Any]) -> None:
    """Write summary.json with what identifies the run, and print it in words."""
    from swarmtrain.core.units import format_bytes
    from swarmtrain.core.version import VERSION
    from swarmtrain.monitor.summary import write_summary

    facts = {"run": config.run.name, "run_hash": config.hash, "seed": config.run.seed}
    write_summary(folder / "summary.json", {**summary, **facts, "version": VERSION})
    sent = summary["bytes_per_token"]
    typer.echo(
        f"\n{summary['steps']} steps, {summary['tokens']:,} tokens in {summary['seconds']:.1f} s "
        f"({summary['tokens_per_second']:,.0f} tokens/s"
        + (f", {format_bytes(round(sent))} sent a token)" if sent else ")")
    )
    if summary["loss_first"] is not None:
        typer.echo(
            f"loss {summary['loss_first']:.4f} -> {summary['loss_last']:.4f} nats/token"
            + (f", held out {summary['eval_loss']:.4f}" if summary["eval_loss"] is not None else "")
        )
    typer.echo(f"parameters_sha256 {summary['parameters_sha256']}")
    typer.echo(f"run folder {folder}")
