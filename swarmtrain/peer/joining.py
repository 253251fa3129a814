"""How a real process becomes a peer: ask one address what the run is, then open links, directory and lane."""

import asyncio
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swarmtrain.compute.lane import Observer, Task, ThreadLane
from swarmtrain.compute.place import (
    HERE,
    Place,
    find_place,
    hold_memory,
    memory_on,
)
from swarmtrain.core.config import RunConfig, config_from_json
from swarmtrain.core.errors import ConfigError, CorpusError, Incompatible, LinkError, ModelError
from swarmtrain.core.events import Event, Noted, Record
from swarmtrain.core.outer_section import CHOSEN_BY_DISTORTION, ROUND_CODECS
from swarmtrain.core.sizes import MEMORY_SHARE
from swarmtrain.core.units import format_bytes
from swarmtrain.core.version import VERSION
from swarmtrain.data.stream import Corpus, load_corpus
from swarmtrain.model.registry import BUILT_IN, trust_family
from swarmtrain.monitor.journal import Journal, journal_line
from swarmtrain.monitor.trace import Trace
from swarmtrain.peer.asking import ask
from swarmtrain.peer.options import PeerOptions, World
from swarmtrain.peer.report import Reporter
from swarmtrain.peer.session import Session
from swarmtrain.peer.tracing import trace_observer
from swarmtrain.peer.vitals import StepSampler, vitals_pause_seconds
from swarmtrain.plan.wiring_rules import trust_wiring
from swarmtrain.swarm.dht import DhtDirectory, DhtOptions
from swarmtrain.swarm.identity import Identity
from swarmtrain.swarm.records import NAME, REGION
from swarmtrain.transport.caps import NO_CAPS, Caps
from swarmtrain.transport.grpc_transport import GrpcTransport
from swarmtrain.transport.link import LinkLimits
from swarmtrain.transport.requests import Description
from swarmtrain.transport.shaping import Lines
from swarmtrain.wire.codecs import trust_codec

WORKING_BYTES = 96 << 20
"""What a process grows by beside its stages: messages under way, journal, trace, and what allocators keep (measured,
benchmarks/caps.py)."""


@dataclass(frozen=True, slots=True)
class Staged:
    """What an experiment makes of this machine: the shapes of its lines, the seconds that tasks take at least."""

    lines: Lines | None = None
    least_seconds: Callable[[Task], float] | None = None


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """What a volunteer said on the command line. `config` is their own RUN.toml, which must match the run's.

    `join` are addresses of one run, of which the first that answers is asked.
    `key` is the identity itself, for a process that joins more than once; `memory_bytes` is for the whole process.
    `sharers` peers of this machine, this one among them, start on its device at once.
    `staged` is for experiments: how this machine's compute and lines are made slower than they are.
    """

    join: tuple[str, ...]
    name: str
    stages: tuple[int, ...] | None
    listen: str
    announce: str
    identity: Path | None
    config: RunConfig | None
    cache_folder: Path | None
    out: Path | None
    memory_bytes: int | None
    region: str = ""
    island: int | None = 0
    staged: Staged = Staged()
    device: str = "auto"
    sharers: int = 1
    caps: Caps = NO_CAPS
    key: Identity | None = None


async def describe(address: str, timeout_seconds: float = 30.0) -> tuple[Description, RunConfig]:
    """What run is at `address`. Raises LinkError, WireError, ConfigError or Incompatible."""
    description = Description.decode((await ask(address, "describe", timeout_seconds)).meta)
    if description.version != VERSION:
        raise Incompatible(
            f"the run at {address} uses another version of swarmtrain",
            f"version {description.version}; this is {VERSION}",
            "install the run's version",
        )
    return description, config_from_json(description.config_json)


async def describe_first(addresses: Sequence[str]) -> tuple[Description, RunConfig, list[str]]:
    """What run is at the first of `addresses` that answers, and why those before it did not.

    Raises as `describe`; LinkError with all reasons when none answers.
    """
    silent: list[str] = []
    for address in addresses:
        try:
            return *await describe(address), silent
        except Incompatible:
            raise
        except LinkError as error:
            if len(addresses) == 1:
                raise
            silent.append(f"{error.what}: {error.why}")
    raise LinkError(
        f"none of the run's {len(addresses)} addresses answers",
        "; ".join(silent),
        "ask the run's owner for an address that is up; swarmtrain doctor --join ADDRESS says more of each",
    )


