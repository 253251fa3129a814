"""`swarmtrain plan`: routes of one step over a network, and where peers go; no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from swarmtrain.plan.paths.explain import Stop
    from swarmtrain.plan.paths.instance import Instance
    from swarmtrain.plan.paths.routes import Plan
    from swarmtrain.plan.paths.search import Report, Spent

PROGRESS_SECONDS = 2.0
"""How often a long search says how far it is."""

MOST_ROUTES = 40
"""Routes that the table lists; `-o json` has them all."""


def plan(
    network: Annotated[Path, typer.Argument(help="NETWORK.json", metavar="NETWORK.json")],
    skip: Annotated[
        float | None,
        typer.Option(help="Share of the middle stages to leave out, instead of the file's visits"),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to search")] = 10.0,
    evaluations: Annotated[
        int | None,
        typer.Option(min=1, help="Search for so many evaluations instead: same plan everywhere"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search")] = 0,
    output: Annotated[
        Literal["table", "json"], typer.Option("-o", "--output", help="table or json")
    ] = "table",
) -> None:
    """Plan one step: who visits what, when it starts, what that takes, and how far it is from the best possible.

    Example: swarmtrain plan NETWORK.json --seconds 10 -o json

    Ctrl+C ends the search and prints the best plan so far.
    """
    import json
    import random
    import time

    from swarmtrain.plan.paths.planner import plan as search

    instance = _read(network, skip)
    started = time.monotonic()
    spent, report = _budget(seconds, evaluations, started)
    found = search(instance, spent, random.Random(seed), report)
    planning_seconds = time.monotonic() - started
    if output == "json":
        typer.echo(json.dumps({**found.as_json(), "planning_seconds": planning_seconds}, indent=2))
    else:
        typer.echo(_table(found, planning_seconds))


def _read(network: Path, skip: float | None) -> "Instance":
    from dataclasses import replace

    from swarmtrain.core.errors import ConfigError
    from swarmtrain.plan.paths.reading import check, read_instance

    try:
        text = network.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "not a text file"
        raise ConfigError(f"{network} cannot be read", why.lower(), "check the path") from None
    instance = read_instance(text)
    if skip is None:
        return instance
    if not 0.0 <= skip < 1.0:
        raise ConfigError(
            f"--skip {skip} cannot be used", "it is a share of the middle stages", "0 <= skip < 1"
        )
    visited = max(1, round((1.0 - skip) * (instance.stages - 1)))
    instance = replace(instance, visits=1 + visited)
    check(instance)
    return instance


def _budget(seconds: float, evaluations: int | None, started: float) -> "tuple[Spent, Report]":
    """The share of the budget used, which Ctrl+C uses up; and progress on standard error."""
    import signal
    import time

    stopped = False
    printed = started

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        typer.echo("stopping: the best plan so far follows", err=True)

    def spent(done: int) -> float:
        nonlocal printed
        now = time.monotonic()
        share = (now - started) / max(seconds, 1e-9) if evaluations is None else done / evaluations
        if now - printed > PROGRESS_SECONDS:
            printed = now
            found = "a first plan" if best is None else f"best {best:.2f} s"
            typer.echo(f"{share:4.0%}  {done:,} evaluations  {found}", err=True)
        return 1.0 if stopped else share

    best: float | None = None

    def report(done: int, makespan_seconds: float) -> None:
        nonlocal best
        best = makespan_seconds

    signal.signal(signal.SIGINT, stop)
    return spent, report


def _table(plan: "Plan", planning_seconds: float) -> str:
    from swarmtrain.plan.paths.explain import worst_path

    worst = worst_path(plan)
    lines = [
        f"makespan     {plan.makespan_seconds:.3f} s",
        f"lower bound  {plan.lower_bound_seconds:.3f} s, gap {plan.gap:.3f}",
        f"planned in   {planning_seconds:.2f} s, {plan.evaluations:,} evaluations",
        "",
        *_places(plan),
        "",
        *_routes(plan),
        "",
        f"worst path: microbatch {worst.microbatch}, released at {worst.release_seconds:.3f} s: "
        f"{worst.work_seconds:.2f} s of work, {worst.send_seconds:.2f} s of sends, "
        f"{worst.wait_seconds:.2f} s of waiting",
        "   arrives    starts      ends  task      stage  peer",
        *(_stop(stop) for stop in worst.stops),
    ]
    return "\n".join(lines)


def _places(plan: "Plan") -> list[str]:
    peers = plan.instance.peers
    return [
        f"stage {stage:<3} " + ", ".join(peers[peer].name for peer in hosts)
        for stage, hosts in enumerate(plan.instance.hosts)
    ]


def _routes(plan: "Plan") -> list[str]:
    """One line a microbatch: its edge, then peer and stage of every visit."""
    names = [peer.name for peer in plan.instance.peers]
    lines = ["microbatch  released  ends      route"]
    ends = plan.execution().ends
    for index, route in enumerate(plan.routes[:MOST_ROUTES]):
        visits = zip(route.peers, route.stages, strict=True)
        path = " > ".join(f"{names[peer]}:{stage}" for peer, stage in visits)
        lines.append(f"{index:>10}  {route.release_seconds:8.3f}  {ends[index]:8.3f}  {path}")
    if len(plan.routes) > MOST_ROUTES:
        lines.append(f"... and {len(plan.routes) - MOST_ROUTES} more (-o json lists all)")
    return lines


def _stop(stop: "Stop") -> str:
    times = (stop.arrival_seconds, stop.start_seconds, stop.end_seconds)
    line = "".join(f"{time:10.3f}" for time in times)
    line += f"  {stop.task:<8}  {stop.stage:>5}  {stop.peer}"
    waits = []
    if stop.slot_seconds > 0.0005:
        waits.append(f"{stop.slot_seconds:.2f} s for a memory slot")
    if stop.busy_seconds > 0.0005:
        waits.append(f"{stop.busy_seconds:.2f} s for the peer")
    if waits and stop.behind:
        waits.append("served meanwhile: " + ", ".join(map(str, dict.fromkeys(stop.behind))))
    return line + (f"  (waits {', '.join(waits)})" if waits else "")
