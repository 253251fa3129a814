"""The calls one side of a link makes: their requests, the wait for an answer, and late answers dropped."""

import asyncio
from dataclasses import dataclass
from functools import partial

from swarmtrain.core.errors import LinkClosed, LinkError, LinkSilent, Refused, WireError
from swarmtrain.transport.assembly import Assembler, Assembly
from swarmtrain.transport.frames import (
    DROPPED_MESSAGES,
    SMALL_BODY_BYTES,
    Frame,
    Kind,
    read_error,
)
from swarmtrain.transport.link import LinkLimits, Message
from swarmtrain.transport.outbox import Outbox, Upload, byte_view

NOTES_PER_SILENCE = 4


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a caller waits: since the last sign of life, and in all."""

    silence_seconds: float
    deadline_seconds: float | None


@dataclass(slots=True)
class _Pending:
    method: str
    answer: asyncio.Future[Message]
    patience: Patience
    started_seconds: float
    heard_seconds: float
    upload: Upload | None = None
    assembly: Assembly | None = None
    timer: asyncio.TimerHandle | None = None


class OutgoingCalls:
    """Calls made from this side, by number."""

    def __init__(self, outbox: Outbox, assembler: Assembler, limits: LinkLimits) -> None:
        self._outbox, self._assembler, self._limits = outbox, assembler, limits
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, _Pending] = {}
        self._dropping: dict[int, Assembly] = {}
        self._next_call = 1
        self._closed_reason: str | None = None

    async def call(self, method: str, request: Message, patience: Patience) -> Message:
        if self._closed_reason is not None:
            raise _closed(self._closed_reason)
        self._check_size(method, request)
        number, self._next_call = self._next_call, self._next_call + 1
        now = self._loop.time()
        pending = _Pending(method, self._loop.create_future(), patience, now, now)
        self._pending[number] = pending
        try:
            self._send(number, pending, request)
            self._watch(number, pending)
            return await pending.answer
        finally:
            self._forget(number, pending)

    def fail(self, reason: str) -> None:
        """The link is closing: every call under way, and every later one, gets LinkClosed."""
        if self._closed_reason is not None:
            return
        self._closed_reason = reason
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(_closed(reason))

    def take_answer(self, frame: Frame) -> None:
        """An answer's first frame."""
        pending = self._known(frame)
        if frame.call in self._dropping or (pending is not None and pending.assembly is not None):
            raise WireError("malformed answer", f"call {frame.call} is being answered already")
        if pending is None or pending.answer.done():
            self._drop(frame.call, Assembly(frame, None))
        elif not self._assembler.has_room(frame):
            self._drop(frame.call, Assembly(frame, None))
            pending.answer.set_exception(self._no_room(frame))
        else:
            pending.assembly = self._assembler.begin(frame)
            self._progress(pending, pending.assembly)

    def take_chunk(self, frame: Frame) -> None:
        pending = self._known(frame)
        if frame.call in self._dropping:
            assembly = self._dropping.pop(frame.call)
            assembly.add(frame)
            self._drop(frame.call, assembly)
        elif pending is not None and pending.assembly is not None and not pending.assembly.whole:
            pending.assembly.add(frame)
            self._progress(pending, pending.assembly)
        else:
            raise WireError(
                "malformed answer", f"a chunk of call {frame.call}, which has no answer"
            )

    def take_error(self, frame: Frame) -> None:
        pending = self._known(frame)
        if pending is not None and not pending.answer.done():
            pending.answer.set_exception(read_error(frame))

    def take_note(self, frame: Frame) -> None:
        pending = self._known(frame)
        if pending is not None:
            pending.heard_seconds = self._loop.time()

    def _send(self, number: int, pending: _Pending, request: Message) -> None:
        silence = pending.patience.silence_seconds
        note = max(1, int(1000 * silence / NOTES_PER_SILENCE))
        body = byte_view(request.body)
        first = Frame(Kind.REQUEST, 0, number, pending.method, request.meta, 0, b"", note)
        if len(body) > SMALL_BODY_BYTES:
            pending.upload = Upload(first, body, lambda: None)
            self._outbox.add(pending.upload)
        else:
            small = Frame(first.kind, 0, number, first.method, first.meta, len(body), body, note)
            self._outbox.put(small)

    def _watch(self, number: int, pending: _Pending) -> None:
        """Set the timer for the earliest moment at which the caller's patience may end."""
        patience = pending.patience
        due = pending.heard_seconds + patience.silence_seconds
        if patience.deadline_seconds is not None:
            due = min(due, pending.started_seconds + patience.deadline_seconds)
        pending.timer = self._loop.call_at(due, partial(self._expire, number, pending))

    def _expire(self, number: int, pending: _Pending) -> None:
        if pending.answer.done():
            return
        now, patience = self._loop.time(), pending.patience
        waited = now - pending.started_seconds
        # The same sums as in _watch: a difference may round to less than the patience that is over.
        deadline_seconds = patience.deadline_seconds
        if deadline_seconds is not None and now >= pending.started_seconds + deadline_seconds:
            pending.answer.set_exception(_late(pending, waited))
            return
        if not self._arrived(pending):
            # The remote cannot speak of a request it does not have yet: its acknowledgements count.
            acked_at_seconds = self._outbox.pacer.acked_at_seconds
            pending.heard_seconds = max(pending.heard_seconds, acked_at_seconds)
        if now >= pending.heard_seconds + patience.silence_seconds:
            pending.answer.set_exception(_silent(pending, now - pending.heard_seconds))
            return
        self._watch(number, pending)

    def _arrived(self, pending: _Pending) -> bool:
        upload = pending.upload
        if upload is None:
            return True
        return upload.end_bytes is not None and upload.end_bytes <= self._outbox.pacer.acked_bytes

    def _forget(self, number: int, pending: _Pending) -> None:
        del self._pending[number]
        if pending.timer is not None:
            pending.timer.cancel()
        if pending.upload is not None and not pending.upload.finished:
            self._outbox.withdraw(pending.upload)
        assembly = pending.assembly
        if assembly is not None and not assembly.whole:
            self._assembler.end(assembly)
            assembly.drop()
            self._drop(number, assembly)

    def _progress(self, pending: _Pending, assembly: Assembly) -> None:
        pending.heard_seconds = self._loop.time()
        if assembly.whole:
            self._assembler.end(assembly)
            if not pending.answer.done():
                pending.answer.set_result(assembly.message())

    def _drop(self, number: int, assembly: Assembly) -> None:
        if assembly.whole:
            return
        self._dropping[number] = assembly
        if len(self._dropping) > DROPPED_MESSAGES:
            raise WireError("too many answers that nobody waits for", f"{len(self._dropping)}")

    def _known(self, frame: Frame) -> _Pending | None:
        if not 0 < frame.call < self._next_call:
            raise WireError("malformed answer", f"call {frame.call} was never made")
        return self._pending.get(frame.call)

    def _check_size(self, method: str, request: Message) -> None:
        body_bytes, meta_bytes = byte_view(request.body).nbytes, len(request.meta)
        if body_bytes > self._limits.message_bytes or meta_bytes > self._limits.meta_bytes:
            raise LinkError(
                f"the request {method} is too large for a link",
                f"body {body_bytes} bytes of {self._limits.message_bytes} allowed, meta {meta_bytes} of "
                f"{self._limits.meta_bytes}",
                "use smaller microbatches or raise limits.message_bytes on every peer",
            )

    def _no_room(self, frame: Frame) -> Refused:
        return Refused(
            "an answer was dropped",
            f"{frame.body_bytes} more bytes do not fit into {self._limits.reassembly_bytes} for answers "
            "and requests that are still arriving",
            "make fewer large calls at a time",
        )


def _closed(reason: str) -> LinkClosed:
    return LinkClosed("the link is closed", reason)


def _late(pending: _Pending, waited_seconds: float) -> LinkSilent:
    what = f"no answer to {pending.method} after {waited_seconds:.3g} s"
    return LinkSilent(what, "the deadline of the call has passed")


def _silent(pending: _Pending, silent_seconds: float) -> LinkSilent:
    return LinkSilent(
        f"no sign of life from {pending.method} for {silent_seconds:.3g} s",
        "the other side is frozen, overloaded or cut off",
        "call another replica",
    )
