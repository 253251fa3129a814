"""The rosters that a peer names in its step messages, and finds by what others name.

A message with a roster that is neither known here nor told as a difference to a known one waits, with all its sender
sends behind it, while the sender is asked for the roster. One that nobody answers is dropped like a lost message: the
protocol says everything again.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import lru_cache

from swarmtrain.core.errors import LinkError, Refused, SwarmError, WireError
from swarmtrain.core.events import BadMessage, Noted, Record
from swarmtrain.core.messages import StepMessage
from swarmtrain.core.rosters import RosterName, rebuilt, rosters_in, shared
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import Digest, PeerId, Roster
from swarmtrain.transport.link import Link, Message
from swarmtrain.transport.messages import decode
from swarmtrain.transport.requests import RosterRequest
from swarmtrain.transport.step_messages import (
    Unread,
    encode_roster,
    encode_step,
    is_named,
    read_step,
)

MOST_KEPT = 8
"""Rosters; one is kept again whenever a message names it, or is told as a difference to it."""

MOST_WAITING = 1000
"""Messages of one sender, while it is asked for a roster."""

MOST_SILENCES = 3
"""A question for a roster takes no longer, also if its sender goes on saying that it works on it."""

MOST_BYTES = 16 << 20
"""Of a whole roster: all members there may be, with the longest texts that anybody uses."""


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
        self._waiting: dict[PeerId, deque[Unread]] = {}
        self._asking: dict[Digest, asyncio.Task[None]] = {}
        self.expected: Callable[[], Roster | None] = lambda: None

    def encode(self, message: StepMessage, base: Roster | None) -> bytes:
        """`message` to those who have `base`, the roster of the last decision; what it names can be asked for here."""
        for roster in rosters_in(message):
            if is_named(roster):
                self._keep(roster)
        return encode_step(message, base)

    def take(self, link: Link, data: bytes) -> None:
        """A step message came. Raises WireError when it, or a difference that it tells, makes no sense."""
        unread, sender = read_step(data), link.remote.peer
        waiting = self._waiting.get(sender)
        if waiting is None:
            found = [self._find(name) for name in unread.names]
            rosters = [roster for roster in found if roster is not None]
            if len(rosters) == len(found):
                self._deliver(sender, unread.whole(*rosters))
                return
            waiting = self._waiting[sender] = deque()
            self._tasks.spawn(self._take_waiting(link, waiting), f"rosters of {sender}")
        if len(waiting) < MOST_WAITING:
            waiting.append(unread)
        else:
            self._record(Noted("a message was dropped", f"{sender}: too many wait for a roster"))

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
        await self._tasks.cancel_all()

    # ---- finding ------------------------------------------------------------------------------------------------

    def _keep(self, roster: Roster) -> None:
        self._kept.pop(roster.digest, None)
        self._kept[roster.digest] = shared(roster)
        if len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]

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

    async def _take_waiting(self, link: Link, waiting: deque[Unread]) -> None:
        """Deliver in order what one sender sent; what is wrong costs it its link."""
        sender = link.remote.peer
        try:
            while waiting:
                rosters = [await self._fetched(link, name) for name in waiting[0].names]
                unread = waiting.popleft()
                if None not in rosters:
                    self._deliver(sender, unread.whole(*rosters))  # type: ignore[arg-type]
        except SwarmError as error:
            self._record(BadMessage(sender, f"{error.what} ({error.why})"))
            await link.close(error.what)
        finally:
            del self._waiting[sender]

    async def _fetched(self, link: Link, name: RosterName) -> Roster | None:
        """The roster; None when it cannot be had. What another sender is asked for is waited for, then this one is
        asked, once."""
        others = self._asking.get(name.digest)
        if others is not None:
            await asyncio.shield(others)
        roster = self._find(name)
        if roster is not None:
            return roster
        asking = self._tasks.spawn(self._ask(link, name.digest), "ask for a roster")
        self._asking[name.digest] = asking
        asking.add_done_callback(lambda _: self._asking.pop(name.digest, None))
        await asyncio.shield(asking)
        return self._find(name)

    async def _ask(self, link: Link, digest: Digest) -> None:
        request, sender = Message(RosterRequest(digest).encode()), link.remote.peer
        try:
            answer = await link.call(
                "roster",
                request,
                silence_seconds=self._silence_seconds,
                deadline_seconds=MOST_SILENCES * self._silence_seconds,
            )
            roster = _read_roster(bytes(answer.body))
            if roster.digest != digest:
                raise WireError("another roster was answered", roster.digest.hex()[:12])
            self._keep(roster)
            self._record(Noted("asked for a roster", f"version {roster.version}, of {sender}"))
        except LinkError as error:
            self._record(Noted("a roster could not be had", f"{sender}: {error.what}"))
        except WireError as error:
            self._record(BadMessage(sender, f"roster: {error.what} ({error.why})"))


@lru_cache(maxsize=2)
def _read_roster(data: bytes) -> Roster:
    """A whole roster. Raises WireError."""
    if len(data) > MOST_BYTES:
        raise WireError("a roster is too long", f"{len(data)} bytes, {MOST_BYTES} allowed")
    return decode(Roster, data)
