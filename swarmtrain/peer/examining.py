"""Gathers what `swarmtrain doctor` judges: this machine, and the run at one address as this machine meets it."""

import asyncio
import importlib.metadata
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swarmtrain.compute.bench import capacity_stages, measure
from swarmtrain.compute.lane import ThreadLane
from swarmtrain.compute.place import choose_place, memory_on, seen_devices
from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.errors import LinkError, SwarmError
from swarmtrain.core.sizes import memory_estimate, parameter_count, vocabulary
from swarmtrain.core.version import VERSION
from swarmtrain.data.tokenizer import load_tokenizer
from swarmtrain.peer import diagnosis
from swarmtrain.peer.asking import Asker, reaching
from swarmtrain.peer.diagnosis import Finding, MemoryFacts, ReachFacts
from swarmtrain.peer.joining import accept_config, describe, usable_memory_bytes
from swarmtrain.swarm.dht import DhtDirectory, DhtOptions
from swarmtrain.swarm.identity import Identity
from swarmtrain.transport.grpc_transport import GrpcTransport
from swarmtrain.transport.link import Link, LinkLimits, Message
from swarmtrain.transport.requests import (
    ClockReply,
    Describe,
    Description,
    ReachReply,
    ReachRequest,
)

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 15.0
CACHE_BYTES = 1 << 30
"""For tokenised corpora; the standard library's takes 60 MB."""
STATE_BYTES_PER_PARAMETER = 12
"""A checkpoint: fp32 parameters and two moments."""


@dataclass(frozen=True, slots=True)
class Patient:
    """What to examine. `config` is the volunteer's own RUN.toml, if any; `joins` is empty to look at the machine alone.

    Of several addresses the first that answers is examined, and those before it are findings.
    `wall_seconds()` is this machine's clock, which only the command line may read.
    """

    joins: tuple[str, ...]
    config: RunConfig | None
    listen: str
    announce: str
    device: str
    memory_bytes: int | None
    cache_folder: Path
    run_folder: Path
    wall_seconds: Callable[[], float]

    @property
    def join(self) -> str:
        return self.joins[0] if self.joins else ""


async def examine(patient: Patient) -> AsyncIterator[Finding]:
    """Every check in turn, as it is known. Raises nothing that is wrong with this machine, its network or the run."""
    for finding in diagnosis.judge_versions(sys.version_info[:2], _installed()):
        yield finding
    patient, silent = await _answering(patient)
    for finding in silent:
        yield finding
    config, description, run = await _run(patient)
    if run is not None:
        yield run
    offers: list[float] = []
    async for finding in _network(patient, config, description, offers):
        yield finding
    async for finding in _machine(patient, config, offers):
        yield finding


def _installed() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in diagnosis.TESTED_VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


async def _answering(patient: Patient) -> tuple[Patient, list[Finding]]:
    """The patient with the first address that answers, or the last one; what is wrong with those before."""
    silent: list[Finding] = []
    for number, address in enumerate(patient.joins[:-1]):
        try:
            async with reaching(address, CONNECT_SECONDS):
                return replace(patient, joins=(address,)), silent
        except SwarmError as error:
            rest = ", ".join(patient.joins[number + 1 :])
            silent.append(Finding("address", "warn", f"{error.what}: {error.why}", f"try {rest}"))
    return replace(patient, joins=patient.joins[-1:]), silent


async def _run(patient: Patient) -> tuple[RunConfig, Description | None, Finding | None]:
    """The configuration to examine the machine with, and what the address to join says."""
    fallback = patient.config or load_config((), ())
    if not patient.join:
        return fallback, None, None
    try:
        description, offered = await describe(patient.join, ANSWER_SECONDS)
    except SwarmError as error:
        return fallback, None, diagnosis.failed("run", error)
    try:
        config = accept_config(offered, patient.config)
    except SwarmError as error:
        return offered, description, diagnosis.failed("run", error)
    found = f"{config.run.name}, configuration {config.hash[:12]}, swarmtrain {VERSION} as here"
    return config, description, Finding("run", "ok", found)


# ---- this machine ---------------------------------------------------------------------------------------------------


async def _machine(
    patient: Patient, config: RunConfig, offers: list[float]
) -> AsyncIterator[Finding]:
    yield diagnosis.judge_threads(config.limits.threads, os.cpu_count() or 1)
    seen = seen_devices()
    try:
        place, why = choose_place(patient.device, config.train.accumulation, seen)
    except SwarmError as error:
        yield diagnosis.failed("device", error)
        return
    yield diagnosis.judge_device(seen, place, why)
    usable_bytes = memory_on(place, seen, patient.memory_bytes or usable_memory_bytes())
    try:
        vocab_size = vocabulary(config.model, _tokenizer_tokens(config))
    except SwarmError as error:
        yield diagnosis.failed("tokenizer", error)
        return
    capacity = capacity_stages(config, vocab_size, usable_bytes)
    least_bytes = memory_estimate(config, vocab_size, (1,)).total_bytes
    facts = MemoryFacts(usable_bytes, capacity, config.model.stages + 1, least_bytes)
    yield diagnosis.judge_memory(facts)
    torch.set_num_threads(config.limits.threads)
    lane = ThreadLane(None)
    try:
        measured = await measure(config, lane, usable_bytes, place)
    except SwarmError as error:
        yield diagnosis.failed("speed", error)
    else:
        yield diagnosis.judge_speed(measured, config.train.tokens_per_microbatch, offers)
    finally:
        await lane.close()
    for finding in _disks(patient, config, vocab_size):
        yield finding


