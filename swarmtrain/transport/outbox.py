"""What a link has to send, in the order it should go: control ahead of bulk, bulk messages taking turns.

Between two bulk chunks all control that waits goes out, but not more, so neither side starves the other.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from swarmtrain.transport.caps import UploadCap
from swarmtrain.transport.frames import BULK, Frame, Kind, pack
from swarmtrain.transport.link import Buffer, LinkLimits
from swarmtrain.transport.pacer import Pacer

_CHUNK_KIND = {Kind.REQUEST: Kind.REQUEST_CHUNK, Kind.ANSWER: Kind.ANSWER_CHUNK}


def byte_view(body: Buffer) -> memoryview:
    view = memoryview(body)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


class Upload:
    """One bulk message on its way out; `first` has no payload, `on_sent` is called after the last chunk."""

    def __init__(self, first: Frame, body: memoryview, on_sent: Callable[[], None]) -> None:
        self.first, self._body, self.on_sent = first, body, on_sent
        self._offset_bytes = 0
        self.started = False
        self.end_bytes: int | None = None

    @property
    def finished(self) -> bool:
        return self.started and self._offset_bytes == len(self._body)

    def next_frame(self, chunk_bytes: int) -> bytes:
        first = self.first
        # A large meta takes the place of payload, so that no frame holds the line for longer than a chunk.
        room_bytes = chunk_bytes if self.started else max(chunk_bytes - len(first.meta), 0)
        end_bytes = min(self._offset_bytes + room_bytes, len(self._body))
        payload = self._body[self._offset_bytes : end_bytes]
        self._offset_bytes = end_bytes
        if self.started:
            return pack(Frame(_CHUNK_KIND[first.kind], BULK, first.call, payload=payload))
        self.started = True
        note = first.note_milliseconds
        return pack(
            Frame(
                first.kind,
                BULK,
                first.call,
                first.method,
                first.meta,
                len(self._body),
                payload,
                note,
            )
        )


class Outbox:
    """The frames of one link that wait to be sent; one writer takes them with `next` and `wait`."""

    def __init__(
        self,
        limits: LinkLimits,
        overflow: Callable[[str], None],
        cap: UploadCap | None = None,
    ) -> None:
        self._limits, self._overflow, self._cap = limits, overflow, cap
        self._control: deque[bytes] = deque()
        self._control_bytes = 0
        self._control_turn: int | None = None
        self._bulk: list[Upload] = []
        self._ack_total: int | None = None
        self._last: bytes | None = None
        self._wake: asyncio.Future[None] | None = None
        self._pause_seconds = 0.0
        self._loop = asyncio.get_running_loop()
        self.pacer = Pacer(limits)
        self.closed = False

    def put(self, frame: Frame) -> None:
        """Queue control; when more would wait than `control_bytes`, calls `overflow` once and closes."""
        self.put_packed(pack(frame))

    def put_packed(self, data: bytes) -> None:
        """As `put`, for a frame in its bytes."""
        if self.closed:
            return
        if self._control_bytes + len(data) > self._limits.control_bytes:
            self.closed = True
            self._overflow(
                f"{self._control_bytes} bytes of control wait on a line that takes no more"
            )
            return
        self._control.append(data)
        self._control_bytes += len(data)
        self._notify()

    def add(self, upload: Upload) -> None:
        if not self.closed:
            self._bulk.append(upload)
            self._notify()

    def withdraw(self, upload: Upload) -> None:
        """Stop an upload whose rest nobody wants; the remote forgets what it got of it."""
        if upload not in self._bulk:
            return
        self._bulk.remove(upload)
        if upload.started:
            self.put(Frame(Kind.WITHDRAW, call=upload.first.call))

    def acknowledge(self, total_bytes: int) -> None:
        """Tell the remote how much bulk was taken in; only the newest total matters."""
        # Where a cap delays them, a later total may come before its turn; totals never go back.
        self._ack_total = max(total_bytes, self._ack_total or 0)
        self._notify()

    def acknowledged(self, total_bytes: int) -> None:
        """The remote took our bulk up to `total_bytes`. Raises WireError for an impossible total."""
        self.pacer.acknowledged(total_bytes, self._loop.time())
        self._notify()

    def finish(self, last: Frame) -> None:
        """Drop bulk, let the waiting control out, then `last`; nothing is taken any more."""
        self.closed = True
        self._bulk.clear()
        self._last = pack(last)
        self._notify()

    def next(self) -> bytes | None:
        """The frame to send now, or None while nothing may go."""
        self._pause_seconds = self._capped_seconds(is_bulk=False)
        frame = None if self._pause_seconds else self._next()
        if frame is not None and self._cap is not None:
            self._cap.take(len(frame), self._loop.time())
        return frame

    def _capped_seconds(self, is_bulk: bool) -> float:
        return self._cap.wait_seconds(self._loop.time(), is_bulk) if self._cap is not None else 0.0

    def _next(self) -> bytes | None:
        if self._ack_total is not None:
            total_bytes, self._ack_total = self._ack_total, None
            return pack(Frame(Kind.ACK, call=total_bytes))
        bulk_may_go = bool(self._bulk) and self.pacer.may_send()
        if bulk_may_go:
            self._pause_seconds = self._capped_seconds(is_bulk=True)
            bulk_may_go = not self._pause_seconds
        if self._control_turn is None:
            self._control_turn = len(self._control)
        if self._control and (self._control_turn > 0 or not bulk_may_go):
            self._control_turn -= 1
            data = self._control.popleft()
            self._control_bytes -= len(data)
            return data
        if bulk_may_go:
            self._control_turn = None
            return self._next_chunk()
        last, self._last = self._last, None
        return last

    def _next_chunk(self) -> bytes:
        upload = self._bulk.pop(0)
        chunk_bytes = self.pacer.chunk_bytes
        if self._cap is not None:
            chunk_bytes = min(chunk_bytes, self._cap.chunk_bytes)
        frame = upload.next_frame(chunk_bytes)
        self.pacer.sent(len(frame), self._loop.time())
        if upload.finished:
            upload.end_bytes = self.pacer.sent_bytes
            self.pacer.line.message_left(self._loop.time())
            upload.on_sent()
        else:
            self._bulk.append(upload)
        return frame

    @property
    def is_sending(self) -> bool:
        """Whether bulk waits here or is under way."""
        return bool(self._bulk) or self.pacer.acked_bytes < self.pacer.sent_bytes

    @property
    def drained(self) -> bool:
        """Whether everything went out after `finish`."""
        return self.closed and not self._control and self._last is None

    async def wait(self) -> None:
        """Return when `next` may have something new."""
        self._wake = self._loop.create_future()
        # In turn: who waited longest for the cap has the earlier timer.
        timer = (
            self._loop.call_later(self._pause_seconds, self._notify)
            if self._pause_seconds
            else None
        )
        try:
            await self._wake
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
