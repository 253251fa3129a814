"""The coordinator: one address to join by, the run's journal, its state as JSON, and the final checkpoint."""

import asyncio
import json
import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarmtrain.coordinator.checkpoints import Checkpoints, newest_kept
from swarmtrain.coordinator.feed import Feed
from swarmtrain.coordinator.folder import RunFolder
from swarmtrain.coordinator.island_checkpoints import IslandCheckpoints
from swarmtrain.coordinator.picture import Look, Run, whole
from swarmtrain.coordinator.state import BAD_ENTRY, RunState, apply, reopened
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import (
    ConfigError,
    Incompatible,
    LinkError,
    ModelError,
    Refused,
    StateError,
    SwarmError,
    WireError,
)
from swarmtrain.core.events import BadMessage, CheckpointSaved, ClockSeen, Event, Noted, PeerRefused
from swarmtrain.core.live import LIVE_KINDS, kinds
from swarmtrain.core.messages import CheckpointAt
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import PeerId
from swarmtrain.core.version import VERSION
from swarmtrain.monitor.journal import journal_line, read_journal
from swarmtrain.monitor.sinks import Sink
from swarmtrain.swarm import checkups
from swarmtrain.swarm.directory import Directory
from swarmtrain.swarm.identity import Identity
from swarmtrain.transport.link import PROTOCOL, Hello, Link, Message, Transport
from swarmtrain.transport.messages import encode
from swarmtrain.transport.requests import (
    Description,
    EventBatch,
    FinishRequest,
    IslandStart,
    StateRequest,
)

if TYPE_CHECKING:
    from swarmtrain.coordinator.web import Dashboard

logger = logging.getLogger(__name__)