def _tokenizer_tokens(config: RunConfig) -> int:
    return config.model.vocab_size or load_tokenizer(config.data.tokenizer).vocab_size


def _disks(patient: Patient, config: RunConfig, vocab_size: int) -> list[Finding]:
    """A peer writes its cache; checkpoints are written by whoever coordinates, so by those who join nothing."""
    wanted = [("cache", patient.cache_folder, CACHE_BYTES)]
    if not patient.join:
        one_bytes = STATE_BYTES_PER_PARAMETER * parameter_count(config.model, vocab_size)
        kept = config.recovery.checkpoints_kept + 1 if config.recovery.checkpoint_steps else 1
        wanted.append(("run's checkpoints", patient.run_folder, kept * one_bytes))
    return [
        diagnosis.judge_disk(what, str(folder), _free_bytes(folder), needed_bytes)
        for what, folder, needed_bytes in wanted
    ]


def _free_bytes(folder: Path) -> int:
    """On the disk where `folder` is or would be made."""
    there = next(above for above in (folder.resolve(), *folder.resolve().parents) if above.exists())
    return shutil.disk_usage(there).free


# ---- the network ----------------------------------------------------------------------------------------------------


async def _network(
    patient: Patient, config: RunConfig, description: Description | None, offers: list[float]
) -> AsyncIterator[Finding]:
    """The port; and, if the run answered, its clock, its way back to here and its directory."""
    transport = GrpcTransport(LinkLimits())
    identity = Identity(Ed25519PrivateKey.generate())
    asker = Asker(identity.peer_id)
    try:
        try:
            listening = await transport.listen(patient.listen, asker)
        except SwarmError as error:
            yield diagnosis.failed("port", error)
            listening = ""
        else:
            yield Finding("port", "ok", f"listens on {listening}")
        if description is None:
            return
        async for finding in _meet(patient, transport, asker, listening):
            yield finding
    finally:
        await transport.close()
    yield await _directory(patient, config, identity, description, offers)


async def _meet(
    patient: Patient, transport: GrpcTransport, asker: Asker, listening: str
) -> AsyncIterator[Finding]:
    loop = asyncio.get_running_loop()
    try:
        start = loop.time()
        link = await transport.dial(patient.join, asker.hello(), asker, CONNECT_SECONDS)
        seconds = loop.time() - start
    except SwarmError as error:
        yield diagnosis.failed("bootstrap", error)
        return
    yield Finding("bootstrap", "ok", f"{patient.join} greeted in {1000 * seconds:.0f} ms")
    yield await _clock(patient, link)
    if listening:
        yield await _reach(patient, link, patient.announce or listening)


async def _clock(patient: Patient, link: Link) -> Finding:
    loop = asyncio.get_running_loop()
    try:
        start, here = loop.time(), patient.wall_seconds()
        answer = await link.call(
            "clock", Message(Describe().encode()), silence_seconds=ANSWER_SECONDS
        )
        doubt_seconds = (loop.time() - start) / 2
        there = ClockReply.decode(answer.meta).now_seconds
    except SwarmError as error:
        return Finding("clock", "warn", f"the other side did not tell its time: {error.what}")
    return diagnosis.judge_clock(here + doubt_seconds - there, doubt_seconds)


async def _reach(patient: Patient, link: Link, announced: str) -> Finding:
    try:
        request = ReachRequest(int(announced.rpartition(":")[2]))
        answer = await link.call("reach", Message(request.encode()), silence_seconds=ANSWER_SECONDS)
        reply = ReachReply.decode(answer.meta)
    except (SwarmError, ValueError) as error:
        what = f"{error.what}: {error.why}" if isinstance(error, SwarmError) else str(error)
        remedy = "run doctor again in a moment; --announce is host:port with a port of 1024 or more"
        return Finding("reachability", "warn", f"not found out: {what}", remedy)
    return diagnosis.judge_reach(ReachFacts(announced, reply.address, reply.problem))


async def _directory(
    patient: Patient,
    config: RunConfig,
    identity: Identity,
    description: Description,
    offers: list[float],
) -> Finding:
    """Join the directory without publishing anything; `offers` gets the seconds of the peers found there."""
    host = patient.listen.rpartition(":")[0].replace("localhost", "127.0.0.1")
    if not description.directory:
        error = LinkError("the run's directory has no address", "", "try again in a moment")
        return diagnosis.failed("directory", error)
    options = DhtOptions(bootstrap=description.directory, host=host)
    try:
        directory = await DhtDirectory.open(config.hash, identity, lambda event: None, options)
    except SwarmError as error:
        return diagnosis.failed("directory", error)
    try:
        records = await directory.records()
    except SwarmError as error:
        return diagnosis.failed("directory", error)
    finally:
        await directory.close()
    offers += [record.seconds_per_stage for record in records if record.seconds_per_stage > 0]
    return Finding("directory", "ok", f"answers; {len(records)} peers are in it")
