"""A broken link is no lost peer: it is dialled once more before the protocol hears of a loss."""

import asyncio
import math
from collections.abc import Awaitable, Callable

from swarmtrain.core.errors import LinkError
from swarmtrain.core.types import PeerId
from swarmtrain.transport.link import Link


class Confirming:
    """Dials peers whose links broke, with `dial`."""

    def __init__(self, dial: Callable[[PeerId], Awaitable[Link]], heartbeat_seconds: float) -> None:
        self._dial, self._heartbeat_seconds = dial, heartbeat_seconds
        self._dialled_seconds: dict[PeerId, float] = {}

    async def is_lost(self, peer: PeerId) -> bool:
        """Whether `peer` does not answer at once.

        The system accepts a connection for a frozen process: two heartbeats without a greeting are enough, and one is
        not: a first packet that is lost is sent again after a second (RFC 6298). A peer that shuts down still greets
        and hangs up at once: it is dialled once a heartbeat, not again and again.
        """
        now = asyncio.get_running_loop().time()
        due_seconds = max(now, self._dialled_seconds.get(peer, -math.inf) + self._heartbeat_seconds)
        self._dialled_seconds[peer] = due_seconds
        await asyncio.sleep(due_seconds - now)
        try:
            async with asyncio.timeout(2 * self._heartbeat_seconds):
                await self._dial(peer)
        except (LinkError, TimeoutError):
            return True
        return False
