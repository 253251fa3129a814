"""`swarmtrain doctor`: what stands between this machine and a run, and what to do about it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarmtrain.cli.settings import Device, Output, Overrides, RunFile

if TYPE_CHECKING:
    from swarmtrain.peer.diagnosis import Finding
    from swarmtrain.peer.examining import Patient

COLOURS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def doctor(
    files: RunFile = None,
    join: Annotated[
        list[str] | None,
        typer.Option(
            "--join",
            envvar="SWARMTRAIN_JOIN",
            help="Also try that run, at host:port; repeatable, as for peer",
        ),
    ] = None,
    overrides: Overrides = None,
    listen: Annotated[
        str, typer.Option(help="host:port as you would give it to peer")
    ] = "127.0.0.1:0",
    announce: Annotated[str, typer.Option(help="host:port as you would give it to peer")] = "",
    device: Device = "auto",
    max_memory: Annotated[
        str | None, typer.Option(help="Memory to plan with, as 6GiB; default 80% of what is free")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder in which runs would be written")] = Path("runs"),
    output: Output = "table",
) -> None:
    """Check versions, clock, network, memory, speed and disk, and say for each trouble what to do.

    Example: swarmtrain doctor --join 127.0.0.1:8765

    Exit codes: 0 when nothing failed (warnings are advice), else that of the first failure: 1 this machine, 2 usage,
    3 not reachable, 4 another version or run.
    """
    import asyncio
    import sys
    import time

    from platformdirs import user_cache_path

    from swarmtrain.cli.settings import read_config
    from swarmtrain.core.units import parse_bytes
    from swarmtrain.peer.diagnosis import exit_code
    from swarmtrain.peer.examining import Patient

    patient = Patient(
        joins=tuple(join or ()),
        config=read_config(files, overrides, None) if files or overrides else None,
        listen=listen,
        announce=announce,
        device=device,
        memory_bytes=parse_bytes(max_memory) if max_memory is not None else None,
        cache_folder=user_cache_path("swarmtrain"),
        run_folder=out,
        wall_seconds=time.time,
    )
    findings = asyncio.run(_examined(patient, output == "table"))
    code = exit_code(findings)
    if output == "json":
        typer.echo(json.dumps(as_json(findings, code), indent=2))
    else:
        typer.echo(closing_line(findings))
    sys.exit(code)


async def _examined(patient: "Patient", is_shown: bool) -> "list[Finding]":
    from swarmtrain.peer.examining import examine

    findings = []
    async for finding in examine(patient):
        findings.append(finding)
        if is_shown:
            _show(finding)
    return findings


def _show(finding: "Finding") -> None:
    mark = typer.style(f"{finding.state:<4}", fg=COLOURS[finding.state])
    typer.echo(f"{mark}  {finding.check:<13} {finding.found}")
    if finding.remedy:
        typer.echo(f"{'':<19} do: {finding.remedy}")


def closing_line(findings: "list[Finding]") -> str:
    """How many of each, in words."""
    fails = sum(finding.state == "fail" for finding in findings)
    warns = sum(finding.state == "warn" for finding in findings)
    if not fails and not warns:
        return f"all {len(findings)} checks are well"
    return f"{len(findings)} checks: {fails} failed, {warns} to look at"


def as_json(findings: "list[Finding]", code: int) -> dict[str, object]:
    """For programs: every check in order, and host:port where the run sees this machine, if it was found out."""
    checks = [
        {"check": one.check, "state": one.state, "found": one.found, "do": one.remedy}
        for one in findings
    ]
    seen_at = next((one.seen_at for one in findings if one.seen_at), None)
    return {"ok": code == 0, "exit_code": code, "seen_at": seen_at, "checks": checks}