def accept_config(offered: RunConfig, own: RunConfig | None) -> RunConfig:
    """The configuration to join with: the run's, unless it asks this machine to trust it too far.

    Raises:
        Incompatible: the volunteer's own configuration is another run's.
        CorpusError, ModelError, ConfigError: the run wants local files read or local code imported, and only a
            local configuration may say so.
    """
    if own is not None:
        if own.hash != offered.hash:
            raise Incompatible(
                "your configuration is not the run's",
                f"it hashes to {own.hash[:12]}, the run's to {offered.hash[:12]}",
                "leave --config out to take the run's own, or ask its owner for the right file",
            )
        return own
    data = offered.data
    if data.source.split(":")[0] not in ("stdlib", "datasets") or data.tokenizer != "bytes":
        raise CorpusError(
            "this run reads files of the machine it runs on",
            f"data.source = {data.source!r}, data.tokenizer = {data.tokenizer!r}; a run you join may not choose them",
            "get the data and the RUN.toml from the run's owner and join with --config RUN.toml",
        )
    if offered.model.family not in BUILT_IN:
        raise ModelError(
            "this run brings code of its own",
            f"model.family = {offered.model.family!r}; a run you join may not make this machine import code",
            "install that package yourself and join with --config RUN.toml",
        )
    codec = offered.outer.codec
    if codec not in (*ROUND_CODECS, CHOSEN_BY_DISTORTION):
        raise ConfigError(
            "this run brings code of its own",
            f"outer.codec = {codec!r}; a run you join may not make this machine import code",
            "install that package yourself and join with --config RUN.toml",
        )
    return offered


def check_stages(wanted: tuple[int, ...] | None, config: RunConfig) -> None:
    """Refuse stages that the run's model does not have. Raises ConfigError."""
    last = config.model.stages
    if wanted is not None and max(wanted) > last:
        raise ConfigError(
            f"this run has no stage {max(wanted)}",
            f"its model has the edge, stage 0, and the middle stages 1 to {last}",
            "choose --stage among these, or leave it out to take what the run needs most",
        )


def check_name(name: str) -> None:
    """Refuse what cannot be published as a name. Raises ConfigError."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"--name {name!r} cannot be shown to others",
            "it has 1 to 64 letters, digits, spaces, dots, underlines and dashes",
            "choose one of those; it is how credit is given",
        )


def check_region(region: str) -> None:
    """Refuse what cannot be published as a region. Raises ConfigError."""
    if not REGION.fullmatch(region):
        raise ConfigError(
            f"--region {region!r} is no name of a region",
            "it has at most 64 letters, digits, dots, underlines and dashes",
            "write it as others there do, as in europe-west4; leave it out where nobody knows",
        )


def kernel_class(threads: int, place: Place = HERE) -> str:
    """What must be equal for equal bits: torch, CPU capability, threads, device (protocol.md, answer b)."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__} {platform.machine()} {capability} threads {threads} {place.name}"


@dataclass(slots=True)
class JoinedPeer:
    """A session of this process, and how its events leave it."""

    session: Session
    reporter: Reporter | None
    journal: Journal | None
    trace: Trace | None
    out: Path | None
    record: Record

    async def close(self) -> None:
        """Leave nothing behind but the files in the peer's folder."""
        await self.session.close(self.reporter.close if self.reporter is not None else None)
        if self.journal is not None:
            self.journal.close()
        if self.trace is not None and self.out is not None:
            self.trace.write(_next_trace(self.out))


def _next_trace(folder: Path) -> Path:
    """A peer that comes back after a pause writes its next trace beside the first."""
    path, number = folder / "trace.json", 1
    while path.exists():
        number += 1
        path = folder / f"trace-{number}.json"
    return path


async def open_peer(
    options: JoinOptions, observe: Observer | None, seen: Callable[[Event], None]
) -> JoinedPeer:
    """Join the run at `options.join`: directory open, links ready, nothing served yet. Raises SwarmError."""
    description, offered, silent = await describe_first(options.join)
    config = accept_config(offered, options.config)
    _trust_and_check(options, config)
    torch.set_num_threads(config.limits.threads)
    place, why, devices = find_place(options.device, config.train.accumulation)
    corpus = _load_corpus(config, options, description)
    identity = options.key or identity_at(options.identity)
    loop = asyncio.get_running_loop()
    reporter = _reporter(identity, description, config)
    journal = trace = None
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        journal = Journal(options.out / "journal.jsonl")
        trace = Trace(options.name, int(identity.peer_id[:7], 16))
        observe = trace_observer(trace, observe)

    def show(event: Event) -> None:
        if reporter is not None:
            reporter.add(event, journal_line(event, loop.time(), identity.peer_id))

    sampler = StepSampler(identity.peer_id, show, loop.time)
    observe = sampler.observe(observe)

    def record(event: Event) -> None:
        line = journal_line(event, loop.time(), identity.peer_id)
        if journal is not None:
            journal.write_line(line)
        if reporter is not None:
            reporter.add(event, line)
        sampler.heard(event)
        seen(event)

    for why_not in silent:
        record(Noted("an address does not answer", f"{why_not}; another one does"))
    record(Noted("device", f"{place.name}: {why}"))
    host = options.listen.rpartition(":")[0].replace("localhost", "127.0.0.1")
    discovery = DhtOptions(bootstrap=description.directory, host=host)
    directory = await _open_directory(config, identity, discovery, record)
    transport = GrpcTransport(_link_limits(config), options.staged.lines, options.caps)
    world = World(transport, directory, ThreadLane(observe, options.staged.least_seconds))
    memory_bytes, why = stage_memory_bytes(options.memory_bytes)
    memory_bytes = memory_on(place, devices, memory_bytes, options.sharers)
    hold_memory(place, memory_bytes)
    record(Noted("memory", why))
    peer_options = PeerOptions(
        identity=identity,
        name=options.name,
        stages=options.stages,
        listen=options.listen,
        announce=options.announce,
        memory_bytes=memory_bytes,
        kernel_class=kernel_class(config.limits.threads, place),
        coordinator=description.coordinator,
        start=description.start,
        starts=description.starts,
        region=options.region,
        island=options.island,
        place=place,
    )
    session = Session(config, peer_options, world, corpus, record)
    sampler.peers = lambda: session.roster_size
    if reporter is not None:
        _start_reporting(session, reporter, show)
    return JoinedPeer(session, reporter, journal, trace, options.out, record)


