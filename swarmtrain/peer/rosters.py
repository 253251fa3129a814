"""The rosters that a peer names in its step messages, and finds by what others name.

A message with a roster that is neither known here nor told as a difference to a known one waits, with all its sender
sends behind it, while the sender is asked for the roster. One that nobody answers is dropped like a lost message: the
protocol says everything again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from swarmtrain.core.errors import LinkError, Refused, WireError
from swarmtrain.core.events import BadMessage, Noted, Record
from swarmtrain.core.messages import StepMessage
from swarmtrain.core.rosters import KEPT_MEMBERS, RosterName, rebuilt, rosters_in, shared
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import Digest, PeerId, Roster
from swarmtrain.transport.link import Link, Message
from swarmtrain.transport.requests import RosterRequest
from swarmtrain.transport.step_messages import (
    Unread,
    encode_roster,
    encode_step,
    is_named,
    read_roster,
    read_step,
)

logger = logging.getLogger(__name__)

MOST_KEPT = 8
"""Rosters; one is kept again whenever a message names it, or is told as a difference to it."""

MOST_WAITING = 1000
"""Messages of one sender, while it is asked for a roster."""

MOST_WAITING_BYTES, MOST_WAITING_BYTES_OF_ALL = 8 << 20, 64 << 20
"""Of one sender's messages, and of those of all senders: one message may have a mebibyte."""

MOST_ASKS = 2
"""Senders that are asked for one roster at once, after one of them could not give it."""

MOST_SILENCES = 3
"""A question for a roster takes no longer, also if its sender goes on saying that it works on it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A message that waits for its rosters, and the link that is asked for them."""

    link: Link
    unread: Unread
    length_bytes: int


@dataclass(slots=True, eq=False)
class _Queue:
    """What one sender's `task` has yet to deliver, in order."""

    task: asyncio.Task[None] | None = None
    messages: deque[_Waiting] = field(default_factory=deque)
    length_bytes: int = 0


