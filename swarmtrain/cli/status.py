"""`swarmtrain status`: what a coordinator knows of its run."""

import json
from typing import Annotated, Any

import typer


def status(
    address: Annotated[str, typer.Argument(help="The coordinator, host:port")],
    output: Annotated[str, typer.Option("-o", "--output", help="table or json")] = "table",
) -> None:
    """Show a run's step, loss, speed and peers.

    Example: swarmtrain status 127.0.0.1:8765 -o json
    """
    import asyncio

    from swarmtrain.peer.asking import ask
    from swarmtrain.transport.requests import StatusReply

    message = asyncio.run(ask(address, "status", 10.0))
    state = json.loads(StatusReply.decode(message.meta).json)
    typer.echo(json.dumps(state, indent=2) if output == "json" else _table(state))


def _table(state: dict[str, Any]) -> str:
    loss = state["loss_last"]
    lines = [
        f"run {state['run']} ({state['run_hash'][:12]}): step {state['step']} of {state['steps']}, "
        f"loss {'-' if loss is None else f'{float(loss):.4f}'}, "
        f"{state['tokens_per_second']:,.0f} tokens/s"
        + (f", ended: {state['stop_reason']}" if state["stopped"] else "")
    ]
    for view in state["peers"]:
        stages = ",".join(map(str, view["stages"])) or "-"
        lines.append(
            f"  {view['name']:<16} {view['state']:<8} stages {stages:<8} {view['address']}"
        )
    return "\n".join(lines)