def _trust_and_check(options: JoinOptions, config: RunConfig) -> None:
    """Import what the volunteer's own configuration names, and refuse options that this run cannot be joined with."""
    if options.config is not None:
        trust_family(config.model)
        trust_codec(config.outer.codec)
        trust_wiring(options.config.planner.wiring)
    check_stages(options.stages, config)
    check_name(options.name)
    check_region(options.region)


def _reporter(identity: Identity, description: Description, config: RunConfig) -> Reporter | None:
    if not description.coordinator:
        return None
    return Reporter(identity.peer_id, description.coordinator, config.links.connect_seconds)


def _start_reporting(session: Session, reporter: Reporter, show: Callable[[Event], None]) -> None:
    """Events and figures go to the coordinator from here on, and what it asks over that link is answered."""
    process = psutil.Process()

    def pulse() -> float:
        show(session.vitals(process.memory_info().rss))
        return vitals_pause_seconds(session.roster_size)

    reporter.pulse = pulse
    session.service.is_coordinator = reporter.is_link
    session.coordinator = lambda: reporter.link
    reporter.start(session.world.transport, session.service, session.links)


def _link_limits(config: RunConfig) -> LinkLimits:
    return LinkLimits(
        chunk_bytes=config.links.chunk_bytes,
        message_bytes=config.limits.message_bytes,
        heartbeat_seconds=config.links.heartbeat_seconds,
    )


async def _open_directory(
    config: RunConfig, identity: Identity, discovery: DhtOptions, record: Record
) -> DhtDirectory:
    if not discovery.bootstrap:
        raise LinkError(
            "the run's directory has no address",
            "the process at that address has not opened it yet",
            "try again in a moment",
        )
    return await DhtDirectory.open(config.hash, identity, record, discovery)


def usable_memory_bytes() -> int:
    """What a process may plan with on this machine right now."""
    return int(MEMORY_SHARE * psutil.virtual_memory().available)


def stage_memory_bytes(allowed_bytes: int | None) -> tuple[int, str]:
    """What stages may take, and why: without a cap a share of what is free, else what this process leaves of its cap.

    Called with the directory open, whose child process counts as well. Raises ModelError where nothing is left.
    """
    if allowed_bytes is None:
        usable_bytes = usable_memory_bytes()
        return usable_bytes, f"{MEMORY_SHARE:.0%} of what is free: {format_bytes(usable_bytes)}"
    process = psutil.Process()
    family = (process, *process.children(recursive=True))
    taken_bytes = sum(member.memory_info().rss for member in family) + WORKING_BYTES
    left_bytes = allowed_bytes - taken_bytes
    allowed, taken = format_bytes(allowed_bytes), format_bytes(taken_bytes)
    if left_bytes <= 0:
        raise ModelError(
            f"{allowed} of memory do not hold the program itself",
            f"it takes {taken} before it hosts anything, {format_bytes(WORKING_BYTES)} for links included",
            "allow more by --memory, or leave it out to plan with what is free",
        )
    left = format_bytes(left_bytes)
    return left_bytes, f"of {allowed} the program takes {taken}; {left} are left for stages"


def _load_corpus(config: RunConfig, options: JoinOptions, description: Description) -> Corpus:
    """The run's corpus on this machine; another one would train another model (checked again by handshakes)."""
    corpus = load_corpus(config.data, options.cache_folder)
    if description.corpus and corpus.digest != description.corpus:
        raise CorpusError(
            "this machine's corpus is not the run's",
            f"data.source = {config.data.source!r} hashes to {corpus.digest[:12]} here, "
            f"to {description.corpus[:12]} in the run",
            "use the run's Python version for stdlib, or get the run's token shards",
        )
    return corpus


def identity_at(path: Path | None) -> Identity:
    """The identity kept at `path`, or one for this process alone."""
    return Identity.load_or_create(path) if path else Identity(Ed25519PrivateKey.generate())
