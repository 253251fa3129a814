"""A link: many calls both ways over one pipe, with heartbeats, progress notes and an orderly end.

The same code serves every transport; only the pipe below differs.
"""

import asyncio
import logging
from collections.abc import Callable

from swarmtrain.core.errors import LinkClosed, WireError
from swarmtrain.core.tasks import Tasks
from swarmtrain.transport.assembly import Assembler
from swarmtrain.transport.caps import NO_CAPS, Caps
from swarmtrain.transport.frames import BULK, Frame, Kind, printable, tell_frame, unpack
from swarmtrain.transport.incoming import IncomingCalls
from swarmtrain.transport.leaving import leaving
from swarmtrain.transport.link import Handler, Hello, LinkLimits, LinkStats, Message
from swarmtrain.transport.outbox import Outbox
from swarmtrain.transport.outgoing import OutgoingCalls, Patience
from swarmtrain.transport.pipe import Pipe

logger = logging.getLogger(__name__)


class Mux:
    """One greeted link. `start` once; `gone(link)` is called when the pipe is gone and no task of its own runs."""

    def __init__(
        self,
        pipe: Pipe,
        remote: Hello,
        handler: Handler,
        limits: LinkLimits,
        tasks: Tasks,
        caps: Caps = NO_CAPS,
    ) -> None:
        self.remote, self.stats = remote, LinkStats()
        self.gone: Callable[[Mux], None] = lambda link: None
        self._is_gone = False
        self._until_gone: asyncio.Event | None = None
        self._pipe, self._handler, self._limits, self._tasks = pipe, handler, limits, tasks
        self._caps = caps
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(limits, self._close_soon, caps.upload)
        assembler = Assembler(limits)
        self._outgoing = OutgoingCalls(self._outbox, assembler, limits)
        self._incoming = IncomingCalls(self._answer, self._outbox, assembler, limits, tasks)
        self._closing = self._ended = False
        self._bulk_received_bytes = 0
        self._ping, self._ping_at_seconds = 0, 0.0
        self._heard_seconds = self._beat_due_seconds = self._loop.time()
        self._ping_due_seconds = self._beat_due_seconds
        self._beat_timer: asyncio.TimerHandle | None = None

    @property
    def observed_host(self) -> str:
        return self._pipe.observed_host

    @property
    def is_sending(self) -> bool:
        return self._outbox.is_sending

    def start(self) -> None:
        """Begin to read, write and beat; the handler hears of the link before any call reaches it."""
        self._reader = self._tasks.spawn(self._read(), f"read {self.remote.peer}")
        self._writer = self._tasks.spawn(self._write(), f"write {self.remote.peer}")
        self._beat()
        # The tasks run no sooner than the next await, so this still comes first.
        self._handler.opened(self)

    async def call(
        self,
        method: str,
        request: Message,
        *,
        silence_seconds: float,
        deadline_seconds: float | None = None,
    ) -> Message:
        self.stats.calls += 1
        patience = Patience(silence_seconds, deadline_seconds)
        return await self._outgoing.call(method, request, patience)

    def tell(self, method: str, meta: bytes) -> None:
        self._outbox.put_packed(tell_frame(method, meta))

    async def close(self, reason: str = "") -> None:
        if not self._closing:
            self._closing = True
            self._outgoing.fail(reason)
            self._outbox.finish(Frame(Kind.BYE, meta=reason.encode()[: self._limits.meta_bytes]))
            try:
                await asyncio.wait((self._writer,), timeout=self._limits.farewell_seconds)
            finally:
                self._end(reason)
        if not self._is_gone:
            # Made here, since an event takes as much memory as half a link, and few links are waited for.
            self._until_gone = self._until_gone or asyncio.Event()
            await self._until_gone.wait()

    def _close_soon(self, reason: str) -> None:
        self._tasks.spawn(self.close(reason), f"close {self.remote.peer}")

    async def _answer(self, method: str, request: Message) -> Message:
        return await self._handler.call(self, method, request)

    async def _write(self) -> None:
        try:
            while not self._outbox.drained:
                frame = self._outbox.next()
                if frame is None:
                    await self._outbox.wait()
                    continue
                leaving(frame)
                await self._pipe.send(frame)
                self.stats.bytes_sent += len(frame)
        except LinkClosed as error:
            self._end(error.why or error.what)

    async def _read(self) -> None:
        try:
            while True:
                self._take(await self._pipe.receive())
        except LinkClosed as error:
            self._end(error.why or error.what)
        except WireError as error:
            logger.warning("closing the link to %s: %s", self.remote.peer, error)
            self._close_soon(f"{error.what}: {error.why}")

    def _take(self, data: bytes) -> None:
        """Act on one received frame. Raises WireError for one that breaks the rules."""
        if self._ended:
            return
        self._heard_seconds = self._loop.time()
        self.stats.bytes_received += len(data)
        frame = unpack(data, self._limits)
        self._dispatch(frame)
        if frame.flags & BULK:
            self._bulk_received_bytes += len(data)
        self._acknowledge(len(data), bool(frame.flags & BULK))

    def _dispatch(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.REQUEST:
                self._incoming.take_request(frame)
            case Kind.REQUEST_CHUNK:
                self._incoming.take_chunk(frame)
            case Kind.WITHDRAW:
                self._incoming.take_withdrawal(frame)
            case Kind.ANSWER:
                self._outgoing.take_answer(frame)
            case Kind.ANSWER_CHUNK:
                self._outgoing.take_chunk(frame)
            case Kind.ERROR:
                self._outgoing.take_error(frame)
            case Kind.NOTE:
                self._outgoing.take_note(frame)
            case Kind.TELL:
                self._take_tell(frame)
            case Kind.PING:
                self._take_ping(frame)
            case Kind.PONG:
                self._take_pong(frame)
            case Kind.ACK:
                self._take_ack(frame)
            case Kind.BYE:
                self._take_bye(frame)
            case _:
                raise WireError("malformed frame", f"{frame.kind.name} on an open link")

    def _acknowledge(self, frame_bytes: int, is_bulk: bool) -> None:
        """Tell the sender that its chunk arrived: now, or when a line of the rate that is allowed would have."""
        cap, total_bytes = self._caps.download, self._bulk_received_bytes
        if cap is None:
            if is_bulk:
                self._outbox.acknowledge(total_bytes)
            return
        due_seconds = cap.arrived(frame_bytes, self._loop.time())
        if is_bulk:
            self._loop.call_at(due_seconds, self._outbox.acknowledge, total_bytes)

    def _take_tell(self, frame: Frame) -> None:
        try:
            self._handler.tell(self, frame.method, frame.meta)
        except WireError:
            raise
        except Exception:
            # The handler has noted it; one message that it cannot take must not end the link for all others.
            logger.exception("the handler of %s failed", frame.method)

    def _take_ping(self, frame: Frame) -> None:
        self._outbox.put(Frame(Kind.PONG, call=frame.call))

    def _take_pong(self, frame: Frame) -> None:
        if frame.call != self._ping or not self._ping_at_seconds:
            return
        line = self._outbox.pacer.line
        line.pinged(self._loop.time() - self._ping_at_seconds)
        self._ping_at_seconds = 0.0
        self.stats.round_trip_seconds = line.round_trip_seconds

    def _take_ack(self, frame: Frame) -> None:
        self._outbox.acknowledged(frame.call)
        line, stats = self._outbox.pacer.line, self.stats
        upload = self._caps.upload
        most = upload.bytes_per_second if upload is not None else line.bytes_per_second
        stats.bytes_per_second, stats.messages = min(line.bytes_per_second, most), line.messages
        stats.rated_seconds = line.rated_seconds

    def _take_bye(self, frame: Frame) -> None:
        self._end(printable(frame.meta.decode("utf-8", "replace")) or "closed by the other side")

    def _beat(self) -> None:
        now, limits = self._loop.time(), self._limits
        if now - self._beat_due_seconds > limits.heartbeat_seconds:
            # This process itself stood still: what the other side sent meanwhile has yet to be read.
            self._heard_seconds = now
        silent_at_seconds = self._heard_seconds + limits.silent_seconds
        if now >= silent_at_seconds:
            self._end(f"silent: nothing was heard for {now - self._heard_seconds:.3g} s")
            return
        if now >= self._ping_due_seconds:
            self._ping, self._ping_at_seconds = self._ping + 1, now
            self._outbox.put(Frame(Kind.PING, call=self._ping))
            self._ping_due_seconds = now + limits.heartbeat_seconds
        self._beat_due_seconds = min(self._ping_due_seconds, silent_at_seconds)
        self._beat_timer = self._loop.call_at(self._beat_due_seconds, self._beat)

    def _end(self, reason: str) -> None:
        """The link is over: tell everyone here once, then take the pipe down."""
        if self._ended:
            return
        self._closing = self._ended = True
        if self._beat_timer is not None:
            self._beat_timer.cancel()
        self._outgoing.fail(reason)
        self._incoming.stop()
        self._outbox.closed = True
        self._handler.closed(self, reason)
        self._tasks.spawn(self._take_down(reason), f"take down {self.remote.peer}")

    async def _take_down(self, reason: str) -> None:
        try:
            async with asyncio.timeout(self._limits.farewell_seconds):
                await self._pipe.close(reason)
        except TimeoutError:
            logger.debug("the pipe to %s did not end in time", self.remote.peer)
        finally:
            for task in (self._reader, self._writer):
                task.cancel()
            self._is_gone = True
            self.gone(self)
            if self._until_gone is not None:
                self._until_gone.set()
