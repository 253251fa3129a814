"""`swarmtrain status`: what a coordinator knows of its run."""

import json
from typing import Annotated, Any

import typer

from swarmtrain.cli.settings import Output
from swarmtrain.cli.terms import OwnPeer, show_own_peer
from swarmtrain.core.units import format_bytes

EVENTS_SHOWN = 5


def status(
    address: Annotated[
        str | None,
        typer.Argument(
            help="The coordinator, host:port; left out: a peer of yours on this machine",
            metavar="HOST:PORT",
        ),
    ] = None,
    links: Annotated[
        bool, typer.Option("--links", help="Also what peers measured of their links")
    ] = False,
    state: OwnPeer = None,
    output: Output = "table",
) -> None:
    """Show a run's step, loss, speed and peers; without an address what your own peer does, and why.

    Example: swarmtrain status 127.0.0.1:8765 -o json
    """
    import asyncio

    from swarmtrain.peer.asking import ask

    if address is None:
        show_own_peer(state, output)
        return
    message = asyncio.run(ask(address, "status", 10.0))
    known = json.loads(bytes(message.body))
    if output == "json":
        typer.echo(json.dumps(known, indent=2))
        return
    typer.echo(_table(known))
    if links:
        typer.echo(_links(known["peers"]))


def _table(state: dict[str, Any]) -> str:
    loss, sent = state["loss_last"], state["bytes_per_token"]
    lines = [
        f"run {state['run']} ({state['run_hash'][:12]}): step {state['step']} of {state['steps']}, "
        f"loss {'-' if loss is None else f'{float(loss):.4f}'}, "
        f"{state['tokens_per_second'] or 0:,.0f} tokens/s"
        + (f", {format_bytes(round(sent))} sent a token" if sent else "")
        + (f", ended: {state['stop_reason']}" if state["stopped"] else "")
    ]
    if state["waiting_for"] and not state["conductor"]:
        lines.append(f"  waiting: {state['waiting_for']}")
    for view in state["peers"]:
        stages = ",".join(map(str, view["stages"])) or "-"
        lines.append(
            f"  {view['name']:<16} {view['state']:<8} stages {stages:<8} {view['address']}"
            + (f"  island {view['island']}" if view["island"] or view["island_reason"] else "")
            + (f": {view['island_reason']}" if view["island_reason"] else "")
            + ("  reachable directly" if view.get("was_dialled") else "")
            + _carried(view)
        )
    return "\n".join([*lines, *(f"  {line['text']}" for line in state["log"][-EVENTS_SHOWN:])])


def _carried(view: dict[str, Any]) -> str:
    """Bytes that the peer's links sent and received for each token that the run committed meanwhile."""
    ways = (view["sent_bytes_per_token"], view["received_bytes_per_token"])
    if None in ways:
        return ""
    up, down = (format_bytes(round(way)) for way in ways)
    return f"  a token {up} up, {down} down"


def _links(peers: list[dict[str, Any]]) -> str:
    """A row a sender, a column a receiver: one-way milliseconds and Mbit/s; "-" where nothing was measured."""
    names = [view["name"][:14] for view in peers]
    lines = ["", "one-way ms / Mbit/s, measured by the sender (row) to the receiver (column)"]
    lines.append(" " * 16 + "".join(f"{name:>15}" for name in names))
    for name, view in zip(names, peers, strict=True):
        figures = {to: (seconds, rate) for to, seconds, rate, _ in view["links"]}
        cells = (_cell(figures, other["peer"]) for other in peers)
        lines.append(f"  {name:<14}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def _cell(figures: dict[str, tuple[float, float]], peer: str) -> str:
    found = next((row for to, row in figures.items() if peer.startswith(to)), None)
    if found is None:
        return "-"
    seconds, rate = found
    return f"{1000 * seconds:.1f} / " + (f"{8e-6 * rate:,.0f}" if rate else "-")
