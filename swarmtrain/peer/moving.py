"""A move beside the work: a peer that is to host other stages learns them while it goes on hosting its own.

The new stages live in a runtime of their own, of which nobody hears. It learns as a newcomer's does (peer.learning).
Once it is at the step that runs, the peer asks to be left out of the next roster. There it takes up the sum of the
last step it worked in, and asks to be in the step that runs: others wait for it in no step. Until then the old runtime
speaks for this peer, so that what it promised and knows is never forgotten (R8).

Where that cannot be, the peer moves as the conductor asks: it fetches state while a step is open.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import StateError
from swarmtrain.core.events import Event, Noted, Record, StateApplied
from swarmtrain.core.sizes import memory_estimate
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import PeerId, Roster
from swarmtrain.core.units import format_bytes
from swarmtrain.peer.restore import now_seconds
from swarmtrain.peer.runtime import Runtime
from swarmtrain.steps.keys import next_base
from swarmtrain.steps.membership import listed

MOST_STEPS = 20
"""Steps that new stages are brought to while their peer cannot take them up; then the move is given up."""


@dataclass(slots=True)
class Move:
    """One move under way. `is_out`: this peer was let out of the roster, by whom it had promised `out_term` to;
    `is_done`: `new` has taken the place of `old`."""

    old: Runtime
    stages: tuple[int, ...]
    new: Runtime | None = None
    before: tuple[int, ...] = field(init=False)
    is_out: bool = False
    out_term: int = 0
    is_done: bool = False
    asked_step: int = -1
    seen_at: tuple[int, int] = (-1, -1)
    seen_steps: int = 0

    def __post_init__(self) -> None:
        self.before = self.old.member.stages

    @property
    def is_there(self) -> bool:
        """Whether the new stages know all that the old ones do: whoever asks `new` instead hears no less (I4)."""
        old, new = self.old.member, self.new.member if self.new is not None else None
        if new is None or new.is_busy:
            return False
        here = (new.epoch, new.step, new.base) == (old.epoch, old.step, old.base)
        return here or (self.is_out and self.is_ahead)

    @property
    def is_ahead(self) -> bool:
        """Whether the new stages know of a step, or of a restore of the island, behind the old ones."""
        old, new = self.old.member, self.new.member if self.new is not None else None
        return new is not None and (new.epoch, new.step) > (old.epoch, old.step)

    @property
    def may_be_back(self) -> bool:
        """Whether the old stages may be in a roster again, or soon will: who conducts next starts from the roster of
        the last decision, which names this peer with them (R8). They then hold and prepare what is nowhere else."""
        old, new = self.old.member, self.new.member if self.new is not None else None
        conducting = self.old.island.conducting
        conducts = conducting.conductor is not None or conducting.candidate is not None
        if not self.is_out or old.is_busy or old.ledger.open is not None or conducts:
            return True
        last = new.last if new is not None and self.is_ahead else None
        is_passed = last is not None and old.peer not in last.roster
        return old.term != self.out_term and not is_passed


@dataclass(frozen=True, slots=True)
class Seat:
    """What a move asks of the session: `build(stages, record)` makes a runtime, `take_over(runtime)` puts it in the
    place of the one that serves, `ask_in()` asks for it to be in the step that runs."""

    build: Callable[[tuple[int, ...], Record], Awaitable[Runtime]]
    take_over: Callable[[Runtime], None]
    ask_in: Callable[[], bool]


class Moving:
    """At most one move of a peer."""

    def __init__(
        self,
        config: RunConfig,
        vocab_size: int,
        seat: Seat,
        record: Record,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._config, self._vocab_size, self._record = config, vocab_size, record
        self._seat, self._tasks = seat, Tasks(failed)
        self._move: Move | None = None
        self._running: asyncio.Task[None] | None = None

    def serve(self, runtime: Runtime) -> None:
        """`runtime` is asked to move from now on."""
        runtime.island.moves = lambda stages, reason: self.begin(runtime, stages)

    def begin(self, old: Runtime, stages: tuple[int, ...]) -> None:
        """Come to host `stages`. The same wish again changes nothing."""
        move = self._move
        if move is not None and (move.old, move.stages) == (old, stages):
            return
        if move is not None and move.is_out:
            return  # it is between two rosters: the conductor asks again when it sees what came of it
        self.stop()
        if set(stages) <= set(old.member.stages):
            return self._move_inside(old, stages, "")
        obstacle = self._obstacle(old, stages)
        if obstacle:
            return self._move_inside(old, stages, obstacle)
        self._move = move = Move(old, stages)
        self._running = self._tasks.spawn(self._run(move), f"move to {listed(stages)}")

    def stop(self) -> None:
        """Whatever was prepared is given up; the old stages stay."""
        if self._running is not None:
            self._running.cancel()
        self._move = None

    async def close(self) -> None:
        """Like `stop`; what was prepared is closed by then."""
        self.stop()
        await self._tasks.finished()

    def dismissed(self, old: Runtime) -> None:
        """The island goes on without this peer, as it asked. One that gave its move up meanwhile asks to be back."""
        move = self._move
        if move is not None and move.old is old and not move.is_done:
            move.is_out = old.island.conducting.is_quiet = True
            move.out_term = old.member.term
            if move.is_there and not move.may_be_back:
                self._switch(move)
            return
        self._record(Noted("asks to be back", "it was let out of the roster, but does not move"))
        old.island.ask_in(())

    # ---- whether ------------------------------------------------------------------------------------------------

    def _obstacle(self, old: Runtime, stages: tuple[int, ...]) -> str:
        """Why this peer cannot learn `stages` beside its own; empty when it can."""
        roster, me = old.member.roster, old.member.peer
        if roster is None or me not in roster:
            return "it is in no roster"
        if old.island.rounds is not None:
            # Between two rosters it would take what it voted in groups with it: not shown to be safe under faults.
            return "its stages take part in outer rounds"
        alone = self._alone(old)
        if alone:
            return alone
        parts = old.island.parts
        needed_bytes = memory_estimate(self._config, self._vocab_size, stages).state_bytes
        spare_bytes = parts.spare_bytes() - old.teaching.most_bytes
        if needed_bytes > spare_bytes:
            needed, spare = format_bytes(needed_bytes), format_bytes(max(spare_bytes, 0))
            return f"both do not fit: stages {listed(stages)} take {needed}, its own leave {spare}"
        return ""

    def _alone(self, old: Runtime) -> str:
        """Why no roster can be without this peer; empty when one can."""
        roster = old.member.roster
        others = roster.without(old.member.peer) if roster is not None else Roster.of(0, ())
        missing = others.missing_stages(self._config.model.stages)
        return (
            f"nobody else hosts stage {missing[0]}, so no step goes without it" if missing else ""
        )

    def _move_inside(self, old: Runtime, stages: tuple[int, ...], why: str) -> None:
        if why:
            self._record(Noted("moves inside a step", why))
        old.island.perform(old.island.conducting.ask_stages(stages))

    # ---- the move -----------------------------------------------------------------------------------------------

    async def _run(self, move: Move) -> None:
        parts, begin_seconds = move.old.island.parts, now_seconds()
        parts.reserved_bytes = memory_estimate(
            self._config, self._vocab_size, move.stages
        ).state_bytes
        try:
            record = self._beside(move)
            move.new = new = await self._seat.build(move.stages, record)
            new.island.conducting.is_quiet = True
            learning = new.island.recovering.learn(
                lambda stage: self._siblings(move, stage),
                lambda: self._arrived(move),
                is_hasty=False,
            )
            await asyncio.wait([learning])
        except StateError as error:
            self._record(Noted("a move could not be prepared", str(error)))
        finally:
            parts.reserved_bytes = 0
            if not move.is_done:
                move.old.island.conducting.is_quiet = False
                if move.new is not None:
                    self._tasks.spawn(move.new.close(), "give a move up")
        if self._move is move:
            self._move = None
        if not move.is_done and move.old.member.stages == move.before:
            seconds = now_seconds() - begin_seconds
            why = f"after {seconds:.1f} s its new stages are not at the step that runs"
            self._move_inside(move.old, move.stages, why)

    def _beside(self, move: Move) -> Record:
        """Until they take over, what the new stages come to is no sum that this peer adds to."""

        def record(event: Event) -> None:
            if isinstance(event, StateApplied) and not move.is_done:
                event = replace(event, is_aside=True)
            self._record(event)

        return record

    def _siblings(self, move: Move, stage: int) -> tuple[PeerId, ...]:
        roster: Roster | None = move.old.member.roster
        return roster.replicas(stage) if roster is not None else ()

    def _arrived(self, move: Move) -> bool:
        """The new stages are at a step of which nothing is decided; whether this peer asked to be in it with them."""
        if move.is_done:
            return self._seat.ask_in()
        if move.is_out and move.may_be_back:
            # The old stages speak for this peer as before, and have to be let out once more.
            move.is_out = move.old.island.conducting.is_quiet = False
            move.asked_step = -1
            self._record(Noted("a move waits", "its old stages may be in a roster again"))
        if move.is_there and move.is_out:
            self._switch(move)
            return True
        island, step = move.old.island, move.old.member.step
        why = self._hopeless(move)
        if why:
            self._record(Noted("a move is given up", why))
            self.stop()
        elif move.is_there and move.asked_step != step and not self._alone(move.old):
            # Asked while it cannot be spared, it would be let out long after it gave its move up.
            move.asked_step = step
            island.ask_out(f"moves to stages {listed(move.stages)}, which it knows by now")
        return False

    def _hopeless(self, move: Move) -> str:
        """Why the new stages should wait no longer for their turn; empty when they should."""
        assert move.new is not None
        conducting, new = move.old.island.conducting, move.new.member
        if conducting.conductor is not None or conducting.candidate is not None:
            return "this peer conducts by now"
        if move.seen_at != (new.epoch, new.step):
            move.seen_at, move.seen_steps = (new.epoch, new.step), move.seen_steps + 1
        if move.seen_steps <= MOST_STEPS:
            return ""
        alone = self._alone(move.old)
        why = f": {alone}" if alone else ""
        return f"its peer could not take up its new stages in {MOST_STEPS} steps{why}"

    def _switch(self, move: Move) -> None:
        """From here on the new stages are this peer's, and what it promised and keeps for others stays."""
        old, new = move.old, move.new
        assert new is not None
        move.is_done = True
        new.member.term, new.member.conductor = old.member.term, old.member.conductor
        last = old.member.last
        if new.member.last is None and last is not None and next_base(last) == new.member.base:
            # It fetched the state behind a decision that only the old stages heard; who stands next may need it.
            new.member.last = last
        if old.island.recovering.roster is not None:
            new.island.recovering.see(old.island.recovering.roster)
        new.island.parts.checkpoint = old.island.parts.checkpoint
        # What was kept in a history that the island gave up must not come back.
        for kept in old.snapshots if new.member.epoch == old.member.epoch else ():
            if kept.at.stage not in new.member.stages:  # of those it has its own by now
                new.snapshots.put(kept.state, kept.at.step, kept.at.base)
        new.island.conducting.is_quiet = False
        new.island.left_step = new.member.step
        self.serve(new)
        self._seat.take_over(new)
        here = new.member.ready
        assert here is not None, "what was learnt was taken over from siblings"
        digests = tuple((entry.stage, entry.digest.hex()) for entry in here.stages)
        self._record(StateApplied(here.step - 1, 0, 0, digests))
        self._seat.ask_in()