class Rosters:
    """What one peer knows of rosters by name. `deliver(sender, message)` takes messages whose rosters are found.

    `expected()` is a roster that follows from what this peer knows anyway, of use if it has the digest in question.
    """

    def __init__(
        self,
        deliver: Callable[[PeerId, StepMessage], None],
        record: Record,
        silence_seconds: float,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._deliver, self._record = deliver, record
        self._silence_seconds = silence_seconds
        self._tasks = Tasks(failed)
        self._kept: dict[Digest, Roster] = {}
        self._waiting: dict[PeerId, _Queue] = {}
        self._waiting_bytes = 0
        self._overflown: set[PeerId] = set()
        self._asks: dict[Digest, list[asyncio.Task[bool]]] = {}
        self._is_closed = False
        self.expected: Callable[[], Roster | None] = lambda: None

    def encode(self, message: StepMessage, base: Roster | None) -> bytes:
        """`message` to those who have `base`, the roster of the last decision; what it names can be asked for here."""
        named = [roster for roster in rosters_in(message) if is_named(roster)]
        for roster in [base, *named] if base is not None and named else named:
            self._keep(roster)
        return encode_step(message, base)

    def take(self, link: Link, data: bytes) -> None:
        """A step message came. Raises WireError when it, or a difference that it tells, makes no sense."""
        if self._is_closed:
            return
        unread, sender = read_step(data), link.remote.peer
        if sender not in self._waiting:
            found = [self._find(name) for name in unread.names]
            rosters = [roster for roster in found if roster is not None]
            if len(rosters) == len(found):
                self._hand_on(sender, unread.whole(*rosters))
                return
        self._wait(_Waiting(link, unread, len(data)))

    def closed(self, link: Link) -> None:
        """What came over `link` and still waits is lost with it."""
        self._overflown.discard(link.remote.peer)
        self._drop(link.remote.peer, lambda message: message.link is link)

    def lost(self, peer: PeerId) -> None:
        """What `peer` sent must not be delivered behind its loss: it would be back."""
        self._drop(peer, lambda message: True)

    def forget_waiting(self) -> None:
        """What still waits concerns this peer no more."""
        for peer in list(self._waiting):
            self.lost(peer)

    def answer(self, request: RosterRequest) -> Message:
        """The whole roster of that digest. Raises Refused."""
        roster = self._kept.get(request.digest)
        if roster is None:
            raise Refused(
                "that roster is not known here",
                f"digest {request.digest.hex()[:12]}",
                "ask who names it now",
            )
        return Message(b"", encode_roster(roster))

    async def close(self) -> None:
        self._is_closed = True
        self.forget_waiting()
        await self._tasks.cancel_all()

    # ---- finding ------------------------------------------------------------------------------------------------

    def _keep(self, roster: Roster) -> None:
        self._kept.pop(roster.digest, None)
        self._kept[roster.digest] = shared(roster)
        if len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]

    def _hand_on(self, sender: PeerId, message: StepMessage) -> None:
        for roster in rosters_in(message):
            if len(roster.members) >= KEPT_MEMBERS:
                self._keep(roster)
        self._deliver(sender, message)

    def _find(self, name: RosterName) -> Roster | None:
        """The roster, if this peer has it or can put it together. Raises WireError when its difference is wrong."""
        roster, base = self._kept.get(name.digest), self._kept.get(name.base)
        if base is not None:
            self._keep(base)
        if roster is None and base is not None:
            roster = rebuilt(name, base)
        if roster is None:
            expected = self.expected()
            roster = expected if expected and expected.digest == name.digest else None
        if roster is not None:
            self._keep(roster)
        return self._kept.get(name.digest)

    async def _fetched(self, link: Link, name: RosterName) -> Roster | None:
        """The roster; None when it cannot be had. Its base is asked for first, which the next names are told by too,
        and the roster itself if that is refused."""
        for digest in filter(None, (name.base, name.digest)):
            was_refused = await self._sought(link, name, digest)
            if not was_refused:
                break
        return self._find(name)

    async def _sought(self, link: Link, name: RosterName, digest: Digest) -> bool:
        """Find what `name` tells, or ask for the roster of `digest`; whether that was refused. What another sender is
        asked for is waited for, then this one is asked, once."""
        has_waited = False
        while self._find(name) is None:
            asks = self._asks.get(digest, [])
            if len(asks) < (MOST_ASKS if has_waited else 1):
                return await self._asked(link, digest)
            await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
            has_waited = True
        return False

    async def _asked(self, link: Link, digest: Digest) -> bool:
        """Ask for the roster of `digest`; whether that was refused. Who waits for the answer may be cancelled; others
        wait for it too."""
        asking = self._tasks.spawn(self._ask(link, digest), "ask for a roster")
        self._asks.setdefault(digest, []).append(asking)
        asking.add_done_callback(lambda task: self._answered(digest, task))
        return await asyncio.shield(asking)

    def _answered(self, digest: Digest, asking: asyncio.Task[bool]) -> None:
        self._asks[digest].remove(asking)
        if not self._asks[digest]:
            del self._asks[digest]

    async def _ask(self, link: Link, digest: Digest) -> bool:
        request, sender = Message(RosterRequest(digest).encode()), link.remote.peer
        try:
            answer = await link.call(
                "roster",
                request,
                silence_seconds=self._silence_seconds,
                deadline_seconds=MOST_SILENCES * self._silence_seconds,
            )
            roster = read_roster(bytes(answer.body))
            if roster.digest != digest:
                raise WireError("another roster was answered", roster.digest.hex()[:12])
            self._keep(roster)
            self._record(Noted("asked for a roster", f"version {roster.version}, of {sender}"))
        except LinkError as error:
            self._record(Noted("a roster could not be had", f"{sender}: {error.what}"))
            return isinstance(error, Refused)
        except WireError as error:
            self._record(BadMessage(sender, f"roster: {error.what} ({error.why})"))
        return False

    # ---- waiting ------------------------------------------------------------------------------------------------

    def _wait(self, message: _Waiting) -> None:
        """Behind what its sender sent before, or dropped where that is too much."""
        sender, length_bytes = message.link.remote.peer, message.length_bytes
        queue = self._waiting.get(sender) or _Queue()
        is_too_much = (
            len(queue.messages) >= MOST_WAITING
            or queue.length_bytes + length_bytes > MOST_WAITING_BYTES
            or self._waiting_bytes + length_bytes > MOST_WAITING_BYTES_OF_ALL
        )
        if is_too_much:
            if sender not in self._overflown:
                self._record(
                    Noted("a message was dropped", f"{sender}: too many wait for a roster")
                )
            self._overflown.add(sender)
            return
        queue.messages.append(message)
        queue.length_bytes += length_bytes
        self._waiting_bytes += length_bytes
        if queue.task is None:
            self._waiting[sender] = queue
            queue.task = self._tasks.spawn(
                self._take_waiting(sender, queue), f"rosters of {sender}"
            )

    def _drop(self, sender: PeerId, is_dropped: Callable[[_Waiting], bool]) -> None:
        """Forget waiting messages of `sender`; what is left of them waits again, in order."""
        queue = self._waiting.get(sender)
        if queue is None or not any(map(is_dropped, queue.messages)):
            return
        del self._waiting[sender]
        self._waiting_bytes -= queue.length_bytes
        kept = [message for message in queue.messages if not is_dropped(message)]
        queue.messages.clear()
        assert queue.task is not None
        queue.task.cancel()
        for message in kept:
            self._wait(message)

    async def _take_waiting(self, sender: PeerId, queue: _Queue) -> None:
        """Deliver in order what one sender sent; what is wrong costs it the link."""
        while queue.messages:
            message = queue.messages[0]
            try:
                names = message.unread.names
                rosters = [await self._fetched(message.link, name) for name in names]
                self._pop(queue)
                if None not in rosters:
                    self._hand_on(sender, message.unread.whole(*rosters))  # type: ignore[arg-type]
            except WireError as error:
                self._record(BadMessage(sender, f"{error.what} ({error.why})"))
                self._tasks.spawn(message.link.close(error.what), f"close {sender}")
                self.closed(message.link)
            except Exception as error:
                # Like a message that did not have to wait: a fault in what it causes ends nobody else's.
                self._record(Noted("internal error", f"step: {error!r}"))
                logger.exception("a step message that waited failed")
            finally:
                if queue.messages and queue.messages[0] is message:
                    self._pop(queue)
        if self._waiting.get(sender) is queue:
            del self._waiting[sender]
            self._overflown.discard(sender)

    def _pop(self, queue: _Queue) -> None:
        message = queue.messages.popleft()
        queue.length_bytes -= message.length_bytes
        self._waiting_bytes -= message.length_bytes
