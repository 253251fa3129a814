"""A peer under its volunteer's terms: serves while they allow it, else leaves between two steps, and comes back.

A pause is a whole leave: the peer drains out of the roster, withdraws from the directory and gives links and memory
back; what brings it in again is an ordinary join, by the same identity. All that is decided is decided by
`plan.terms.decide`; here it is only carried out.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from swarmtrain.core.errors import BadAddress, LinkError, Refused
from swarmtrain.core.events import Event, Noted, Record
from swarmtrain.core.pauses import Paused, Resumed
from swarmtrain.core.types import PeerId
from swarmtrain.peer.joining import JoinedPeer
from swarmtrain.peer.session import Outcome, Session
from swarmtrain.peer.state_folder import StateFolder, Status
from swarmtrain.plan.terms import LocalTime, Machine, Request, Terms, Verdict, decide

TICK_SECONDS = 0.25
"""How often terms are looked at; a spent day is overdrawn by what the links carry in that time at most."""

LEAST_PATIENCE_SECONDS = 30.0
PATIENCE_STEPS = 3
"""A pause waits for the end of a step so many times as long as the longest one lasted, then leaves at once."""

LINGER_SECONDS = 120.0
LONE_LINGER_SECONDS = 5.0
REJOIN_SECONDS = 120.0
FIRST_REDIAL_SECONDS, MOST_REDIAL_SECONDS = 1.0, 5.0
"""After a pause the run is looked for so long; tries come apart, up to so far."""


UNREACHED = "the run cannot be reached"


class Watching(Protocol):
    """Where time and the machine's figures come from (peer.machine)."""

    def now(self) -> LocalTime: ...

    def look(self, request: Request, transfer_bytes: int, step_bytes: int) -> Machine: ...


@dataclass(frozen=True, slots=True)
class Told:
    """Who this peer is, for its status; `record` takes events while nothing is joined."""

    peer: PeerId
    name: str
    process: int
    record: Record


