"""Snapshots at one peer: its own stages' at kept steps, and those it holds for peers of other stages (tier 1)."""

import asyncio
from collections.abc import Callable

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.compute.lane import Kind, Task
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import LinkError, StateError
from swarmtrain.core.events import Noted, SnapshotKept
from swarmtrain.core.messages import Kept, StageAt
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import Digest, Roster
from swarmtrain.peer.parts import Parts
from swarmtrain.peer.restore import fetch_from, now_seconds
from swarmtrain.plan.holders import snapshot_holders
from swarmtrain.recovery.snapshots import copy_of


def is_kept(config: RunConfig, step: int) -> bool:
    """Whether the state before `step` is one that everybody keeps: steps of snapshots and of checkpoints."""
    recovery = config.recovery
    wanted = (recovery.snapshot_steps, recovery.checkpoint_steps)
    return step > 0 and any(every and step % every == 0 for every in wanted)


class Keeping:
    """Takes and holds snapshots beside training; never in its way."""

    def __init__(self, parts: Parts, failed: Callable[[BaseException], None]) -> None:
        self._parts = parts
        self._tasks = Tasks(failed)
        self._is_holding = False

    def keep_own(self, step: int, base: Digest) -> None:
        """Copy this peer's stages right behind the move to `step`, before anything can move them on."""
        if is_kept(self._parts.config, step):
            for stage in sorted(self._parts.replicas):
                # Asked for at once: a moment later the peer may have moved away from the stage.
                copied = self._copy(stage)
                self._tasks.spawn(self._keep(copied, stage, step, base), f"keep {stage}")

    def _copy(self, stage: int) -> asyncio.Future[StageState]:
        live = self._parts.state_of(stage)
        return self._parts.lane.submit(Task(Kind.STATE, stage, name="keep"), lambda: copy_of(live))

    async def _keep(
        self, copied: asyncio.Future[StageState], stage: int, step: int, base: Digest
    ) -> None:
        parts, start_seconds = self._parts, now_seconds()
        parts.snapshots.put(await copied, step, base)
        parts.record(SnapshotKept(stage, step, 0, now_seconds() - start_seconds))

    def hold_others(self, step: int, roster: Roster) -> None:
        """Fetch the snapshots of `step` that this peer holds for others; one round at a time."""
        recovery = self._parts.config.recovery
        every = recovery.snapshot_steps
        if not every or step % every or not step or self._is_holding:
            return
        holders = snapshot_holders(
            roster, self._parts.config.model.stages, recovery.snapshot_holders
        )
        stages = {stage for stage, peers in holders.items() if self._parts.me in peers}
        self._parts.snapshots.keep_only({*stages, *self._parts.member.stages})
        if stages:
            self._is_holding = True
            self._tasks.spawn(self._hold(stages, step, roster), f"hold {step}")

    async def _hold(self, stages: set[int], step: int, roster: Roster) -> None:
        parts = self._parts
        try:
            for stage in sorted(stages):
                start_seconds = now_seconds()
                found = await fetch_from(parts, roster.replicas(stage), stage, step)
                parts.snapshots.put(found.state, step, found.base)
                seconds = now_seconds() - start_seconds
                parts.record(SnapshotKept(stage, step, found.bytes_received, seconds))
        except (StateError, LinkError) as error:
            parts.record(Noted("a snapshot could not be fetched", str(error)))
        finally:
            self._is_holding = False

    def kept(self, seal: int) -> Kept:
        """What this peer could give to a restore: its live stages and its snapshots."""
        parts = self._parts
        here = (parts.member.step, parts.member.base)
        states = {StageAt(stage, *here) for stage in parts.replicas}
        states |= {snapshot.at for snapshot in parts.snapshots}
        room = max(parts.capacity_stages - len(parts.replicas), 0)
        ordered = tuple(sorted(states, key=lambda at: (at.stage, at.step, at.base)))
        return Kept(seal, *here, room, ordered, parts.checkpoint)

    async def close(self) -> None:
        await self._tasks.cancel_all()
