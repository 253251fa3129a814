"""Measures the lines to neighbours that no work has measured, so that the planner need not guess them.

A probe is a call with a body that goes nowhere, as large as one microbatch between two stages. The link that carries
it measures it like any other call (transport.line_rate), and its own pings say the latency: nothing is recorded here.
At most one probe is under way, at most one begins in a heartbeat, and none while this peer sends bodies. What a hung
one holds is its own turn, for as long as its limit. A peer that many probe at once sends most of them away.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable

from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import LinkError, Refused, WireError
from swarmtrain.core.events import Noted
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import PeerId, Roster
from swarmtrain.peer.parts import Parts
from swarmtrain.peer.published import boundary_bytes
from swarmtrain.plan.costs import SURE_CALLS
from swarmtrain.swarm.records import MOST_LINKS
from swarmtrain.transport.link import Link, Message
from swarmtrain.transport.requests import ProbeReply, ProbeRequest

LEAST_PROBE_BYTES = 16 << 10
MOST_PROBE_BYTES = 256 << 10
"""One body, at least and at most; another is refused by who is sent it. The largest takes 0.1 s at 20 Mbit/s."""

PROBE_BYTES_PER_MINUTE = 4 << 20
"""What one peer's probes may send, and what it takes of others': 3 % of a line of 20 Mbit/s each."""

STALE_SECONDS = 300.0
"""A rate that nothing has confirmed for so long is measured again."""

REST_SECONDS = 60.0
"""A peer that could not be probed, or sent a probe away, is left alone for so long, and up to twice as long."""


class Allowance:
    """Bytes that may pass in any minute. Times are the loop's, passed in."""

    def __init__(self, bytes_per_minute: int) -> None:
        self._bytes_per_minute = bytes_per_minute
        self._passed: deque[tuple[float, int]] = deque()

    def allows(self, more_bytes: int, now_seconds: float) -> bool:
        while self._passed and self._passed[0][0] <= now_seconds - 60.0:
            self._passed.popleft()
        passed_bytes = sum(some_bytes for _, some_bytes in self._passed)
        return passed_bytes + more_bytes <= self._bytes_per_minute

    def take(self, some_bytes: int, now_seconds: float) -> None:
        self._passed.append((now_seconds, some_bytes))


class ProbeAnswers:
    """Takes in the probes of others: of the own island, of other ones, and of peers that have none yet."""

    def __init__(self) -> None:
        self._taken = Allowance(PROBE_BYTES_PER_MINUTE)

    def answer(self, link: Link, request: Message) -> Message:
        """Take a probe in, and send as much back if it asks for that. Raises WireError when it is not what it says,
        and Refused."""
        probe, now = checked_probe(request), asyncio.get_running_loop().time()
        passing_bytes = probe.body_bytes * (2 if probe.is_echoed else 1)
        if not self._taken.allows(passing_bytes, now):
            why = f"this peer takes {PROBE_BYTES_PER_MINUTE} bytes of probes a minute"
            raise Refused("too many peers probe at once", why, "try again in some minutes")
        self._taken.take(passing_bytes, now)
        if not probe.is_echoed:
            return Message(b"")
        stats = link.stats
        # The body came from chance, so no line compresses it on its way back either.
        return Message(ProbeReply(stats.bytes_per_second, stats.messages).encode(), request.body)


