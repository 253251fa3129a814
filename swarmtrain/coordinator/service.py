"""The coordinator: one address to join by, the run's journal, its state as JSON, and the final checkpoint."""

import asyncio
import fcntl
import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from swarmtrain.coordinator.checkpoints import Checkpoints, newest_kept
from swarmtrain.coordinator.state import RunState, apply
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import (
    ConfigError,
    Incompatible,
    LinkError,
    Refused,
    StateError,
    WireError,
)
from swarmtrain.core.events import CheckpointSaved, Event, Noted, PeerRefused
from swarmtrain.core.messages import CheckpointAt
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.version import VERSION
from swarmtrain.monitor.journal import Journal, journal_line
from swarmtrain.monitor.lines import plain
from swarmtrain.monitor.metrics import MetricsFile
from swarmtrain.swarm.directory import Directory
from swarmtrain.swarm.identity import Identity
from swarmtrain.transport.link import PROTOCOL, Hello, Link, Message, Transport
from swarmtrain.transport.messages import encode
from swarmtrain.transport.requests import (
    Description,
    EventBatch,
    FinishRequest,
    StateRequest,
    StatusReply,
)

logger = logging.getLogger(__name__)

LONGEST_LINE_BYTES = 256 << 10
EXPORT_ATTEMPTS = 3
"""To collect a state for somebody who asks from outside of the run."""
EXPORT_SECONDS = 60.0
"""A state that was collected for an export serves all that are asked for meanwhile."""


@dataclass(slots=True)
class RunFolder:
    """Where a coordinator writes: journal, metrics, checkpoint. `write(line)` keeps a journal entry."""

    path: Path
    journal: Journal = field(init=False)
    metrics: MetricsFile = field(init=False)
    _lock: int = field(init=False)

    def __post_init__(self) -> None:
        self._lock = _locked(self.path)
        self.journal = Journal(self.path / "journal.jsonl")
        self.metrics = MetricsFile(self.path / "metrics.jsonl")

    def close(self) -> None:
        self.journal.close()
        self.metrics.close()
        os.close(self._lock)


