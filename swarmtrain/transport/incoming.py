"""The calls the other side of a link makes: admitted within limits, answered by the handler, kept alive by notes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from swarmtrain.core.errors import Refused, SwarmError, WireError
from swarmtrain.core.tasks import Tasks
from swarmtrain.transport.assembly import Assembler, Assembly
from swarmtrain.transport.frames import (
    DROPPED_MESSAGES,
    SMALL_BODY_BYTES,
    Frame,
    Kind,
    error_frame,
)
from swarmtrain.transport.link import LinkLimits, Message
from swarmtrain.transport.outbox import Outbox, Upload, byte_view

logger = logging.getLogger(__name__)

SHORTEST_NOTE_SECONDS = 0.02
"""A remote cannot make us send notes more often than this."""


@dataclass(slots=True)
class _Call:
    """One call of the remote that was admitted: arriving, worked on, or its answer on the way out."""

    method: str
    note_seconds: float
    assembly: Assembly
    timer: asyncio.TimerHandle | None = None


class IncomingCalls:
    """Calls made by the other side, by its number."""

    def __init__(
        self,
        answer: Callable[[str, Message], Awaitable[Message]],
        outbox: Outbox,
        assembler: Assembler,
        limits: LinkLimits,
        tasks: Tasks,
    ) -> None:
        self._answer, self._outbox, self._assembler = answer, outbox, assembler
        self._limits, self._tasks = limits, tasks
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, _Call] = {}
        self._dropping: dict[int, Assembly] = {}

    def take_request(self, frame: Frame) -> None:
        """A request's first frame."""
        if frame.call in self._calls or frame.call in self._dropping:
            raise WireError("malformed request", f"call {frame.call} is under way already")
        refusal = self._refusal(frame)
        if refusal is not None:
            self._outbox.put(error_frame(Kind.ERROR, frame.call, refusal))
            self._drop(frame.call, Assembly(frame, None))
            return
        note_seconds = max(frame.note_milliseconds / 1000, SHORTEST_NOTE_SECONDS)
        call = _Call(frame.method, note_seconds, self._assembler.begin(frame))
        self._calls[frame.call] = call
        self._note_later(frame.call, call)
        self._progress(frame.call, call)

    def take_chunk(self, frame: Frame) -> None:
        call = self._calls.get(frame.call)
        if frame.call in self._dropping:
            assembly = self._dropping.pop(frame.call)
            assembly.add(frame)
            self._drop(frame.call, assembly)
        elif call is not None and not call.assembly.whole:
            call.assembly.add(frame)
            self._progress(frame.call, call)
        else:
            raise WireError(
                "malformed request", f"a chunk of call {frame.call}, which has no request"
            )

    def take_withdrawal(self, frame: Frame) -> None:
        """The caller gave up before its request was whole; nothing was worked on yet."""
        call = self._calls.get(frame.call)
        if frame.call in self._dropping:
            del self._dropping[frame.call]
        elif call is not None and not call.assembly.whole:
            self._assembler.end(call.assembly)
            self._finish(frame.call)
        else:
            raise WireError("malformed request", f"call {frame.call} cannot be withdrawn")

    def stop(self) -> None:
        """The link is gone: no more notes. Work goes on; its answers have nowhere to go."""
        for number in list(self._calls):
            self._finish(number)
        self._dropping.clear()

    def _refusal(self, frame: Frame) -> Refused | None:
        if len(self._calls) >= self._limits.incoming_calls:
            why = f"{len(self._calls)} calls of this link are being answered"
        elif not self._assembler.has_room(frame):
            why = f"{self._assembler.held_bytes} bytes of this link's messages are still arriving"
        else:
            return None
        return Refused("busy", why, "try again later or call another replica")

    def _progress(self, number: int, call: _Call) -> None:
        if call.assembly.whole:
            self._assembler.end(call.assembly)
            request = call.assembly.message()
            call.assembly.drop()
            self._tasks.spawn(self._work(number, call, request), f"call {call.method}")

    async def _work(self, number: int, call: _Call, request: Message) -> None:
        try:
            answer = await self._answer(call.method, request)
            self._check_size(call.method, answer)
        except SwarmError as error:
            self._refuse(number, call, error)
        except Exception as error:
            logger.exception("the handler of %s failed", call.method)
            why = f"{type(error).__name__} while answering {call.method}"
            self._refuse(number, call, Refused("internal error of the other side", why))
        else:
            self._send(number, call, answer)

    def _refuse(self, number: int, call: _Call, error: SwarmError) -> None:
        if self._calls.get(number) is call:
            self._finish(number)
            self._outbox.put(error_frame(Kind.ERROR, number, error))

    def _send(self, number: int, call: _Call, answer: Message) -> None:
        if self._calls.get(number) is not call:
            return
        body = byte_view(answer.body)
        if len(body) > SMALL_BODY_BYTES:
            first = Frame(Kind.ANSWER, call=number, meta=answer.meta)
            self._outbox.add(Upload(first, body, partial(self._finish, number)))
        else:
            self._finish(number)
            self._outbox.put(Frame(Kind.ANSWER, 0, number, "", answer.meta, len(body), body))

    def _note_later(self, number: int, call: _Call) -> None:
        call.timer = self._loop.call_later(call.note_seconds, self._note, number, call)

    def _note(self, number: int, call: _Call) -> None:
        self._outbox.put(Frame(Kind.NOTE, call=number))
        self._note_later(number, call)

    def _finish(self, number: int) -> None:
        call = self._calls.pop(number, None)
        if call is not None and call.timer is not None:
            call.timer.cancel()

    def _drop(self, number: int, assembly: Assembly) -> None:
        if assembly.whole:
            return
        self._dropping[number] = assembly
        if len(self._dropping) > DROPPED_MESSAGES:
            raise WireError("too many requests that were refused", f"{len(self._dropping)}")

    def _check_size(self, method: str, answer: Message) -> None:
        body_bytes, meta_bytes = byte_view(answer.body).nbytes, len(answer.meta)
        if body_bytes > self._limits.message_bytes or meta_bytes > self._limits.meta_bytes:
            raise Refused(
                f"the answer to {method} is too large for a link",
                f"body {body_bytes} bytes, meta {meta_bytes} bytes",
                "ask for less at a time",
            )
