"""Hands a peer's events to the coordinator: in batches, in order, bounded, and never in training's way."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable

from swarmtrain.core.carried import LinksCarried
from swarmtrain.core.errors import LinkError, WireError
from swarmtrain.core.events import Event, SealAssigned, SumChanged, SumSealed
from swarmtrain.core.types import PeerId
from swarmtrain.peer.links import Links
from swarmtrain.transport.link import Handler, Link, Transport
from swarmtrain.transport.requests import EventBatch

logger = logging.getLogger(__name__)

KEPT_LINES = 10_000
BATCH_LINES = 200
PAUSE_SECONDS = 0.1
REDIAL_SECONDS = 1.0


LOCAL_EVENTS = (SealAssigned, SumChanged, SumSealed, LinksCarried)
"""Events for the peer's own journal only: one for each contribution, or as long as the roster. `swarmtrain check` reads
them there; the coordinator gets what they come to, in Sealed and StateApplied."""


class Reporter:
    """Sends journal lines to the coordinator at `address`; what does not fit is counted and dropped."""

    def __init__(self, me: PeerId, address: str, connect_seconds: float) -> None:
        self._me, self._address, self._connect_seconds = me, address, connect_seconds
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self.pulse: Callable[[], float] = lambda: math.inf
        """Called when there is a link, and again after the seconds it answers: reports what is worth it by time."""

    def add(self, event: Event, line: str) -> None:
        """Send `line`, the journal's line of `event`, with the next batch; not what is for the journal only."""
        if isinstance(event, LOCAL_EVENTS):
            return
        if len(self._lines) >= KEPT_LINES:
            self._lines.popleft()
            self._dropped += 1
        self._lines.append(line)

    @property
    def link(self) -> Link | None:
        """The link to the coordinator, if there is one."""
        return self._link

    def is_link(self, link: Link) -> bool:
        """Whether `link` is the one this peer dialled to the coordinator's address."""
        return link is self._link

    def start(self, transport: Transport, handler: Handler, links: Links) -> None:
        """Begin to send; `handler` also serves what the coordinator asks over the same link."""
        self._task = asyncio.create_task(self._run(transport, handler, links), name="report")

    async def close(self) -> None:
        """Send what is left, if there is a link, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._lines and self._link is not None:
            self._send(self._link)

    async def _run(self, transport: Transport, handler: Handler, links: Links) -> None:
        """A lost coordinator is dialled again for as long as this peer lives; training goes on without it."""
        while True:
            try:
                self._link = await transport.dial(
                    self._address, handler.hello(), handler, self._connect_seconds
                )
                loop = asyncio.get_running_loop()
                pulse_seconds = loop.time()
                while links.is_open(self._link):
                    if loop.time() >= pulse_seconds:
                        pulse_seconds = loop.time() + self.pulse()
                    if self._lines:
                        self._send(self._link)
                    await asyncio.sleep(PAUSE_SECONDS)
            except (LinkError, WireError) as error:
                logger.warning("the coordinator cannot be reached: %s", error.what)
            self._link = None
            await asyncio.sleep(REDIAL_SECONDS)

    def _send(self, link: Link) -> None:
        batch = [self._lines.popleft() for _ in range(min(BATCH_LINES, len(self._lines)))]
        link.tell("events", EventBatch(self._me, tuple(batch), self._dropped).encode())
        self._dropped = 0