class Steps:
    """How long this peer's steps last and what they move, the largest of each so far."""

    def __init__(self) -> None:
        self.longest_seconds, self.most_bytes = 0.0, 0
        self._step = 0
        self._mark: tuple[float, int] | None = None

    def see(self, step: int, now_seconds: float, moved_bytes: int) -> None:
        """The peer is at `step` and has moved so much in all; what came before its first whole step is no step."""
        if step == self._step:
            return
        if self._mark is not None and self._step:
            count = max(1, step - self._step)
            self.longest_seconds = max(self.longest_seconds, (now_seconds - self._mark[0]) / count)
            self.most_bytes = max(self.most_bytes, (moved_bytes - self._mark[1]) // count)
        self._step, self._mark = step, (now_seconds, moved_bytes)

    def begin(self) -> None:
        """The peer joins anew: what the joining itself moves belongs to no step."""
        self._step, self._mark = 0, None


class Volunteer:
    """One process's part in a run. `open_peer` joins; the first time nobody need answer for `join_seconds`."""

    def __init__(
        self,
        terms: Terms,
        open_peer: Callable[[], Awaitable[JoinedPeer]],
        watch: Watching,
        folder: StateFolder,
        told: Told,
        join_seconds: float = 0.0,
    ) -> None:
        self._join_seconds = join_seconds
        self._terms, self._open_peer, self._watch = terms, open_peer, watch
        self._folder, self._told = folder, told
        self._loop = asyncio.get_running_loop()
        self._steps = Steps()
        self._session: Session | None = None
        self._counted_bytes = 0
        self._is_finishing = self._is_released = False
        self._reason = ""
        self._changed = asyncio.Event()

    @property
    def has_left(self) -> bool:
        """Whether this peer went because its volunteer, or the coordinator, let it go."""
        return self._is_finishing or self._is_released

    def finish(self, reason: str) -> None:
        """Leave between two steps and end, as when the volunteer asks for it from another terminal.

        Where the run ends first, its final checkpoint may need what this peer hosts: it waits for that, bounded.
        """
        self._is_finishing, self._reason = True, reason
        self._changed.set()

    def leave(self, reason: str) -> None:
        """Leave at once and end."""
        self._is_finishing, self._reason = True, reason
        self._changed.set()
        if self._session is not None:
            self._session.leave(reason)
            self._session.released.set()

    async def serve(self) -> Outcome:
        """Serve and pause until the run ends, or the volunteer has it ended. Raises SwarmError."""
        paused_seconds: float | None = None
        while True:
            verdict = self._judge("joining")
            if verdict.action == "finish":
                return Outcome(False, self._reason or verdict.reason, 0)
            if verdict.action == "pause":
                if paused_seconds is None:
                    paused_seconds = self._loop.time()
                    self._told.record(self._paused(verdict))
                await self._tick()
                continue
            joined = await self._joined(paused_seconds is not None)
            if joined is None:
                continue
            if paused_seconds is not None:
                pause_seconds = self._loop.time() - paused_seconds
                reason = "the volunteer's terms allow it again"
                joined.record(Resumed(self._told.peer, reason, pause_seconds))
            verdict, outcome = await self._serve_one(joined)
            if verdict.action != "pause":
                return outcome
            paused_seconds = self._loop.time()

    # ---- one stay in the run ------------------------------------------------------------------------------------

    async def _joined(self, is_back: bool) -> JoinedPeer | None:
        """Join the run, with patience while nobody answers. None when the volunteer wants something else meanwhile."""
        patience_seconds = REJOIN_SECONDS if is_back else self._join_seconds
        deadline_seconds = self._loop.time() + patience_seconds
        pause_seconds = FIRST_REDIAL_SECONDS
        while not self._is_finishing:
            opening = asyncio.ensure_future(self._open_peer())
            stopping = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if opening.done():
                    return opening.result()
            except LinkError as error:
                # Who answers with a no, and what is no address, will be the same in a moment.
                if isinstance(error, Refused | BadAddress):
                    raise
                left_seconds = deadline_seconds - self._loop.time()
                if left_seconds <= 0:
                    raise
                pause_seconds = min(pause_seconds, left_seconds)
                when = f"trying again in {pause_seconds:.0f} s, for {left_seconds:.0f} s more"
                self._told.record(Noted(UNREACHED, f"{error.what}; {when}"))
            finally:
                opening.cancel()
                stopping.cancel()
            if not await self._is_willing_for(pause_seconds):
                return None
            pause_seconds = min(2 * pause_seconds, MOST_REDIAL_SECONDS)
        return None

    async def _is_willing_for(self, seconds: float) -> bool:
        """Wait so long; False as soon as the terms do not let this peer join any more, or it is told to end."""
        until_seconds = self._loop.time() + seconds
        while self._loop.time() < until_seconds:
            if self._judge("joining").action != "serve":
                return False
            await self._tick()
        return True

    async def _serve_one(self, joined: JoinedPeer) -> tuple[Verdict, Outcome]:
        session = self._session = joined.session
        self._counted_bytes = 0
        self._steps.begin()
        running = asyncio.ensure_future(session.run())
        try:
            verdict = await self._until_unwilling(running)
            if verdict.action == "serve":
                outcome = await running
                await self._linger(joined)
                self._is_released = session.released.is_set()
                return verdict, outcome
            if verdict.action == "pause":
                joined.record(self._paused(verdict))
            else:
                self._is_finishing = True
            await self._take_out(joined, running, verdict)
            return verdict, await running
        finally:
            running.cancel()
            await joined.close()
            self._count()
            self._session = None

    async def _until_unwilling(self, running: "asyncio.Future[Outcome]") -> Verdict:
        """The verdict that ends this stay; serve, where the run ended first."""
        while True:
            verdict = self._judge("serving")
            if running.done() or verdict.action != "serve":
                return Verdict("serve") if running.done() else verdict
            await self._tick(running)

    async def _linger(self, joined: JoinedPeer) -> None:
        """Until the coordinator has what it needs; other islands have their last results, unless this peer is to go."""
        reporter, session = joined.reporter, joined.session
        # A coordinator that is out of reach may be started again; who wants to go does not wait for that.
        is_asked = reporter is not None and (reporter.link is not None or not self._is_finishing)
        seconds = LINGER_SECONDS if is_asked else LONE_LINGER_SECONDS
        served_bytes, since_seconds = session.served_bytes, self._loop.time()
        while not session.released.is_set():
            self._judge("handing over the model")
            if session.served_bytes != served_bytes and not self._is_finishing:
                served_bytes, since_seconds = session.served_bytes, self._loop.time()
            if self._loop.time() >= since_seconds + seconds:
                why = f"nobody asked for this peer's state in {seconds:g} s"
                return joined.record(Noted("not released", why))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await session.released.wait()

    async def _take_out(
        self, joined: JoinedPeer, running: "asyncio.Future[Outcome]", verdict: Verdict
    ) -> None:
        """Out of the run: between two steps, unless the day is spent, or nobody may take over in time."""
        session, reason = joined.session, self._reason or verdict.reason
        patience_seconds = max(LEAST_PATIENCE_SECONDS, PATIENCE_STEPS * self._steps.longest_seconds)
        deadline_seconds = self._loop.time() + patience_seconds
        session.drain(reason)
        while not running.done():
            is_late = verdict.action == "pause" and self._loop.time() >= deadline_seconds
            if is_late:
                joined.record(Noted("left within a step", f"none ended in {patience_seconds:g} s"))
            if is_late or self._judge("leaving").is_urgent:
                session.leave(reason)
            await self._tick(running)
        if session.holds_final_state:
            await self._linger(joined)

    # ---- small things -------------------------------------------------------------------------------------------

    def _judge(self, doing: str) -> Verdict:
        """Count, look, decide, and tell the volunteer."""
        self._count()
        now = self._watch.now()
        request: Request = "finish" if self._is_finishing else self._folder.request()
        moved_bytes = self._folder.moved_bytes(now.day)
        machine = self._watch.look(request, moved_bytes, self._steps.most_bytes)
        verdict = decide(self._terms, machine)
        if doing == "joining" and verdict.action == "pause":
            doing = "paused"
        told = self._told
        self._folder.save(
            Status(
                process=told.process,
                peer=told.peer,
                name=told.name,
                request=request,
                doing=doing,
                reason=verdict.reason,
                resumes=verdict.resumes,
                step=self._step,
                day=now.day,
                transfer_bytes=moved_bytes,
            )
        )
        return verdict

    def _count(self) -> None:
        """What the links moved since the last look belongs to today."""
        if self._session is None:
            return
        totals = self._session.links.totals()
        moved_bytes = totals.bytes_sent + totals.bytes_received
        self._folder.add_moved(self._watch.now().day, moved_bytes - self._counted_bytes)
        self._counted_bytes = moved_bytes
        self._steps.see(self._step, self._loop.time(), moved_bytes)

    async def _tick(self, running: "asyncio.Future[Outcome] | None" = None) -> None:
        """Until it is time to look again, the run ended, or the volunteer said something in this process."""
        ends: set[asyncio.Future[Any]] = set() if running is None else {running}
        heard = asyncio.sleep(TICK_SECONDS) if self._is_finishing else self._changed.wait()
        waiting: asyncio.Future[Any] = asyncio.ensure_future(heard)
        ends.add(waiting)
        try:
            await asyncio.wait(ends, timeout=TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    def _paused(self, verdict: Verdict) -> Event:
        return Paused(self._told.peer, verdict.reason, verdict.resumes)

    @property
    def _step(self) -> int:
        runtime = self._session.runtime if self._session is not None else None
        return runtime.member.step if runtime is not None else 0