class Probing:
    """Probes while this peer is in a roster, with `planner.use`. `chance` spreads the probes of many peers."""

    def __init__(
        self, parts: Parts, chance: random.Random, failed: Callable[[BaseException], None]
    ) -> None:
        self._parts, self._chance = parts, chance
        self._body_bytes = probe_bytes(parts.config)
        self._sent = Allowance(PROBE_BYTES_PER_MINUTE)
        self._resting_until: dict[PeerId, float] = {}
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks(failed)
        if parts.config.planner.use:
            self._tasks.spawn(self._run(), "probe")

    async def close(self) -> None:
        await self._tasks.cancel_all()

    async def _run(self) -> None:
        heartbeat_seconds = self._parts.config.links.heartbeat_seconds
        while True:
            await asyncio.sleep(heartbeat_seconds * self._chance.uniform(1.0, 2.0))
            peer = self._next()
            if peer is not None:
                await self._probe(peer)

    def _next(self) -> PeerId | None:
        """The neighbour whose line is known least, if there is one to probe and now is a time for it."""
        parts, roster = self._parts, self._parts.member.roster
        is_over = parts.member.step >= parts.config.run.steps
        is_sending = any(link.is_sending for link in parts.links.open_links)
        may_send = self._sent.allows(self._body_bytes, self._loop.time())
        if roster is None or is_over or is_sending or not may_send:
            return None
        unsure = [peer for peer in neighbours(parts.config, roster, parts.me) if self._asks(peer)]
        return min(unsure, key=self._rank, default=None)

    def _asks(self, peer: PeerId) -> bool:
        """Whether the line to `peer` is worth a probe now."""
        now, links = self._loop.time(), self._parts.links
        if now < self._resting_until.get(peer, now):
            return False
        figures = links.figures(peer)
        if figures is None:
            # More than can be published would cost heartbeats and tell nobody anything.
            return len(links.open_links) < MOST_LINKS
        return figures.messages < SURE_CALLS or now >= figures.rated_seconds + STALE_SECONDS

    def _rank(self, peer: PeerId) -> tuple[int, float]:
        figures = self._parts.links.figures(peer)
        return figures.messages if figures is not None else 0, self._chance.random()

    async def _probe(self, peer: PeerId) -> None:
        """Open a link if there is none, which begins to measure the latency; or send a body over the one there is."""
        links = self._parts.links
        try:
            is_new = links.figures(peer) is None
            link = await links.to(peer)
            if is_new:
                return
            self._sent.take(self._body_bytes, self._loop.time())
            # Chance gives what no line can compress.
            body = self._chance.randbytes(self._body_bytes)
            limit_seconds = self._parts.config.links.silence_seconds
            await link.call(
                "probe",
                Message(ProbeRequest(len(body)).encode(), body),
                silence_seconds=limit_seconds,
                deadline_seconds=limit_seconds,
            )
        except (LinkError, WireError) as error:
            rest_seconds = REST_SECONDS * self._chance.uniform(1.0, 2.0)
            self._resting_until[peer] = self._loop.time() + rest_seconds
            self._parts.record(Noted("a link was not probed", f"{peer}: {error.what}"))


def checked_probe(request: Message) -> ProbeRequest:
    """The probe in `request`. Raises WireError when it is not what it says, Refused when it is too small or large."""
    probe, body_bytes = ProbeRequest.decode(request.meta), len(request.body)
    if body_bytes != probe.body_bytes:
        why = f"its body has {body_bytes} bytes and should have {probe.body_bytes}"
        raise WireError("a probe is not what it says", why)
    if not LEAST_PROBE_BYTES <= body_bytes <= MOST_PROBE_BYTES:
        why = f"its body has {body_bytes} bytes, not {LEAST_PROBE_BYTES} to {MOST_PROBE_BYTES}"
        raise Refused("a probe is too small or too large", why, "send a body of another size")
    return probe


def probe_bytes(config: RunConfig) -> int:
    """What one microbatch is between two stages, within the bounds of a probe."""
    return min(max(boundary_bytes(config), LEAST_PROBE_BYTES), MOST_PROBE_BYTES)


def neighbours(config: RunConfig, roster: Roster, me: PeerId) -> tuple[PeerId, ...]:
    """The members that a microbatch could come from to this peer, or go to from here, in the roster's order.

    Routes begin and end at the edge. Where stages are left out or swapped, any other stage may come next.
    """
    mine, count = roster.member(me), config.model.stages + 1
    is_free = config.paths.skip > 0 or config.paths.swaps > 0 or config.train.swap_ends
    reach = range(1, count) if is_free else (1, count - 1)
    hosted = mine.stages if mine is not None else ()
    near = frozenset((stage + away) % count for stage in hosted for away in reach)
    return tuple(
        member.peer
        for member in roster.members
        if member.peer != me and not near.isdisjoint(member.stages)
    )
