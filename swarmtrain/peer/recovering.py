"""A peer's part in recoveries: what it tells that it keeps, what it loads, when it stops waiting (design.md 9)."""

import asyncio
from collections.abc import Callable, Sequence

from swarmtrain.core.errors import StateError
from swarmtrain.core.events import Noted, Restored, Waiting
from swarmtrain.core.messages import Restore, StageDigest
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import PeerId, Roster
from swarmtrain.peer.keeping import Keeping
from swarmtrain.peer.learning import Learning, Siblings
from swarmtrain.peer.parts import Parts
from swarmtrain.peer.restore import now_seconds, restore, resync
from swarmtrain.peer.teaching import Teaching
from swarmtrain.recovery.dealing import Pace, pace_of
from swarmtrain.steps.effects import Effect, Resync, Revived, Send

Perform = Callable[[list[Effect]], None]

MOST_RESYNCS = 3
"""Tries to fetch missed state that may fail one after the other before this peer gives up."""


class Recovering:
    """Carries out the effects of recoveries. `roster` is the newest one heard of: where siblings are found, also by a
    peer that is behind."""

    def __init__(
        self,
        parts: Parts,
        perform: Perform,
        give_up: Callable[[str], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.keeping = Keeping(parts, failed)
        self.teaching = Teaching(parts, failed)
        self.learning = Learning(parts, self._take_state, perform, failed)
        self.roster: Roster | None = None
        self._parts, self._perform, self._give_up = parts, perform, give_up
        self._tasks = Tasks(failed)
        self._resyncing: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[None] | None = None
        self._lost_seconds: float | None = None
        self._waits_for = ""
        self._failed_resyncs = 0
        # Whether this peer has learnt, or tried to, since it was in a roster; once is enough.
        self._has_learnt = False
        self.ask_in: Callable[[Sequence[PeerId]], None] = lambda edges: None

    def see(self, roster: Roster) -> None:
        """A newer roster was heard of."""
        self.roster = roster
        if self._parts.me in roster:
            self._has_learnt = False

    async def close(self) -> None:
        await self._tasks.cancel_all()
        await self.learning.close()
        await self.teaching.close()
        await self.keeping.close()

    # ---- a lost stage -------------------------------------------------------------------------------------------

    def recollect(self, to: PeerId, seal: int) -> None:
        """Tell the conductor what this peer keeps, once a decision under way is applied."""
        if self._lost_seconds is None:
            self._lost_seconds = now_seconds()
        self._tasks.spawn(self._recollect(to, seal), "recollect")

    async def _recollect(self, to: PeerId, seal: int) -> None:
        pause_seconds = 0.01
        while self._parts.member.is_busy:
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, 0.5)
        self._perform([Send(to, self.keeping.kept(seal))])

    def restore(self, message: Restore) -> None:
        """Give up the step's work and load what the restore names; a newer restore replaces an older one."""
        parts = self._parts
        self.learning.stop()
        self.teaching.stop()
        if self._resyncing is not None:
            self._resyncing.cancel()
        before, self._loading = self._loading, None
        parts.worker.abandon()
        parts.reducer.abandon()
        self._loading = self._tasks.spawn(self._restore(message, before), "restore")

    async def _restore(self, message: Restore, before: "asyncio.Task[None] | None") -> None:
        parts, last = self._parts, self._parts.member.last
        if before is not None:
            before.cancel()
            await asyncio.gather(before, return_exceptions=True)
        digests: tuple[StageDigest, ...] = ()
        try:
            digests = await restore(parts, message, last)
        except StateError as error:
            parts.record(Noted("restore failed", str(error)))
        parts.snapshots.forget_beyond(message.step)
        self._perform(parts.member.restored(message, digests))
        await parts.worker.moved()

    def revived(self, effect: Revived) -> None:
        """The whole island is restored; this peer conducts it."""
        choice, now = effect.choice, now_seconds()
        began, self._lost_seconds = self._lost_seconds, None
        stages = tuple(s.stage for s in choice.sources if s.tier == choice.tier)
        self._parts.record(
            Restored(
                step=choice.step,
                lost_step=effect.lost_step,
                tier=choice.tier,
                stages=stages,
                flagged=choice.flagged,
                seconds=now - (now if began is None else began),
                reason=choice.reason,
            )
        )

    def await_host(self, reason: str, too_late: Callable[[str], None]) -> None:
        """Say what the run waits for; newcomers have as long as at its start."""
        if reason == self._waits_for:
            return
        self._waits_for = reason
        self._parts.record(Waiting(reason))
        self._tasks.spawn(self._await_host(reason, too_late), "await host")

    async def _await_host(self, reason: str, too_late: Callable[[str], None]) -> None:
        await asyncio.sleep(self._parts.config.swarm.join_seconds)
        self._waits_for = ""
        too_late(reason)

    # ---- a peer that missed something ---------------------------------------------------------------------------

    def learn(
        self, siblings: Siblings, ask_in: Callable[[], bool], is_hasty: bool = True
    ) -> "asyncio.Task[None]":
        """Learn this peer's stages outside of any roster: `Learning.start`."""
        self._has_learnt = True
        return self.learning.start(siblings, ask_in, is_hasty)

    def _learn_again(self, roster: Roster) -> None:
        """The island went on without this peer, which stood still or was cut off: it comes back as newcomers come."""
        if self._has_learnt or not self._parts.may_learn:
            return

        def ask_in() -> bool:
            self.ask_in(roster.edges)
            return True

        self._parts.record(Noted("learns what it missed", "the island decided without it"))
        self.learn(roster.replicas, ask_in, is_hasty=False)
        ask_in()  # it may have asked for the next roster before it knew that it is behind

    def resync(self, effect: Resync) -> None:
        if self.roster is None:
            return
        if self._parts.me not in self.roster:
            # State is worth fetching as members do once a roster has a place for it.
            self._learn_again(self.roster)
            return
        if self.learning.brings(effect.step):
            return
        self.learning.stop()
        if self._resyncing is None or self._resyncing.done():
            self._parts.record(Noted("resync", effect.reason))
            self._resyncing = self._tasks.spawn(self._resync(effect), f"resync {effect.step}")

    async def _resync(self, effect: Resync) -> None:
        """Fetch this peer's stages at the step in question from siblings, and go on from there."""
        parts, roster = self._parts, self.roster
        assert roster is not None
        try:
            await self._take_state(effect, roster.replicas, pace_of(parts.config.links))
        except StateError as error:
            self._failed_resyncs += 1
            parts.record(Noted("resync failed", str(error)))
            if self._failed_resyncs == MOST_RESYNCS:
                self._failed_resyncs = 0
                self._give_up(str(error))
            return  # the conductor's next opening, or the answer to JOIN, starts another try
        self._failed_resyncs = 0

    async def _take_state(self, effect: Resync, siblings: Siblings, pace: Pace) -> None:
        """Raises StateError; nothing is changed then."""
        parts = self._parts
        parts.member.suspend()
        digests = await resync(parts, siblings, effect, pace)
        # What is under way here, perhaps for the same step, rests on other parameters (R1).
        parts.worker.abandon()
        parts.reducer.abandon()
        self._perform(parts.member.adopt(effect, digests))
        await parts.worker.moved()
