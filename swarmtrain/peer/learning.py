"""A newcomer's side of learning: it brings itself to the swarm's step outside of any roster, so that nobody waits.

Siblings keep the state of one step for it and the sums decided since (peer.teaching). It fetches that state while it
leaves them most of their lines, applies the sums one after the other as members do, and asks in all the while; the
conductor takes it in once it is at the step that runs.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from swarmtrain.compute.lane import Kind, Task
from swarmtrain.compute.replica import ReducedSum
from swarmtrain.core.closing import RoundWorkKind
from swarmtrain.core.errors import LinkError, StateError, WireError
from swarmtrain.core.events import Learned, Noted
from swarmtrain.core.messages import Commit
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import Digest, PeerId
from swarmtrain.peer.parts import Parts
from swarmtrain.peer.reduce import slice_bounds
from swarmtrain.peer.restore import now_seconds
from swarmtrain.recovery.dealing import Pace, deal, pace_of
from swarmtrain.recovery.transfer import PATIENCE_SECONDS
from swarmtrain.steps.effects import Effect, Resync
from swarmtrain.transport.link import Message
from swarmtrain.transport.requests import LearnReply, LearnRequest, Status

Siblings = Callable[[int], Sequence[PeerId]]
"""The peers that host a stage."""

RESTS = (2.0, 0.5, 0.0)
"""How long donors are left alone between two pieces, in times of a piece, try by try: whoever was too slow for the
steps takes more of the lines. After the last a newcomer joins without state, and fetches it while a step is open."""

QUICK_SECONDS = 1.0
"""A state that is fetched in less, rests included, holds no step up for long: the newcomer just joins. Where steps are
as quick as that it would run after them for minutes."""

MOST_DONORS = 4
"""Siblings that keep a state for the same newcomer."""

MOST_REFUSED = 3
"""Steps at which a newcomer was there and not let in, since they were sealed already. Then it asks to be in the next
roster one sum behind."""

MOST_SLICES = 4096
_PAUSE_SECONDS = 0.1


@dataclass(slots=True)
class Course:
    """What donors keep for this peer: the state `at` a step, by stage at whom, and what came of it so far."""

    step: int
    base: Digest
    epoch: int
    is_here: bool
    donors: dict[int, list[PeerId]]
    sum_bytes: int = 0
    refused_steps: int = 0

    @property
    def asked(self) -> list[tuple[int, PeerId]]:
        return [(stage, peer) for stage, peers in self.donors.items() for peer in peers]


class Learning:
    """`take_state(resync, siblings, pace)` loads this peer's stages or raises StateError.

    `asks_to_wait`: what this peer sends meanwhile is to be let in once it is at the step that runs, and not before.
    """

    def __init__(
        self,
        parts: Parts,
        take_state: Callable[[Resync, Siblings, Pace], Awaitable[None]],
        perform: Callable[[list[Effect]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._parts, self._take_state, self._perform = parts, take_state, perform
        self._tasks = Tasks(failed)
        self._learning: asyncio.Task[None] | None = None
        self._siblings: Siblings = lambda stage: ()
        self._ask_in: Callable[[], bool] = lambda: False
        self._is_hasty = True
        # Siblings that could not be reached; the directory names them until their records end.
        self._gone: dict[PeerId, None] = {}
        self._is_following = False
        self.asks_to_wait = False

    @property
    def is_active(self) -> bool:
        return self._learning is not None and not self._learning.done()

    def start(
        self, siblings: Siblings, ask_in: Callable[[], bool], is_hasty: bool = True
    ) -> "asyncio.Task[None]":
        """Learn this peer's stages from those whom `siblings` names, until the task ends.

        `ask_in` asks to be in the roster, and returns False if this is not the time. Who is hasty fetches a state that
        is quick to fetch inside a step.
        """
        self._siblings, self._ask_in, self._is_hasty = siblings, ask_in, is_hasty
        self.asks_to_wait = True
        self._learning = self._tasks.spawn(self._learn(), "learn")
        return self._learning

    def stop(self) -> None:
        """State comes another way now."""
        self.asks_to_wait = self._is_following = False
        if self._learning is not None:
            self._learning.cancel()

    def brings(self, step: int) -> bool:
        """Whether the one sum that is missing until `step` is on its way."""
        return self.is_active and self._is_following and step == self._parts.member.step + 1

    async def close(self) -> None:
        await self._tasks.cancel_all()

    # ---- the course ---------------------------------------------------------------------------------------------

    async def _learn(self) -> None:
        try:
            for rest in RESTS:
                course = await self._begin()
                if course is None or await self._take(course, rest):
                    break
                if course.refused_steps >= MOST_REFUSED:
                    break  # it may be in the roster by now, which is brought up to date another way
        finally:
            self.asks_to_wait = self._is_following = False

    async def _take(self, course: Course, rest: float) -> bool:
        """Whether that is all there is to learn: it is in the roster, or may as well fetch its state there."""
        parts, begin_seconds = self._parts, now_seconds()
        holding = self._tasks.spawn(self._hold(course), "hold lessons")
        why, is_quick = "", False
        try:
            if not course.is_here:
                reason = "learns its stages before it joins"
                wanted = Resync(
                    course.step, course.base, course.epoch, parts.member.stages, (), reason
                )
                pace = pace_of(parts.config.links, rest)
                await self._take_state(wanted, lambda stage: course.donors[stage], pace)
                seconds = now_seconds() - begin_seconds
                is_quick = seconds < QUICK_SECONDS and self._is_hasty
            holding.cancel()
            if not is_quick:
                await self._follow(course, rest)
        except (StateError, LinkError, WireError) as error:
            why = str(error)
        finally:
            holding.cancel()
            self._is_following = False
        await self._ask_all("end", course.asked)
        if why:
            parts.record(Noted("learning failed", why))
            return False
        if is_quick:
            self._ask_in()  # if the step still runs it is let in at once, else it fetches again inside the next one
            return True
        seconds, step = now_seconds() - begin_seconds, parts.member.step
        parts.record(Learned(parts.me, course.step, step, course.sum_bytes, seconds))
        return True

    async def _begin(self) -> Course | None:
        """Have siblings keep one same step of every stage; None when nobody can."""
        deadline_seconds = now_seconds() + PATIENCE_SECONDS
        while True:
            asked = self._first_donors()
            for verb in ("look", "begin"):
                offers = await self._ask_all(verb, asked)
                course = self._course(offers)
                if course is None:
                    break
            if course is not None:
                return course
            await self._ask_all("end", [key for key in asked if key in offers])
            pause_seconds = _PAUSE_SECONDS
            if any(reply.status is Status.BUSY for reply in offers.values()):
                # Others learn there. Two that share the donors and ask again at once would meet again and again.
                deadline_seconds = now_seconds() + PATIENCE_SECONDS
                pause_seconds += self._rank % 1000 / 1000
            if not asked or now_seconds() > deadline_seconds:
                return None
            await asyncio.sleep(pause_seconds)

    def _course(self, offers: Mapping[tuple[int, PeerId], LearnReply]) -> Course | None:
        """With the donors of the newest step, if they are more than teach others: two newcomers that got half of them
        each would both be too slow."""
        member = self._parts.member
        good = [offer for offer in offers.values() if offer.status is Status.OK]
        newest = max(good, key=lambda offer: (offer.epoch, offer.step), default=None)
        donors: dict[int, list[PeerId]] = {stage: [] for stage in member.stages}
        busy = dict.fromkeys(member.stages, 0)
        for (stage, _), offer in offers.items():
            busy[stage] += offer.status is Status.BUSY
        if newest is None:
            return None
        for (stage, peer), offer in offers.items():
            if offer in good and (offer.step, offer.base) == (newest.step, newest.base):
                donors[stage].append(peer)
        if any(len(donors[stage]) <= busy[stage] for stage in donors):
            return None
        is_here = (member.step, member.base) == (newest.step, newest.base)
        return Course(newest.step, newest.base, newest.epoch, is_here, donors)

    def _first_donors(self) -> list[tuple[int, PeerId]]:
        """Some siblings of every stage, without those found gone; newcomers of one stage begin with different ones."""
        chosen = []
        for stage in self._parts.member.stages:
            peers = [p for p in self._siblings(stage) if p not in (self._parts.me, *self._gone)]
            first = self._rank % len(peers) if peers else 0
            chosen += [(stage, peer) for peer in (peers[first:] + peers[:first])[:MOST_DONORS]]
        return chosen

    @property
    def _rank(self) -> int:
        return zlib.crc32(self._parts.me.encode())

    async def _hold(self, course: Course) -> None:
        """Donors drop what nobody asks for."""
        while True:
            await asyncio.sleep(self._parts.config.links.silence_seconds / 4)
            await self._ask_all("hold", course.asked)

    # ---- the sums decided since ---------------------------------------------------------------------------------

    async def _follow(self, course: Course, rest: float) -> None:
        """Apply what is decided, until this peer is in an open step. Raises LinkError or WireError when it cannot."""
        member, self._is_following, is_there = self._parts.member, True, False
        while member.ledger.open is None:
            commit, is_last = (None, False) if member.is_busy else await self._next_commit(course)
            if commit is None:
                if not member.is_busy and not is_there:
                    is_there = self._ask_in()
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            course.refused_steps += is_there
            is_there = False
            if course.refused_steps >= MOST_REFUSED:
                # Asked while it is behind: a step that it is at, and that is sealed, must not be sealed again for it.
                self.asks_to_wait = False
                self._ask_in()
            self._check_follows(commit)
            sums = await self._sums(course, commit, 0.0 if is_last else rest)
            self.asks_to_wait = True
            course.sum_bytes += sum(entry.total.nbytes for entry in sums.values())
            self._parts.reducer.learned(commit, sums)
            facts = tuple(entry.facts for entry in sums.values())
            self._perform(member.learned(commit, facts))

    def _check_follows(self, commit: Commit) -> None:
        """What a round came to is no sum: whoever learns begins anew with the state behind it."""
        stages = self._parts.member.stages
        for work in commit.closing.rounds:
            if work.stage in stages and work.kind != RoundWorkKind.SEND:
                raise WireError("an outer round was merged meanwhile", f"step {commit.step}")

    async def _next_commit(self, course: Course) -> tuple[Commit | None, bool]:
        """The decision of this peer's step once there is one, and whether the swarm is at the step behind it."""
        member = self._parts.member
        replies = await self._ask_all("commit", course.asked, member.step)
        for stage, peer in course.asked:
            reply = replies.get((stage, peer))
            if reply is None or reply.status is not Status.OK:
                course.donors[stage].remove(peer)
        if not all(course.donors.values()):
            raise WireError("nobody keeps what this peer has yet to learn", f"step {member.step}")
        ready = {key: reply for key, reply in replies.items() if reply.commit is not None}
        if {stage for stage, _ in ready} < set(course.donors):
            return None, False
        commit = next(iter(ready.values())).commit
        if commit is not None and (commit.step, commit.base) != (member.step, member.base):
            raise WireError("the decision that came is of another history", f"step {member.step}")
        return commit, max(reply.step for reply in ready.values()) <= member.step + 1

    async def _sums(self, course: Course, commit: Commit, rest: float) -> dict[int, ReducedSum]:
        pace = pace_of(self._parts.config.links, rest)
        work = (self._sum(stage, peers, commit, pace) for stage, peers in course.donors.items())
        found = await asyncio.gather(*work)
        return {entry.facts.stage: entry for entry in found}

    async def _sum(
        self, stage: int, donors: list[PeerId], commit: Commit, pace: Pace
    ) -> ReducedSum:
        """The sum of a decided step in pieces; it must be the one that was decided (I3, I5)."""
        parts, replica = self._parts, self._parts.replicas[stage]
        total = torch.empty_like(replica.total)
        slices = min(-(-total.nbytes // pace.piece_bytes), total.numel(), MOST_SLICES)
        bounds, tag = slice_bounds(total.numel(), slices), (commit.step, commit.term, commit.seal)

        async def pull(donor: PeerId, number: int) -> None:
            place, (start, end) = (number, slices), bounds[number]
            piece = await parts.reducer.pull(donor, tag, stage, place, True, (start, end))
            total[start:end].copy_(piece)

        await deal(slices, donors, pull, pace)
        task = Task(Kind.STATE, stage, name="seal")
        found = await parts.lane.submit(task, lambda: replica.sealed(total, commit.tokens))
        if found.facts not in commit.stages:
            raise WireError("the sum that came is not the one that was decided", f"stage {stage}")
        return found

    # ---- asking -------------------------------------------------------------------------------------------------

    async def _ask_all(
        self, verb: str, asked: Sequence[tuple[int, PeerId]], step: int = 0
    ) -> dict[tuple[int, PeerId], LearnReply]:
        """What was answered, by stage and peer."""
        replies = await asyncio.gather(
            *(self._ask(peer, LearnRequest(verb, stage, step)) for stage, peer in asked)  # type: ignore[arg-type]
        )
        pairs = zip(asked, replies, strict=True)
        return {key: reply for key, reply in pairs if reply is not None}

    async def _ask(self, peer: PeerId, request: LearnRequest) -> LearnReply | None:
        links = self._parts.links
        silence_seconds = self._parts.config.links.silence_seconds
        try:
            message, link = Message(request.encode()), await links.to(peer)
            answer = await link.call("learn", message, silence_seconds=silence_seconds)
            return LearnReply.decode(answer.meta)
        except (LinkError, WireError):
            self._gone[peer] = None
            return None
