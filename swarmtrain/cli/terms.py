"""A volunteer's terms on the command line: options of `peer`, and `pause`, `resume`, `leave` from another terminal."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarmtrain.cli.settings import Output
from swarmtrain.core.errors import ConfigError, StateError

if TYPE_CHECKING:
    from swarmtrain.peer.state_folder import Status
    from swarmtrain.plan.terms import Hours, Request, Terms
    from swarmtrain.transport.caps import Caps

_PANEL = "Your terms"
ANSWER_SECONDS = 15.0
LOOK_SECONDS = 0.1


def _option(name: str, text: str, *more: str) -> typer.models.OptionInfo:
    return typer.Option(name, *more, help=text, rich_help_panel=_PANEL)


Memory = Annotated[
    str | None,
    _option(
        "--memory",
        "Memory this process may have, as 6GiB; default: plans with 80% of what is free",
        "--max-memory",
    ),
]
UploadLimit = Annotated[
    str | None, _option("--upload-limit", "Most that is sent a second, as 10Mbit")
]
DownloadLimit = Annotated[
    str | None, _option("--download-limit", "Most that is received a second, as 50Mbit")
]
DailyTransfer = Annotated[
    str | None, _option("--daily-transfer", "Most that is sent and received a day, as 20GB")
]
Disk = Annotated[
    str | None, _option("--disk", "Most that journal, state and cache may take, as 5GB")
]
OnlyWhenIdle = Annotated[
    bool, _option("--only-when-idle", "Serve while nobody uses the machine and it has little to do")
]
IdleAfter = Annotated[
    str, _option("--idle-after", "How long nobody may have used it, for --only-when-idle")
]
ServingHours = Annotated[str | None, _option("--hours", "Serve within these only, as 22:00-07:00")]
NotOnBattery = Annotated[bool, _option("--not-on-battery", "Serve while it is plugged in only")]
Nice = Annotated[
    int,
    typer.Option(
        "--nice",
        min=0,
        max=19,
        envvar="SWARMTRAIN_NICE",
        help="How far to give way to other programs",
        rich_help_panel=_PANEL,
    ),
]
State = Annotated[
    Path | None,
    _option("--state", "Folder for counts and requests (pause, ...); default: one in your home"),
]


@dataclass(frozen=True, slots=True)
class Said:
    """The options of `peer` that are terms, as they were written."""

    upload_download: tuple[str | None, str | None]
    daily_transfer: str | None
    disk: str | None
    idle: tuple[bool, str]
    hours: str | None
    not_on_battery: bool
    nice: int
    state: Path | None


def parse_terms(said: Said) -> "Terms":
    """Raises ConfigError for what is no quantity or no hours."""
    from swarmtrain.core.units import parse_bytes, parse_seconds
    from swarmtrain.plan.terms import Terms

    only_when_idle, idle_after = said.idle
    return Terms(
        daily_transfer_bytes=parse_bytes(said.daily_transfer) if said.daily_transfer else None,
        disk_bytes=parse_bytes(said.disk) if said.disk else None,
        hours=parse_hours(said.hours) if said.hours else None,
        only_when_idle=only_when_idle,
        idle_seconds=parse_seconds(idle_after),
        not_on_battery=said.not_on_battery,
    )


def parse_caps(said: Said) -> "Caps":
    """Raises ConfigError for what is no rate, or too small a one."""
    from swarmtrain.core.units import parse_bytes_per_second
    from swarmtrain.transport.caps import Caps, DownloadCap, UploadCap

    up, down = said.upload_download
    return Caps(
        upload=UploadCap(parse_bytes_per_second(up)) if up else None,
        download=DownloadCap(parse_bytes_per_second(down)) if down else None,
    )


def parse_hours(text: str) -> "Hours":
    """`22:00-07:00`. Raises ConfigError."""
    from swarmtrain.plan.terms import Hours

    match = re.fullmatch(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})", text)
    if match is not None:
        begin_hour, begin_minute, end_hour, end_minute = map(int, match.groups())
        begin, end = 60 * begin_hour + begin_minute, 60 * end_hour + end_minute
        if max(begin_hour, end_hour) < 24 and max(begin_minute, end_minute) < 60 and begin != end:
            return Hours(60.0 * begin, 60.0 * end)
    raise ConfigError(
        f"--hours {text!r} names no part of a day",
        "it is not two different times of day, the first the beginning",
        "write it as 22:00-07:00, in this machine's time; leave it out to serve all day",
    )


def states_folder() -> Path:
    """Where peers without --state keep theirs, as `peer`, `peer-2`, ..."""
    from platformdirs import user_state_path

    return user_state_path("swarmtrain")


OwnPeer = Annotated[
    Path | None, typer.Option("--state", help="The peer's --state; needed where several peers run")
]


def pause(state: OwnPeer = None, output: Output = "table") -> None:
    """Pause a peer of yours that runs on this machine: it leaves the run until you resume it.

    Example: swarmtrain pause

    It leaves between two steps: nobody has to do its work again.
    """
    _ask("pause", state, output)


def resume(state: OwnPeer = None, output: Output = "table") -> None:
    """Let a paused peer of yours join its run again, as the same peer.

    Example: swarmtrain resume
    """
    _ask("serve", state, output)


def leave(state: OwnPeer = None, output: Output = "table") -> None:
    """Have a peer of yours finish its step, leave its run and end.

    Example: swarmtrain leave

    The same as Ctrl+C in its own terminal.
    """
    _ask("finish", state, output)


def show_own_peer(state: Path | None, output: str) -> None:
    """Print what the peer of this machine says of itself. Raises StateError."""
    _show(_answered(state or _running_folder(), None), output)


def _ask(request: "Request", state: Path | None, output: str) -> None:
    from swarmtrain.peer.state_folder import ask_for, read_status

    folder = state or _running_folder()
    before = read_status(folder)
    ask_for(folder, request)
    _show(_answered(folder, request, before), output)


def _show(status: "Status", output: str) -> None:
    import json
    from dataclasses import asdict

    typer.echo(json.dumps(asdict(status)) if output == "json" else _in_words(status))


def _running_folder() -> Path:
    """The folder of the only peer that runs. Raises StateError when there is none, or more than one."""
    from swarmtrain.peer.state_folder import is_owned

    running = [path for path in sorted(states_folder().glob("peer*")) if is_owned(path)]
    if len(running) == 1:
        return running[0]
    if not running:
        raise StateError(
            "no peer of yours runs here",
            f"nobody holds a folder in {states_folder()}",
            "start one by swarmtrain peer, or name its folder by --state; of a run: swarmtrain status HOST:PORT",
        )
    names = ", ".join(map(str, running))
    raise StateError(f"{len(running)} peers of yours run here", names, "choose one by --state")


def _answered(folder: Path, request: "Request | None", before: "Status | None" = None) -> "Status":
    """The peer's status once it has seen the request, if any. Raises StateError when it does not answer."""
    import time

    from swarmtrain.peer.state_folder import is_owned, read_status

    deadline_seconds = time.monotonic() + ANSWER_SECONDS
    while is_owned(folder) and time.monotonic() < deadline_seconds:
        status = read_status(folder)
        if status is not None and request in (None, status.request):
            return status
        time.sleep(LOOK_SECONDS)
    if request == "finish" and before is not None and not is_owned(folder):
        # A peer that is paused, or finds no run, is gone before anybody could look.
        return replace(before, request="finish", doing="left", reason="", resumes="")
    raise StateError(
        f"no peer answers in {folder}",
        "none runs with that folder, or it is busy starting",
        "look whether it runs; give its --state here too",
    )


def _in_words(status: "Status") -> str:
    from swarmtrain.core.units import format_bytes

    lines = [f"{status.name} (process {status.process}): {status.doing}"]
    if status.reason:
        lines.append(f"  why: {status.reason}")
    if status.resumes:
        lines.append(f"  resumes: {status.resumes}")
    step = f"step {status.step}, " if status.step else ""
    lines.append(f"  {step}{format_bytes(status.transfer_bytes)} sent and received today")
    return "\n".join(lines)
