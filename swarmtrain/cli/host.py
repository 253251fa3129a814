"""Running one coordinator or one peer in this process: signals, printed lines, exit codes."""

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from swarmtrain.cli.terms import Said
from swarmtrain.core.errors import ConfigError, Stopped

if TYPE_CHECKING:
    from swarmtrain.core.config import RunConfig
    from swarmtrain.core.events import Event, Record
    from swarmtrain.core.faultpoints import PointFault
    from swarmtrain.core.tasks import Tasks
    from swarmtrain.monitor.serving import HttpServer
    from swarmtrain.monitor.sinks import ToOpen
    from swarmtrain.peer.figures import PeerFigures
    from swarmtrain.peer.joining import JoinedPeer, JoinOptions
    from swarmtrain.peer.staging import StagedMachine
    from swarmtrain.peer.state_folder import StateFolder
    from swarmtrain.plan.terms import Terms

INTERRUPTED = 130
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
LINGER_SECONDS = 120.0


@contextlib.contextmanager
def interrupts(first: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `first` once; the second one ends the process at once."""
    loop = asyncio.get_running_loop()
    count = 0

    def interrupted() -> None:
        nonlocal count
        count += 1
        if count > 1:
            os._exit(INTERRUPTED)
        first()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, interrupted)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def parse_stages(text: str) -> tuple[int, ...] | None:
    """`auto` is None, `3` one stage, `1:3` the stages 1, 2 and 3. Raises ConfigError."""
    if text == "auto":
        return None
    match = re.fullmatch("([0-9]{1,4})(?::([0-9]{1,4}))?", text)
    if match is not None:
        stages = tuple(range(int(match[1]), int(match[2] or match[1]) + 1))
        if stages:
            return stages
    raise ConfigError(
        f"--stage {text!r} names no stages",
        "it is neither auto, nor a stage, nor a range of stages",
        "write auto, 3, or 1:3; stage 0 is the edge, with embedding and loss",
    )


def parse_island(text: str) -> int | None:
    """`auto` is None, `1` the second island. Raises ConfigError."""
    if text == "auto":
        return None
    if re.fullmatch("[0-9]{1,4}", text):
        return int(text)
    raise ConfigError(
        f"--island {text!r} names no island",
        "it is neither auto nor a number from 0 to 9999",
        "write auto, or the number of the island to help; the first is 0",
    )


@dataclass(frozen=True, slots=True)
class PeerProcess:
    """What the process does beside the peer in it: `metrics` is the address for Prometheus, empty for none;
    `staged_by` the file in which an experiment says what it makes of this machine. While nobody answers yet, it tries
    again for `join_seconds`."""

    lifeline: bool
    faults: "tuple[PointFault, ...]"
    metrics: str
    said: Said
    staged_by: Path | None = None
    join_seconds: float = 0.0


def run_peer(options: "JoinOptions", process: PeerProcess) -> None:
    """Serve until the run ends. Exits 0 when it finished or this peer left, with the error's code otherwise."""
    import psutil

    # Threads take over what their maker has, so this comes before there are any.
    own = psutil.Process()
    own.nice(max(own.nice(), process.said.nice))
    code = asyncio.run(_serve_peer(options, process))
    sys.exit(code)


async def _serve_peer(options: "JoinOptions", process: PeerProcess) -> int:
    from swarmtrain.cli.terms import parse_terms, states_folder
    from swarmtrain.peer.figures import PeerFigures
    from swarmtrain.peer.joining import identity_at
    from swarmtrain.peer.state_folder import open_state_folder

    figures = PeerFigures()

    def seen(event: "Event") -> None:
        figures.seen(event)
        _print_event(event)

    options = replace(options, key=identity_at(options.identity))
    terms = parse_terms(process.said)
    machine, options = _staged(process.staged_by, options)
    page = await _serve_metrics(process.metrics, figures)
    folder = open_state_folder(process.said.state, states_folder() / "peer")
    try:
        opening = _Opening(options, process, figures, seen)
        return await _live(opening, terms, folder, machine)
    finally:
        folder.close()
        if page is not None:
            await page.close()


def _staged(
    path: Path | None, options: "JoinOptions"
) -> "tuple[StagedMachine | None, JoinOptions]":
    """The machine that the file at `path` describes, if any, and the options on it."""
    from swarmtrain.peer.joining import Staged
    from swarmtrain.peer.staging import StagedMachine

    if path is None:
        return None, options
    machine = StagedMachine(path)
    staged = Staged(machine.lines, machine.least_seconds)
    return machine, replace(options, staged=staged)


def following(machine: "StagedMachine | None", leave: Callable[[str], None]) -> "Tasks":
    """Who follows the machine's file. When that cannot be read any more the peer leaves and says so (I7).

    Going on as the file said last would spoil what the experiment measures, unseen.
    """
    from swarmtrain.core.tasks import Tasks

    def failed(error: BaseException) -> None:
        leave(f"what the experiment makes of this machine cannot be read: {error}")

    tasks = Tasks(failed)
    if machine is not None:
        tasks.spawn(machine.follow(), "follow the staging")
    return tasks


@dataclass(slots=True)
class _Opening:
    """Joins, each time the terms let this peer."""

    options: "JoinOptions"
    process: PeerProcess
    figures: "PeerFigures"
    seen: "Record"
    is_armed: bool = False

    async def __call__(self) -> "JoinedPeer":
        from swarmtrain.peer.joining import open_peer

        joined = await open_peer(self.options, None, self.seen)
        self.figures.session = joined.session
        if not self.is_armed:
            self.is_armed = True
            _arm(self.process.faults, joined.record)
        return joined

    def record(self, event: "Event") -> None:
        """For events while nothing is joined: into the peer's own journal, and on the screen."""
        from swarmtrain.monitor.journal import Journal

        assert self.options.key is not None
        if self.options.out is not None:
            journal = Journal(self.options.out / "journal.jsonl")
            now = asyncio.get_running_loop().time()
            journal.write(event, now, self.options.key.peer_id)
            journal.close()
        self.seen(event)


async def _serve_metrics(address: str, figures: "PeerFigures") -> "HttpServer | None":
    if not address:
        return None
    from swarmtrain.monitor.figures import metrics_app
    from swarmtrain.monitor.serving import HttpServer

    page = await HttpServer.open(metrics_app(figures.read), address)
    typer.echo(f"metrics  {page.url}metrics")
    return page


async def _live(
    opening: _Opening, terms: "Terms", folder: "StateFolder", machine: "StagedMachine | None"
) -> int:
    import time

    from swarmtrain.peer.machine import Watch
    from swarmtrain.peer.volunteer import Told, Volunteer

    options, process = opening.options, opening.process
    assert options.key is not None
    kept = [folder.path, *filter(None, (options.out, options.cache_folder))]
    told = Told(options.key.peer_id, options.name, os.getpid(), opening.record)
    watching = Watch(terms, time.time, kept)
    volunteer = Volunteer(terms, opening, watching, folder, told, process.join_seconds)
    interrupted = False

    def leave() -> None:
        nonlocal interrupted
        interrupted = True
        typer.echo("leaving after this step; Ctrl+C again leaves at once", err=True)
        volunteer.finish("interrupted")

    def orphaned() -> None:
        volunteer.leave("the process that started this peer is gone")

    watch = asyncio.create_task(_watch_lifeline(orphaned)) if process.lifeline else None
    staging = following(machine, volunteer.leave)
    with interrupts(leave):
        try:
            outcome = await volunteer.serve()
        finally:
            await staging.cancel_all()
            if watch is not None:
                watch.cancel()
    typer.echo(f"ended after step {outcome.step}: {outcome.reason}")
    if interrupted:
        return INTERRUPTED
    return 0 if outcome.finished or volunteer.has_left else Stopped.exit_code


def _arm(faults: "tuple[PointFault, ...]", record: "Record") -> None:
    """Let faults happen in this process; each is printed and in the journal before it does."""
    from swarmtrain.core.events import Noted
    from swarmtrain.core.faultpoints import arm

    def fired(what: str) -> None:
        typer.echo(f"fault fired: {what}")
        record(Noted("fault fired", what))

    arm(faults, fired)


async def _watch_lifeline(leave: Callable[[], None]) -> None:
    """Whoever started us holds the other end of our standard input; when it closes, they are gone."""
    _wake_at_parents_end()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    leave()


def _wake_at_parents_end() -> None:
    """A process that is held by SIGSTOP when its parent dies would stay for ever; Linux can let it go then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGCONT)


def _print_event(event: "Event") -> None:
    """What a volunteer wants to read; everything else is in the journal."""
    from swarmtrain.core import events, pauses

    match event:
        case pauses.Paused(reason=reason, resumes=resumes):
            typer.echo(f"paused: {reason}; resumes {resumes}")
        case pauses.Resumed(reason=reason):
            typer.echo(f"joining again: {reason}")
        case events.Placed(stages=stages, reason=reason):
            typer.echo(f"stages {', '.join(map(str, stages)) or 'none'}: {reason}")
        case events.Measured() as measured:
            typer.echo(
                f"self-test: forward {1000 * measured.forward_seconds:.1f} ms, "
                f"backward {1000 * measured.backward_seconds:.1f} ms a stage; {measured.reason}"
            )
        case events.Noted(
            what="an address does not answer" | "the run cannot be reached", detail=detail
        ):
            typer.echo(detail)
        case events.Noted(what="device", detail=detail):
            typer.echo(f"device {detail}")
        case events.Waiting(reason=reason):
            typer.echo(f"waiting: {reason}")
        case events.IslandChosen(island=island, reason=reason):
            typer.echo(f"island {island}: {reason}")
        case events.IslandDissolved(island=island, reason=reason):
            typer.echo(f"island {island} is given up: {reason}")
        case events.TermStarted(term=term, reason=reason):
            typer.echo(f"conducting in term {term}: {reason}")
        case events.PeerRefused() | events.Lost() | events.BadMessage():
            typer.echo(f"{event.kind.replace('_', ' ')}: peer {event.peer}: {event.reason}")


@dataclass(frozen=True, slots=True)
class CoordinatorOptions:
    """What was asked for on the command line; `dashboard` is empty for none."""

    listen: str
    announce: str
    dashboard: str
    resume: bool
    directory_port: int
    sinks: "ToOpen"


def run_coordinator(config: "RunConfig", folder: Path, options: CoordinatorOptions) -> None:
    """Coordinate until the run ends, then save a checkpoint and the summary."""
    sys.exit(asyncio.run(_coordinate(config, folder, options)))


async def _coordinate(config: "RunConfig", folder: Path, options: CoordinatorOptions) -> int:
    from swarmtrain.cli.progress import Progress
    from swarmtrain.cli.story import Story
    from swarmtrain.cli.summary import summary_of, write
    from swarmtrain.experiments.local import new_coordinator, open_directory
    from swarmtrain.swarm.daemon import DhtOptions

    interrupted = asyncio.Event()
    with Progress(config.run.steps) as progress:
        coordinator = new_coordinator(config, folder, Story(progress))
        try:
            if options.resume:
                coordinator.resume()
            for name, open_sink in options.sinks:
                coordinator.add_sink(name, open_sink())
            await coordinator.start(options.listen, options.announce)
            host = options.listen.rpartition(":")[0].replace("localhost", "127.0.0.1")
            announce_host = options.announce.rpartition(":")[0]
            directory = DhtOptions((), host, options.directory_port, announce_host)
            await open_directory(coordinator, directory)
            typer.echo(f"run {config.run.name}, configuration {config.hash[:12]}, folder {folder}")
            if options.dashboard:
                typer.echo(f"dashboard  {await coordinator.serve_dashboard(options.dashboard)}")
            typer.echo(f"to join:  swarmtrain peer --join {coordinator.address}")
            with interrupts(interrupted.set):
                await _until(coordinator.stopped, interrupted)
                if interrupted.is_set() and coordinator.state.conductor:
                    coordinator.drain("drained by the coordinator")
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(coordinator.stopped.wait(), LINGER_SECONDS)
                if coordinator.state.step:
                    await coordinator.save_checkpoint()
                coordinator.finish("the run is over")
        finally:
            await coordinator.close()
        write(folder, config, summary_of(config, coordinator.state, None))
    if interrupted.is_set():
        return INTERRUPTED
    return 0 if coordinator.state.finished else Stopped.exit_code


async def _until(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