LONGEST_LINE_BYTES = 256 << 10
EXPORT_ATTEMPTS = 3
"""To collect a state for somebody who asks from outside of the run."""
EXPORT_SECONDS = 60.0
"""A state that was collected for an export serves all that are asked for meanwhile."""
DEFAULT_DASHBOARD = "127.0.0.1:8787"
CLOCK_SLACK_SECONDS = 2.0
"""A report takes a while to get here: smaller differences say nothing of the sender's clock."""


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
        self._starts: dict[int, CheckpointAt] = {}
        self._exporting = asyncio.Lock()
        self._checkups = checkups.Checkups(
            transport, self.hello, lambda: self._directory.result().now()
        )
        self._exported_seconds = -math.inf
        self._is_resumed = False
        self._clocked: set[str] = set()
        self._known_kinds = kinds()
        self.event_counts: Counter[str] = Counter()
        self._dashboard: Dashboard | None = None
        self._feeds: list[Feed] = []
        self._islands = IslandCheckpoints(config, folder.path / "checkpoint")

    @property
    def checkpoints(self) -> Checkpoints:
        """Those of the island that is shown."""
        return self._islands.of(self.state.shown_island)

    def resume(self) -> None:
        """Start the run from the newest whole checkpoint in its folder, if there is any yet. Raises StateError.

        What the journal holds is shown again; peers that lived through it are taken up as they speak.
        """
        now = asyncio.get_running_loop().time()
        self.state = reopened(read_journal(self.folder.path / "journal.jsonl"), now)
        self._is_resumed = True
        if not self._islands.first.has_any:
            why = "from the beginning: no checkpoint was saved yet"
            others = self._islands.set_aside("the beginning: it has not saved any checkpoint yet")
            for note in (*others, Noted("resumed", why)):
                self.record(note)
            return
        self._starts, notes = self._islands.resume()
        for note in notes:
            self.record(note)
        newest = self._starts[0]
        past = self.folder.metrics.before(newest.step)
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
        if self.config.model.initial:
            await self._start_from_model()
        listening = await self._transport.listen(listen, self)
        self.address = announce or listening

    async def _start_from_model(self) -> None:
        """All islands without a checkpoint begin with `model.initial`: in a resumed run those that come late.

        A run that goes on needs the model for these alone: where it cannot be read any more, that is told.
        """
        folder = self.config.model.initial
        try:
            self._start = await self._islands.begin()
        except ModelError as error:
            if not self._starts:
                raise
            why = f"{error.what}: {error.why}; an island that comes late begins from the seed until it catches up"
            self.record(Noted("the imported model cannot be read", why))
            return
        if not self._starts:
            self.record(Noted("started", f"from the model in {folder}"))

    def open_run(self, directory: Directory, corpus_digest: str) -> None:
        """From here on peers can join."""
        self.corpus_digest = corpus_digest
        self._directory.set_result(directory)

    async def serve_dashboard(self, address: str) -> str:
        """Show the run at `address`, "host:port" or "auto"; the page's URL. Raises ConfigError when that cannot be."""
        from swarmtrain.coordinator.web import Dashboard

        dashboard = Dashboard(self.look, lambda: dict(self.event_counts))
        try:
            url = await dashboard.start(DEFAULT_DASHBOARD if address == "auto" else address)
        except ConfigError as error:
            if address != "auto":
                raise
            url = await dashboard.start("127.0.0.1:0")
            self.record(Noted("the dashboard took a free port", f"{error.what}: {error.why}"))
        self._dashboard = dashboard
        return url

    def add_sink(self, name: str, sink: Sink) -> None:
        """Tell `sink` of every step from here on, and of what leaves a mark on the curves."""
        marks = self.state.history.marks
        self._feeds.append(Feed(name, sink, self.record, marks[-1].number if marks else 0))

    async def close(self) -> None:
        if self._dashboard is not None:
            await self._dashboard.close()
        for feed in self._feeds:
            await feed.close()
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
        if not self.state.finished:
            # The other islands' are needed only where the run is to go on.
            for island, step in self.state.islands.items():
                if island != self.state.shown_island:
                    await self._save_beside(island, step)
        return await self._save(self.state.shown_island, self.state.step)

    async def _save(self, island: int, step: int) -> Path:
        start = asyncio.get_running_loop().time()
        checkpoints, here = self._islands.of(island), self._links_of(island)
        donors: dict[int, list[Link]] = {}
        for link in here:
            for stage in self.state.peers[link.remote.peer].stages:
                donors.setdefault(stage, []).append(link)
        path = await checkpoints.save(step, dict(donors))
        seconds = asyncio.get_running_loop().time() - start
        name = path.relative_to(self._islands.folder).as_posix()
        self.record(CheckpointSaved(step, name, seconds))
        for link in self._links_of(island):
            link.tell("checkpoint", encode(checkpoints.newest))
        return path

    def _island_of(self, link: Link) -> int:
        """Where the peer behind `link` says that it is by now; who asks from outside is shown what is shown."""
        view = self.state.peers.get(link.remote.peer)
        if view is not None:
            return view.island
        return link.remote.island if link.remote.role == "peer" else self.state.shown_island

    def _links_of(self, island: int) -> list[Link]:
        known = self.state.peers
        links = [link for link in self._links if link.remote.peer in known]
        return [link for link in links if known[link.remote.peer].island == island]

    async def _save_beside(self, island: int, step: int) -> None:
        """A checkpoint that fails is an alarm, not the end of training (design.md section 9)."""
        try:
            await self._save(island, step)
        except (StateError, LinkError, WireError) as error:
            self.record(Noted("checkpoint failed", str(error)))

    def record(self, event: Event) -> None:
        """An event of the coordinator's own."""
        now = asyncio.get_running_loop().time()
        self._take_line(journal_line(event, now, self.identity.peer_id))

    def look(self) -> Look:
        """The run as it is now, for those who watch it."""
        config, train = self.config, self.config.train
        run = Run(
            name=config.run.name,
            hash=config.hash,
            steps=config.run.steps,
            stages=config.model.stages,
            microbatches=train.microbatches,
            tokens_per_step=train.microbatches * train.tokens_per_microbatch,
            inner_steps=config.outer.inner_steps,
            coordinator=self.address,
        )
        return Look(run, self.state, asyncio.get_running_loop().time())

    def status(self) -> dict[str, Any]:
        """All that the dashboard shows, as plain JSON. The header's figures stand at the top, peers in a list."""
        look = self.look()
        shown = whole(look)
        peers = [
            {"peer": view.peer, **shown["peers"][view.peer], "links": view.links}
            for view in look.state.live_peers
        ]
        return {**shown, **shown["header"], "peers": peers}

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
            newest = self._islands.of(self._island_of(link)).newest
            if newest is not None:
                link.tell("checkpoint", encode(newest))

    def closed(self, link: Link, reason: str) -> None:
        self._links.pop(link, None)

    def tell(self, link: Link, method: str, meta: bytes) -> None:
        try:
            if method != "events" or link.remote.role != "peer":
                raise WireError("a coordinator takes events from peers only", f"method {method}")
            self._take_events(link.remote.peer, EventBatch.decode(meta))
        except WireError as error:
            self.record(BadMessage(link.remote.peer, f"{method}: {error.what} ({error.why})"))
            raise
        except Exception as error:
            self._note_bug(method, error)
            raise

    def _take_events(self, sender: PeerId, batch: EventBatch) -> None:
        if batch.dropped:
            logger.warning("peer %s dropped %d events", batch.peer, batch.dropped)
        entries = [_read_entry(line) for line in batch.lines]
        for entry, line in zip(entries, batch.lines, strict=True):
            if entry["peer"] != sender:
                raise WireError("an event is not its sender's own", line[:80])
        if entries:
            self._compare_clocks(sender, entries[-1]["time_seconds"])
        for line in batch.lines:
            self._take_line(line)

    async def call(self, link: Link, method: str, request: Message) -> Message:
        try:
            return await self._answer(link, method, request)
        except SwarmError:
            raise
        except Exception as error:
            self._note_bug(method, error)
            raise

    def _note_bug(self, method: str, error: Exception) -> None:
        """A bug met while a peer is served is an event (I7); the transport ends the call, not the coordinator."""
        self.record(Noted("internal error", f"{method}: {error!r}"))

    async def _answer(self, link: Link, method: str, request: Message) -> Message:
        match method:
            case "describe":
                directory = await asyncio.shield(self._directory)
                return Message(self._describe(directory).encode())
            case method if method in checkups.METHODS:
                await asyncio.shield(self._directory)
                return await self._checkups.answer(link, method, request)
            case "status":
                # In the body, which may be as large as a thousand peers need.
                return Message(b"", json.dumps(self.status()).encode())
            case "state":
                checkpoints = self._islands.of(self._island_of(link))
                return await checkpoints.state(StateRequest.decode(request.meta))
            case "layout":
                checkpoints = self._islands.of(self._island_of(link))
                return await checkpoints.layout(StateRequest.decode(request.meta))
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
            start=self._start,
            starts=self._starts_of_newcomers(),
        )

    def _starts_of_newcomers(self) -> tuple[IslandStart, ...]:
        """Once a step is committed, siblings have what a newcomer needs, and the checkpoint may be gone from disk."""
        steps = self.state.islands
        return tuple(
            IslandStart(island, at)
            for island, at in self._starts.items()
            if steps.get(island, 0) <= at.step
        )

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
                    await self._save(self.state.shown_island, step)
                except (StateError, LinkError, WireError):
                    # Quick steps: the state is older than what peers keep by the time they are asked.
                    if attempt + 1 == EXPORT_ATTEMPTS:
                        raise
        raise AssertionError("unreachable")

    def _compare_clocks(self, peer: str, sent_seconds: object) -> None:
        """Clocks of other machines count from another moment: learn from when, by the newest entry of a batch."""
        if not isinstance(sent_seconds, (int, float)) or not math.isfinite(sent_seconds):
            raise WireError("an event does not say when it was", repr(sent_seconds)[:80])
        ahead = float(sent_seconds) - asyncio.get_running_loop().time()
        known = self.state.clocks.get(peer, 0.0)
        # A report may be late, so a clock that seems behind is believed once; one ahead is surely ahead.
        is_off = abs(ahead - known) > CLOCK_SLACK_SECONDS
        if is_off and (peer not in self._clocked or ahead > known):
            self.record(ClockSeen(peer, ahead))
        self._clocked.add(peer)

    def _take_line(self, line: str) -> None:
        """Keep a journal entry and fold it into the state; a line that is none costs its sender (I5)."""
        entry = _read_entry(line)
        before, islands_before = self.state.step, self.state.islands
        try:
            self.state = apply(self.state, entry)
        except BAD_ENTRY as error:
            raise WireError("an event lacks what its kind demands", repr(error)) from None
        event, kind = entry["event"], entry["event"]["kind"]
        if kind not in LIVE_KINDS:
            self.folder.journal.write_line(line)
        self.event_counts[kind if kind in self._known_kinds else "unknown"] += 1
        next_steps = (event["step"] + 1, event.get("next_step")) if kind == "step_committed" else ()
        if self.state.step > before and self.state.step in next_steps:
            if self._is_resumed:
                # Only now it is known whether the run goes on from its checkpoint, or never stopped.
                self.folder.metrics.rewind(event["step"])
                self._is_resumed = False
            self.folder.metrics.write(
                event["step"], float(event["loss"]), event["tokens"], event["seconds"]
            )
            for feed in self._feeds:
                feed.committed(event, self.state)
        for island, step in self.state.islands.items():
            if step != islands_before.get(island):
                self._checkpoint_if_due(island, step)
        for feed in self._feeds:
            feed.marks(self.state)
        self._changed(self.state, entry)
        if self._dashboard is not None:
            self._dashboard.changed()
        if self.state.conductor:
            self.started.set()
        if self.state.stopped:
            self.stopped.set()

    def _checkpoint_if_due(self, island: int, step: int) -> None:
        every = self.config.recovery.checkpoint_steps
        if every and step % every == 0 and step < self.config.run.steps:
            self._tasks.spawn(self._save_beside(island, step), f"checkpoint {step}")

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
