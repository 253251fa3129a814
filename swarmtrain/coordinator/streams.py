"""Server-sent events: what changed, to each reader at its own pace.

A reader is the last look that it was sent, and nothing else: what happens while it is slow comes as one change, so its
memory is bounded and nobody waits for it. One that takes nothing in for `STALL_SECONDS` is let go.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from swarmtrain.coordinator.picture import Json, Look, changed_links, changes, whole

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.1
"""Between two changes to one reader."""
LINKS_SECONDS = 2.0
BEAT_SECONDS = 2.0
"""Without news a reader still hears that the coordinator lives."""
STALL_SECONDS = 20.0
MOST_READERS = 64


class Streams:
    """All open streams. `changed()` wakes them."""

    def __init__(self, look: Callable[[], Look], pause_seconds: float = PAUSE_SECONDS) -> None:
        self._look, self._pause_seconds = look, pause_seconds
        self._readers: dict[asyncio.Event, None] = {}
        self._closing = False

    @property
    def readers(self) -> int:
        return len(self._readers)

    @property
    def is_full(self) -> bool:
        return self.readers >= MOST_READERS

    def changed(self) -> None:
        for news in self._readers:
            news.set()

    def close(self) -> None:
        """End all streams."""
        self._closing = True
        self.changed()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one reader until it goes, stalls, or `close`."""
        news = asyncio.Event()
        self._readers[news] = None
        gone = asyncio.create_task(_until_gone(receive))
        telling = asyncio.create_task(self._tell(news, send))
        try:
            await asyncio.wait([gone, telling], return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._readers[news]
            for task in (gone, telling):
                task.cancel()
            _, error = await asyncio.gather(gone, telling, return_exceptions=True)
            if isinstance(error, TimeoutError):
                logger.info("a reader of the dashboard took nothing in for %g s", STALL_SECONDS)
            elif isinstance(error, Exception):
                logger.error("a stream of the dashboard broke", exc_info=error)

    async def _tell(self, news: asyncio.Event, send: Send) -> None:
        loop = asyncio.get_running_loop()
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        seen = self._look()
        await _send(send, "state", whole(seen))
        links_seconds, links_from, told_seconds = loop.time(), seen, loop.time()
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), BEAT_SECONDS)
            news.clear()
            look = self._look()
            found = changes(seen, look)
            if loop.time() >= links_seconds + LINKS_SECONDS:
                found |= changed_links(links_from, look)
                links_seconds, links_from = loop.time(), look
            # Many events change nothing that is shown; the time alone goes with the beat.
            if len(found) > 1 or loop.time() >= told_seconds + BEAT_SECONDS:
                await _send(send, "changes", found)
                told_seconds = loop.time()
            seen = look
            await asyncio.sleep(self._pause_seconds)
        await _send(send, "end", {"now_seconds": loop.time()})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send(send: Send, kind: str, value: Json) -> None:
    """One event. Raises TimeoutError when the reader takes nothing in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    body = f"event: {kind}\ndata: {text}\n\n".encode()
    async with asyncio.timeout(STALL_SECONDS):
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