def _locked(folder: Path) -> int:
    """A lock on `folder` until it is closed, or its process ends. Raises ConfigError when another process has it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise ConfigError(
            f"another process writes the run folder {folder}",
            "two runs would mix their journals and checkpoints",
            "stop that process first, or choose another --out",
        ) from None
    return handle


class Coordinator:
    """Watches one run. `changed(state, entry)` is called after every event."""

    def __init__(
        self,
        config: RunConfig,
        identity: Identity,
        transport: Transport,
        folder: RunFolder,
        changed: Callable[[RunState, dict[str, Any]], None],
    ) -> None:
        self.config, self.identity, self.folder = config, identity, folder
        self._transport, self._changed = transport, changed
        self.state = RunState()
        self.address = ""
        self.corpus_digest = ""
        self.started, self.stopped = asyncio.Event(), asyncio.Event()
        self._directory: asyncio.Future[Directory] = asyncio.get_running_loop().create_future()
        self._links: dict[Link, None] = {}
        self._tasks = Tasks()
        self._start: CheckpointAt | None = None
        self._exporting = asyncio.Lock()
        self._exported_seconds = -math.inf
        self.checkpoints = Checkpoints(config, folder.path / "checkpoint")

    def resume(self) -> None:
        """Start the run from the newest whole checkpoint in its folder, if there is any yet. Raises StateError."""
        if not self.checkpoints.has_any:
            self.folder.metrics.rewind(0)
            self.record(Noted("resumed", "from the beginning: no checkpoint was saved yet"))
            return
        for damage in self.checkpoints.resume():
            self.record(Noted("a damaged checkpoint was passed over", damage))
        newest = self.checkpoints.newest
        assert newest is not None
        self._start = newest
        past = self.folder.metrics.rewind(newest.step)
        self.state = replace(
            self.state,
            step=newest.step,
            tokens=sum(entry["tokens"] for entry in past),
            seconds=sum(entry["seconds"] for entry in past),
            loss_first=float(past[0]["loss"]) if past else None,
        )
        self.record(Noted("resumed", f"from the checkpoint of step {newest.step}"))

    async def start(self, listen: str, announce: str) -> None:
        """Take links at `listen`; peers that ask by then are answered once `open_run` was called.

        Raises LinkError; ModelError when the run continues a model that cannot be read.
        """
        if self._start is None and self.config.model.initial:
            self._start = await self.checkpoints.begin()
            self.record(Noted("started", f"from the model in {self.config.model.initial}"))
        listening = await self._transport.listen(listen, self)
        self.address = announce or listening

    def open_run(self, directory: Directory, corpus_digest: str) -> None:
        """From here on peers can join."""
        self.corpus_digest = corpus_digest
        self._directory.set_result(directory)

    async def close(self) -> None:
        await self._tasks.cancel_all()
        await self._transport.close()
        if self._directory.done():
            await self._directory.result().close()
        self.folder.close()

    def drain(self, reason: str) -> None:
        """Ask the peers to stop: the conductor ends the run after what is committed."""
        self._tell_all("drain", FinishRequest(reason).encode())

    def finish(self, reason: str) -> None:
        """Let the peers go: nothing more is needed of them."""
        self._tell_all("finish", FinishRequest(reason).encode())

    async def save_checkpoint(self) -> Path:
        """Collect the state after the last committed step. Raises StateError."""
        if self.state.step == 0:
            raise StateError("there is no checkpoint to save", "no step was committed", "")
        return await self._save(self.state.step)

    async def _save(self, step: int) -> Path:
        start = asyncio.get_running_loop().time()
        donors: dict[int, list[Link]] = {}
        for link in self._links:
            view = self.state.peers.get(link.remote.peer)
            is_shown = view is not None and view.island == self.state.shown_island
            for stage in view.stages if view is not None and is_shown else ():
                donors.setdefault(stage, []).append(link)
        path = await self.checkpoints.save(step, dict(donors))
        seconds = asyncio.get_running_loop().time() - start
        self.record(CheckpointSaved(step, path.name, seconds))
        self._tell_all("checkpoint", encode(self.checkpoints.newest))
        return path

    async def _save_beside(self, step: int) -> None:
        """A checkpoint that fails is an alarm, not the end of training (design.md section 9)."""
        try:
            await self._save(step)
        except (StateError, LinkError, WireError) as error:
            self.record(Noted("checkpoint failed", str(error)))

    def record(self, event: Event) -> None:
        """An event of the coordinator's own."""
        now = asyncio.get_running_loop().time()
        self._take_line(journal_line(event, now, self.identity.peer_id))

    def status(self) -> dict[str, Any]:
        """Everything known of the run, as plain JSON."""
        state: dict[str, Any] = asdict(self.state)
        state["peers"] = [asdict(view) for view in self.state.live_peers]
        state |= {
            "run": self.config.run.name,
            "run_hash": self.config.hash,
            "steps": self.config.run.steps,
            "tokens_per_second": self.state.tokens_per_second,
            "coordinator": self.address,
        }
        return dict(plain(state))

    # ---- the transport's Handler --------------------------------------------------------------------------------

    def hello(self) -> Hello:
        return Hello(
            protocol=PROTOCOL,
            version=VERSION,
            run=bytes.fromhex(self.config.hash),
            peer=self.identity.peer_id,
            corpus=self.corpus_digest,
            kernel_class="",
            address=self.address,
            role="coordinator",
        )

    def check(self, hello: Hello) -> None:
        if hello.role == "query":
            return
        run = bytes.fromhex(self.config.hash)
        if (hello.version, hello.run) == (VERSION, run):
            return
        why = f"version {hello.version or 'unknown'}, configuration {hello.run.hex()[:12]}"
        self.record(PeerRefused(hello.peer, why))
        raise Incompatible(
            "this peer cannot join the run",
            f"it has {why}; the run has version {VERSION}, configuration {run.hex()[:12]}",
            "join without a configuration of your own, with the same version of swarmtrain",
        )

    def opened(self, link: Link) -> None:
        if link.remote.role == "peer":
            self._links[link] = None
            if self.checkpoints.newest is not None:
                link.tell("checkpoint", encode(self.checkpoints.newest))

    def closed(self, link: Link, reason: str) -> None:
        self._links.pop(link, None)

    def tell(self, link: Link, method: str, meta: bytes) -> None:
        if method != "events" or link.remote.role != "peer":
            raise WireError("a coordinator takes events from peers only", f"method {method}")
        batch = EventBatch.decode(meta)
        if batch.dropped:
            logger.warning("peer %s dropped %d events", batch.peer, batch.dropped)
        for line in batch.lines:
            if _read_entry(line)["peer"] != link.remote.peer:
                raise WireError("an event is not its sender's own", line[:80])
            self._take_line(line)

    async def call(self, link: Link, method: str, request: Message) -> Message:
        match method:
            case "describe":
                directory = await asyncio.shield(self._directory)
                return Message(self._describe(directory).encode())
            case "status":
                return Message(StatusReply(json.dumps(self.status())).encode())
            case "state":
                return await self.checkpoints.state(StateRequest.decode(request.meta))
            case "layout":
                return await self.checkpoints.layout(StateRequest.decode(request.meta))
            case "checkpoint":
                return Message(encode(await self._newest_state()))
            case _:
                raise Refused("a coordinator does not serve this call", f"method {method}")

    # ---- small things -------------------------------------------------------------------------------------------

    def _describe(self, directory: Directory) -> Description:
        return Description(
            version=VERSION,
            config_json=self.config.to_json(),
            run=bytes.fromhex(self.config.hash),
            directory=directory.bootstrap,
            addresses=(self.address,),
            coordinator=self.address,
            corpus=self.corpus_digest,
            start=self._start_of_newcomers(),
        )

    def _start_of_newcomers(self) -> CheckpointAt | None:
        """Once a step is committed, siblings have what a newcomer needs, and the checkpoint may be gone from disk."""
        has_begun = self._start is None or self.state.step > self._start.step
        return None if has_begun else self._start

    async def _newest_state(self) -> CheckpointAt:
        """A checkpoint of the newest state that peers keep, saved now if it was not; training goes on meanwhile.

        Strangers may ask this, so peers are troubled at most once in EXPORT_SECONDS. Raises StateError while there is
        no state, or when it could not be collected.
        """
        loop = asyncio.get_running_loop()
        async with self._exporting:
            is_fresh = loop.time() - self._exported_seconds < EXPORT_SECONDS
            for attempt in range(EXPORT_ATTEMPTS):
                newest = self.checkpoints.newest
                step, every = newest_kept(self.config.recovery, self.state.step, self.state.stopped)
                if newest is not None and (newest.step >= step or is_fresh):
                    return newest
                if step == 0:
                    raise StateError(
                        "no state of this run is kept yet",
                        f"step {self.state.step} is committed; peers keep the state of every {every or 'last'} steps",
                        "ask again later",
                    )
                self._exported_seconds = loop.time()
                try:
                    await self._save(step)
                except (StateError, LinkError, WireError):
                    # Quick steps: the state is older than what peers keep by the time they are asked.
                    if attempt + 1 == EXPORT_ATTEMPTS:
                        raise
        raise AssertionError("unreachable")

    def _take_line(self, line: str) -> None:
        """Keep a journal entry and fold it into the state; a line that is none costs its sender (I5)."""
        entry = _read_entry(line)
        before = self.state.step
        try:
            self.state = apply(self.state, entry)
        except (KeyError, TypeError, ValueError) as error:
            raise WireError("an event lacks what its kind demands", repr(error)) from None
        self.folder.journal.write_line(line)
        event = entry["event"]
        if self.state.step > before:
            self.folder.metrics.write(
                event["step"], float(event["loss"]), event["tokens"], event["seconds"]
            )
            self._checkpoint_if_due()
        self._changed(self.state, entry)
        if self.state.conductor:
            self.started.set()
        if self.state.stopped:
            self.stopped.set()

    def _checkpoint_if_due(self) -> None:
        every, step = self.config.recovery.checkpoint_steps, self.state.step
        if every and step % every == 0 and step < self.config.run.steps:
            self._tasks.spawn(self._save_beside(step), f"checkpoint {step}")

    def _tell_all(self, method: str, meta: bytes) -> None:
        for link in list(self._links):
            link.tell(method, meta)


def _read_entry(line: str) -> dict[str, Any]:
    try:
        # Only its end may break the line: otherwise the journal would hold half a line, or two.
        fits = len(line) <= LONGEST_LINE_BYTES and line.find("\n") == len(line) - 1
        entry = json.loads(line) if fits else None
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict) or entry.keys() != {"event", "peer", "time_seconds"}:
        raise WireError("an event is no journal entry", line[:80])
    if not isinstance(entry["event"], dict) or not isinstance(entry["event"].get("kind"), str):
        raise WireError("an event does not say of what kind it is", line[:80])
    if not isinstance(entry["peer"], str):
        raise WireError("an event does not say whose it is", line[:80])
    return entry
